"""Scenarios: after a separation exactly what may differ is copied, and writes go on meanwhile."""

from __future__ import annotations

import pytest

from pydrbd.core.events import Silence
from pydrbd.core.states import ConnState
from pydrbd.limits import RESYNC_WRITE_OUT_BYTES
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, order, pair, read, sent, sent_bytes, state, wait, write
from tests.harness.world import Client, World

SEEDS = range(3)
EXTENT = 4 * MIB


@pytest.mark.parametrize("seed", SEEDS)
def test_a_first_sync_copies_everything_and_ends_in_sync(seed: int) -> None:
    """Two fresh disks: the forced Primary's data is copied whole, and the UUIDs are equal afterwards."""
    world = World(seed, size_bytes=3 * MIB)
    world.a.disks[0].write(5 * BLOCK, b"x" * BLOCK)
    world.start_in_sync()
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == world.a.volume.size_bytes
    assert world.copies_equal() and state(world.b) == "Connected Secondary/Primary UpToDate/UpToDate"
    assert world.a.volume.uuids.masked() == world.b.volume.uuids.masked()


def test_a_forced_promotion_tells_the_new_generation_before_the_role() -> None:
    """WIRE 17: P_UUIDS with the new current UUID comes before P_STATE, so that the peer decides on the right data."""
    world = World(1)
    world.start()
    before = len(world.a.sent_packets)
    assert order(world, world.a, "primary", force=True) == 1
    world.run_until(world.is_in_sync)
    later = [command for command, _ in world.a.sent_packets[before:]]
    wanted = [Packet.P_STATE_CHG_REQ, Packet.P_UUIDS, Packet.P_STATE]
    assert [command for command in later if command in wanted][:3] == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_a_secondary_that_was_away_gets_exactly_the_changed_blocks(seed: int) -> None:
    """Killed without load: what is sent is what was written meanwhile, to the block."""
    world, client = pair(seed, size_bytes=64 * MIB)
    assert write(client, 0, b"1" * BLOCK) == 0 and wait(client, client.flush()) == [0]
    world.b.stop()
    changed = {n * 3 * MIB // BLOCK * BLOCK for n in range(20)}
    assert set(wait(client, *[client.write(offset, b"2" * BLOCK) for offset in changed])) == {0}
    world.b.start()
    world.run_until(world.is_in_sync)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == len(changed) * BLOCK and world.copies_equal()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crashed_primary_brings_back_at_most_its_hot_extents(seed: int) -> None:
    """B10: it comes back as source of what its activity log names and of nothing else."""
    world, client = pair(seed, size_bytes=200 * MIB)
    assert set(wait(client, *[client.write(n * 40 * MIB, b"1" * BLOCK) for n in range(5)])) == {0}
    world.a.lose_power(world.rng)
    world.a.start()
    world.run_until(world.is_in_sync)
    assert 0 < sent_bytes(world.a, Packet.P_RS_DATA_REPLY) <= 5 * EXTENT
    assert not sent_bytes(world.b, Packet.P_RS_DATA_REPLY) and world.copies_equal()


@pytest.mark.parametrize("seed", range(4))
def test_a_resync_that_is_cut_off_goes_on_where_it_was(seed: int) -> None:
    """B8: cut five times, no bit is lost, and a block is sent again only if it was in flight at a cut."""
    world = World(seed, size_bytes=48 * MIB)
    for block in range(0, 12000, 7):
        world.a.disks[0].write(block * BLOCK, bytes([block % 251 + 1]) * BLOCK)
    world.start()
    world.link_latency_s = 0.01
    assert order(world, world.a, "primary", force=True) == 1
    allowed = world.a.volume.size_bytes
    for _ in range(5):
        world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
        before, begun = world.a.volume.out_of_sync_bits, sent_bytes(world.a, Packet.P_RS_DATA_REPLY)
        assert before == world.b.volume.out_of_sync_bits
        world.run_until(lambda before=before: world.a.volume.out_of_sync_bits < before)
        assert world.a.volume.state.conn == ConnState.SyncSource and world.a.volume.disk is not None
        bitmap = world.a.volume.disk.bitmap
        assert all(bitmap.test(block) for block in world.differing_blocks())
        confirmed = (before - bitmap.count) * BLOCK
        allowed += sent_bytes(world.a, Packet.P_RS_DATA_REPLY) - begun - confirmed
        world.cut()
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and not world.protocol_errors
    assert world.a.volume.size_bytes < sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == allowed


@pytest.mark.parametrize("seed", range(4))
def test_writes_during_a_resync_end_on_both_nodes(seed: int) -> None:
    """B6: the source writes while its target syncs; the copies are equal, and the last write wins."""
    world = World(seed, size_bytes=3 * MIB)
    world.start()
    assert order(world, world.a, "primary", force=True) == 1
    client = Client(world, world.a)
    world.run_until(lambda: world.a.volume.state.conn == ConnState.SyncSource)
    cookies = [client.write(n * 37 % 200 * 1024, bytes([n % 250 + 1]) * 1024) for n in range(150)]
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("seed", range(4))
def test_a_sync_target_may_be_primary(seed: int) -> None:
    """It reads what it lacks from the source, its writes go to both, and none is undone by the resync."""
    world, client = pair(seed, size_bytes=24 * MIB)
    world.b.stop()
    changed = [n * BLOCK for n in range(0, 4000, 2)]
    for start in range(0, len(changed), 64):
        part = changed[start : start + 64]
        assert set(wait(client, *client.submit(*[(1, 0, o, b"2" * BLOCK) for o in part]))) == {0}
    assert order(world, world.a, "secondary", force=True) == 1
    world.b.start()
    world.run_until(lambda: world.b.node is not None and world.b.volume.state.conn == ConnState.SyncTarget)
    assert order(world, world.b, "primary") == 1
    other = Client(world, world.b)
    cookies = [other.write(n * 6144, bytes([n % 250 + 3]) * 2048) for n in range(200)]
    assert read(other, changed[-1], BLOCK) == b"2" * BLOCK
    assert set(wait(other, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("seed", range(4))
def test_blocks_that_are_being_written_when_they_are_the_last_ones_do_not_stall_the_resync(seed: int) -> None:
    """Partial writes make the target pass blocks over; it comes back to them when the writes are done."""
    world, client = pair(seed, size_bytes=11 * MIB)
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    world.disk_stall_probability = 0.3
    cookies = [client.write(10 * MIB + 512 + n * BLOCK, bytes([n + 1]) * 512) for n in range(100)]
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync, 20)
    world.run(1)
    assert world.copies_equal()


def test_scattered_blocks_are_asked_for_and_read_many_at_a_time() -> None:
    """A resync of 4 KiB blocks costs few disk effects: runs of requests and of answers are worked in together."""
    world, client = pair(size_bytes=24 * MIB)
    world.b.stop()
    for start in range(0, 2048, 64):
        blocks = range(start * 2, (start + 64) * 2, 2)
        assert set(wait(client, *client.submit(*[(1, 0, block * BLOCK, b"2" * BLOCK) for block in blocks]))) == {0}
    effects: list[str] = []
    world.observer = Count(effects)
    world.b.start()
    world.run_until(world.is_in_sync)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == 2048 * BLOCK and world.copies_equal()
    assert effects.count("a DiskRead") <= 64 and effects.count("b DiskWrite") <= 128


class Count:
    """Counts effects by machine and kind."""

    def __init__(self, into: list[str]) -> None:
        self._into = into

    def on_effect(self, machine: object, effect: object) -> None:
        self._into.append(f"{machine.name} {type(effect).__name__}")  # type: ignore[attr-defined]

    def on_event(self, machine: object, event: object) -> None: ...


@pytest.mark.parametrize("seed", SEEDS)
def test_invalidate_copies_everything_from_the_peer(seed: int) -> None:
    """Connected: at once. Alone: when the peer comes. A Primary alone refuses."""
    world, client = pair(seed)
    assert write(client, 0, b"x" * BLOCK) == 0
    assert order(world, world.b, "invalidate") == 1
    world.run_until(world.is_in_sync)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == world.a.volume.size_bytes and world.copies_equal()
    assert order(world, world.b, "disconnect") == 1
    assert order(world, world.b, "invalidate") == 1 and world.b.volume.state.disk.name == "Inconsistent"
    assert order(world, world.a, "invalidate") == -2
    assert order(world, world.b, "connect") == 1
    world.run_until(world.is_in_sync)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == 2 * world.a.volume.size_bytes and world.copies_equal()


def test_a_clean_stop_leaves_nothing_to_resync() -> None:
    """D8: demote, disconnect, detach on both; the next start copies nothing."""
    world, client = pair()
    assert set(wait(client, *[client.write(n * BLOCK, b"x" * BLOCK) for n in range(50)])) == {0}
    for machine in (world.a, world.b):
        for verb, arguments in (("secondary", {"force": True}), ("disconnect", {"force": True}), ("detach", {})):
            assert order(world, machine, verb, **arguments) == 1
    for machine in (world.a, world.b):
        machine.lose_power(world.rng)
        machine.start()
    world.run_until(world.is_in_sync)
    assert not sent_bytes(world.a, Packet.P_RS_DATA_REPLY) and not sent_bytes(world.b, Packet.P_RS_DATA_REPLY)
    assert world.copies_equal()


@pytest.mark.parametrize("ended", [False, True])
def test_a_sync_uuid_that_is_lost_again_and_again_does_not_make_the_target_a_stranger(ended: bool) -> None:
    """Five times between the source's start and the target's: they stay related, by bitmap or, after its end, full."""
    world, client = pair()
    world.b.stop()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.start()
    if ended:  # the source has put the first sync UUID into its history, and its target never got to the end
        world.run_until(lambda: world.a.volume.state.conn == ConnState.SyncSource and not world.a.volume.uuids.bitmap)
        world.cut()
        world.run_until(lambda: world.a.volume.state.conn < ConnState.Connected)
    before = len(sent(world.a, Packet.P_SYNC_UUID)), sent_bytes(world.a, Packet.P_RS_DATA_REPLY)
    for _ in range(5):
        world.run_until(lambda: world.a.volume.state.conn == ConnState.SyncSource)
        assert world.b.volume.state.conn == ConnState.WFSyncUUID, "the sync UUID must be on its way"
        world.cut()
        world.run_until(lambda: world.b.volume.state.conn < ConnState.Connected)
        assert len(sent(world.a, Packet.P_SYNC_UUID)) == before[0]
    world.run_until(world.is_in_sync)
    assert len(sent(world.a, Packet.P_SYNC_UUID)) == before[0] + 1 and world.copies_equal()
    copied = sent_bytes(world.a, Packet.P_RS_DATA_REPLY) - before[1]
    assert copied == (world.a.volume.size_bytes if ended else BLOCK)


def test_the_answer_to_an_older_ping_does_not_end_a_resync() -> None:
    """Its acknowledgements may still be on their way: the resync's own ping must be answered (WIRE 12.7)."""
    world, client = pair()
    world.link_latency_s = 0.05
    world.b.stop()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.start()
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    target = world.b.node
    running = target.resync._running[0]
    world.b.feed(Silence())
    world.run_until(lambda: running.waits_for_ping == 2 and target.pings_answered == 1)
    assert world.b.volume.state.conn == ConnState.SyncTarget
    world.run_until(lambda: world.b.volume.state.conn == ConnState.Connected)
    assert target.pings_answered == 2
    world.run_until(world.is_in_sync)


def test_a_target_flushes_while_it_goes_on() -> None:
    """What has been written is on its way to the disk long before the flush at the end, which then has little to do."""
    world = World(0, size_bytes=2 * RESYNC_WRITE_OUT_BYTES + MIB)
    world.start()
    assert order(world, world.a, "primary", force=True) == 1
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    began = world.b.disks[0].flush_count
    world.run_until(lambda: world.b.volume.disk is not None and world.b.volume.disk.bitmap.count * BLOCK < MIB)
    assert world.b.disks[0].flush_count > began
    world.run_until(world.is_in_sync)
    assert world.copies_equal()
