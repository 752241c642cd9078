"""Scenarios that DRBD's own test-suite has and that nobody here told yet (docs/interop.md has the table)."""

from __future__ import annotations

import pytest

from pydrbd.core.states import Role
from tests.harness.scene import BLOCK, order, pair, write
from tests.harness.world import Client

REMEMBERED = 1
"""So many disconnections with writes the two history UUIDs of DRBD 8.4 reach back."""


@pytest.mark.parametrize("generations", [1, 2, 4])
def test_a_disk_that_went_back_to_a_snapshot_is_brought_up_to_date_or_refused(generations: int) -> None:
    """C11: meta-data and all. If the peer remembers its generation it gets what was written since; else nothing."""
    world, _client = pair()
    assert order(world, world.a, "secondary", force=True) == 1
    world.b.stop()
    world.run(1)
    snapshot = bytes(world.b.disks[0].image)
    world.b.start()
    world.run_until(world.is_in_sync)
    for number in range(generations):
        assert order(world, world.a, "disconnect") == 1
        assert order(world, world.a, "primary") == 1
        client = Client(world, world.a)
        assert write(client, number * BLOCK, b"new!" * (BLOCK // 4)) == 0
        assert order(world, world.a, "secondary", force=True) == 1
        for machine in (world.a, world.b):
            order(world, machine, "connect")
        world.run_until(world.is_in_sync)
    world.b.stop()
    world.run(1)
    world.b.disks[0].set_back(bytes(snapshot))
    kept = bytes(world.a.disks[0].data)
    world.b.start()
    if generations <= REMEMBERED:
        world.run_until(world.is_in_sync)
        assert world.copies_equal()
    else:
        world.run(30)
        assert not world.is_linked()
    assert not world.protocol_errors and bytes(world.a.disks[0].data) == kept


@pytest.mark.parametrize("after_ms", range(0, 60, 3))
def test_a_promotion_at_any_moment_of_a_connection(after_ms: int) -> None:
    """It is granted or refused; either way the nodes end connected, in sync, and both know it."""
    world, _client = pair()
    assert order(world, world.a, "secondary", force=True) == 1
    for machine in (world.a, world.b):
        assert order(world, machine, "disconnect") in (1, 2)
    for machine in (world.a, world.b):
        machine.command("connect")
    world.run(after_ms / 1000)
    granted = order(world, world.a, "primary") == 1
    world.run_until(world.is_in_sync)
    assert granted == (world.a.volume.state.role is Role.Primary) and not world.protocol_errors
    assert world.b.volume.state.role is Role.Secondary
    assert world.copies_equal()
