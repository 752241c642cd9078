"""Scenarios: what a client may rely on while both nodes are there."""

from __future__ import annotations

import pytest

from pydrbd import native
from pydrbd.core.handshake import NetOptions
from pydrbd.wire.nbd import Command, CommandFlag, NbdError
from pydrbd.wire.packet_numbers import WireProtocol
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, AtReply, order, pair, read, sent, state, wait, write
from tests.harness.world import Client, World

SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_write_is_answered_when_both_nodes_have_it(seed: int) -> None:
    """A2: at the moment of the reply both data areas hold the data."""
    world, client = pair(seed)
    a, b = world.a.disks[0].data, world.b.disks[0].data
    moment = AtReply(world, lambda: (a[BLOCK : 2 * BLOCK] == b"x" * BLOCK, b[BLOCK : 2 * BLOCK] == b"x" * BLOCK))
    assert write(client, BLOCK, b"x" * BLOCK) == 0
    assert moment.seen == [(True, True)]


@pytest.mark.parametrize("seed", SEEDS)
def test_overlapping_writes_end_equal_on_both_nodes_in_the_order_they_came(seed: int) -> None:
    """A7: whatever the disks' order, the last write of a client's stream wins on both."""
    world, client = pair(seed)
    cookies = [client.write(offset, bytes([n + 1]) * 3 * BLOCK) for n in range(20) for offset in (0, BLOCK, 2 * BLOCK)]
    batch = client.submit(*[(1, 0, 0, bytes([n]) * BLOCK) for n in range(100, 120)])
    assert set(wait(client, *cookies, *batch)) == {0}
    assert world.copies_equal()
    assert read(client, 0, 5 * BLOCK) == bytes([119]) * BLOCK + bytes([20]) * 4 * BLOCK


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flush_is_answered_when_both_disks_have_flushed(seed: int) -> None:
    """A4+: the flush count of both disks has risen at the moment of the reply, and nothing volatile is left."""
    world, client = pair(seed)
    assert write(client, 0, b"x" * BLOCK) == 0
    disks = [machine.disks[0] for machine in (world.a, world.b)]
    before = [disk.flush_count for disk in disks]
    moment = AtReply(world, lambda: [disk.unflushed for disk in disks])
    assert wait(client, client.flush()) == [0]
    assert moment.seen == [[0, 0]]
    assert all(disk.flush_count > count for disk, count in zip(disks, before, strict=True))


@pytest.mark.parametrize("pause_s", [0.0, 0.02, 0.2, 0.7])
def test_a_flush_covers_what_was_answered_and_does_not_wait_for_leisure(pause_s: float) -> None:
    """A write whose barrier is not acknowledged yet is covered, also if its barrier went out without hurry."""
    world, client = pair()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.run(pause_s)
    begun = world.now
    moment = AtReply(world, lambda: [machine.disks[0].unflushed for machine in (world.a, world.b)])
    assert wait(client, client.flush()) == [0]
    assert moment.seen == [[0, 0]] and world.now - begun < 0.05


def test_a_flush_waits_for_the_barrier_acknowledgement() -> None:
    """With the peer's disk slow to flush, the reply waits for it."""
    world, client = pair()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.disks[0].fail_once.add("flush")  # the peer gives its disk up instead of acknowledging
    cookie = client.flush()
    world.run_until(lambda: cookie in client.replies)
    assert client.replies[cookie][0] == 0
    assert not sent(world.b, Packet.P_BARRIER_ACK)[1:] and world.a.volume.out_of_sync_bits == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fua_write_is_durable_on_both_nodes(seed: int) -> None:
    """A4 for FUA: a power loss of both right after the reply loses nothing of it."""
    world, client = pair(seed)
    assert write(client, 8 * BLOCK, b"f" * BLOCK, fua=True) == 0
    for machine in (world.a, world.b):
        machine.lose_power(world.rng)
        assert machine.disks[0].data[8 * BLOCK : 9 * BLOCK] == b"f" * BLOCK


def test_trim_and_zeroes_of_a_long_range_are_done_in_pieces_with_one_reply() -> None:
    """A10: a range is carried out in pieces that end at 32 MiB borders, and reads as zeros on both nodes."""
    world, client = pair(size_bytes=80 * MIB)
    for offset in (31 * MIB, 32 * MIB, 65 * MIB):
        assert write(client, offset, b"x" * BLOCK) == 0
    trim, zero = client.trim(31 * MIB, 2 * MIB), client.zero(65 * MIB, BLOCK)
    assert wait(client, trim, zero) == [0, 0]
    assert len(sent(world.a, Packet.P_TRIM)) == 2 and len(sent(world.a, Packet.P_ZEROES)) == 1
    assert world.copies_equal()
    assert [read(client, offset, BLOCK) for offset in (31 * MIB, 32 * MIB, 65 * MIB)] == [bytes(BLOCK)] * 3


