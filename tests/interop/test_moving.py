"""A disk moves from a kernel to pydrbd and back: both read and write the same meta-data."""

from __future__ import annotations

import pytest

from tests.interop.pair import AL_IS_APPLIED, PEER_IS_GONE, QUICK
from tests.lab.network import system

pytestmark = pytest.mark.interop


def swap_disks(pair):
    """Each node gets the other one's disk, while both are down."""
    contents = [node.disk_path.read_bytes() for node in pair]
    for node, content in zip(pair, reversed(contents), strict=True):
        with node.disk_path.open("r+b") as disk:
            disk.write(content)


def dump(node):
    """What drbd-utils say of a node's disk while it is down, without when and where."""
    text = system("drbdmeta", "--force", "0", "v08", str(node.disk_path), "internal", "dump-md")
    return text[text.index('version "v08";') :]


def test_two_nodes_exchange_their_disks_and_only_what_differs_is_sent(pair, seed):
    """One missed some writes; both go down in good order, and each comes up with what the other one wrote."""
    pair.start()
    pair.sync()
    pair.write(pair.first, seed, 20)
    pair.part(pair.second)
    pair.write(pair.first, seed + 1, 10)
    missing_kib = pair.first.out_of_sync_kib()
    for node in pair:
        node.down()
    before = [dump(node) for node in pair]
    swap_disks(pair)
    assert [dump(node) for node in reversed(list(pair))] == before
    for node in pair:
        node.up()
    pair.wait_in_sync()
    assert [node.resyncs_kib() for node in pair] == [[missing_kib]] * 2
    pair.first.primary()
    pair.write(pair.first, seed + 2, 10)
    pair.assert_same()


def test_the_disk_of_a_crashed_primary_is_taken_over_by_the_other_kind(pair, seed):
    """It dies while it writes; its activity log is read by a node that has not written it."""
    pair.allow(*PEER_IS_GONE, *AL_IS_APPLIED)
    pair.start(net=QUICK)
    pair.sync()
    pair.write(pair.first, seed, 20)
    pair.first.crash()
    pair.second.wait(peer_disk="DUnknown")
    pair.second.down()
    swap_disks(pair)
    pair.first.boot()
    for node in pair:
        node.up()
    pair.wait_in_sync()
    resyncs = pair.first.resyncs_kib()
    assert len(resyncs) == 1 and resyncs[0] >= 4096, "at least one extent of the activity log"
    pair.first.primary()
    pair.write(pair.first, seed + 1, 10)
    pair.assert_same()
