"""Scenarios: the handlers that are run before a resync, and may forbid it (WIRE 12.1)."""

from __future__ import annotations

import pytest

from pydrbd.core.states import ConnState
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, order, pair, sent, state, wait, write
from tests.harness.world import Client, Machine, World

TARGET, SOURCE = "before-resync-target", "before-resync-source"
HANDLER_S = 2.0


def says(machine: Machine, name: str, code: int | None, seconds: float = HANDLER_S) -> None:
    """What that handler will say on this node; others end well at once."""
    machine.handler = lambda event: (code, seconds) if event == name else (0, 0.001)


def parted(seed: int = 1) -> tuple[World, Client]:
    """A pair whose Secondary has missed ten blocks, and may come back."""
    world, client = pair(seed, handlers=(TARGET, SOURCE, "after-resync-target"))
    world.link_allowed = False
    world.cut()
    assert set(wait(client, *(client.write(n * BLOCK, b"x" * BLOCK) for n in range(10)))) == {0}
    return world, client


def reunite(world: World) -> None:
    world.link_allowed = True
    world.try_link()


@pytest.mark.parametrize("seed", range(5))
def test_the_target_is_as_it_was_until_its_handler_has_ended(seed: int) -> None:
    """Whoever takes a snapshot there finds consistent data; what clients write meanwhile waits, and is not lost."""
    world, client = parted(seed)
    says(world.b, TARGET, 0)
    before = bytes(world.b.disks[0].data)
    reunite(world)
    world.run_until(lambda: (TARGET, 0) in world.b.helpers)
    cookies = [client.write(n * BLOCK, b"y" * BLOCK) for n in range(5, 20)]
    world.run(HANDLER_S * 0.8)
    assert world.b.disks[0].data == before and not client.replies.keys() & set(cookies)
    assert state(world.b).startswith("WFSyncUUID") and not sent(world.b, Packet.P_RS_DATA_REQUEST)
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors
    assert world.a.helpers == [(SOURCE, 0)] and world.b.helpers == [(TARGET, 0), ("after-resync-target", 0)]


@pytest.mark.parametrize("code", [1, 3, 127, None])
def test_a_target_that_must_not_stands_alone_with_its_old_data(code: int | None) -> None:
    """The other node goes on and looks for it; nothing was written."""
    world, client = parted()
    says(world.b, TARGET, code)
    before = bytes(world.b.disks[0].data)
    reunite(world)
    world.run_until(lambda: world.b.volume.state.conn == ConnState.StandAlone)
    world.run(1)
    assert state(world.a).startswith("WFConnection Primary/Unknown UpToDate")
    assert world.b.disks[0].data == before and f"handler returned {code}" in " ".join(world.b.log)
    assert write(client, 0, b"z" * BLOCK) == 0
    says(world.b, TARGET, 0)
    assert order(world, world.b, "connect") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize(("code", "forbids"), [(0, False), (3, False), (1, True), (None, True)])
def test_the_source_may_forbid_it_too_but_3_is_no_no(code: int | None, forbids: bool) -> None:
    """As in DRBD; what clients write while the handler runs is synced with the rest."""
    world, client = parted()
    says(world.a, SOURCE, code)
    reunite(world)
    world.run_until(lambda: (SOURCE, 0) in world.a.helpers)
    cookies = [client.write(n * BLOCK, b"y" * BLOCK) for n in range(5, 20)]
    assert set(wait(client, *cookies)) == {0}
    world.run(HANDLER_S + 1)
    if forbids:
        assert state(world.a).startswith("StandAlone Primary/Unknown UpToDate")
    else:
        world.run_until(world.is_in_sync)
        assert world.copies_equal()


@pytest.mark.parametrize("code", [0, 1])
def test_an_end_that_comes_after_the_link_has_gone_changes_nothing(code: int) -> None:
    """The next connection runs the handler anew, and what was held of the old one is forgotten."""
    world, client = parted()
    says(world.b, TARGET, code)
    reunite(world)
    world.run_until(lambda: (TARGET, 0) in world.b.helpers)
    client.write(0, b"y" * BLOCK)
    world.run(0.1)
    world.link_allowed = False
    world.cut()
    world.run(HANDLER_S + 1)
    assert state(world.b).startswith("WFConnection")
    says(world.b, TARGET, 0)
    reunite(world)
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and world.b.helpers.count((TARGET, 0)) == 2


def test_a_disk_that_goes_while_the_handler_runs_ends_the_resync_and_nothing_else() -> None:
    """What was held is worked in, and refused where it needs the disk."""
    world, client = parted()
    says(world.b, TARGET, 0)
    reunite(world)
    world.run_until(lambda: (TARGET, 0) in world.b.helpers)
    cookie = client.write(0, b"y" * BLOCK)
    assert order(world, world.b, "detach") == 1
    assert wait(client, cookie) == [0]
    world.run(1)
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless" and not world.protocol_errors
