"""A node that hangs keeps its sockets open, and says nothing; one whose disk hangs still answers pings."""

from __future__ import annotations

import pytest

from tests.interop.pair import PEER_IS_GONE, QUICK

pytestmark = pytest.mark.interop


@pytest.fixture
def frozen(pair):
    """`frozen(node)` makes a node hang; all go on at the end."""
    pair.allow(*PEER_IS_GONE)
    yield lambda node: node.freeze()
    for node in pair:
        node.unfreeze()


def test_a_secondary_that_hangs_is_left_and_comes_back(pair, seed, frozen):
    """No answer to a ping: the Primary goes on alone; the other one is sent what it missed when it lives again."""
    pair.start(net=QUICK)
    pair.sync()
    pair.write(pair.first, seed, 10)
    frozen(pair.second)
    pair.write(pair.first, seed + 1, 10)
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed + 2, 10)
    pair.second.unfreeze()
    pair.assert_same()
    assert pair.first.states().role == "Primary"


def test_a_primary_that_hangs_is_missed_and_comes_back(pair, seed, frozen):
    """The Secondary sees that it is alone; nobody took over, so both go on as before."""
    pair.start(net=QUICK)
    pair.sync()
    pair.write(pair.first, seed, 10)
    frozen(pair.first)
    pair.second.wait(peer_disk="DUnknown")
    pair.first.unfreeze()
    pair.assert_same()
    pair.write(pair.first, seed + 1, 10)
    pair.assert_same()
