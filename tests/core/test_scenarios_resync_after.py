"""Scenarios: a resync that has to wait for one of another resource (aftr_isp)."""

from __future__ import annotations

import pytest

from tests.harness.scene import BLOCK, MIB, order, pair, state, write


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_resync_waits_on_both_nodes_for_another_resources(who: str) -> None:
    """Either side may wait: both are paused, the one by the other; then it goes on to its end."""
    world, client = pair(0, size_bytes=8 * MIB)
    machine = {"a": world.a, "b": world.b}[who]
    assert order(world, machine, "resync-after", volumes={0: True, 7: True}) == 1
    assert order(world, world.b, "invalidate") == 1
    assert write(client, 0, b"1" * BLOCK) == 0
    world.settle()
    assert state(world.a).startswith("PausedSyncS") and state(world.b).startswith("PausedSyncT")
    other = world.b if machine is world.a else world.a
    assert (machine.volume.state.aftr_isp, other.volume.state.peer_isp) == (True, True)
    assert order(world, machine, "resync-after", volumes={0: False}) == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_a_resync_that_runs_is_paused_when_the_other_one_begins() -> None:
    """And an operator's pause is another one: both must be lifted."""
    world, _client = pair(0, size_bytes=8 * MIB)
    assert order(world, world.b, "invalidate") == 1
    assert order(world, world.b, "resync-after", volumes={0: True}) == 1
    assert order(world, world.b, "pause-sync") == 1
    world.settle()
    assert state(world.b).startswith("PausedSyncT")
    assert order(world, world.b, "resync-after", volumes={0: False}) == 1
    world.settle()
    assert state(world.b).startswith("PausedSyncT")
    assert order(world, world.b, "resume-sync") == 1
    world.run_until(world.is_in_sync)


def test_a_node_that_is_told_before_it_meets_its_peer_holds_the_resync_from_its_beginning() -> None:
    """As at the start of a process: nothing is asked for before the other resource is in sync."""
    world, client = pair(0, size_bytes=8 * MIB)
    world.b.stop()
    assert write(client, 0, b"1" * BLOCK) == 0
    world.b.start()
    assert order(world, world.b, "resync-after", volumes={0: True}) == 1
    world.settle()
    assert state(world.b).startswith("PausedSyncT") and world.b.volume.counters.resynced == 0
    assert order(world, world.b, "resync-after", volumes={0: False}) == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()
