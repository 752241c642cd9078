"""Scenarios: what the activity log may forget, and how few flushes that takes."""

from __future__ import annotations

from typing import Any

from pydrbd.core.effects import DiskFlush
from tests.harness.scene import BLOCK, pair, state, wait, write
from tests.harness.world import Client, Machine, World

EXTENT_BYTES = 4 << 20
EXTENTS = 200
"""Three times as many as the smallest log has slots."""


def spread(client: Client) -> None:
    """One block in each extent, one after the other."""
    for extent in range(EXTENTS):
        assert write(client, extent * EXTENT_BYTES, bytes([extent]) * BLOCK) == 0


def spacious() -> tuple[World, Client, Machine]:
    world, client = pair(size_bytes=(EXTENTS + 2) * EXTENT_BYTES)
    world.run(5)
    return world, client, world.a


def test_one_flush_here_and_there_serves_many_transactions() -> None:
    """Each extent that comes sends another one out; that its data is on both disks is settled for many at once."""
    world, client, primary = spacious()
    before, there = primary.disks[0].flush_count, world.b.disks[0].flush_count
    spread(client)
    assert primary.volume.counters.al_writes == EXTENTS
    assert primary.volume.disk is not None and primary.volume.disk.log.statistics().eviction_count == EXTENTS - 67
    rounds = -(-EXTENTS // 33) + 1  # one whenever less than half of the log is free to go
    assert 1 < primary.disks[0].flush_count - before <= rounds
    assert 1 < world.b.disks[0].flush_count - there <= rounds + 1
    world.run(5)
    assert world.copies_equal()


def test_what_a_client_has_flushed_may_leave_without_another_flush() -> None:
    """The FLUSH has reached both disks: nothing else is needed for the extents that were written before it."""
    _, client, primary = spacious()
    for extent in range(67):
        assert write(client, extent * EXTENT_BYTES, b"x" * BLOCK) == 0
    assert wait(client, client.flush()) == [0]
    before = primary.disks[0].flush_count
    for extent in range(67, 100):
        assert write(client, extent * EXTENT_BYTES, b"y" * BLOCK) == 0
    assert primary.disks[0].flush_count == before


def test_a_flush_for_the_log_that_fails_ends_the_disk() -> None:
    """What it was to make durable may be lost, whoever asked for it; clients go on through the peer."""
    world, client, primary = spacious()
    primary.disks[0].fail_flushes = True
    spread(client)
    world.run(5)
    assert state(primary) == "Connected Primary/Secondary Diskless/UpToDate"


def test_a_disk_that_goes_while_it_is_flushed_for_the_log_holds_nobody_up() -> None:
    """Who waits for room goes on without a log; the flush ends later, and is of no disk any more."""
    world, client, primary = spacious()
    begin, held = primary._begin_disk, list[Any]()

    def begin_all_but_flushes(effect: Any) -> None:
        (held.append if isinstance(effect, DiskFlush) else begin)(effect)

    primary._begin_disk = begin_all_but_flushes  # type: ignore[method-assign]
    for extent in range(67):
        assert write(client, extent * EXTENT_BYTES, b"x" * BLOCK) == 0
    waiting = client.write(67 * EXTENT_BYTES, b"y" * BLOCK)
    world.run(0.5)
    assert held and waiting not in client.replies
    primary.command("detach", force=True)
    assert wait(client, waiting) == [0]
    for effect in held:
        begin(effect)
    world.run(5)
    assert state(primary) == "Connected Primary/Secondary Diskless/UpToDate"
