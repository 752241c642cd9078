"""The lanes on real sockets and files: what passes, what is answered when, and what they leave for Python."""

from __future__ import annotations

import errno
import os
import socket
import struct
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd import native
from pydrbd.native import Batch, ClientLane, LaneFlush, LaneGroup, LaneLog, LaneStream, PeerLane, new_records
from pydrbd.reference import Record, drbd_split
from pydrbd.reference.lane import lane_passing, peer_lane_passing
from pydrbd.units import EXTENT_SIZE_BYTES, MIB

READ, WRITE, DISC, FLUSH = 0, 1, 2, 3
P_DATA, P_BARRIER, P_PING, P_WRITE_ACK, P_BARRIER_ACK = 0, 3, 0x13, 0x16, 0x1C
SEND_WRITE_ACK = 256
DISK_BYTES = 12 * MIB
HOT = (0, 1)
LENGTH_MAX = MIB
NO_SPEED_LIMIT_US = 10**9
NO_FLUSH, MAY_FLUSH = LaneFlush(False, 0, NO_SPEED_LIMIT_US), LaneFlush(True, 0, NO_SPEED_LIMIT_US)
SLICE_US, IDLE_US = 1000, 0
"""One look at the sockets is always had; what a test has sent is there by then."""


def request(command, offset, length_or_data=0, *, cookie=1, flags=0):
    data = length_or_data if isinstance(length_or_data, bytes) else b""
    length = len(data) or (0 if isinstance(length_or_data, bytes) else length_or_data)
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + data


def reply(cookie, data=b""):
    return struct.pack(">IIQ", 0x67446698, 0, cookie) + data


def chunk(cookie, offset, data):
    """A structured reply to a READ."""
    return struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, cookie, 8 + len(data), offset) + data


def packet(command, payload, volume=0):
    return struct.pack(">IHHII", 0x8620EC20, volume, command, len(payload), 0) + payload


