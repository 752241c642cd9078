"""Operators hold resyncs, let go of them, and have copies made anew, from either kind of node."""

from __future__ import annotations

import pytest

from tests.interop.pair import refused
from tests.interop.verbs import ask
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop


PAUSES = "Began resync as PausedSync", "Syncer continues", "Resync suspended"


def node_of(pair, who):
    return pair.first if who == "primary" else pair.second


@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_a_resync_is_held_and_let_go(pair, seed, who):
    """Held before it begins, it begins paused on both; what is written goes on; let go, it ends in sync."""
    pair.allow(*PAUSES)
    pair.start()
    pair.sync()
    node = node_of(pair, who)
    ask(node, "pause-sync")
    assert "already set" in refused(ask, node, "pause-sync")
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed, 30)
    pair.second.connect()
    pair.first.wait(conn="PausedSyncS")
    pair.second.wait(conn="PausedSyncT", disk="Inconsistent")
    pair.write(pair.first, seed + 1, 10)
    assert pair.first.states().conn == "PausedSyncS" and pair.second.states().conn == "PausedSyncT"
    ask(node, "resume-sync")
    pair.assert_same()
    assert "already cleared" in refused(ask, node, "resume-sync")


def test_both_hold_and_both_must_let_go(pair, seed):
    """One side's word does not take back the other's."""
    pair.allow(*PAUSES)
    pair.start()
    pair.sync()
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed, 30)
    for node in pair:
        ask(node, "pause-sync")
    pair.second.connect()
    pair.second.wait(conn="PausedSyncT")
    ask(pair.first, "resume-sync")
    wait_until(lambda: pair.second.states().conn == "PausedSyncT", "the peer to be still paused")
    ask(pair.second, "resume-sync")
    pair.assert_same()


@pytest.mark.parametrize("who", ["primary", "secondary"])
@pytest.mark.parametrize("verb", ["invalidate", "invalidate-remote"])
def test_a_copy_is_made_anew(pair, seed, verb, who):
    """Either side's data may be given up, by either side: all of it is copied, both are the same and UpToDate."""
    pair.allow("helper command", "Began resync")
    pair.start()
    pair.sync()
    pair.write(pair.first, seed, 20)
    ask(node_of(pair, who), verb)
    pair.assert_same()
    assert [node.resyncs_kib() for node in pair] == [[len(pair.image) // 1024]] * 2
    pair.write(pair.first, seed + 1, 20)
    pair.assert_same()


def test_a_primary_alone_has_all_copied_to_the_peer_that_comes(pair, seed):
    """invalidate-remote without a peer marks everything; the resync is a full one."""
    pair.start()
    pair.sync()
    pair.first.disconnect()
    pair.second.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed, 5)
    ask(pair.first, "invalidate-remote")
    pair.first.connect()
    pair.assert_same()
    assert f"[{len(pair.image) // 4096} bits set]" in pair.first.log()


def test_outdate(pair, seed):
    """Nothing while connected: the data is good. Alone it is done, and such data is not promoted."""
    pair.allow("State change failed: Need access to UpToDate data", "state = ", "wanted = ")
    pair.start()
    pair.sync()
    ask(pair.second, "outdate")
    assert all(node.states().in_sync for node in pair)
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    ask(pair.second, "outdate")
    pair.second.wait(disk="Outdated")
    assert "Need access to UpToDate data" in refused(pair.second.primary)
    pair.write(pair.first, seed, 10)
    pair.second.connect()
    pair.assert_same()
