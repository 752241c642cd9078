"""The lanes: lane.c and lane_peer.c, and the memory that they work on.

A lane carries plain writes and reads from socket to disk to socket by itself, while its node has nothing to decide. It
is laid down by `begin`, runs by `run` (again and again, while that answers SLICE), and is taken up by `end`, which says
what has become of everything. In between nobody else may touch its sockets' buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydrbd._native import ffi, lib
from pydrbd.limits import BATCH_RECORDS_MAX, DRBD_IO_BYTES_MAX, DRBD_PAYLOAD_BYTES_MAX, LANE_CLIENTS_MAX
from pydrbd.native.batch import Batch, Buffer, WritableBuffer, new, readable, writable
from pydrbd.native.lane_parts import (
    NO_DATA,
    RECORD_BYTES,
    LaneDisk,
    LaneFlush,
    LaneFlushed,
    LaneGroup,
    LaneLog,
    LaneStream,
    copied,
    let_go,
)

__all__ = [
    "LANE_DISK",
    "LANE_FOREIGN",
    "LANE_GROUPS",
    "LANE_IDLE",
    "LANE_LOST",
    "LANE_SLICE",
    "LANE_SPILL",
    "ClientLane",
    "PeerLane",
]

LANE_SLICE: Final[int] = lib.PYDRBD_LANE_SLICE
LANE_IDLE: Final[int] = lib.PYDRBD_LANE_IDLE
LANE_FOREIGN: Final[int] = lib.PYDRBD_LANE_FOREIGN
LANE_DISK: Final[int] = lib.PYDRBD_LANE_DISK
LANE_SPILL: Final[int] = lib.PYDRBD_LANE_SPILL
LANE_LOST: Final[int] = lib.PYDRBD_LANE_LOST
LANE_GROUPS: Final[int] = lib.PYDRBD_LANE_GROUPS

_HEADER_BYTES: Final = 40


class ClientLane:
    """A Primary's lane (lane.c)."""

    def __init__(self, slow_us: int, direct_slow_us: int) -> None:
        self._disk = LaneDisk(slow_us, direct_slow_us)
        self._c = new("struct pydrbd_lane *")
        self._clients = new("struct pydrbd_lane_client[]", LANE_CLIENTS_MAX)
        self._groups = new("struct pydrbd_lane_group[]", LANE_GROUPS)
        self._c.clients, self._c.groups = self._clients, self._groups
        self._c.length_max = DRBD_IO_BYTES_MAX
        self._outs: list[WritableBuffer] = []
        self._views: list[Any] = []
        self._streams: list[LaneStream] = []
        self._meta: LaneStream
        self._touched = bytearray()

    def begin(
        self,
        *,
        disk_fd: int,
        base_bytes: int,
        block_bytes: int = 0,
        capacity_bytes: int,
        volume: int,
        hot: Buffer | None,
        data_fd: int,
        meta: LaneStream,
        clients: Sequence[tuple[LaneStream, WritableBuffer]],
    ) -> None:
        """Lay down the sockets and the disk. With each client comes memory for the replies that it is slow to take."""
        c, views = self._c, self._views
        assert not views and 0 < len(clients) <= LANE_CLIENTS_MAX
        self._disk.lay_down(c.disk, views, disk_fd, base_bytes, block_bytes)
        c.data_fd, c.capacity, c.volume = data_fd, capacity_bytes, volume
        c.hot = c.touched = ffi.NULL
        if hot is not None:
            if len(self._touched) < len(hot):
                self._touched = bytearray(len(hot))
            view, touched = readable(hot), writable(self._touched)
            views += [view, touched]
            c.hot, c.touched = view, touched
        self._meta, self._streams, self._outs = meta, [], []
        meta.lay_down(c.meta, views)
        c.client_count = len(clients)
        for place, (stream, out) in enumerate(clients):
            client = self._clients[place]
            stream.lay_down(getattr(client, "in"), views)
            view = memoryview(out)
            views.append(view)
            client.out, client.out_size, client.out_start, client.out_end = writable(view), len(view), 0, 0
            client.need, client.batches, client.requests = stream.need_bytes, 0, 0
            client.structured = stream.structured
            self._streams.append(stream)
            self._outs.append(out)
        c.written = c.read = c.error = c.spill_serial = c.spill_sent = 0

    def begin_writes(
        self,
        log: LaneLog,
        room: int,
        epoch: int,
        epoch_sent: int,
        next_serial: int,
        next_seq: int,
        peer_seq: int,
        groups: Sequence[LaneGroup],
        flush: LaneFlush,
    ) -> None:
        """Lay down the epoch (`epoch_sent` writes, at most `room` more), the next numbers, and what is under way."""
        c = self._c
        flush.lay_down(c.flush)
        c.epoch_sent, c.sent, c.flush_client, c.barrier_sent = epoch_sent, 0, -1, 0
        c.log, c.log_count, c.log_room = log.records, log.count, min(log.room, log.count + room)
        c.epoch, c.next_serial, c.next_seq, c.peer_seq = epoch, next_serial, next_seq & 0xFFFF_FFFF, peer_seq
        c.oldest_serial = min((group.serial for group in groups), default=next_serial)
        assert next_serial - c.oldest_serial <= LANE_GROUPS
        for serial in range(c.oldest_serial, next_serial):
            self._groups[serial % LANE_GROUPS].busy = 0
        for group in groups:
            place = self._groups[group.serial % LANE_GROUPS]
            place.serial, place.epoch, place.client = group.serial, group.epoch, group.client
            place.busy, place.failed, place.count = group.busy, 0, group.batch.count
            ffi.memmove(place.records, group.batch.records, group.batch.count * RECORD_BYTES)

    def run(self, slice_us: int, idle_us: int) -> int:
        """Go on; why it stops (LANE_...). Other threads run meanwhile."""
        reason: int = lib.pydrbd_lane_run(self._c, slice_us, idle_us)
        return reason

    def end(self) -> None:
        """Take up the sockets: the streams say how far they have come."""
        c = self._c
        self._meta.take_up(c.meta)
        for place, stream in enumerate(self._streams):
            client = self._clients[place]
            stream.take_up(getattr(client, "in"))
            stream.need_bytes, stream.batches, stream.requests = client.need, client.batches, client.requests
            stream.unsent = bytes(memoryview(self._outs[place])[client.out_start : client.out_end])
            client.out = ffi.NULL
        c.hot = c.touched = ffi.NULL
        self._disk.take_up(c.disk)
        let_go(self._views)

    @property
    def next_serial(self) -> int:
        return int(self._c.next_serial)

    @property
    def log_count(self) -> int:
        return int(self._c.log_count)

    @property
    def peer_seq(self) -> int:
        """The sequence number of the newest acknowledgement."""
        return int(self._c.peer_seq)

    @property
    def sent_count(self) -> int:
        """Writes that the peer has got from this lane."""
        return int(self._c.sent)

    @property
    def epoch(self) -> int:
        """The open epoch: those before it are flushed, on both nodes."""
        return int(self._c.epoch)

    @property
    def barrier_sent(self) -> bool:
        """Whether the open epoch's barrier is on its way to the peer."""
        return bool(self._c.barrier_sent)

    @property
    def flushed(self) -> LaneFlushed:
        return LaneFlushed.take_up(self._c.flush)

    @property
    def written_bytes(self) -> int:
        return int(self._c.written)

    @property
    def read_bytes(self) -> int:
        return int(self._c.read)

    @property
    def error(self) -> int:
        """The errno of the disk or the peer's socket; 0 if the disk was slow."""
        return int(self._c.error)

    def groups(self) -> list[LaneGroup]:
        """The writes that are under way, oldest first."""
        found = []
        for serial in range(self._c.oldest_serial, self._c.next_serial):
            group = self._groups[serial % LANE_GROUPS]
            if group.busy:
                batch = Batch(NO_DATA, copied(group.records, group.count), group.count)
                found.append(LaneGroup(serial, group.epoch, group.client, batch, group.busy, group.failed))
        return found

    def take_touched(self) -> list[int]:
        """The 4 MiB extents that were written to since the last call."""
        found: list[int] = []
        if not self._c.written:
            return found
        bits, end = writable(self._touched), 8 * len(self._touched)
        extent = lib.pydrbd_bitmap_find_set(bits, 0, end)
        while extent < end:
            found.append(extent)
            extent = lib.pydrbd_bitmap_find_set(bits, extent + 1, end)
        for extent in found:
            lib.pydrbd_bitmap_clear(bits, extent, 1)
        return found

    def spilled(self) -> list[bytes]:
        """The rest of a group that the peer's socket took a part of. Before the client's buffer is used again."""
        c = self._c
        if not c.spill_serial:
            return []
        group = self._groups[c.spill_serial % LANE_GROUPS]
        memory = memoryview(self._streams[group.client].memory)
        packets = bytearray()
        for index in range(group.count):
            record = group.records[index]
            packets += bytes(ffi.buffer(c.headers)[index * _HEADER_BYTES : (index + 1) * _HEADER_BYTES])
            packets += memory[record.data : record.data + record.length]
        memory.release()
        return [bytes(packets[c.spill_sent :])]