def p_data(offset, data, *, block_id=64, seq=1, flags=SEND_WRITE_ACK, volume=0):
    return packet(P_DATA, struct.pack(">QQII", offset // 512, block_id, seq, flags) + data, volume)


def ack(offset, length, block_id, seq=1):
    return packet(P_WRITE_ACK, struct.pack(">QQII", offset // 512, block_id, length, seq))


def drained(sock):
    """All that is there to read."""
    found = bytearray()
    try:
        while piece := sock.recv(1 << 20, socket.MSG_DONTWAIT):
            found += piece
    except BlockingIOError:
        pass
    return bytes(found)


def _file_with_a_page_cache():
    """A file that can be asked for what is in memory; a memory file can't."""
    with tempfile.TemporaryFile() as file:
        descriptor = os.dup(file.fileno())
    os.pwrite(descriptor, b"x", 0)
    try:
        os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError as error:
        os.close(descriptor)
        assert error.errno == errno.EOPNOTSUPP
        pytest.skip("the file system of the temporary directory does not know RWF_NOWAIT")
    os.truncate(descriptor, 0)
    return descriptor


def _file_for_direct_io():
    """A file in a file system that can do without a page cache; None if this one can't."""
    with tempfile.NamedTemporaryFile(dir=".") as file:
        try:
            os.close(os.open(file.name, os.O_RDWR | os.O_DIRECT))
        except OSError:
            return None
        return os.dup(file.fileno())


def _has_direct_io():
    descriptor = _file_for_direct_io()
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


BLOCK = 4096
blocks = st.sampled_from([0, BLOCK] if _has_direct_io() else [0])
"""Disks behind the page cache, and with direct I/O where that can be had."""


class Rig:
    """Socket pairs, a file, and what a lane needs between them; a context manager. `block`: for direct I/O."""

    def __init__(self, *, disk_flags=os.O_RDWR, cached=False, block=0):
        self.pairs = []
        self.block = block
        disk_flags |= os.O_DIRECT if block else 0
        if block:
            self.disk = _file_for_direct_io()
            if self.disk is None:
                pytest.skip("no direct I/O in the file system of the tests")
        else:
            self.disk = _file_with_a_page_cache() if cached else os.memfd_create("disk")
        os.truncate(self.disk, DISK_BYTES)
        for written in (0, 2 * EXTENT_SIZE_BYTES - 64 * 1024, DISK_BYTES - 128 * 1024):
            os.pwrite(self.disk, bytes(128 * 1024), written)  # what is in memory is what has been written
        self.lane_disk = os.open(f"/proc/self/fd/{self.disk}", disk_flags)

    def pair(self):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.pairs += [ours, theirs]
        return ours, theirs

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        for sock in self.pairs:
            sock.close()
        os.close(self.lane_disk)
        os.close(self.disk)

    def contents(self, offset, length):
        return os.pread(self.disk, length, offset)


class ClientRig(Rig):
    """A Primary's lane with some clients; extents HOT may be written."""

    def __init__(self, clients=1, *, buffer_bytes=MIB, **how):
        super().__init__(**how)
        (self.data, self.peer_data), (self.meta, self.peer_meta) = self.pair(), self.pair()
        self.sockets = [self.pair() for _ in range(clients)]
        self.clients = [theirs for _ours, theirs in self.sockets]
        self.streams = [LaneStream(ours.fileno(), bytearray(buffer_bytes), 0, 0) for ours, _theirs in self.sockets]
        self.acks = LaneStream(self.meta.fileno(), bytearray(MIB), 0, 0)
        self.outs = [bytearray(2 * MIB) for _ in self.streams]
        self.log = LaneLog(2048)
        self.lane = ClientLane(NO_SPEED_LIMIT_US, NO_SPEED_LIMIT_US)
        self.hot = bytearray(sum(1 << extent for extent in HOT).to_bytes(2, "little"))

    def begin(self, groups=(), *, next_serial=1, room=2048, epoch_sent=0, flush=NO_FLUSH):
        self.lane.begin(
            disk_fd=self.lane_disk, base_bytes=0, capacity_bytes=DISK_BYTES, volume=0, hot=self.hot,
            block_bytes=self.block, data_fd=self.data.fileno(), meta=self.acks,
            clients=list(zip(self.streams, self.outs, strict=True)),
        )  # fmt: skip
        self.lane.begin_writes(self.log, room, 7, epoch_sent, next_serial, 1, 0, groups, flush)
        return self

    def run(self):
        return self.lane.run(SLICE_US, IDLE_US)

    def end(self):
        self.lane.end()
        self.log.count = self.lane.log_count

    def go_on_without_leftovers(self):
        """As Python does it: it takes what the lane has left, and lends the writes that are under way to the next one.

        Returns what it has taken from the first client's buffer.
        """
        self.end()
        left = bytes(self.streams[0].memory[self.streams[0].start : self.streams[0].end])
        for stream in self.streams:
            stream.start = stream.end
        self.touched = self.lane.take_touched()
        self.begin(self.lane.groups(), next_serial=self.lane.next_serial)
        return left


def test_a_write_is_on_both_sides_and_answered_when_the_peer_has_it():
    """Data to the peer and the disk at once; no reply before the acknowledgement, one after it."""
    data = os.urandom(4096)
    with ClientRig().begin() as rig:
        rig.clients[0].send(request(WRITE, 8192, data, cookie=77))
        rig.run()
        assert drained(rig.peer_data) == p_data(8192, data)
        assert rig.contents(8192, 4096) == data
        assert drained(rig.clients[0]) == b""
        rig.peer_meta.send(ack(8192, 4096, 64))
        assert rig.run() == native.LANE_IDLE
        assert drained(rig.clients[0]) == reply(77)
        rig.end()
        assert rig.lane.groups() == [] and rig.lane.take_touched() == [0] and rig.lane.next_serial == 2


def test_with_direct_io_a_group_is_on_the_disk_and_comes_from_it():
    """Through memory of the lane's own, all members at the same time; also more than its memory takes at a time."""
    with ClientRig(block=BLOCK).begin() as rig:
        pieces = [(index * 3 * BLOCK, os.urandom(BLOCK)) for index in range(40)]
        rig.clients[0].sendall(b"".join(request(WRITE, at, data, cookie=n) for n, (at, data) in enumerate(pieces)))
        rig.run()
        assert all(rig.contents(at, BLOCK) == data for at, data in pieces)
        assert drained(rig.peer_data).count(pieces[7][1]) == 1
        for member, (at, _data) in enumerate(pieces):
            rig.peer_meta.send(ack(at, BLOCK, 64 + member))
        rig.run()
        assert drained(rig.clients[0]) == b"".join(reply(n) for n in range(40))
        rig.clients[0].sendall(b"".join(request(READ, at, BLOCK, cookie=n) for n, (at, _data) in enumerate(pieces)))
        rig.run()
        assert drained(rig.clients[0]) == b"".join(reply(n, data) for n, (_at, data) in enumerate(pieces))
        rig.end()


def test_direct_io_leaves_parts_of_blocks_to_python():
    """Reads and writes alike, on both nodes."""
    for stream in (request(WRITE, 0, bytes(512)), request(READ, BLOCK + 512, BLOCK)):
        with ClientRig(block=BLOCK).begin() as rig:
            rig.clients[0].send(stream)
            assert rig.run() == native.LANE_FOREIGN
            rig.end()
    with PeerRig(block=BLOCK).begin() as rig:
        data = os.urandom(BLOCK)
        rig.peer_data.send(p_data(BLOCK, data) + p_data(0, bytes(512)))
        assert rig.run() == native.LANE_FOREIGN
        rig.lane.end()
        assert drained(rig.peer_meta) == ack(BLOCK, BLOCK, 64) and rig.contents(BLOCK, BLOCK) == data
        assert rig.left() == p_data(0, bytes(512))


def test_a_write_that_direct_io_refuses_is_named():
    """As through the page cache: on the Primary the group says so, the Secondary does not acknowledge it."""
    with ClientRig(block=BLOCK, disk_flags=os.O_RDONLY).begin() as rig:
        rig.clients[0].send(request(WRITE, 0, bytes(BLOCK)) + request(WRITE, BLOCK, bytes(BLOCK)))
        assert rig.run() == native.LANE_DISK
        rig.end()
        assert [group.failed for group in rig.lane.groups()] == [3] and rig.lane.error == errno.EBADF
    with PeerRig(block=BLOCK, disk_flags=os.O_RDONLY).begin() as rig:
        rig.peer_data.send(p_data(0, bytes(BLOCK)))
        assert rig.run() == native.LANE_DISK
        rig.lane.end()
        assert rig.left() == p_data(0, bytes(BLOCK)) and drained(rig.peer_meta) == b""


def barrier(number, urgent=1):
    return packet(P_BARRIER, struct.pack(">II", number, urgent))


def barrier_ack(number, count):
    return packet(P_BARRIER_ACK, struct.pack(">II", number, count))


def test_a_flush_is_answered_when_both_disks_have_flushed():
    """The peer's barrier acknowledgement covers all of the epoch, and the next one begins; nobody is read meanwhile."""
    with ClientRig(2).begin(epoch_sent=3, flush=MAY_FLUSH) as rig:
        rig.clients[0].send(request(WRITE, 0, bytes(512), cookie=1))
        rig.run()
        rig.peer_meta.send(ack(0, 512, 64))
        rig.run()
        drained(rig.peer_data)
        rig.clients[0].send(request(FLUSH, 0, cookie=2) + request(WRITE, 512, bytes(512), cookie=3))
        rig.clients[1].send(request(WRITE, 1024, bytes(512), cookie=4))
        assert rig.lane.run(1000, 1000) == native.LANE_SLICE
        assert rig.lane.flushed.count == 1 and rig.lane.barrier_sent
        assert drained(rig.peer_data) == barrier(7) and drained(rig.clients[0]) == reply(1)
        rig.peer_meta.send(barrier_ack(7, 4))
        assert rig.run() == native.LANE_SLICE  # the writes that came behind it are under way
        assert drained(rig.clients[0]) == reply(2)
        sent = drained(rig.peer_data)
        assert sent == p_data(512, bytes(512), block_id=2 << 6, seq=2) + p_data(
            1024, bytes(512), block_id=3 << 6, seq=3
        )
        rig.end()
        lane = rig.lane
        assert (lane.epoch, lane.log_count, lane.sent_count, lane.barrier_sent) == (8, 2, 3, False)
        assert [group.epoch for group in lane.groups()] == [8, 8]
        assert [b.records[i].offset for b in rig.log.batches() for i in range(b.count)] == [512, 1024]


@pytest.mark.parametrize(("before", "beside", "after"), [(2, True, 1), (9, True, 0), (2, False, 0)])
def test_where_flushes_follow_few_writes_the_disks_begin_with_each_write_at_once(before, beside, after):
    """A database's log does so; many writes in between end it on both nodes, as does a lone processor. What a write
    does is the same."""
    may_flush = LaneFlush(True, 0, NO_SPEED_LIMIT_US, beside)

    def written(numbers):
        return [(n * BLOCK, bytes([n]) * BLOCK, (n + 1) << 6) for n in numbers]

    with ClientRig().begin(flush=may_flush) as rig, PeerRig().begin(flush=may_flush) as other:
        for place, data, block_id in written(range(before)):
            rig.clients[0].send(request(WRITE, place, data))
            rig.run()
            rig.peer_meta.send(ack(place, BLOCK, block_id))
            rig.run()
            other.peer_data.send(p_data(place, data, block_id=block_id))
            other.run()
        rig.clients[0].send(request(FLUSH, 0))
        rig.run()
        rig.peer_meta.send(barrier_ack(7, before))
        rig.run()
        other.peer_data.send(barrier(7))
        other.run()
        ((place, data, block_id),) = written([before])
        rig.clients[0].send(request(WRITE, place, data))
        rig.run()
        other.peer_data.send(p_data(place, data, block_id=block_id))
        other.run()
        assert rig.lane._c.flush.comes_soon == other.lane._c.flush.comes_soon == after
        assert rig.contents(place, BLOCK) == other.contents(place, BLOCK) == data
        assert drained(rig.clients[0]) == reply(1) * (before + 1)
        rig.end()
        other.lane.end()


def test_a_flush_with_nothing_to_confirm_is_our_own_alone():
    """No barrier for an epoch without writes."""
    with ClientRig().begin(flush=MAY_FLUSH) as rig:
        rig.clients[0].send(request(FLUSH, 0, cookie=2) * 2)
        rig.run()
        assert drained(rig.clients[0]) == reply(2) * 2 and drained(rig.peer_data) == b""
        rig.end()
        assert (rig.lane.epoch, rig.lane.flushed.count) == (7, 2)


@pytest.mark.parametrize("answer", [barrier_ack(6, 1), barrier_ack(7, 2), packet(P_PING, b"")])
def test_a_flush_that_is_not_answered_in_the_lane_is_left_with_its_barrier_sent(answer):
    """Python begins it anew, and knows that the epoch has ended."""
    with ClientRig().begin(epoch_sent=1, flush=MAY_FLUSH) as rig:
        rig.clients[0].send(request(FLUSH, 0, cookie=2))
        assert rig.run() == native.LANE_SLICE
        rig.peer_meta.send(answer)
        assert rig.run() == native.LANE_FOREIGN
        rig.end()
        (stream,) = rig.streams
        assert bytes(stream.memory[stream.start : stream.end]) == request(FLUSH, 0, cookie=2)
        assert drained(rig.peer_data) == barrier(7) and rig.lane.barrier_sent and rig.lane.epoch == 7
        assert bytes(rig.acks.memory[rig.acks.start : rig.acks.end]) == answer and drained(rig.clients[0]) == b""


def test_a_flush_behind_writes_under_way_is_for_python():
    """So is one with flags."""
    for stream in (request(WRITE, 0, bytes(512)) + request(FLUSH, 0), request(FLUSH, 0, flags=1)):
        with ClientRig().begin(flush=MAY_FLUSH) as rig:
            rig.clients[0].send(stream)
            assert rig.run() == native.LANE_FOREIGN
            rig.end()
            assert rig.lane.flushed.count == 0 and not rig.lane.barrier_sent


def test_a_peer_that_takes_its_time_over_a_flush_ends_the_lane():
    """Others are waiting."""
    with ClientRig().begin(epoch_sent=1, flush=LaneFlush(True, 0, 1)) as rig:
        rig.clients[0].send(request(FLUSH, 0, cookie=2))
        assert rig.run() == native.LANE_IDLE
        rig.end()
        assert rig.lane.flushed.was_slow and rig.lane.barrier_sent


def test_a_disk_that_was_cut_off_fails_the_flush():
    """What was written behind its end is gone: nobody is told that it is durable, here or there."""
    flush = LaneFlush(True, DISK_BYTES, NO_SPEED_LIMIT_US)
    with ClientRig() as rig, PeerRig() as other:
        for disk in (rig.disk, other.disk):
            os.truncate(disk, DISK_BYTES - 512)
        rig.begin(epoch_sent=1, flush=flush)
        rig.clients[0].send(request(FLUSH, 0, cookie=2))
        assert rig.run() == native.LANE_DISK and rig.lane.flushed.errno == errno.EIO
        rig.end()
        assert drained(rig.clients[0]) == b""
        other.peer_data.send(p_data(0, bytes(512)) + barrier(1))
        other.begin(flush=flush)
        assert other.run() == native.LANE_DISK and other.lane.flushed.errno == errno.EIO
        other.lane.end()
        assert other.left() == barrier(1) and drained(other.peer_meta) == ack(0, 512, 64)


def test_a_lane_looks_for_the_answer_before_it_sleeps_as_long_as_that_pays():
    """An answer that is there earns credit; one that does not come ends the looking for many turns. Many writes under
    way are not looked for at all."""
    with ClientRig().begin() as rig:
        credit = lambda: rig.lane._c.spin_credit  # noqa: E731 - what the loop keeps for itself
        for number in range(3):
            rig.clients[0].send(request(WRITE, 0, bytes(512), cookie=number))
            rig.run()
            rig.lane._c.spin_credit = number
            rig.peer_meta.send(ack(0, 512, (number + 1) << 6))
            rig.run()
            assert credit() > number
            drained(rig.peer_data)
        rig.clients[0].send(request(WRITE, 0, bytes(512), cookie=9))
        rig.run()
        rig.lane._c.spin_credit = 0
        assert rig.lane.run(SLICE_US, 100) == native.LANE_SLICE
        assert -200 <= credit() < 0
        rig.end()
    with ClientRig().begin() as rig:
        rig.clients[0].send(b"".join(request(WRITE, at * 512, bytes(512), cookie=at) for at in range(2)))
        rig.run()
        rig.lane._c.spin_credit = 5
        rig.lane.run(SLICE_US, 100)
        assert credit() == 5
        rig.end()


def test_what_is_not_for_a_lane_stays_in_its_buffer():
    """A FLUSH that it may not carry out ends the lane: what came before it is done, and it is still there, whole."""
    with ClientRig().begin() as rig:
        rig.clients[0].send(request(WRITE, 0, bytes(512)) + request(FLUSH, 0, cookie=2) + request(READ, 0, 512))
        assert rig.run() == native.LANE_FOREIGN
        rig.end()
        (stream,) = rig.streams
        assert bytes(stream.memory[stream.start : stream.end]) == request(FLUSH, 0, cookie=2) + request(READ, 0, 512)
        (group,) = rig.lane.groups()
        assert (group.serial, group.epoch, group.client, group.busy, group.failed) == (1, 7, 0, 1, 0)
        assert [batch.records[0].length for batch in rig.log.batches()] == [512]


def test_a_packet_that_is_no_acknowledgement_of_ours_is_left():
    """The acknowledgement before it counts, the ping after it waits for Python."""
    with ClientRig().begin() as rig:
        rig.clients[0].send(request(WRITE, 0, bytes(512), cookie=5))
        rig.run()
        rest = packet(P_PING, b"") + ack(0, 512, 64)
        rig.peer_meta.send(ack(0, 512, 64) + rest)
        assert rig.run() == native.LANE_FOREIGN
        rig.end()
        assert drained(rig.clients[0]) == reply(5)
        assert bytes(rig.acks.memory[rig.acks.start : rig.acks.end]) == rest


def test_an_acknowledgement_counts_once():
    """Twice the same is a peer that lies: the second is left to Python, which knows what to say."""
    with ClientRig().begin() as rig:
        rig.clients[0].send(request(WRITE, 0, bytes(512), cookie=5))
        rig.run()
        rig.peer_meta.send(ack(0, 512, 64) + ack(0, 512, 64))
        assert rig.run() == native.LANE_FOREIGN
        rig.end()
        assert drained(rig.clients[0]) == reply(5) and rig.acks.start != rig.acks.end


def test_writes_under_way_are_lent_and_carried_on():
    """A write that Python began is answered by the lane, on its own client's socket, and holds its place till then."""
    with ClientRig(2) as rig:
        records = new_records(3)
        for index in range(3):
            records[index].offset, records[index].length, records[index].id = index * 4096, 4096, 100 + index
        group = LaneGroup(8, 6, 1, Batch(bytearray(1), records, 3), 0b110, 0)
        rig.begin([group], next_serial=10)
        rig.clients[0].send(request(WRITE, 0, bytes(512), cookie=1) + request(WRITE, 8192, bytes(512), cookie=2))
        assert rig.run() == native.LANE_FOREIGN  # the second overlaps a write that is under way
        assert drained(rig.peer_data) == p_data(0, bytes(512), block_id=10 << 6)
        rig.go_on_without_leftovers()
        rig.peer_meta.send(ack(4096, 4096, (8 << 6) + 1))
        rig.run()
        rig.end()
        assert drained(rig.clients[1]) == reply(101)
        assert [(left.serial, left.busy) for left in rig.lane.groups()] == [(8, 0b100), (10, 1)]


def test_reads_come_from_the_page_cache_but_never_show_a_write_under_way():
    """What nobody may have seen, if this disk is lost now, is not shown (A1)."""
    with ClientRig(cached=True).begin() as rig:
        os.pwrite(rig.disk, b"x" * 4096, 4096)
        rig.clients[0].send(request(READ, 4096, 4096, cookie=1) + request(READ, 0, 512, cookie=2))
        rig.run()
        assert drained(rig.clients[0]) == reply(1, b"x" * 4096) + reply(2, bytes(512))
        rig.clients[0].send(request(WRITE, 4096, b"y" * 512, cookie=3) + request(READ, 4096, 512, cookie=4))
        assert rig.run() == native.LANE_FOREIGN
        rig.end()
        assert drained(rig.clients[0]) == b"" and rig.lane.read_bytes == 4608


def test_a_client_that_wants_structured_replies_gets_chunks_for_its_reads():
    """One chunk for each; its writes are answered as everybody's."""
    with ClientRig(clients=2, cached=True) as rig:
        rig.streams[0].structured = True
        rig.begin()
        os.pwrite(rig.disk, b"x" * 4096, 4096)
        for client in rig.clients:
            client.send(request(READ, 4096, 4096, cookie=1) + request(READ, 0, 512, cookie=2))
        rig.clients[0].send(request(WRITE, 8192, bytes(512), cookie=3))
        rig.run()
        rig.peer_meta.send(ack(8192, 512, 64))
        rig.run()
        wanted = chunk(1, 4096, b"x" * 4096) + chunk(2, 0, bytes(512)) + reply(3)
        assert drained(rig.clients[0]) == wanted
        assert drained(rig.clients[1]) == reply(1, b"x" * 4096) + reply(2, bytes(512))
        rig.end()


def test_a_peer_that_does_not_read_gets_the_rest_from_python():
    """The socket takes a part of a group: what it took and what is left are exactly the packets."""
    data = os.urandom(512 * 1024)
    with ClientRig().begin() as rig:
        stream = request(WRITE, 0, data, cookie=1)
        rig.clients[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MIB)
        sent = rig.clients[0].send(stream)
        reason = rig.run()
        while sent < len(stream):
            sent += rig.clients[0].send(stream[sent:])
            reason = rig.run()
        assert reason == native.LANE_SPILL
        spilled = b"".join(rig.lane.spilled())
        rig.end()
        assert drained(rig.peer_data) + spilled == p_data(0, data)
        assert rig.contents(0, len(data)) == data and [group.busy for group in rig.lane.groups()] == [1]


def test_a_disk_that_refuses_is_told_with_the_members():
    """The peer has them, our disk has not: the lane ends, the write stays under way, marked as failed."""
    with ClientRig(disk_flags=os.O_RDONLY).begin() as rig:
        rig.clients[0].send(request(WRITE, 0, bytes(512), cookie=1))
        assert rig.run() == native.LANE_DISK
        rig.end()
        (group,) = rig.lane.groups()
        assert (group.busy, group.failed, rig.lane.error) == (1, 1, 9)


def test_a_socket_to_the_peer_that_failed_ends_the_lane():
    """What was about to be sent is on our disk, and under way: Python decides what becomes of it."""
    with ClientRig().begin() as rig:
        rig.peer_data.close()
        rig.clients[0].send(request(WRITE, 0, b"z" * 512, cookie=1))
        assert rig.run() in (native.LANE_LOST, native.LANE_FOREIGN)
        rig.end()
        if rig.lane.groups():
            assert rig.contents(0, 512) == b"z" * 512


def test_an_epoch_that_is_full_ends_the_lane():
    """No more writes than the epoch has room for; the next one is left."""
    with ClientRig().begin(room=2) as rig:
        rig.clients[0].send(b"".join(request(WRITE, 4096 * i, bytes(512), cookie=i) for i in range(3)))
        assert rig.run() == native.LANE_FOREIGN
        rig.end()
        assert rig.lane.log_count == 0  # a run of three does not fit: Python splits it


def test_a_client_that_left_is_not_read_again():
    """The end of its stream is seen by its own reader, too."""
    with ClientRig(2).begin() as rig:
        rig.clients[0].close()
        assert rig.run() == native.LANE_FOREIGN
        rig.end()


@pytest.mark.parametrize("buffer_bytes", [70_000, MIB])
def test_replies_wait_for_a_client_that_does_not_read(buffer_bytes):
    """They are kept in order, and what the socket has not taken at the end is handed over."""
    with ClientRig(buffer_bytes=buffer_bytes, cached=True).begin() as rig:
        for cookie in range(40):
            rig.clients[0].send(request(READ, cookie * 512, 32 * 1024, cookie=cookie))
        for _ in range(3):
            rig.run()
        taken = drained(rig.clients[0])
        rig.end()
        (stream,) = rig.streams
        left = bytes(stream.memory[stream.start : stream.end])
        whole = taken + stream.unsent
        done = len(whole) // (16 + 32 * 1024)
        assert whole == b"".join(reply(cookie, bytes(32 * 1024)) for cookie in range(done)) and done
        assert left + drained(rig.sockets[0][0]) == b"".join(
            request(READ, cookie * 512, 32 * 1024, cookie=cookie) for cookie in range(done, 40)
        )


commands = st.sampled_from([WRITE, WRITE, WRITE, READ, FLUSH, 6])
sectors = st.one_of(
    st.integers(0, 40), st.integers(2 * 8192 - 4, 2 * 8192 + 1), st.integers(DISK_BYTES // 512 - 4, 2**40)
)
client_requests = st.lists(
    st.tuples(commands, st.sampled_from([0, 0, 0, 0, 1]), sectors, st.integers(0, 6), st.sampled_from([0, 0, 0, 0, 3])),
    min_size=1,
    max_size=50,
)


@given(client_requests, st.randoms(use_true_random=False))
def test_a_lane_passes_what_its_twin_passes(drawn, chance):
    """Requests drawn at random, acknowledged in any order: peer, disk, replies and leftovers are what the twin says."""
    with ClientRig(cached=True).begin() as rig:
        requests, image = [], bytearray(DISK_BYTES)
        for cookie, (command, flags, sector, count, odd) in enumerate(drawn):
            offset, data = sector * 512 + odd, chance.randbytes(count * 512)
            requests.append((Record(offset, cookie, 0, count * 512, 0, flags, command), data))
        stream = b"".join(
            request(r.command, r.offset, data if r.command == WRITE else r.length, cookie=r.id, flags=r.flags)
            for r, data in requests
        )
        rig.clients[0].sendall(stream)
        reason = rig.run()
        expected_peer, expected_replies, under_way, position = b"", b"", [], 0
        serial = seq = 1
        while position < len(requests):
            batch = [record for record, _data in requests[position : position + 64]]
            passing = lane_passing(
                batch, length_max=LENGTH_MAX, capacity_bytes=DISK_BYTES, hot=HOT,
                under_way=[(r.offset, r.end) for r, _id in under_way],
            )  # fmt: skip
            if not passing:
                break
            for member, (record, data) in enumerate(requests[position : position + passing]):
                if record.command == WRITE:
                    block_id = (serial << 6) + member
                    expected_peer += p_data(record.offset, data, block_id=block_id, seq=seq)
                    image[record.offset : record.end] = data
                    under_way.append((record, block_id))
                    seq += 1
                else:
                    expected_replies += reply(record.id, bytes(image[record.offset : record.end]))
            serial += requests[position][0].command == WRITE
            position += passing
        assert drained(rig.peer_data) == expected_peer
        assert drained(rig.clients[0]) == expected_replies
        assert reason == native.LANE_FOREIGN or position == len(requests)
        left = rig.go_on_without_leftovers()
        assert left == stream[len(stream) - len(left) :]
        acknowledged = chance.sample(under_way, chance.randint(0, len(under_way)))
        for record, block_id in acknowledged:
            rig.peer_meta.send(ack(record.offset, record.length, block_id))
        rig.run()
        assert drained(rig.clients[0]) == b"".join(reply(record.id) for record, _id in acknowledged)
        rig.end()
        still = {
            (group.serial << 6) + member: group.batch.records[member].offset
            for group in rig.lane.groups() for member in native.indices(group.busy)
        }  # fmt: skip
        assert still == {block_id: r.offset for r, block_id in under_way if (r, block_id) not in acknowledged}
        assert rig.lane.log_count == len(under_way)
        touched = {
            e
            for r, _id in under_way
            for e in range(r.offset // EXTENT_SIZE_BYTES, (r.end - 1) // EXTENT_SIZE_BYTES + 1)
        }
        assert rig.touched == sorted(touched)
        assert rig.contents(0, DISK_BYTES) == image


class PeerRig(Rig):
    """A Secondary's lane."""

    def __init__(self, **how):
        super().__init__(**how)
        (self.data, self.peer_data), (self.meta, self.peer_meta) = self.pair(), self.pair()
        self.stream = LaneStream(self.data.fileno(), bytearray(MIB), 0, 0)
        self.lane = PeerLane(NO_SPEED_LIMIT_US, NO_SPEED_LIMIT_US, SEND_WRITE_ACK)

    def begin(self, *, epoch_count=0, flush=NO_FLUSH):
        self.lane.begin(
            disk_fd=self.lane_disk, base_bytes=0, block_bytes=self.block, capacity_bytes=DISK_BYTES, volume=0,
            next_seq=1, peer_seq=0, data=self.stream, meta_fd=self.meta.fileno(), epoch_count=epoch_count, flush=flush,
        )  # fmt: skip
        return self

    def run(self):
        return self.lane.run(SLICE_US, IDLE_US)

    def left(self):
        return bytes(self.stream.memory[self.stream.start : self.stream.end])


steps = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 60), st.integers(1, 3)), max_size=6),  # writes: place and length in units
        st.sampled_from(["no flush", "confirmed", "confirmed", "confirmed", "wrong count", "silence"]),
    ),
    min_size=1,
    max_size=8,
)


@given(steps, blocks, st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_lane_that_may_flush_does_what_the_core_would_do(drawn, block, epoch_sent, chance):
    """Writes, their acknowledgements, then a FLUSH: barriers, epochs, log, replies and disk are as they must be."""
    unit, image = block or 512, bytearray(DISK_BYTES)
    epoch, in_log, sent, serial, cookie = 7, 0, 0, 1, 0
    with ClientRig(block=block).begin(epoch_sent=epoch_sent, flush=MAY_FLUSH) as rig:
        for places, then in drawn:
            said, packets, taken = b"", b"", set()
            for place, length in places:
                if taken.isdisjoint(range(place, place + length)):
                    taken |= set(range(place, place + length))
                    cookie += 1
                    data = chance.randbytes(length * unit)
                    image[place * unit : (place + length) * unit] = data
                    rig.clients[0].sendall(request(WRITE, place * unit, data, cookie=cookie))
                    rig.run()
                    sent += 1
                    packets += p_data(place * unit, data, block_id=serial << 6, seq=sent)
                    rig.peer_meta.sendall(ack(place * unit, length * unit, serial << 6))
                    rig.run()
                    serial, in_log, epoch_sent = serial + 1, in_log + 1, epoch_sent + 1
                    said += reply(cookie)
            assert drained(rig.peer_data) == packets and drained(rig.clients[0]) == said
            if then == "no flush":
                continue
            rig.clients[0].sendall(request(FLUSH, 0, cookie=9999))
            assert rig.run() in (native.LANE_SLICE, native.LANE_IDLE)
            if not epoch_sent:
                assert drained(rig.clients[0]) == reply(9999) and drained(rig.peer_data) == b""
                continue
            assert drained(rig.peer_data) == barrier(epoch) and drained(rig.clients[0]) == b""
            if then == "silence":
                break
            rig.peer_meta.sendall(barrier_ack(epoch, epoch_sent + (then == "wrong count")))
            reason = rig.run()
            if then == "wrong count":
                assert reason == native.LANE_FOREIGN and drained(rig.clients[0]) == b""
                break
            assert drained(rig.clients[0]) == reply(9999)
            epoch, in_log, epoch_sent = epoch + 1, 0, 0
        rig.end()
        lane, waits = rig.lane, then in ("wrong count", "silence") and epoch_sent > 0
        assert (lane.epoch, lane.log_count, lane.sent_count, lane.barrier_sent) == (epoch, in_log, sent, waits)
        assert lane.groups() == [] and rig.contents(0, DISK_BYTES) == image


packets = st.lists(
    st.tuples(
        st.sampled_from([P_DATA, P_DATA, P_DATA, P_DATA, P_BARRIER]),
        st.sampled_from([SEND_WRITE_ACK, SEND_WRITE_ACK, SEND_WRITE_ACK, SEND_WRITE_ACK | 4]),
        st.one_of(st.integers(0, 40), st.integers(DISK_BYTES // 512 - 4, 2**40)),
        st.integers(0, 6),
        st.sampled_from([0, 0, 0, 0, 1]),
    ),
    max_size=50,
)


@given(packets, blocks, st.booleans(), st.integers(0, 2), st.randoms(use_true_random=False))
def test_a_peers_lane_passes_what_its_twin_passes(drawn, block, may_flush, epoch_count, chance):
    """Whatever packets come, cut anywhere: disk, acknowledgements, epochs and leftovers are what the twin says."""
    unit, flush = block // 512 or 1, MAY_FLUSH if may_flush else NO_FLUSH
    with PeerRig(block=block) as rig:
        image, stream = bytearray(DISK_BYTES), b""
        for number, (command, flags, place, count, volume) in enumerate(drawn):
            # with direct I/O whole blocks mostly, and now and then a part of one
            scale = unit if chance.random() < 0.9 else 1
            data = chance.randbytes(count * scale * 512)
            if command == P_DATA:
                stream += p_data(place * scale * 512, data, block_id=number, flags=flags, volume=volume)
            else:
                stream += barrier(number, urgent=int(volume == 0))
        records, _consumed, _need = drbd_split(stream, 0, len(stream), 100, 0, 2 * MIB, 10**6) if stream else ([], 0, 0)
        cut = chance.randint(0, len(stream))
        rig.peer_data.sendall(stream[:cut])
        rig.begin(epoch_count=epoch_count, flush=flush)
        rig.run()
        unsent = rig.lane.end()
        before = rig.lane.packets
        assert unsent == b""
        rig.peer_data.sendall(stream[cut:])
        rig.begin(epoch_count=rig.lane.epoch_count, flush=flush)
        rig.run()
        rig.lane.end()
        expected, written, open_count = b"", 0, epoch_count
        for record in records:
            if record.command == P_BARRIER:
                number, urgent = struct.unpack_from(">II", stream, record.data)
                if not (may_flush and urgent and open_count):
                    break
                expected += barrier_ack(number, open_count)
                open_count = 0
                continue
            passes = peer_lane_passing([record], volume=0, dp_flags=SEND_WRITE_ACK, capacity_bytes=DISK_BYTES)
            if not passes or (block and (record.offset | record.length) % block):
                break
            written, open_count = written + 1, open_count + 1
            image[record.offset : record.end] = stream[record.data : record.data + record.length]
            seq = written if written <= before else written - before
            expected += ack(record.offset, record.length, record.id, seq=seq)
        assert drained(rig.peer_meta) == expected
        assert before + rig.lane.packets == written and rig.lane.epoch_count == open_count
        assert rig.contents(0, DISK_BYTES) == image
        rest = rig.left() + drained(rig.data)
        assert rest == stream[len(stream) - len(rest) :]


def test_a_barrier_that_somebody_waits_for_is_flushed_and_confirmed():
    """With all the writes of its epoch, also those from before the lane; the next epoch counts anew."""
    with PeerRig().begin(epoch_count=2, flush=MAY_FLUSH) as rig:
        rig.peer_data.send(p_data(0, b"a" * 512) + barrier(7) + p_data(512, b"b" * 512))
        rig.run()
        assert drained(rig.peer_meta) == ack(0, 512, 64) + barrier_ack(7, 3) + ack(512, 512, 64, seq=2)
        rig.peer_data.send(barrier(8) + barrier(9))
        assert rig.run() == native.LANE_FOREIGN  # there is nothing to be confirmed by the last one
        rig.lane.end()
        assert drained(rig.peer_meta) == barrier_ack(8, 1) and rig.left() == barrier(9)
        assert (rig.lane.epochs, rig.lane.epoch_count, rig.lane.flushed.count) == (2, 0, 2)


def test_a_barrier_without_hurry_is_left_for_python():
    """One flush will do for many of them."""
    with PeerRig().begin(flush=MAY_FLUSH) as rig:
        rig.peer_data.send(p_data(0, b"a" * 512) + barrier(7, urgent=0))
        assert rig.run() == native.LANE_FOREIGN
        rig.lane.end()
        assert rig.left() == barrier(7, urgent=0) and rig.lane.epoch_count == 1


def test_a_barrier_is_left_for_python():
    """It closes an epoch: the writes before it are done and acknowledged, it and what follows are not touched."""
    rest = packet(P_BARRIER, struct.pack(">II", 1, 0)) + p_data(512, bytes(512))
    with PeerRig().begin() as rig:
        rig.peer_data.send(p_data(0, b"a" * 512) + rest)
        assert rig.run() == native.LANE_FOREIGN
        rig.lane.end()
        assert rig.left() == rest and drained(rig.peer_meta) == ack(0, 512, 64)


def test_a_write_that_the_disk_refuses_is_left_for_python():
    """It is not acknowledged, and Python, which tries it again, deals with the disk."""
    with PeerRig(disk_flags=os.O_RDONLY).begin() as rig:
        rig.peer_data.send(p_data(0, b"a" * 512))
        assert rig.run() == native.LANE_DISK
        rig.lane.end()
        assert rig.left() == p_data(0, b"a" * 512) and drained(rig.peer_meta) == b"" and rig.lane.error == 9
