"""Scenarios: both nodes wrote apart. Nobody merges that but an operator, who says whose data goes."""

from __future__ import annotations

import dataclasses

import pytest

from pydrbd.core.handshake import NetOptions
from pydrbd.core.states import ConnState
from pydrbd.core.uuids import UuidSet
from pydrbd.wire.packet_numbers import AfterSb
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, order, pair, sent, state, wait, write
from tests.harness.world import Client, World

SEEDS = range(3)


def divided(seed: int = 1, **options: object) -> World:
    """Both have been Primary alone, and both wrote; the link may come back."""
    world, client = pair(seed, **options)
    assert write(client, 0, b"0" * BLOCK) == 0 and wait(client, client.flush()) == [0]
    world.link_allowed = False
    world.cut()
    assert write(client, BLOCK, b"a" * BLOCK) == 0
    assert order(world, world.b, "primary") == 1
    assert write(Client(world, world.b), 2 * BLOCK, b"b" * BLOCK) == 0
    world.link_allowed = True
    return world


def meet(world: World) -> None:
    world.try_link()
    world.run(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_refuse_and_nothing_changes(seed: int) -> None:
    """C3: StandAlone on both, no resync packet, both data areas as before."""
    world = divided(seed)
    before = [bytes(machine.disks[0].data) for machine in (world.a, world.b)]
    bits = [machine.volume.out_of_sync_bits for machine in (world.a, world.b)]
    meet(world)
    assert [machine.volume.state.conn for machine in (world.a, world.b)] == [ConnState.StandAlone] * 2
    assert before == [bytes(machine.disks[0].data) for machine in (world.a, world.b)]
    assert bits == [machine.volume.out_of_sync_bits for machine in (world.a, world.b)]
    assert any("Split-Brain detected" in line for line in world.a.log + world.b.log)
    assert not sent(world.a, Packet.P_RS_DATA_REPLY) + sent(world.b, Packet.P_RS_DATA_REPLY)


@pytest.mark.parametrize("seed", SEEDS)
def test_discard_my_data_on_one_side_ends_it(seed: int) -> None:
    """The other copy wins whole."""
    world = divided(seed)
    meet(world)
    winner = bytes(world.a.disks[0].data)
    assert order(world, world.b, "secondary", force=True) == 1
    assert order(world, world.b, "connect", discard_my_data=True) == 1
    assert order(world, world.a, "connect") == 1
    world.run_until(world.is_in_sync)
    assert bytes(world.b.disks[0].data) == winner == bytes(world.a.disks[0].data)
    assert sum(sent(world.a, Packet.P_RS_DATA_REPLY)) == 2 * BLOCK


def test_discard_my_data_of_an_ambiguous_history_copies_everything() -> None:
    """Rule 100: the bitmaps are relative to different generations, so they don't tell where the copies differ."""
    world = divided()
    volume = world.b.volume
    volume.uuids = UuidSet(volume.uuids.current, 0x7777_0000_0000_0000, volume.uuids.bitmap, 0)
    world.a.volume.uuids = dataclasses.replace(world.a.volume.uuids, history0=volume.uuids.history0)
    world.b.disks[0].write(50 * BLOCK, b"unmarked" * 512)
    assert order(world, world.b, "secondary", force=True) == 1
    assert order(world, world.b, "disconnect") == 1
    assert order(world, world.b, "connect", discard_my_data=True) == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and sum(sent(world.a, Packet.P_RS_DATA_REPLY)) == world.a.volume.size_bytes


def test_both_want_to_discard_is_refused() -> None:
    """Nobody's data would be left."""
    world = divided()
    meet(world)
    for machine in (world.a, world.b):
        assert order(world, machine, "secondary", force=True) == 1
        assert order(world, machine, "connect", discard_my_data=True) == 1
    world.run(5)
    assert [machine.volume.state.conn for machine in (world.a, world.b)] == [ConnState.StandAlone] * 2


def test_a_policy_may_end_it() -> None:
    """after-sb-1pri discard-secondary: the Secondary's data goes, without an operator."""
    world = divided(net=NetOptions(after_sb_1pri=AfterSb.DISCARD_SECONDARY))
    assert order(world, world.b, "secondary", force=True) == 1
    winner = bytes(world.a.disks[0].data)
    meet(world)
    world.run_until(world.is_in_sync)
    assert bytes(world.b.disks[0].data) == winner
    assert state(world.a) == "Connected Primary/Secondary UpToDate/UpToDate"
