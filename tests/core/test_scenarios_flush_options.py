"""Scenarios: what flushes a disk is asked for (`disk-flushes`, `disk-drain`, `disk-barrier`), and `max-buffers`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pydrbd.core.handshake import NetOptions
from pydrbd.units import MIB
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, order, pair, read, sent, wait, write
from tests.harness.world import Machine


def count(machine: Machine) -> int:
    return machine.disks[0].flush_count


@pytest.mark.parametrize("flushes", [True, False])
def test_without_disk_flushes_only_a_clients_flush_reaches_a_disk(flushes: bool) -> None:
    """The peer confirms a barrier without one, and nothing is flushed for the activity log; the copies are the same."""
    world, client = pair(size_bytes=400 * MIB, disk={"disk_flushes": flushes})
    world.run(5)
    before = count(world.a), count(world.b)
    for n in range(80):  # more extents than the log has slots: some are evicted
        assert write(client, n * 4 * MIB, b"x" * BLOCK) == 0
    world.run(5)
    assert sent(world.b, Packet.P_BARRIER_ACK) and world.a.node is not None
    assert not world.a.node.log.last_unacked()
    assert (count(world.a) > before[0]) == (count(world.b) > before[1]) == flushes
    before = count(world.a), count(world.b)
    assert write(client, 79 * 4 * MIB, b"y" * BLOCK) == 0 and wait(client, client.flush()) == [0]
    assert count(world.a) == before[0] + 1 and (count(world.b) == before[1] + 1) == flushes
    assert world.copies_equal()


def test_a_disk_that_holds_writes_back_is_flushed_all_the_same() -> None:
    """`disk-flushes no` with a page cache: a crash of the machine would take what the peer was told is there."""
    world, client = pair(size_bytes=400 * MIB, disk={"disk_flushes": False}, held_back=True)
    world.run(5)
    before = count(world.a), count(world.b)
    for n in range(80):  # more extents than the log has slots: some are evicted
        assert write(client, n * 4 * MIB, b"x" * BLOCK) == 0
    world.run(5)
    assert count(world.a) > before[0] and count(world.b) > before[1]


def test_disk_flushes_is_taken_over_at_once() -> None:
    """While the node runs (adjust)."""
    world, client = pair()
    for machine in (world.a, world.b):
        assert machine.node is not None
        options = machine.node.options
        volumes = (replace(options.volumes[0], disk_flushes=False),)
        assert order(world, machine, "reconfigure", options=replace(options, volumes=volumes)) == 1
    world.run(5)
    before = count(world.b)
    assert write(client, 0, b"y" * BLOCK) == 0 and wait(client, client.flush()) == [0]
    assert count(world.b) == before


@pytest.mark.parametrize("flushes", [True, False])
def test_no_barrier_is_confirmed_before_its_writes_are_done(flushes: bool) -> None:
    """Whatever disk-drain and disk-barrier say: with a disk that is slow, too."""
    world, client = pair(disk={"disk_flushes": flushes})
    world.run(5)
    held: list[Any] = []
    begin, world.b._begin_disk = world.b._begin_disk, held.append  # type: ignore[method-assign]
    before = len(sent(world.b, Packet.P_BARRIER_ACK))
    waiting = [client.write(0, b"x" * BLOCK), client.flush()]
    world.run(5)
    assert len(sent(world.b, Packet.P_BARRIER_ACK)) == before and waiting[0] not in client.replies
    world.b._begin_disk = begin  # type: ignore[method-assign]
    for effect in held:
        begin(effect)
    assert wait(client, *waiting) == [0, 0] and read(client, 0, BLOCK) == b"x" * BLOCK


@pytest.mark.parametrize(("pages", "bound"), [(32, 32), (2048, 2048), (131072, 16384)])
def test_max_buffers_bounds_what_the_peer_may_have_under_way(pages: int, bound: int) -> None:
    """In pages of 4 KiB; never more than our own limit of 64 MiB."""
    world, _client = pair(net=NetOptions(max_buffers=pages))
    assert world.b.node is not None
    secondary = world.b.node.peer_writes
    secondary.busy_bytes = (bound - 1) * 4096
    assert not secondary.behind
    secondary.busy_bytes = bound * 4096
    assert secondary.behind and world.b.node.holds_data
