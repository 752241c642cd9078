"""Both wrote while apart: nobody may lose data without being told."""

from __future__ import annotations

import pytest

from tests.interop.pair import PEER_IS_GONE
from tests.lab.kernel_node import KernelNode
from tests.lab.load import Op
from tests.lab.nodes import Refused

pytestmark = pytest.mark.interop

ALONE = Op("fua", 1024 * 1024, 4096, 99)
SAID = (
    "[Ss]plit.[Bb]rain", "error receiving ReportState", "connection shut down by peer", "NetworkFailure",
    "sock_recvmsg returned -104",
)  # fmt: skip
"""What a pair of kernels says too: both hang up, and one of them is the first."""


def split_apart(pair, seed, *, net="protocol C;", second_writes=True):
    """Both have been Primary, and have written, while they did not see each other."""
    pair.allow(*SAID)
    pair.start(net=net)
    pair.sync()
    pair.write(pair.first, seed, 10)
    pair.first.disconnect()
    pair.second.wait(peer_disk="DUnknown")
    pair.second.disconnect()
    pair.second.primary()
    pair.write(pair.first, seed + 1, 10)
    if second_writes:
        pair.second.load([ALONE])


@pytest.fixture
def split(pair, seed):
    """A pair whose nodes have both written alone."""
    split_apart(pair, seed)
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


@pytest.mark.parametrize(
    "policy", ["discard-younger-primary", "discard-older-primary", "discard-least-changes", "discard-zero-changes"]
)
def test_split_brain_of_two_secondaries_is_solved_by_policy(pair, seed, policy):
    """after-sb-0pri: both nodes choose the same victim by themselves. The first wrote more, and was Primary before."""
    split_apart(pair, seed, net=f"protocol C; after-sb-0pri {policy};", second_writes=policy != "discard-zero-changes")
    for node in pair:
        node.secondary()
    if policy == "discard-older-primary":
        pair.adopt(pair.second)
    for node in pair:
        node.connect()
    pair.assert_same()


@pytest.mark.parametrize("policy", ["discard-secondary", "consensus", "violently-as0p"])
def test_split_brain_with_one_primary_is_solved_by_policy(pair, seed, policy):
    """after-sb-1pri: the Secondary's changes go; but for the first policy because after-sb-0pri says so, too."""
    net = f"protocol C; after-sb-0pri discard-least-changes; after-sb-1pri {policy};"
    split_apart(pair, seed, net=net)
    pair.second.secondary()
    for node in pair:
        node.connect()
    pair.assert_same()
    assert pair.first.states().role == "Primary"


def test_split_brain_of_two_primaries_goes_on_without_the_one_that_lost(pair, seed):
    """after-sb-2pri call-pri-lost-after-sb: the victim, whose disk nobody has open, gives up its role and its changes.

    Where two Primaries may not be, the winner leaves before it hears of that, a kernel as well. A kernel as the victim
    can't be demoted in the middle of a handshake: it leaves everything to its handler, and stands alone.
    """
    net = "protocol C; allow-two-primaries; after-sb-0pri discard-least-changes; after-sb-2pri call-pri-lost-after-sb;"
    split_apart(pair, seed, net=net)
    pair.allow("gave up the Primary role", "pri-lost-after-sb", *PEER_IS_GONE)
    for node in pair:
        node.connect()
    if isinstance(pair.second, KernelNode):
        pair.second.wait(conn="StandAlone")
        assert "helper command: /sbin/drbdadm pri-lost-after-sb" in pair.second.log()
        assert [node.states().role for node in pair] == ["Primary", "Primary"]
        return
    pair.assert_same()
    assert [node.states().role for node in pair] == ["Primary", "Secondary"]


def test_split_brain_of_two_primaries_stays_one(pair, seed):
    """after-sb-2pri disconnect, the default: whatever the other policies say, both stand alone, and stay Primary."""
    split_apart(pair, seed, net="protocol C; after-sb-0pri discard-least-changes;")
    for node in pair:
        node.connect()
    for node in pair:
        node.wait(conn="StandAlone")
        assert "Split-Brain detected" in node.log()
        assert (node.states().role, node.states().disk) == ("Primary", "UpToDate")


def test_a_primary_is_not_made_to_discard_its_data(split):
    """Its users have it: whoever wants that demotes it first."""
    for node in split:
        with pytest.raises(Refused, match="--discard-my-data not allowed when primary"):
            node.connect(discard_my_data=True)
        assert (node.states().role, node.states().disk, node.states().conn) == ("Primary", "UpToDate", "StandAlone")
