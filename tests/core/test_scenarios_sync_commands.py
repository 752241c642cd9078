"""Scenarios: an operator holds a resync, lets go of it, and has whole copies made anew."""

from __future__ import annotations

import pytest

from pydrbd.core.states import ConnState
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, order, pair, sent_bytes, state, wait, write
from tests.harness.world import Client, World

PAUSED = "PausedSyncS", "PausedSyncT"


def resyncing(seed: int = 1) -> tuple[World, Client]:
    """`b` has been away while `a` wrote 32 MiB, and has just begun to get them, slowly."""
    world, client = pair(seed, size_bytes=64 * MIB)
    world.b.stop()
    assert set(wait(client, *client.submit(*[(1, 0, n * MIB, b"2" * MIB) for n in range(32)]))) == {0}
    world.link_latency_s = 0.01
    world.b.start()
    world.run_until(lambda: world.b.node is not None and world.b.volume.state.conn == ConnState.SyncTarget)
    return world, client


def conns(world: World) -> tuple[str, str]:
    return world.a.volume.state.conn.name, world.b.volume.state.conn.name


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_resync_is_paused_and_resumed_from_either_side(name: str) -> None:
    """One P_STATE holds both; nothing is sent while it is held, writes go on; resumed, it ends in sync."""
    world, client = resyncing()
    machine = getattr(world, name)
    assert order(world, machine, "pause-sync") == 1
    world.run(1)
    assert conns(world) == PAUSED
    before, left = sent_bytes(world.a, Packet.P_RS_DATA_REPLY), world.b.volume.out_of_sync_bits
    assert left and write(client, 60 * MIB, b"w" * BLOCK) == 0
    world.run(30)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == before and world.b.volume.out_of_sync_bits == left
    assert order(world, machine, "resume-sync") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and not world.protocol_errors


def test_a_pause_of_both_sides_needs_both_to_resume() -> None:
    """Whoever resumes first has only taken back its own word."""
    world, _ = resyncing()
    for machine in (world.a, world.b):
        assert order(world, machine, "pause-sync") == 1
    world.run(1)
    assert order(world, world.a, "resume-sync") == 1
    world.run(1)
    assert conns(world) == PAUSED and world.a.volume.state.resync_suspended_text == "peer"
    assert order(world, world.b, "resume-sync") == 1
    world.run_until(world.is_in_sync)


def test_a_pause_from_before_holds_the_resync_that_comes() -> None:
    """Paused while connected, or while alone: the next resync begins paused; a link that breaks does not resume it."""
    world, client = pair()
    assert order(world, world.a, "pause-sync") == 1
    world.b.stop()
    assert write(client, 0, b"2" * BLOCK) == 0
    world.b.start()
    world.run_until(lambda: world.b.node is not None and conns(world) == PAUSED)
    assert state(world.b) == "PausedSyncT Secondary/Primary Inconsistent/UpToDate"
    world.cut()
    world.run_until(lambda: conns(world) == PAUSED)
    world.run(5)
    assert world.b.volume.out_of_sync_bits == 1 and not sent_bytes(world.a, Packet.P_RS_DATA_REPLY)
    assert order(world, world.a, "resume-sync") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_pausing_twice_is_refused_in_drbds_words() -> None:
    """The flag is set, or is not: drbdsetup says so; the peer's pause can't be lifted here, and the answer says it."""
    world, _ = resyncing()

    def answer(machine: object, verb: str) -> tuple[int, str]:
        request = machine.command(verb)  # type: ignore[attr-defined]
        world.run_until(lambda: request in machine.answers)  # type: ignore[attr-defined]
        return machine.answers[request]  # type: ignore[attr-defined, no-any-return]

    assert answer(world.a, "resume-sync") == (0, "Sync-pause flag is already cleared")
    assert answer(world.a, "pause-sync")[0] == 1
    assert answer(world.a, "pause-sync") == (0, "Sync-pause flag is already set")
    world.run(1)
    assert answer(world.b, "resume-sync") == (
        0, "Sync-pause flag is already cleared; the resync is paused by the peer"
    )  # fmt: skip


def test_a_target_that_has_all_ends_its_resync_although_it_is_paused() -> None:
    """As the kernel does: a write of the source clears the last bits, and there is nothing left to hold."""
    world, client = pair()
    assert order(world, world.a, "pause-sync") == 1
    world.b.stop()
    assert write(client, 0, b"2" * BLOCK) == 0
    world.b.start()
    world.run_until(lambda: world.b.node is not None and conns(world) == PAUSED)
    assert write(client, 0, b"3" * BLOCK) == 0
    world.run_until(world.is_in_sync)
    assert not sent_bytes(world.a, Packet.P_RS_DATA_REPLY) and world.copies_equal()


@pytest.mark.parametrize("seed", range(3))
def test_invalidate_remote_copies_everything_to_the_peer(seed: int) -> None:
    """Connected: at once, from a Secondary, too. A Primary alone: when the peer comes."""
    world, client = pair(seed)
    assert write(client, 0, b"x" * BLOCK) == 0
    assert order(world, world.a, "invalidate-remote") == 1
    world.run_until(world.is_in_sync)
    size = world.a.volume.size_bytes
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == size and world.copies_equal()
    assert order(world, world.b, "invalidate-remote") == 1  # the Primary is the target
    world.run_until(world.is_in_sync)
    assert sent_bytes(world.b, Packet.P_RS_DATA_REPLY) == size and world.copies_equal()
    assert order(world, world.b, "disconnect") == 1
    world.run(1)
    assert order(world, world.a, "invalidate-remote") == 1
    assert order(world, world.b, "connect") == 1
    world.run_until(world.is_in_sync)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == 2 * size and world.copies_equal()
    assert not world.protocol_errors


def test_invalidate_remote_is_refused_where_it_makes_no_sense() -> None:
    """A Secondary alone (-15), no disk (-11), no disk at the peer (-5), no good data (-2), a resync that runs (-8)."""
    world, _ = pair()
    assert order(world, world.b, "detach") == 1
    assert order(world, world.b, "invalidate-remote") == -11
    world.run(1)
    assert order(world, world.a, "invalidate-remote") == -5
    world, _ = resyncing()
    assert order(world, world.a, "invalidate-remote") == -8
    assert order(world, world.b, "invalidate-remote") == -8
    world.run_until(world.is_in_sync)
    assert order(world, world.b, "disconnect") == 1
    assert order(world, world.b, "invalidate-remote") == -15
    world = World(1)
    world.start()
    assert order(world, world.a, "invalidate-remote") == -2
    assert state(world.a) == "Connected Secondary/Secondary Inconsistent/Inconsistent"


def test_invalidate_without_a_disk_at_the_peer_is_refused() -> None:
    """There is nobody to sync from: -5, and nothing has changed."""
    world, _ = pair()
    assert order(world, world.b, "detach") == 1
    world.run(1)
    assert order(world, world.a, "invalidate") == -5
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless"


def test_invalidate_takes_every_volume() -> None:
    """Each volume of a resource is agreed on and copied, one request after the other."""
    world = World(1, volumes=2)
    world.start_in_sync()
    before = sent_bytes(world.a, Packet.P_RS_DATA_REPLY)
    size = world.a.volume.size_bytes
    assert order(world, world.b, "invalidate") == 1
    world.run_until(world.is_in_sync)
    assert order(world, world.a, "invalidate-remote") == 1
    world.run_until(world.is_in_sync)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) - before == 4 * size and world.copies_equal()
