"""Both wrote while apart: nobody may lose data without being told."""

from __future__ import annotations

import pytest

from tests.lab.load import Op

pytestmark = pytest.mark.interop

ALONE = Op("fua", 1024 * 1024, 4096, 99)
SAID = (
    "[Ss]plit.[Bb]rain", "error receiving ReportState", "connection shut down by peer", "NetworkFailure",
    "sock_recvmsg returned -104",
)  # fmt: skip
"""What a pair of kernels says too: both hang up, and one of them is the first."""


@pytest.fixture
def split(pair, seed):
    """A pair whose nodes have both been Primary and written while they did not see each other."""
    pair.allow(*SAID)
    pair.start()
    pair.sync()
    pair.write(pair.first, seed, 10)
    pair.first.disconnect()
    pair.second.wait(peer_disk="DUnknown")
    pair.second.disconnect()
    pair.second.primary()
    pair.write(pair.first, seed + 1, 10)
    pair.second.load([ALONE])
    return pair


def test_split_brain_is_refused_by_both(split):
    """They meet, see that both have written alone, and part; each keeps what it has."""
    split.first.connect()
    split.second.connect()
    for node in split:
        node.wait(conn="StandAlone")
        assert "Split-Brain detected" in node.log()
        assert node.states().disk == "UpToDate"
    split.first.load([Op("flush")])
    split.second.load([Op("read", ALONE.offset_bytes, ALONE.length_bytes, ALONE.seed)])


def test_split_brain_is_solved_by_the_operator(split):
    """One gives up its changes, on request: it becomes the target of a resync, of both nodes' changes."""
    split.second.secondary()
    split.second.connect(discard_my_data=True)
    split.first.connect()
    split.assert_same()
