"""A resync that is interrupted goes on later from where it was."""

from __future__ import annotations

import pytest

from tests.interop.pair import AL_IS_APPLIED, PEER_IS_GONE, QUICK
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

WRITES = 60
RATE = "24mbit"
"""Slow enough to interrupt a resync of some megabytes."""

RESYNC_IS_CUT = (
    "drbd_send_block\\(\\) failed", "net_ee not empty, killed \\d+ entries", "_drbd_send_page: size=",
    "sock was reset by peer", "resync aborted",
)  # fmt: skip


@pytest.fixture
def resyncing(pair, seed, cut):
    """A pair in the middle of a resync, from the first node (the Primary) to the second, over a slow wire."""
    pair.allow(*PEER_IS_GONE, *RESYNC_IS_CUT)
    pair.start(net=QUICK)
    pair.sync()
    pair.part(pair.second)
    pair.write(pair.first, seed, WRITES)
    cut.slow(RATE)
    pair.second.connect()
    missing_kib = pair.first.out_of_sync_kib()
    assert missing_kib > 4096
    pair.second.wait(conn="SyncTarget")
    wait_until(lambda: 0 < pair.second.out_of_sync_kib() < missing_kib * 3 // 4, "a quarter of the resync", 60)
    assert pair.second.states().disk == "Inconsistent"
    return pair


def test_a_resync_that_was_cut_goes_on_where_it_was(resyncing, seed, cut):
    """The wire breaks; the Primary writes on; then only what is still missing is sent."""
    cut.cut()
    for node in resyncing:
        node.wait(peer_disk="DUnknown" if node is resyncing.second else "Inconsistent", conn="WFConnection")
    assert resyncing.second.states().disk == "Inconsistent"
    cut.full_speed()
    cut.restore()
    resyncing.assert_same()
    for node in resyncing:
        before, after = node.resyncs_kib()
        assert 0 < after < before


def test_a_target_that_dies_in_a_resync_finishes_it_when_it_is_back(resyncing, seed, cut):
    """Killed while Inconsistent: it is still Inconsistent afterwards, and the resync goes on."""
    resyncing.second.crash()
    resyncing.first.wait(conn="WFConnection")
    resyncing.write(resyncing.first, seed + 1, 5)
    cut.full_speed()
    resyncing.second.boot()
    resyncing.second.up()
    resyncing.assert_same()


def test_a_source_that_dies_in_a_resync_finishes_it_when_it_is_back(resyncing, seed, cut):
    """The target alone can't be promoted: it is Inconsistent. The crashed Primary returns, and the resync goes on."""
    resyncing.allow(*AL_IS_APPLIED, "State change failed", r"(state|wanted) = ")
    resyncing.first.crash()
    resyncing.second.wait(conn="WFConnection", disk="Inconsistent")
    resyncing.first.boot()
    resyncing.first.up()
    cut.full_speed()
    resyncing.assert_same()
    resyncing.first.primary()
