"""Protocol A over a line that is too slow: Ahead and Behind, the resync after that, and leaving the peer for it."""

from __future__ import annotations

import functools

import pytest

from tests.interop.pair import PEER_IS_GONE
from tests.lab.kernel_node import KernelNode
from tests.lab.load import Op

pytestmark = pytest.mark.interop

NET = "protocol A; ping-timeout 100; timeout 60; connect-int 1; sndbuf-size 10M; congestion-fill 512K; on-congestion "
CONGESTED = (
    "Congestion-fill threshold reached",
    "congestion: ",
    "w_start_resync later",
    "Lost last syncUUID packet, corrected",
)


def burst(seed: int, count: int) -> list[Op]:
    """Much more than such a line takes in a moment, all over the device."""
    return [Op("write", n * 262144, 131072, seed + n) for n in range(count)]


def test_a_primary_pulls_ahead_and_comes_back(pair, seed, cut):
    """Its writes do not wait for the line; later both hold the same, and it can happen again."""
    pair.allow(*CONGESTED)
    pair.start(net=NET + "pull-ahead;")
    pair.sync()
    pair.write(pair.first, seed, 10)
    for turn in range(2):
        cut.slow("16mbit")
        pair.play(pair.first, burst(seed + 100 * turn, 60))
        for node, words in ((pair.first, "Connected -> Ahead"), (pair.second, "Connected -> Behind")):
            seen = functools.partial(lambda node, words, turn: node.log().count(words) > turn, node, words, turn)
            pair.wait_for(seen, f"{node.name}: {words}")
        cut.full_speed()
        pair.assert_same()
    pair.switch()
    pair.write(pair.first, seed + 7, 20)
    pair.assert_same()


def test_the_line_breaks_while_ahead(pair, seed, cut):
    """The peer is Outdated by then; when it is back it gets all that it lacks."""
    pair.allow(*CONGESTED, *PEER_IS_GONE, "Error receiving initial packet")
    pair.start(
        net=NET.replace("ping-timeout 100; timeout 60", "ping-int 1; ping-timeout 30; timeout 40") + "pull-ahead;"
    )
    pair.sync()
    cut.slow("16mbit")
    pair.play(pair.first, burst(seed, 60))
    pair.wait_for(lambda: "-> Behind" in pair.second.log(), "the Secondary to be Behind")
    cut.cut()
    pair.first.wait(conn="WFConnection")
    pair.write(pair.first, seed + 1, 10)
    cut.full_speed()
    cut.restore()
    pair.assert_same()


def test_a_primary_leaves_a_peer_that_is_too_slow(pair, seed, cut):
    """on-congestion disconnect: StandAlone, until an operator connects it."""
    if isinstance(pair.first, KernelNode):
        pytest.skip("a kernel that leaves its peer for congestion was still Disconnecting after 30 s, in each run")
    pair.allow(*CONGESTED, *PEER_IS_GONE)
    pair.start(net=NET + "disconnect;")
    pair.sync()
    cut.slow("16mbit")
    pair.play(pair.first, burst(seed, 60))
    pair.first.wait(conn="StandAlone")
    cut.full_speed()
    pair.first.connect()
    pair.assert_same()
