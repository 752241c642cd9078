"""Scenarios: a disk hangs, and `disk-timeout` gives it up by force."""

from __future__ import annotations

from typing import Any

import pytest

from pydrbd.core import effects as fx
from pydrbd.core.events import Done
from tests.harness.scene import BLOCK, order, pair, read, state, wait, write
from tests.harness.world import Client, Machine, World

LIMIT_S = 3.0


class Hang:
    """A disk that takes what it is given, and ends it when it is let go."""

    def __init__(self, machine: Machine, kinds: Any = object) -> None:
        self.machine = machine
        self.caught: list[Any] = []
        self._begin = machine._begin_disk
        self._kinds = kinds
        machine._begin_disk = self._catch  # type: ignore[method-assign]

    def _catch(self, effect: Any) -> None:
        if isinstance(effect, self._kinds):
            self.caught.append(effect)
        else:
            self._begin(effect)

    def end(self) -> None:
        """It works again, and says of what it was given that it is done."""
        self.machine._begin_disk = self._begin  # type: ignore[method-assign]
        for effect in self.caught:
            self.machine.feed(Done(effect, 0, 0))


def limited(**options: Any) -> tuple[World, Client]:
    world, client = pair(disk={"disk_timeout_s": LIMIT_S}, **options)
    assert write(client, 0, b"x" * BLOCK) == 0
    return world, client


def test_a_disk_that_hangs_is_detached_and_the_peer_stands_in() -> None:
    """Writes, reads and a FLUSH are answered when the time is over, and not before; what ends later changes nothing."""
    world, client = limited()
    hang = Hang(world.a)
    cookies = [client.write(BLOCK, b"y" * BLOCK), client.read(0, BLOCK), client.flush()]
    world.run(LIMIT_S - 0.1)
    assert not set(cookies) & set(client.replies)
    assert wait(client, *cookies) == [0, 0, 0] and client.replies[cookies[1]][1] == b"x" * BLOCK
    assert world.now < LIMIT_S + 1 and state(world.a) == "Connected Primary/Secondary Diskless/UpToDate"
    hang.end()
    assert read(client, BLOCK, BLOCK) == b"y" * BLOCK
    assert order(world, world.a, "attach") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("kind", [fx.DiskWrite, fx.DiskRead, fx.DiskFlush, fx.Persist])
def test_each_kind_of_request_has_its_time(kind: Any) -> None:
    """One that hangs is enough; also of the meta-data (a cold extent), where a fence of the core stands."""
    world, client = limited()
    hang = Hang(world.a, kind)
    cookies = [client.write(8 << 20, b"y" * BLOCK), client.read(0, BLOCK), client.flush()]
    assert wait(client, *cookies) == [0, 0, 0] and hang.caught
    assert state(world.a) == "Connected Primary/Secondary Diskless/UpToDate"


def test_a_fence_that_hangs_holds_nothing_any_more() -> None:
    """The superblock of a new generation: the peer is lost, and the disk hangs in the same moment."""
    world, client = limited()
    hang = Hang(world.a, fx.Persist)
    world.b.stop()
    waiting = client.write(0, b"y" * BLOCK)
    assert wait(client, waiting) == [5] and hang.caught
    assert state(world.a) == "WFConnection Primary/Unknown Diskless/DUnknown"


def test_alone_it_is_an_error() -> None:
    """No copy is left: the manual calls the option dangerous."""
    world, client = limited()
    world.b.stop()
    world.run(1)
    Hang(world.a)
    assert wait(client, client.write(0, b"y" * BLOCK), client.read(0, BLOCK)) == [5, 5]


def test_a_secondary_gives_its_disk_up_too() -> None:
    """It refuses the write, and the Primary goes on: sooner than ko-count would leave it."""
    world, client = limited()
    Hang(world.b)
    assert write(client, BLOCK, b"y" * BLOCK) == 0
    world.run(1)
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless"


def test_a_disk_that_is_slow_but_not_too_slow_stays() -> None:
    """Each request has its own time, however long they take together."""
    world, client = limited()
    for n in range(5):
        hang = Hang(world.a, fx.DiskRead)
        cookie = client.read(n * BLOCK, BLOCK)
        world.run(LIMIT_S * 0.9)
        hang.end()
        assert wait(client, cookie) == [0]
    assert state(world.a) == "Connected Primary/Secondary UpToDate/UpToDate"


def test_the_handler_hears_of_it() -> None:
    """With on-io-error call-local-io-error."""
    disk = {"disk_timeout_s": LIMIT_S, "on_io_error": "call-local-io-error"}
    world, client = pair(disk=disk, handlers=["local-io-error"])
    Hang(world.a)
    assert write(client, 0, b"y" * BLOCK) == 0
    assert world.a.helpers == [("local-io-error", 0)]


def test_without_the_option_a_disk_has_all_the_time() -> None:
    """As by default; and no lane runs with it, which would wait for the disk itself."""
    world, client = pair()
    hang = Hang(world.a, fx.DiskRead)
    cookie = client.read(0, BLOCK)
    world.run(60)
    hang.end()
    assert wait(client, cookie) == [0] and world.a.node is not None
    assert world.a.node.lanes.client_volume() is not None
    world, _client = limited()
    assert world.a.node is not None and world.a.node.lanes.client_volume() is None
