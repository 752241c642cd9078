"""Scenarios: a resync goes at the pace that the configuration names, and yields to the application."""

from __future__ import annotations

import pytest

from pydrbd.core.resync_pace import PaceOptions
from pydrbd.limits import RESYNC_BUSY_BYTES_MAX, RESYNC_PIECE_BYTES
from tests.core.test_scenarios_reconfigure import reconfigure
from tests.harness.scene import BLOCK, MIB, order, pair, wait, write
from tests.harness.world import World


def seconds_of_a_resync(pace: PaceOptions, size_bytes: int = 8 * MIB) -> float:
    """Of everything, in the world's own time."""
    world = World(0, size_bytes=size_bytes, disk={"pace": pace})
    world.start()
    began = world.now
    assert order(world, world.a, "primary", force=True) == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()
    return world.now - began


@pytest.mark.parametrize(
    "pace",
    [
        PaceOptions(fixed_kib_s=2048),
        PaceOptions(max_kib_s=2048),
        PaceOptions(plan_steps=5, start_kib_s=65536, fill_target_bytes=4 * MIB, max_kib_s=2048),
    ],
)
def test_a_resync_keeps_to_the_rate_that_is_named(pace: PaceOptions) -> None:
    """resync-rate with c-plan-ahead 0; c-max-rate alone; c-max-rate with the controller."""
    assert 3.5 < seconds_of_a_resync(pace) < 6


def test_a_slow_rate_is_kept_with_small_requests() -> None:
    """The least that DRBD takes: less in a step than the longest request."""
    assert 3.5 < seconds_of_a_resync(PaceOptions(fixed_kib_s=250), MIB) < 6


def test_a_resync_without_a_rate_is_as_fast_as_it_can_be() -> None:
    assert seconds_of_a_resync(PaceOptions()) < 1


def test_the_controller_gets_to_its_end() -> None:
    """With DRBD's own defaults, where c-fill-target is 50 KiB."""
    pace = PaceOptions(plan_steps=20, start_kib_s=250, fill_target_bytes=100 * 512)
    assert seconds_of_a_resync(pace, MIB) < 60


def test_a_rate_that_is_lifted_lets_the_resync_go_on_at_once() -> None:
    """Nothing is under way between two steps: somebody has to ask."""
    world = World(0, size_bytes=16 * MIB, disk={"pace": PaceOptions(fixed_kib_s=250)})
    world.start()
    assert order(world, world.a, "primary", force=True) == 1
    world.run_until(lambda: world.b.volume.counters.resynced > 0)
    reconfigure(world, world.b, volume={"pace": PaceOptions()})
    began = world.now
    world.run_until(world.is_in_sync)
    assert world.now - began < 2


def test_a_source_yields_while_clients_use_the_disk_and_goes_on_afterwards() -> None:
    """c-min-rate is what the resync keeps meanwhile; then it ends fast."""
    world, client = pair(0, size_bytes=16 * MIB, disk={"pace": PaceOptions(max_kib_s=10 << 10, min_kib_s=250)})
    assert write(client, 0, b"1" * BLOCK) == 0
    assert order(world, world.a, "pause-sync") == 1
    assert order(world, world.b, "invalidate") == 1
    assert order(world, world.a, "resume-sync") == 1
    began = world.now
    while world.now < began + 4:
        assert set(wait(client, *[client.write(number * BLOCK, b"w" * BLOCK) for number in range(9)])) <= {0}
    assert world.b.volume.counters.resynced << 9 < 4 * MIB, "a step without a bound, and 25 KiB in each other one"
    world.run_until(world.is_in_sync)
    assert world.now < began + 7
    assert world.copies_equal()


def test_a_target_asks_for_less_while_the_application_writes() -> None:
    """Its writes come by the same socket, behind what is under way."""
    world, client = pair(0, size_bytes=32 * MIB)
    assert order(world, world.a, "pause-sync") == 1
    assert order(world, world.b, "invalidate") == 1
    began, most = world.now, 0
    while world.now < began + 0.3:
        assert set(wait(client, *[client.write(number * BLOCK, b"w" * BLOCK) for number in range(9)])) <= {0}
    assert order(world, world.a, "resume-sync") == 1
    assert world.b.node is not None
    while (progress := world.b.node.resync.progress(world.b.volume)) is not None:
        most = max(most, progress.in_flight_bytes)
        assert write(client, 0, b"w" * BLOCK) == 0
    assert 0 < most <= RESYNC_BUSY_BYTES_MAX + RESYNC_PIECE_BYTES
    world.run_until(world.is_in_sync)
    assert world.copies_equal()
