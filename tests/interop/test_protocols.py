"""Replication protocols A and B between a kernel and pydrbd."""

from __future__ import annotations

import os

import pytest

from tests.interop.pair import DISK_BYTES, variant
from tests.lab.load import Op
from tests.lab.nodes import resource_text

pytestmark = pytest.mark.interop

CUT_OFF = (
    "PingAck did not arrive in time", "NetworkFailure", "BrokenPipe", "Timeout", "sock_\\w+ returned",
    "connection shut down by peer", "sock was shut down by peer", "short sent", "short read", "error receiving",
)  # fmt: skip
REFUSED = (
    "incompatible .* settings", "error receiving Protocol", "differs from ours", "NetworkFailure", "BrokenPipe",
    "ProtocolError", "connection shut down by peer", "sock_\\w+ returned", "Disconnecting", "Feature flags enabled",
    "short read", "received unexpected", "error receiving", "sock was shut down by peer",
)  # fmt: skip
QUICK = "ping-int 1; ping-timeout 5; timeout 20; connect-int 1;"
BOTH = pytest.mark.parametrize("protocol", ["A", "B"])


def start_with(pair, nets):
    """Fresh disks; each node is told something else of the connection."""
    for node, net in zip(pair, nets, strict=True):
        os.truncate(node.disk_path, 0)
        os.truncate(node.disk_path, DISK_BYTES)
        node.configure(resource_text(list(pair), net=net))
        node.create_md()
    for node in pair:
        node.up()


@BOTH
def test_writes_reach_the_peer(pair, seed, protocol):
    """All sizes, with flushes, FUA, discards and zeroes; deep queues; then the other one is Primary."""
    pair.start(net=f"protocol {protocol};")
    pair.sync()
    pair.write(pair.first, seed, 100, discards=True)
    pair.assert_same()
    pair.first.stress()
    pair.adopt(pair.first)
    pair.switch()
    pair.write(pair.first, seed + 1, 40)
    pair.play(pair.first, [Op("flush")])
    pair.assert_same()


@BOTH
def test_writes_go_on_during_a_resync(pair, seed, protocol):
    """In a resync each write is acknowledged in every protocol; both bitmaps end empty."""
    pair.start(net=f"protocol {protocol};")
    pair.sync()
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed, 60)
    pair.second.connect()
    pair.write(pair.first, seed + 1, 60)
    pair.assert_same()


@BOTH
def test_a_cut_wire_loses_nothing(pair, seed, cut, protocol):
    """What was answered and had not arrived is marked, and sent when the wire is whole again."""
    pair.allow(*CUT_OFF)
    pair.start(net=f"protocol {protocol}; {QUICK}")
    pair.sync()
    pair.write(pair.first, seed, 20)
    cut.cut()
    # B waits for the peer until the ping fails; A goes on at once, into the socket
    pair.play(pair.first, [Op("write", n * 64 * 1024, 4096, seed + n) for n in range(20)])
    pair.first.wait(peer_disk="DUnknown")
    pair.second.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed + 1, 20)
    cut.restore()
    # A starved link may break once more, right at the end of the resync: then a full one follows.
    pair.assert_same(history=False)


@pytest.mark.parametrize("protocols", [("A", "C"), variant(("B", "A"))], ids="-".join)
def test_differing_protocols_are_refused_by_both(pair, protocols):
    """StandAlone on both sides, with a reason in both logs."""
    pair.allow(*REFUSED)
    start_with(pair, [f"protocol {word};" for word in protocols])
    for node in pair:
        node.wait(conn="StandAlone")
        assert "incompatible protocol" in node.log() or "the peer's protocol" in node.log()
