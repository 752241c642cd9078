"""Scenarios: a client makes its node Primary, and with the last one the role goes again (core/auto_promote)."""

from __future__ import annotations

import pytest

from pydrbd.core.auto_promote import CLIENT_COMES, CLIENT_SETTLED
from pydrbd.core.events import SessionClosed
from pydrbd.core.states import Role
from tests.harness.scene import BLOCK, order, pair, state, wait, write
from tests.harness.world import Client, Machine, World

SEEDS = range(4)
TWO_PRIMARIES, IN_USE = -1, -12


class Visitor:
    """A client that has its node promoted, as the NBD server does for it."""

    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.client: Client | None = None
        self._attempt = machine.command(CLIENT_COMES)

    @property
    def answered(self) -> bool:
        return self._attempt in self.machine.answers

    def code(self) -> int:
        """What came of it."""
        self.world.run_until(lambda: self.answered)
        return self.machine.answers[self._attempt][0]

    def enter(self) -> Client:
        """Open the export."""
        assert self.code() == 1
        self.client = Client(self.world, self.machine)
        self.settle()
        return self.client

    def settle(self) -> None:
        self.machine.command(CLIENT_SETTLED, of=self._attempt)

    def leave(self) -> None:
        self.machine.feed(SessionClosed(self.client, 0))


def secondaries(seed: int = 1) -> World:
    """A pair in sync without a Primary."""
    world, _client = pair(seed)
    assert order(world, world.a, "secondary", force=True) == 1
    world.a.volume.sessions.clear()
    world.run(0.1)
    assert state(world.b) == "Connected Secondary/Secondary UpToDate/UpToDate"
    return world


def roles(world: World) -> list[str]:
    """After a while: what each node is."""
    world.run(1)
    return [machine.volume.state.role.name for machine in (world.a, world.b)]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_client_promotes_and_the_last_one_demotes(seed: int) -> None:
    """Also on the other node after that; what was written is on both."""
    world = secondaries(seed)
    first = Visitor(world, world.a)
    client = first.enter()
    second = Visitor(world, world.a)
    second.enter()
    assert write(client, 0, b"x" * BLOCK) == 0
    first.leave()
    assert roles(world) == ["Primary", "Secondary"]
    second.leave()
    assert roles(world) == ["Secondary", "Secondary"]
    other = Visitor(world, world.b)
    assert write(other.enter(), BLOCK, b"y" * BLOCK) == 0
    assert roles(world) == ["Secondary", "Primary"]
    other.leave()
    assert roles(world) == ["Secondary", "Secondary"] and world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("before", [True, False], ids=["before", "while a client has it"])
def test_a_role_that_an_operator_has_asked_for_stays(before: bool) -> None:
    """Whether the clients came after his word or had the role already."""
    world = secondaries()
    if before:
        assert order(world, world.a, "primary") == 1
    visitor = Visitor(world, world.a)
    visitor.enter()
    if not before:
        assert order(world, world.a, "primary") == 1
    visitor.leave()
    assert roles(world) == ["Primary", "Secondary"]
    assert order(world, world.a, "secondary") == 1
    again = Visitor(world, world.a)
    again.enter()
    again.leave()
    assert roles(world) == ["Secondary", "Secondary"]


def test_a_client_is_refused_while_the_peer_is_primary() -> None:
    """In DRBD's words; nothing has changed by it."""
    world, _client = pair()
    visitor = Visitor(world, world.b)
    assert visitor.code() == TWO_PRIMARIES
    visitor.settle()
    assert roles(world) == ["Primary", "Secondary"]


@pytest.mark.parametrize("seed", range(8))
def test_clients_of_both_nodes_at_once_leave_one_primary(seed: int) -> None:
    """At most one gets in, and its node is the only Primary; when it goes there is none."""
    world = secondaries(seed)
    visitors = [Visitor(world, machine) for machine in (world.a, world.b)]
    codes = [visitor.code() for visitor in visitors]
    inside = [visitor for visitor, code in zip(visitors, codes, strict=True) if code == 1]
    assert len(inside) <= 1
    for visitor in visitors:
        if visitor in inside:
            visitor.enter()
        else:
            visitor.settle()
    assert roles(world).count("Primary") == len(inside)
    for visitor in inside:
        visitor.leave()
    assert roles(world) == ["Secondary", "Secondary"] and not world.protocol_errors


@pytest.mark.parametrize("seed", SEEDS)
def test_a_client_that_comes_while_the_role_is_given_up_gets_it_back(seed: int) -> None:
    """The demotion waits for the peer's word on what was written; who comes meanwhile waits for the demotion."""
    world = secondaries(seed)
    first = Visitor(world, world.a)
    client = first.enter()
    client.write(0, b"x" * BLOCK)
    first.leave()
    assert world.a.node is not None and world.a.node.operator.demoting
    second = Visitor(world, world.a)
    assert not second.answered
    client = second.enter()
    assert write(client, BLOCK, b"y" * BLOCK) == 0 and wait(client, client.flush()) == [0]
    assert roles(world) == ["Primary", "Secondary"]
    second.leave()
    assert roles(world) == ["Secondary", "Secondary"] and world.copies_equal()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_client_that_gives_up_waiting_leaves_nobody_primary(seed: int) -> None:
    """Its promotion is granted after it has gone: the role goes again."""
    world = secondaries(seed)
    visitor = Visitor(world, world.a)
    visitor.settle()
    assert visitor.code() == 1
    assert roles(world) == ["Secondary", "Secondary"]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_link_breaks_while_the_peer_is_asked(seed: int) -> None:
    """The client hears that the peer has not agreed, and may try again; alone the node may be Primary."""
    world = secondaries(seed)
    visitor = Visitor(world, world.a)
    world.link_allowed = False
    world.cut()
    assert visitor.code() == -10
    visitor.settle()
    assert roles(world) == ["Secondary", "Secondary"]
    again = Visitor(world, world.a)
    assert write(again.enter(), 0, b"x" * BLOCK) == 0
    again.leave()
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_in_sync)
    assert roles(world) == ["Secondary", "Secondary"] and world.copies_equal()


def test_nobody_is_demoted_while_io_is_suspended() -> None:
    """What waits would fail; the role goes when I/O goes on and there is still no client."""
    world = secondaries()
    visitor = Visitor(world, world.a)
    visitor.enter()
    assert order(world, world.a, "suspend-io") == 1
    visitor.leave()
    assert roles(world) == ["Primary", "Secondary"]
    assert order(world, world.a, "resume-io") == 1
    assert roles(world) == ["Secondary", "Secondary"]


def test_an_operator_may_not_take_it_from_clients_without_force() -> None:
    """SS_DEVICE_IN_USE, as ever; with force their requests fail, and the next client gets the role again."""
    world = secondaries()
    client = Visitor(world, world.a).enter()
    assert order(world, world.a, "secondary") == IN_USE
    assert order(world, world.a, "secondary", force=True) == 1
    assert wait(client, client.write(0, b"x" * BLOCK)) == [108]
    assert world.a.volume.state.role is Role.Secondary
    Visitor(world, world.a).enter()
    assert roles(world) == ["Primary", "Secondary"]
