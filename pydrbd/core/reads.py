"""Reads: from the local disk where its data is good, else from the peer, else an error; never stale data (A3).

    local disk UpToDate                    local, or the peer (core/read_balancing)
    local disk Inconsistent (sync target)  local where no out-of-sync bit covers the range, else the peer
    anything else                          the peer if it is UpToDate, else EIO
    a reader of a Secondary's             local, or EIO: the peer is asked for nothing (core/readers)
    beyond the end by now (a shrink)       EINVAL, as at the door: the peer would take it for a broken protocol
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from pydrbd import native
from pydrbd.core.effects import DiskRead, Reply, Send, Socket
from pydrbd.core.inner import InnerRead
from pydrbd.core.ranges import Hold
from pydrbd.core.read_balancing import ReadBalancing
from pydrbd.core.states import ConnState, DiskState
from pydrbd.core.volume import Volume
from pydrbd.errors import PeerProtocolError, errno_text
from pydrbd.limits import READ_BYTES_IN_FLIGHT_MAX
from pydrbd.native import Batch
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire.packets import BlockReq, Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Reads"]

_EIO = 5
_EINVAL = 22


class _RemoteRead:
    """One client read that the peer answers, in pieces of at most 1 MiB."""

    __slots__ = ("batch", "buffer", "by_choice", "index", "length", "offset", "pending", "session", "volume")

    def __init__(self, volume: Volume, session: Any, batch: Batch, index: int, by_choice: bool) -> None:
        record = batch.records[index]
        self.volume = volume
        self.session = session
        self.batch = batch
        self.index = index
        self.offset = record.offset
        self.length = record.length
        self.buffer = native.nbd_read_replies(batch, 1 << index)
        """The reply, with room for the data at its end."""
        self.by_choice = by_choice
        """Our disk could have served it."""
        self.pending: dict[int, tuple[int, int]] = {}


class Reads:
    """All client reads of a node that are under way."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._balancing = ReadBalancing(node)
        self._remote: dict[int, _RemoteRead] = {}
        self._next_id = 1 << 62  # apart from the ids of writes
        self._bytes = 0
        self._queue: deque[tuple[Volume, Any, Batch, int]] = deque()
        self._frozen: list[tuple[Volume, Any, Batch, int]] = []

    @property
    def busy(self) -> bool:
        return bool(self._remote or self._bytes or self._queue or self._frozen)

    @property
    def remote_count(self) -> int:
        """Requests that the peer has not answered."""
        return len(self._remote)

    def submit(self, volume: Volume, session: Any, batch: Batch, mask: int) -> None:
        """Take members that were checked (bounds, role) on their way, within the limit of memory for reads."""
        if _holds_range(session):  # what waits for memory may be held by reads that wait for this one
            self._issue(volume, session, batch, mask)
            return
        self._queue.append((volume, session, batch, mask))
        self._advance()

    def resume(self) -> None:
        """I/O goes on after it was frozen for want of good data."""
        self._queue.extend(self._frozen)
        self._frozen.clear()
        self._advance()

    def _advance(self) -> None:
        while self._queue and self._bytes < READ_BYTES_IN_FLIGHT_MAX:
            volume, session, batch, mask = self._queue.popleft()
            take = mask
            if native.records_length_sum(batch, mask) + self._bytes > READ_BYTES_IN_FLIGHT_MAX:
                take = mask & -mask
                if mask ^ take:
                    self._queue.appendleft((volume, session, batch, mask ^ take))
            self._issue(volume, session, batch, take)

    def _issue(self, volume: Volume, session: Any, batch: Batch, mask: int) -> None:
        outside = native.records_out_of_bounds(batch, mask, volume.size_bytes)
        if outside:
            self._node.reply(volume, session, batch, outside, _EINVAL)
            mask &= ~outside
        local = self._local_members(volume, batch, mask)
        primary = volume.state.role == self._node.primary_role
        balanced = primary and not _holds_range(session)
        chosen = self._balancing.remote_members(volume, batch, local) if balanced else 0
        if local & ~chosen:
            self._read_local(volume, session, batch, local & ~chosen)
        for index in native.indices(mask & ~local | chosen):
            self._read_remote(volume, session, batch, index, by_choice=bool(chosen >> index & 1))

    def _local_members(self, volume: Volume, batch: Batch, mask: int) -> int:
        disk, state = volume.disk, volume.state
        if disk is None:
            return 0
        if state.disk == DiskState.UpToDate:
            return mask
        if state.disk == DiskState.Inconsistent and state.conn >= ConnState.Connected:
            return mask & ~native.records_dirty(disk.bitmap.bits, disk.bitmap.bit_count, batch, mask)
        return 0

    def _read_local(self, volume: Volume, session: Any, batch: Batch, mask: int) -> None:
        disk, buffer = volume.disk, native.nbd_read_replies(batch, mask)
        assert disk is not None
        self._bytes += len(buffer)
        self._balancing.local_count += mask.bit_count()
        volume.counters.read += native.records_length_sum(batch, mask) >> 9

        left = mask

        def answer(members: int, failed: int) -> None:
            nonlocal left
            left &= ~members
            self._sort_out(volume, session, batch, members, failed, buffer, whole=members == mask)
            if not left:
                self._bytes -= len(buffer)
                self._advance()
                self._node.on_read_finished()

        def written(hold: Hold, members: int) -> None:
            volume.ranges.release(hold, members)
            answer(members, members & ~self._local_members(volume, batch, members))

        def done(failed: int, errno: int) -> None:
            failed &= mask
            self._balancing.local_count -= mask.bit_count()
            if failed:
                if volume.disk is disk and volume.state.pdsk == DiskState.UpToDate:
                    disk.bitmap.set_records(batch, failed)  # the next ones know, if this disk stays
                self._node.on_disk_error(volume, disk, f"read failed ({errno_text(errno)})", data=True)
            # What a write under way has put there is not shown before that write is safe: with this disk it would be
            # gone again, and nobody may have seen what never was (A1).
            early = 0 if _holds_range(session) else volume.ranges.busy(batch, mask & ~failed)
            failed |= mask & ~early & ~self._local_members(volume, batch, mask)  # not good any more
            if mask & ~early:
                answer(mask & ~early, failed)
            if early:
                volume.ranges.acquire(batch, early, written)

        self._node.out.put(DiskRead(volume.vnr, batch, mask, buffer, done))

    def _sort_out(
        self, volume: Volume, session: Any, batch: Batch, mask: int, failed: int, buffer: bytearray, *, whole: bool
    ) -> None:
        """Answer the good ones; ask the peer for those that failed (after the disk has been given up)."""
        if volume.state.role != self._node.primary_role and not _is_reader(volume, session):
            self._node.reply(volume, session, batch, mask, _EIO)
            return
        if whole and not failed:
            self._hand_over(volume, session, batch, mask, buffer)
            return
        view, header_bytes = memoryview(buffer), native.nbd_read_header_bytes(batch)
        for index in native.indices(mask & ~failed):
            record = batch.records[index]
            part = view[record.data - header_bytes : record.data + record.length]
            self._hand_over(volume, session, batch, 1 << index, part)
        for index in native.indices(failed):
            self._read_remote(volume, session, batch, index)

    def _hand_over(self, volume: Volume, session: Any, batch: Batch, mask: int, part: bytearray | memoryview) -> None:
        if isinstance(session, InnerRead):
            session.got(part)
        else:
            self._node.out.put(Reply(session, batch, mask, [part], volume.vnr))

    # --- from the peer ---

    def _read_remote(self, volume: Volume, session: Any, batch: Batch, index: int, *, by_choice: bool = False) -> None:
        node = self._node
        reachable = volume.state.pdsk == DiskState.UpToDate and volume.state.conn >= ConnState.Connected
        if not reachable or volume.state.role != node.primary_role:
            self._fail(volume, session, batch, index)
            return
        if native.records_out_of_bounds(batch, 1 << index, volume.size_bytes):
            node.reply(volume, session, batch, 1 << index, _EINVAL)
            return
        read = _RemoteRead(volume, session, batch, index, by_choice)
        self._bytes += len(read.buffer)
        position = 0
        while position < read.length:
            length = min(volume.peer.request_bytes_max, read.length - position)
            block_id = self._next_id
            self._next_id += 1
            read.pending[block_id] = (position, length)
            self._remote[block_id] = read
            request = BlockReq((read.offset + position) // SECTOR_SIZE_BYTES, block_id, length)
            parts = node.barrier_parts()
            parts.append(node.packet(Packet.P_DATA_REQUEST, request.encode(), volume.vnr))
            node.out.put(Send(Socket.DATA, parts))
            position += length

    def on_data_reply(self, volume: Volume, batch: Batch, index: int) -> None:
        """P_DATA_REPLY: the peer's data for one piece."""
        record = batch.records[index]
        read = self._remote.get(record.id)
        if read is None or read.volume is not volume:
            raise PeerProtocolError(f"P_DATA_REPLY for a read that was not asked for (block_id {record.id:#x})")
        position, length = read.pending[record.id]
        if record.length != length or record.offset != read.offset + position:
            raise PeerProtocolError(
                f"P_DATA_REPLY of {record.length} bytes at {record.offset}; "
                f"asked for {length} at {read.offset + position}"
            )
        del self._remote[record.id], read.pending[record.id]
        place = len(read.buffer) - read.length + position
        read.buffer[place : place + length] = memoryview(batch.buffer)[record.data : record.data + length]
        volume.counters.received += length >> 9
        if read.pending:
            return
        member = 1 << read.index
        if read.by_choice and volume.ranges.busy(read.batch, member):
            # The peer may have a write before we have it: no later read from our disk may find less than this one.
            def written(hold: Hold, _members: int) -> None:
                volume.ranges.release(hold, member)
                self._finish(read, 0)

            volume.ranges.acquire(read.batch, member, written)
        else:
            self._finish(read, 0)

    def on_negative_reply(self, block_id: int) -> None:
        """P_NEG_DREPLY: the peer could not read it either."""
        read = self._remote.pop(block_id, None)
        if read is None:
            raise PeerProtocolError(f"P_NEG_DREPLY for a read that was not asked for (block_id {block_id:#x})")
        self._give_up(read)

    def _give_up(self, read: _RemoteRead) -> None:
        for block_id in read.pending:
            self._remote.pop(block_id, None)
        read.pending.clear()
        self._try_locally(read, retry=read.by_choice)

    def _try_locally(self, read: _RemoteRead, *, retry: bool) -> None:
        member = 1 << read.index
        if retry and self._local_members(read.volume, read.batch, member):
            self._bytes -= len(read.buffer)
            self._read_local(read.volume, read.session, read.batch, member)
        else:
            self._finish(read, _EIO)

    def _finish(self, read: _RemoteRead, error: int) -> None:
        self._bytes -= len(read.buffer)
        if error or read.volume.state.role != self._node.primary_role:
            self._fail(read.volume, read.session, read.batch, read.index)
        else:
            self._hand_over(read.volume, read.session, read.batch, 1 << read.index, read.buffer)
        self._advance()
        self._node.on_read_finished()

    def _fail(self, volume: Volume, session: Any, batch: Batch, index: int) -> None:
        """There is no good data to be had: an error, or a while of patience."""
        if volume.state.susp_nod and volume.state.role == self._node.primary_role:
            self._frozen.append((volume, session, batch, 1 << index))
        else:
            self._node.reply(volume, session, batch, 1 << index, _EIO)

    def lose_peer(self) -> None:
        """The peer is gone: what it was asked for is tried again locally where that is possible, else it fails."""
        reads = {id(read): read for read in self._remote.values()}
        self._remote.clear()
        for read in reads.values():
            read.pending.clear()
            self._try_locally(read, retry=True)


def _holds_range(session: Any) -> bool:
    return isinstance(session, InnerRead) and session.holds


def _is_reader(volume: Volume, session: Any) -> bool:
    return (session.client if isinstance(session, InnerRead) else session) in volume.readers
