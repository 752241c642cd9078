"""Both nodes are Primary, one a kernel, and both write to the same places at the same time (WIRE 9.7)."""

from __future__ import annotations

import threading

import pytest

from tests.interop.pair import refused
from tests.lab.load import Op

pytestmark = pytest.mark.interop

NET = "protocol C; allow-two-primaries yes;"
CONCURRENT = ("Concurrent writes detected", "ASSERTION FAILED: connection->current_epoch->list not empty")
"""The second: what a kernel has decided stays in its epoch for ever (WIRE 9.7)."""


def both_primary(pair):
    pair.allow(*CONCURRENT)
    pair.start(net=NET)
    pair.sync()
    pair.second.primary()
    for node in pair:
        node.wait(role="Primary", peer_role="Primary")


def at_once(pair, plans):
    """Each node's own plan, at the same time; what a node refuses is raised here."""
    failures: list[BaseException] = []

    def play(node, plan):
        try:
            node.load(plan)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=play, args=it) for it in zip(pair, plans, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_a_guest_may_move_while_both_are_primary(pair, seed):
    """One writes after the other, on either side; then one gives up its role."""
    both_primary(pair)
    pair.write(pair.first, seed, 30)
    pair.write(pair.second, seed + 1, 30)
    pair.first.secondary()
    pair.write(pair.second, seed + 2, 30)
    pair.assert_same()


def test_writes_to_different_places_go_on_from_both_sides(pair, seed):
    """No conflict: both copies have all of it."""
    both_primary(pair)
    at_once(pair, [[Op("write", (2 * n + side) * 65536, 65536, seed + n) for n in range(120)] for side in range(2)])
    pair.adopt(pair.first)
    pair.assert_same()


def test_writes_to_the_same_places_end_equal(pair, seed):
    """Conflicts, resolved by whoever accepted the meta socket; both copies are the same."""
    both_primary(pair)
    at_once(pair, [[Op("write", n % 3 * 4096, 4096, seed + 2 * n + side) for n in range(300)] for side in range(2)])
    pair.adopt(pair.first)
    pair.assert_same()


def test_a_second_primary_is_refused_without_the_option(pair):
    """-1, in DRBD's words."""
    pair.start()
    pair.sync()
    assert "Multiple primaries not allowed by config" in refused(pair.second.primary)
