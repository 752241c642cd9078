"""Fencing with a kernel on the other side: going on by a verdict, and a frozen Primary whose peer comes back."""

from __future__ import annotations

import threading

import pytest

from tests.interop.pair import PEER_IS_GONE, QUICK
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

FENCING = "fencing resource-and-stonith;"
VERDICT = ("helper command", "fence-peer helper returned", "assumed to be dead", "was fenced")
FROZEN = ("fence-peer helper broken", "helper command")


@pytest.fixture
def fence(pair, tmp_path):
    """`fence(code)`: from now on fence-peer ends with it, on both nodes; 1 until then."""
    verdict = tmp_path / "verdict"
    verdict.write_text("1")
    script = tmp_path / "fence-peer"
    script.write_text(f"#!/bin/sh\nexit $(cat {verdict})\n")
    script.chmod(0o755)
    tmp_path.chmod(0o755)
    pair.handlers = f'fence-peer "{script}";'

    def decide(code):
        verdict.with_suffix(".new").write_text(str(code))
        verdict.with_suffix(".new").replace(verdict)

    return decide


def in_background(pair, seed):
    """Begin to write on the first node; the thread ends when it has been answered."""
    thread = threading.Thread(target=pair.write, args=(pair.first, seed, 3))
    thread.start()
    return thread


def test_a_verdict_lets_the_primary_go_on(pair, fence, cut, seed):
    """The peer is cut off, and taken for outdated; back again it is the target of a resync."""
    pair.allow(*PEER_IS_GONE, *VERDICT)
    pair.start(net=QUICK, disk=FENCING)
    pair.sync()
    fence(4)
    pair.write(pair.first, seed, 10)
    cut.cut()
    pair.first.wait(peer_disk="Outdated")
    pair.write(pair.first, seed + 1, 10)
    cut.restore()
    pair.assert_same()


def test_a_frozen_primary_goes_on_when_its_peer_is_back(pair, fence, cut, seed):
    """No verdict: what was written while the wire was cut is answered, and is on both, when it is whole again."""
    pair.allow(*PEER_IS_GONE, *FROZEN)
    pair.start(net=QUICK, disk=FENCING)
    pair.sync()
    pair.write(pair.first, seed, 10)
    cut.cut()
    writing = in_background(pair, seed + 1)
    pair.first.wait(peer_disk="DUnknown")
    wait_until(lambda: "fence-peer helper broken, returned 1" in pair.first.log(), "the handler to end")
    assert writing.is_alive()
    cut.restore()
    writing.join(60)
    assert not writing.is_alive()
    pair.assert_same()
