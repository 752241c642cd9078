"""Pairs that part and meet again send only what has changed."""

from __future__ import annotations

import pytest

from tests.interop.pair import PEER_IS_GONE, QUICK

pytestmark = pytest.mark.interop


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
