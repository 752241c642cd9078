"""Resync by checksums: equal blocks are not sent, in both directions."""

from __future__ import annotations

import re

import pytest

from tests.interop.pair import variant
from tests.interop.verbs import ask
from tests.lab.pydrbd_node import PydrbdNode

pytestmark = pytest.mark.interop

EQUAL = re.compile(r"(\d+) % had equal checksums, eliminated: (\d+)K; transferred (\d+)K total (\d+)K")


def moved_bytes(pair):
    """What pydrbd has sent and received as data so far."""
    (node,) = (node for node in pair if isinstance(node, PydrbdNode))
    counters = node.status()["counters"]
    return (counters["sent"] + counters["received"]) * 512


@pytest.mark.parametrize("algorithm", ["crc32c", variant("sha1"), variant("sha256")])
def test_a_full_sync_sends_what_differs(pair, seed, algorithm):
    """All bits are set, three blocks differ: little more than these is sent, the source says so, and both are equal."""
    if not any(isinstance(node, PydrbdNode) for node in pair):
        pytest.skip("about pydrbd's counters")
    pair.allow("had equal checksums")
    pair.start(net=f"protocol C; csums-alg {algorithm};")
    pair.sync()
    pair.write(pair.first, seed, 30)
    for node in pair:
        node.wait(conn="Connected", disk="UpToDate", peer_disk="UpToDate")
    with pair.second.disk_path.open("r+b") as disk:
        for offset in (8192, 1 << 24, len(pair.image) - 512):
            disk.seek(offset)
            disk.write(b"planted!")
    before = moved_bytes(pair)
    ask(pair.second, "invalidate")
    pair.assert_same()
    assert 0 < moved_bytes(pair) - before <= 3 << 20
    for node in pair:
        if match := EQUAL.search(node.log()):
            assert int(match[2]) >= int(match[4]) * 0.85, match[0]
    assert any(EQUAL.search(node.log()) for node in pair)


def test_writes_during_a_resync_by_checksums(pair, seed):
    """The Primary writes while its peer compares: both are the same in the end."""
    pair.allow("had equal checksums")
    pair.start(net="protocol C; csums-alg crc32c;")
    pair.sync()
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed, 60)
    pair.second.connect()
    pair.write(pair.first, seed + 1, 60)
    pair.assert_same()
    ask(pair.first, "invalidate")  # the Primary is the target
    pair.write(pair.first, seed + 2, 60)
    pair.assert_same()