def test_what_can_not_be_done_is_refused_and_nothing_is_written() -> None:
    """Beyond the end, not whole sectors, unknown: the error that NBD has for it."""
    world, client = pair()
    size = world.a.volume.size_bytes
    cookies = [
        client.write(size, b"x" * 512), client.read(size - 512, 1024), client.write(1, b"x" * 512),
        client.submit((9, 0, 0, b""))[0], client.submit((1, 0, 0, b""))[0],
    ]  # fmt: skip
    assert wait(client, *cookies) == [28, 22, 22, 22, 0]
    assert not sent(world.a, Packet.P_DATA) and world.copies_equal()


def test_a_batch_with_more_extents_than_the_log_has_slots_goes_through() -> None:
    """B3, with 67 slots and 300 MiB: batches of 64 writes to 64 extents are split, starved, and all answered."""
    world, client = pair(size_bytes=400 * MIB)
    cookies = []
    for turn in range(4):
        cookies += client.submit(*[(1, 0, (n * 4 + turn) % 396 * MIB, bytes([turn + 1]) * BLOCK) for n in range(64)])
        cookies += client.submit(*[(1, 0, (n * 4 + 200) % 396 * MIB, bytes([turn + 9]) * BLOCK) for n in range(64)])
    assert set(wait(client, *cookies)) == {0} and world.copies_equal()
    borders = client.submit(*[(1, 0, (2 * n + 1) * 4 * MIB - BLOCK, b"b" * 2 * BLOCK) for n in range(49)])
    assert set(wait(client, *borders)) == {0} and world.copies_equal()  # 98 extents at once
    assert world.a.volume.disk is not None and world.a.volume.disk.log.statistics().eviction_count > 30


def test_the_log_has_no_more_slots_than_its_place_on_disk() -> None:
    """al-extents beyond what 32 KiB can hold is lowered, and the superblock says how many there are."""
    world, client = pair(al_extents=65_000)
    assert world.a.volume.disk is not None and world.a.volume.disk.log.slot_count == 6433
    assert write(client, 0, b"x" * BLOCK) == 0
    assert world.a.disks[0].superblock().al_extents == 6433


def test_two_volumes_share_one_connection() -> None:
    """Epochs run over both volumes, each volume's data goes to its own disk, a flush covers what it must."""
    world, first = pair(volumes=2)
    second = Client(world, world.a, 1)
    cookies = [first.write(n * BLOCK, b"0" * BLOCK) for n in range(30)]
    others = [second.write(n * BLOCK, b"1" * BLOCK) for n in range(30)]
    assert set(wait(first, *cookies)) | set(wait(second, *others)) == {0}
    assert wait(first, first.flush()) + wait(second, second.flush()) == [0, 0]
    assert world.copies_equal() and read(second, 0, BLOCK) == b"1" * BLOCK and read(first, 0, BLOCK) == b"0" * BLOCK
    assert [machine.disks[vnr].unflushed for machine in (world.a, world.b) for vnr in (0, 1)] == [0, 0, 0, 0]


def test_reads_are_local_while_the_local_disk_is_good() -> None:
    """No read goes to the peer."""
    world, client = pair()
    assert write(client, 0, b"x" * BLOCK) == 0
    assert read(client, 0, BLOCK) == b"x" * BLOCK
    assert not sent(world.a, Packet.P_DATA_REQUEST)
    assert state(world.a) == "Connected Primary/Secondary UpToDate/UpToDate"


def test_a_secondary_lets_no_client_in() -> None:
    """ESHUTDOWN on the Secondary, and again on the Primary after a demotion that waited for its writes."""
    world, client = pair()
    other = Client(world, world.b)
    assert wait(other, other.write(0, b"y" * BLOCK)) == [108]
    cookies = [client.write(n % 3 * BLOCK, bytes([n + 1]) * BLOCK) for n in range(30)]
    assert order(world, world.a, "secondary", force=True) == 1
    assert set(wait(client, *cookies)) == {0} and world.copies_equal()
    assert [machine.disks[0].unflushed for machine in (world.a, world.b)] == [0, 0]
    assert wait(client, client.read(0, BLOCK)) == [108]


def test_what_waits_for_the_secondarys_disk_is_counted() -> None:
    """The link stops reading by this: from the reception to the end on the disk, and a TRIM weighs as a block does."""
    world, client = pair()
    world.run(1.0)
    world.disk_latency_s = 1.0
    client.write(0, b"x" * BLOCK)
    client.write(BLOCK, b"y" * BLOCK)
    client.trim(MIB, MIB)
    secondary = world.b.node.peer_writes
    world.run_until(lambda: secondary.busy_bytes == 3 * BLOCK)
    assert secondary.waiting_bytes == 0 and not secondary.behind
    world.run_until(lambda: len(client.replies) >= 3)
    assert secondary.busy_bytes == secondary.waiting_bytes == 0


