"""Scenarios: clients that may only read, on a Primary and on a Secondary (core/readers)."""

from __future__ import annotations

import pytest

from pydrbd.core.events import SessionClosed, SessionOpened
from tests.harness.scene import BLOCK, order, pair, read, state, wait, write
from tests.harness.world import Client, Machine, World

EPERM, EIO = 1, 5


def reader(world: World, machine: Machine) -> Client:
    client = Client(world, machine)
    machine.feed(SessionClosed(client, 0))
    machine.feed(SessionOpened(client, 0, reads_only=True))
    return client


@pytest.mark.parametrize("seed", range(4))
def test_what_was_answered_is_read_on_both_nodes(seed: int) -> None:
    """Protocol C: it is on the Secondary's disk, too, and a reader there sees it."""
    world, client = pair(seed)
    readers = [reader(world, machine) for machine in (world.a, world.b)]
    assert write(client, 0, b"x" * BLOCK) == 0
    assert [read(one, 0, BLOCK) for one in readers] == [b"x" * BLOCK] * 2
    assert wait(readers[1], readers[1].flush()) == [0]
    assert state(world.b) == "Connected Secondary/Primary UpToDate/UpToDate" and not world.protocol_errors


@pytest.mark.parametrize("on_primary", [True, False])
def test_a_reader_can_not_write(on_primary: bool) -> None:
    """EPERM for all that writes, in either role, and nothing is written."""
    world, client = pair()
    one = reader(world, world.a if on_primary else world.b)
    assert write(client, 0, b"x" * BLOCK) == 0
    assert wait(one, one.write(0, b"y" * BLOCK), one.trim(0, BLOCK), one.zero(0, BLOCK)) == [EPERM] * 3
    assert read(client, 0, BLOCK) == b"x" * BLOCK and world.copies_equal()


def test_a_reader_keeps_nobody_primary() -> None:
    """The node is demoted without force, and promoted again, and the reader reads on."""
    world, client = pair()
    one = reader(world, world.a)
    world.a.feed(SessionClosed(client, 0))
    assert order(world, world.a, "secondary") == 1
    assert read(one, 0, BLOCK) == bytes(BLOCK)
    assert order(world, world.a, "primary") == 1
    assert read(one, 0, BLOCK) == bytes(BLOCK)


@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_is_no_longer_good_is_not_read(seed: int) -> None:
    """EIO on a Secondary from the moment on at which its disk is known to be old; good again after the resync."""
    world, client = pair(seed)
    one = reader(world, world.b)
    assert order(world, world.b, "disconnect") == 1
    assert write(client, 0, b"x" * BLOCK) == 0
    assert read(one, 0, BLOCK) == bytes(BLOCK)  # nobody has told it
    assert order(world, world.b, "outdate") == 1
    assert read(one, 0, BLOCK) == EIO
    assert order(world, world.b, "connect") == 1
    world.run_until(world.is_in_sync)
    assert read(one, 0, BLOCK) == b"x" * BLOCK


def test_a_secondary_without_a_disk_asks_its_peer_for_nothing() -> None:
    """EIO: the peer's data is for the Primary's clients."""
    world, _client = pair()
    one = reader(world, world.b)
    assert order(world, world.b, "detach") == 1
    assert read(one, 0, BLOCK) == EIO and not world.protocol_errors
