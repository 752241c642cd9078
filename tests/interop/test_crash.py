"""A node dies and comes back."""

from __future__ import annotations

import pytest

from tests.interop.pair import AL_IS_APPLIED, PEER_IS_GONE, QUICK

pytestmark = pytest.mark.interop


def test_a_crashed_secondary_returns(pair, seed):
    """It dies under load; the Primary goes on alone; what it missed is sent when it is back."""
    pair.allow(*PEER_IS_GONE)
    pair.start(net=QUICK)
    pair.sync()
    pair.write(pair.first, seed, 20)
    pair.second.crash()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed + 1, 20)
    pair.second.boot()
    pair.second.up()
    pair.assert_same()


def test_a_crashed_primary_returns(pair, seed):
    """It dies; its peer takes over and writes; the old one returns as Secondary, by its activity log."""
    pair.allow(*PEER_IS_GONE, *AL_IS_APPLIED)
    pair.start(net=QUICK)
    pair.sync()
    pair.write(pair.first, seed, 20)
    pair.first.crash()
    pair.second.wait(peer_disk="DUnknown")
    pair.second.primary()
    pair.write(pair.second, seed + 1, 20)
    pair.first.boot()
    pair.first.up()
    pair.assert_same()
    assert pair.first.states().role == "Secondary"


def test_a_crashed_primary_returns_to_an_idle_peer(pair, seed):
    """It dies and nobody takes over: back again, it has the newer data, and is promoted as before."""
    pair.allow(*PEER_IS_GONE, *AL_IS_APPLIED)
    pair.start(net=QUICK)
    pair.sync()
    pair.write(pair.first, seed, 20)
    pair.first.crash()
    pair.second.wait(peer_disk="DUnknown")
    pair.first.boot()
    pair.first.up()
    pair.wait_in_sync()
    pair.first.primary()
    pair.write(pair.first, seed + 1, 5)
    pair.assert_same()
