"""Scenarios: an operator begins a new generation by hand, and two fresh disks need no first sync."""

from __future__ import annotations

import pytest

from pydrbd.core.uuids import JUST_CREATED
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, order, pair, sent, state, write
from tests.harness.world import Client, World

SEEDS = range(4)


def words(world, machine, **arguments):
    """What a refused new-current-uuid answers."""
    request = machine.command("new-current-uuid", **arguments)
    world.run_until(lambda: request in machine.answers)
    code, text = machine.answers[request]
    assert code == 0
    return text


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_sync_is_skipped_on_a_fresh_pair(seed: int) -> None:
    """Both UpToDate at once, the same generation on both disks, nothing was sent; and it lasts."""
    world = World(seed)
    world.start()
    assert state(world.a) == "Connected Secondary/Secondary Inconsistent/Inconsistent"
    assert order(world, world.a, "new-current-uuid", clear_bitmap=True) == 1
    world.run(1)
    for machine in (world.a, world.b):
        assert state(machine) == "Connected Secondary/Secondary UpToDate/UpToDate"
        assert machine.volume.uuids == world.a.volume.uuids and machine.volume.uuids.bitmap == 0
        assert machine.volume.uuids.current != JUST_CREATED and machine.volume.out_of_sync_bits == 0
        assert machine.disks[0].superblock().current_uuid == world.a.volume.uuids.current
    assert not sent(world.a, Packet.P_SYNC_UUID) and not world.protocol_errors
    assert order(world, world.b, "primary") == 1
    client = Client(world, world.b)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.cut()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_disk_that_goes_just_after_the_first_sync_was_skipped_is_gone(seed: int) -> None:
    """What the peer said before it heard of that counts no more, but for this."""
    world = World(seed)
    world.start()
    assert order(world, world.a, "new-current-uuid", clear_bitmap=True) == 1
    world.run_until(lambda: state(world.b).endswith(" UpToDate/UpToDate"))
    assert order(world, world.b, "detach") == 1
    world.run(1)
    assert state(world.a) == "Connected Secondary/Secondary UpToDate/Diskless" and not world.protocol_errors


def test_a_peer_without_a_disk_has_nothing_that_is_equal() -> None:
    """A kernel declares both UpToDate, the disk that is not there, too: here it is refused, and nothing changes."""
    world = World(1)
    world.start()
    assert order(world, world.b, "detach") == 1
    world.run(1)
    before = state(world.a), world.a.volume.uuids
    assert before[0] == "Connected Secondary/Secondary Inconsistent/Diskless"
    assert words(world, world.a, clear_bitmap=True) == (
        "Failure: (151) Need to be StandAlone (the peer has no disk that could have the same)"
    )
    world.run(1)
    assert (state(world.a), world.a.volume.uuids) == before and not world.protocol_errors


@pytest.mark.parametrize("seed", range(12))
def test_power_failure_while_it_is_skipped_never_leaves_a_split_brain(seed: int) -> None:
    """Whatever of it has become durable on which node: they meet again and agree."""
    world = World(seed)
    world.start()
    world.a.command("new-current-uuid", clear_bitmap=True)
    world.run(0.001 * seed)
    for machine in (world.a, world.b) if seed % 3 == 0 else (world.a,) if seed % 3 == 1 else (world.b,):
        machine.lose_power(world.rng)
    for machine in (world.a, world.b):
        if machine.node is None:
            machine.start()
    world.run_until(world.is_linked)
    world.run(5)
    assert not world.protocol_errors
    assert state(world.a).split()[0] == state(world.b).split()[0] == "Connected"
    assert state(world.a).split()[2] in ("UpToDate/UpToDate", "Inconsistent/Inconsistent")


def test_refusals_are_the_kernels() -> None:
    """Connected with known data, or not connected but looking for the peer: StandAlone is needed; so is a disk."""
    world, _client = pair()
    for arguments in ({}, {"clear_bitmap": True}):
        assert words(world, world.a, **arguments) == "Failure: (151) Need to be StandAlone"
    world.b.stop()
    world.run(1)
    assert words(world, world.a, clear_bitmap=True) == "Failure: (151) Need to be StandAlone"
    fresh = World(1)
    fresh.start()
    assert words(fresh, fresh.a) == "Failure: (151) Need to be StandAlone", "without --clear-bitmap there is no skip"
    assert order(fresh, fresh.a, "detach") == 1
    assert words(fresh, fresh.a, clear_bitmap=True) == "Failure: (138) Device does not have a disk-config"


def test_alone_it_begins_a_generation_from_which_changes_are_counted() -> None:
    """The old generation becomes the bitmap's; the one that was there goes to the history; the bitmap stays or goes."""
    world, client = pair()
    assert order(world, world.a, "disconnect", force=True) == 1
    assert write(client, 0, b"x" * BLOCK) == 0
    old = world.a.volume.uuids
    assert old.bitmap and world.a.volume.out_of_sync_bits == 1
    assert order(world, world.a, "new-current-uuid") == 1
    new = world.a.volume.uuids
    assert (new.bitmap, new.history0) == (old.current, old.bitmap) and world.a.volume.out_of_sync_bits == 1
    assert new.current not in (old.current, old.bitmap) and new.current & 1
    assert order(world, world.a, "new-current-uuid", clear_bitmap=True) == 1
    assert world.a.volume.out_of_sync_bits == 0
    world.run(1)
    assert world.a.disks[0].superblock().current_uuid == world.a.volume.uuids.current


def test_one_volume_may_be_named() -> None:
    """The other one is left as it is."""
    world = World(1, volumes=2)
    world.start()
    assert order(world, world.a, "new-current-uuid", clear_bitmap=True, volume=1) == 1
    world.run(1)
    assert state(world.b, 0).endswith("Inconsistent/Inconsistent") and state(world.b, 1).endswith("UpToDate/UpToDate")
