"""Scenarios: a link has a number, so that the end of one is never taken for the end of the next."""

from __future__ import annotations

from typing import Any

from pydrbd.core import effects as fx
from pydrbd.core.states import DiskState
from tests.harness.scene import MIB, in_sync_superblock, order, pair, state
from tests.harness.world import Machine, World


class Links:
    """What a machine's node has asked of its link."""

    def __init__(self, world: World, machine: Machine) -> None:
        self._machine = machine
        self.asked: list[str] = []
        world.observer = self

    def on_effect(self, machine: Machine, effect: Any) -> None:
        if machine is self._machine and isinstance(effect, fx.OpenLink | fx.CloseLink):
            self.asked.append(type(effect).__name__)

    def on_event(self, machine: Machine, event: Any) -> None:
        pass


def complaints(machine: Machine) -> list[str]:
    return [line for line in machine.log if "connection lost" in line]


def test_the_late_end_of_a_link_that_was_given_up_is_not_the_end_of_the_next() -> None:
    """`disconnect` lets the old sockets linger; their end comes after `connect` has asked for new ones."""
    world, _client = pair()
    assert order(world, world.b, "disconnect") == 1
    assert world.link is not None and world.link.up[world.b]
    links = Links(world, world.b)
    world.b.command("connect")
    assert order(world, world.a, "connect") == 1
    world.run_until(world.is_in_sync)
    assert links.asked == ["OpenLink"]
    assert not complaints(world.b)


def test_a_close_that_waits_for_a_disk_closes_its_own_link_only() -> None:
    """Given up and asked for again behind a fence: what the shell has meanwhile made is neither served nor mourned."""
    world = World(1, size_bytes=16 * MIB, superblock=in_sync_superblock(16 * MIB))
    world.link_allowed = False
    world.a.start()
    world.b.start()
    world.run_until(lambda: world.a.volume.state.disk > DiskState.Negotiating < world.b.volume.state.disk)
    world.run_until(lambda: bool(world.a.wants_link and world.b.wants_link))
    links = Links(world, world.a)
    world.a.command("primary", force=True)
    assert world.a.is_working_on(fx.Persist)
    go_on = world.a.hold_back(fx.Persist)
    world.a.command("disconnect")
    world.a.command("connect")
    assert links.asked == [] and state(world.a).startswith("WFConnection")
    world.a.log.clear()
    world.link_allowed = True
    world.try_link()
    world.run(0.1)
    go_on()
    world.run_until(world.is_in_sync)
    assert links.asked.count("OpenLink") == 1
    assert not complaints(world.a)
