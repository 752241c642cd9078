"""Writes of all sizes reach the peer."""

from __future__ import annotations

import pytest

from tests.lab.load import Op

pytestmark = pytest.mark.interop


def test_writes_of_all_sizes_reach_the_peer(pair, seed):
    """512 bytes to 1 MiB, many of them overlapping, with flushes, FUA, discards and zeroes."""
    pair.start()
    pair.sync()
    pair.write(pair.first, seed, 150, discards=True)
    pair.assert_same()


def test_many_writes_at_once_reach_the_peer(pair):
    """Deep queues of small and large writes, reads between them, flushes now and then; the copies are the same."""
    pair.start()
    pair.sync()
    pair.first.stress()
    pair.adopt(pair.first)
    pair.assert_same()


def test_what_was_written_is_read_on_either_node(pair):
    """After a switch of roles the other node serves what the first one wrote."""
    pair.start()
    pair.sync()
    pair.play(pair.first, [Op("fua", 12345 * 512, 100 * 1024, 1)])
    pair.first.load([Op("read", 12345 * 512, 100 * 1024, 1)])
    pair.switch()
    pair.first.load([Op("read", 12345 * 512, 100 * 1024, 1)])
    pair.assert_same()