class PeerLane:
    """A Secondary's lane (lane_peer.c)."""

    def __init__(self, slow_us: int, direct_slow_us: int, dp_flags: int) -> None:
        self._disk = LaneDisk(slow_us, direct_slow_us)
        self._c = new("struct pydrbd_lane_peer *")
        self._c.payload_max, self._c.dp_flags = DRBD_PAYLOAD_BYTES_MAX, dp_flags
        self._out = bytearray((BATCH_RECORDS_MAX + 1) * _HEADER_BYTES)
        self._views: list[Any] = []
        self._data: LaneStream

    def begin(
        self,
        *,
        disk_fd: int,
        base_bytes: int,
        block_bytes: int = 0,
        capacity_bytes: int,
        volume: int,
        next_seq: int,
        peer_seq: int,
        data: LaneStream,
        meta_fd: int,
        epoch_count: int,
        flush: LaneFlush,
    ) -> None:
        """Lay down the sockets, the disk, and the peer's open epoch, which has so many writes."""
        c = self._c
        flush.lay_down(c.flush)
        c.epoch_count, c.epochs = epoch_count, 0
        assert not self._views
        self._disk.lay_down(c.disk, self._views, disk_fd, base_bytes, block_bytes)
        c.meta_fd, c.capacity, c.volume = meta_fd, capacity_bytes, volume
        c.next_seq, c.peer_seq = next_seq & 0xFFFF_FFFF, peer_seq
        c.written = c.packets = c.error = c.out_start = c.out_end = 0
        self._data = data
        data.lay_down(c.data, self._views)
        out = writable(self._out)
        self._views.append(out)
        c.out, c.out_size = out, len(self._out)

    def run(self, slice_us: int, idle_us: int) -> int:
        """Go on; why it stops (LANE_...). Other threads run meanwhile."""
        reason: int = lib.pydrbd_lane_peer_run(self._c, slice_us, idle_us)
        return reason

    def end(self) -> bytes:
        """Take up the sockets; the acknowledgements that the meta socket has not taken."""
        c = self._c
        self._data.take_up(c.data)
        self._disk.take_up(c.disk)
        c.out = ffi.NULL
        let_go(self._views)
        return bytes(self._out[c.out_start : c.out_end])

    @property
    def written_bytes(self) -> int:
        return int(self._c.written)

    @property
    def peer_seq(self) -> int:
        """The sequence number of the newest write."""
        return int(self._c.peer_seq)

    @property
    def packets(self) -> int:
        """Writes that were carried out and acknowledged."""
        return int(self._c.packets)

    @property
    def epochs(self) -> int:
        """Epochs that were flushed and acknowledged."""
        return int(self._c.epochs)

    @property
    def epoch_count(self) -> int:
        """Writes in the open epoch, earlier ones included."""
        return int(self._c.epoch_count)

    @property
    def flushed(self) -> LaneFlushed:
        return LaneFlushed.take_up(self._c.flush)

    @property
    def error(self) -> int:
        return int(self._c.error)