def test_a_secondary_is_behind_with_what_waits_for_its_turn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocol B: writes to one place are answered as fast as they come, and stand in line for the slow disk."""
    monkeypatch.setattr("pydrbd.core.peer_writes.PEER_BACKLOG_BYTES_MAX", 4 * BLOCK)
    world, client = pair(net=NetOptions(WireProtocol.B))
    world.run(1.0)
    held: list[object] = []
    begin, world.b._begin_disk = world.b._begin_disk, held.append  # type: ignore[method-assign]
    secondary = world.b.node.peer_writes
    for count in range(1, 6):
        assert write(client, 0, bytes([count]) * BLOCK) == 0
        assert (secondary.busy_bytes, secondary.waiting_bytes) == (BLOCK, (count - 1) * BLOCK)
        assert secondary.behind == (count >= 4)
    world.b._begin_disk = begin  # type: ignore[method-assign]
    for effect in held:
        begin(effect)
    world.run(5.0)
    assert secondary.busy_bytes == secondary.waiting_bytes == 0 and not secondary.behind
    assert world.copies_equal() and world.b.disks[0].data[0] == 5


def test_what_waits_for_the_peer_does_not_stop_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that waits for something that is still to be read: with a disk that is idle, the link reads on."""
    monkeypatch.setattr("pydrbd.core.peer_writes.PEER_BACKLOG_BYTES_MAX", BLOCK)
    world, client = pair()
    world.run(1.0)
    volume, secondary = world.b.volume, world.b.node.peer_writes
    ours, _buffer = native.single_read(0, BLOCK)
    hold = volume.ranges.acquire(ours, 1, lambda _hold, _members: None)
    cookie = client.write(0, b"x" * BLOCK)
    world.run(1.0)
    assert secondary.waiting_bytes == BLOCK and not secondary.behind
    volume.ranges.release(hold, 1)
    assert wait(client, cookie) == [0] and secondary.waiting_bytes == 0


@pytest.mark.parametrize(("max_bio_bytes", "longest"), [(130_560, 126_976), (MIB, MIB), (4 * MIB, MIB), (512, BLOCK)])
def test_no_request_is_longer_than_the_peer_wants(max_bio_bytes: int, longest: int) -> None:
    """P_SIZES says max_bio_size: writes, reads of a diskless Primary and resync requests are cut to whole blocks."""
    world = World(1, size_bytes=16 * MIB)
    world.max_bio_bytes = max_bio_bytes
    world.start_in_sync()
    client = Client(world, world.a)
    data = bytes(range(1, 251)) * (3 * MIB // 250) + bytes(3 * MIB % 250)
    assert write(client, 512, data) == 0 and world.copies_equal()
    assert order(world, world.a, "detach") == 1
    assert read(client, 512, 3 * MIB) == data
    kinds = (Packet.P_DATA, Packet.P_DATA_REQUEST, Packet.P_RS_DATA_REQUEST, Packet.P_RS_DATA_REPLY)
    for packet in kinds:
        lengths = sent(world.a, packet) + sent(world.b, packet)
        assert lengths and max(lengths) <= longest
        assert max(lengths) == longest or packet in (Packet.P_RS_DATA_REQUEST, Packet.P_RS_DATA_REPLY)


def test_fast_zeroes_are_refused_at_once_where_the_disk_would_write_them() -> None:
    """ENOTSUP and nothing changed; done where the disk can, unless the space is to be kept, too."""
    world, client = pair()
    assert write(client, 0, b"x" * BLOCK) == 0
    fast = int(CommandFlag.FAST_ZERO)
    (cookie,) = client.submit((Command.WRITE_ZEROES, fast, 0, bytes(BLOCK)))
    assert wait(client, cookie) == [int(NbdError.ENOTSUP)]
    assert read(client, 0, BLOCK) == b"x" * BLOCK and not sent(world.a, Packet.P_ZEROES)
    assert world.a.volume.disk is not None
    world.a.volume.disk.zeroes_fast = True
    (cookie,) = client.submit((Command.WRITE_ZEROES, fast | CommandFlag.NO_HOLE, 0, bytes(BLOCK)))
    assert wait(client, cookie) == [int(NbdError.ENOTSUP)]
    (cookie,) = client.submit((Command.WRITE_ZEROES, fast, 0, bytes(BLOCK)))
    assert wait(client, cookie) == [0]
    assert read(client, 0, BLOCK) == bytes(BLOCK) and world.copies_equal()
