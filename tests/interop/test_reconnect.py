"""Pairs that part and meet again send only what has changed."""

from __future__ import annotations

import re

import pytest

from tests.interop.pair import PEER_IS_GONE, QUICK
from tests.lab.kernel_node import KernelNode
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

STATS = re.compile(r"(send|receive) bitmap stats .* RLE \d+\((\d+)\)")
"""What a kernel says of a bitmap that was compressed: the way that it went, and in how many packets."""


@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_only_what_changed_is_sent_after_a_disconnect(pair, seed, who):
    """Either side leaves; the Primary writes; it comes back: a resync by bitmap, and both are the same."""
    pair.start()
    pair.sync()
    leaver = pair.first if who == "primary" else pair.second
    leaver.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed, 40)
    leaver.connect()
    pair.assert_same()


def test_a_connection_can_be_asked_for_tentatively(pair, seed):
    """The kernel goes along with a dry run: the direction is said, nothing is synced; then a real one does it."""
    pair.start()
    pair.sync()
    ours = next((node for node in pair if not isinstance(node, KernelNode)), None)
    if ours is None:
        pytest.skip("a pair of kernels: drbdadm's own")
    pair.allowed += ["dry-run connect", "ProtocolError", *PEER_IS_GONE]  # a kernel's own end of a dry run
    ours.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed, 40)
    ours.connect(tentative=True)
    wait_until(lambda: ours.all_status()["connection"] == "StandAlone", "the word on the direction")
    word = "SyncSource" if ours is pair.first else "SyncTarget"
    assert ours.all_status()["connection_reason"] == f"volume 0: dry run: {word}"
    ours.connect()
    pair.assert_same()


def test_writes_go_on_during_a_resync(pair, seed):
    """The Primary writes while what it wrote alone is being sent."""
    pair.start()
    pair.sync()
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed, 60)
    pair.second.connect()
    pair.write(pair.first, seed + 1, 60)
    pair.assert_same()


@pytest.mark.parametrize("rle", ["yes", "no"])
def test_both_kinds_of_bitmap_bring_a_resync_either_way(pair, seed, rle):
    """Compressed and plain, sent by both nodes; first to the second node, then to the first one; writes go on."""
    pair.start(net=f"protocol C; use-rle {rle};")
    pair.sync()
    for turn in range(2):
        pair.part(pair.second)
        pair.write(pair.first, seed + turn, 40)
        pair.second.connect()
        pair.write(pair.first, seed + 10 + turn, 40)
        pair.assert_same()
        pair.first.secondary()  # who was the target is the source the next time
        pair.first, pair.second = pair.second, pair.first
        pair.first.primary()
    stats = STATS.findall(pair.kernel.log())
    assert {way for way, _ in stats} == ({"send", "receive"} if rle == "yes" else set())
    assert all(int(compressed) > 0 for _, compressed in stats)


def test_a_cut_wire_is_noticed_and_mended(pair, seed, cut):
    """No packet comes through for a while: both see it by themselves, and find each other again."""
    pair.allow(*PEER_IS_GONE)
    pair.start(net=QUICK)
    pair.sync()
    cut.cut()
    pair.first.wait(peer_disk="DUnknown")
    pair.second.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed, 20)
    cut.restore()
    pair.assert_same()
