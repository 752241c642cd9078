"""Nodes without their disk: the peer's serves, until the disk is back and has what it missed."""

from __future__ import annotations

import pytest

from tests.interop.pair import AL_IS_APPLIED, refused
from tests.lab.load import Op

pytestmark = pytest.mark.interop

DETACHED = ("State change failed: Need access to UpToDate data", r"(state|wanted) = ", r"Failed -> Diskless")


def test_a_secondary_without_its_disk_catches_up(pair, seed):
    """It detaches, the Primary writes on, it attaches: what it missed is sent."""
    pair.start()
    pair.sync()
    pair.write(pair.first, seed, 10)
    pair.second.order("detach")
    pair.first.wait(peer_disk="Diskless", conn="Connected")
    pair.write(pair.first, seed + 1, 20)
    pair.second.order("attach")
    pair.assert_same()


def test_a_primary_without_its_disk_reads_and_writes_through_the_peer(pair, seed):
    """It detaches while in use; everything goes to the peer and comes from there; then it catches up."""
    pair.allow(*AL_IS_APPLIED)
    pair.start()
    pair.sync()
    known = Op("write", 3 * 4096, 64 * 1024, 1)
    pair.play(pair.first, [known])
    pair.first.order("detach")
    pair.second.wait(peer_disk="Diskless", conn="Connected")
    pair.first.load([Op("read", known.offset_bytes, known.length_bytes, known.seed)])
    pair.write(pair.first, seed, 20)
    new = Op("fua", 5 * 1024 * 1024 + 512, 128 * 1024, 2)
    pair.play(pair.first, [new, Op("flush")])
    pair.first.load([Op("read", new.offset_bytes, new.length_bytes, new.seed)])
    pair.first.order("attach")
    pair.assert_same()
    pair.first.load([Op("read", new.offset_bytes, new.length_bytes, new.seed)])


def test_a_primary_without_its_disk_hands_over(pair, seed):
    """Without its own disk a node is Primary, is demoted, and the node that has the disk is promoted."""
    pair.allow(*AL_IS_APPLIED)
    pair.start()
    pair.sync()
    pair.first.order("detach")
    pair.write(pair.first, seed, 10)
    pair.switch()
    pair.write(pair.first, seed + 1, 10)
    pair.second.order("attach")
    pair.assert_same()


def test_the_last_good_disk_in_use_is_not_given_up(pair):
    """The peer is gone: the Primary's detach is refused, and so is that of the one disk that is left to both."""
    pair.allow(*DETACHED)
    pair.start()
    pair.sync()
    pair.second.order("detach")
    assert "(-2)" in refused(pair.first.order, "detach")
    pair.second.order("attach")
    pair.wait_in_sync()
    pair.part(pair.second)
    assert "(-2)" in refused(pair.first.order, "detach")
    pair.second.connect()
    pair.assert_same()


def test_an_outdated_disk_is_not_promoted_until_it_has_met_its_peer(pair, seed):
    """Outdate a Secondary that is alone: no Primary from that; connected it is good again."""
    pair.allow(*DETACHED, "State change failed")
    pair.start()
    pair.sync()
    pair.part(pair.second)
    pair.second.order("outdate")
    assert pair.second.states().disk == "Outdated"
    assert "(-2)" in refused(pair.second.primary) or "(-7)" in refused(pair.second.primary)
    pair.write(pair.first, seed, 10)
    pair.second.connect()
    pair.assert_same()
