"""The source of a resync: answers the target's requests, and ends when the target says so (WIRE 12.1 to 12.7).

It holds the range of a request still, reads, answers; it clears its bits when the target has written. See resync.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from errno import EAGAIN
from typing import TYPE_CHECKING, Protocol

from pydrbd import native
from pydrbd.core import uuids
from pydrbd.core.data_packets import reply_head_bytes, spaced_parts
from pydrbd.core.effects import DiskSend, Send, Socket
from pydrbd.core.ranges import Hold
from pydrbd.core.resync_pieces import read_groups
from pydrbd.core.resync_progress import ResyncProgress
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.uuids import UuidSet
from pydrbd.core.volume import Volume
from pydrbd.errors import PeerProtocolError, errno_text
from pydrbd.limits import DRBD_IO_BYTES_MAX, PEER_READ_BYTES_MAX
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES, KIB, SECTOR_SIZE_BYTES, ceil_div
from pydrbd.wire.packets import Packet, SyncUuid

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["UNCOPIED_BYTES_MIN", "ResyncSource"]

UNCOPIED_BYTES_MIN = 32 * KIB
"""Blocks of this length, on average, are sent by the kernel; shorter ones are copied in less time than that takes."""


class _OnServed(Protocol):
    """Called with (members that are holes, failed members, errno, members that have left for the peer)."""

    def __call__(self, holes: int, failed: int, errno: int, has_left: int = 0, /) -> None: ...


class ResyncSource:
    """The volumes of a node that the peer syncs from."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def start_when_ready(self, volume: Volume) -> None:
        """Both bitmaps are one; start when every write that was sent before the exchange has been answered, too.

        The peer refuses those that reached it without a disk, and its P_NEG_ACK comes on the other socket: later
        perhaps than its bitmap. The target must know of those blocks (P_OUT_OF_SYNC) before it can count them as done.
        In protocols A and B only a barrier acknowledgement says that no P_NEG_ACK is to come any more.
        """
        if volume.state.conn != ConnState.WFBitMapS or not volume.peer.bitmap_merged:
            return
        if self._node.log.acked_up_to(volume.peer.awaited_epoch) and not self._node.writes.wait_for_peer(volume):
            volume.peer.bitmap_merged = False
            self.start(volume)

    def start(self, volume: Volume) -> None:
        """Both bitmaps are one: become SyncSource, unless before-resync-source forbids it."""
        self._node.resync_start.run_before("before-resync-source", volume, lambda: self._become_source(volume))

    def _become_source(self, volume: Volume) -> None:
        """Become SyncSource and give the target the sync UUID, which is durable here first."""
        node, disk = self._node, volume.disk
        assert disk is not None
        theirs, state = volume.peer.uuids, volume.state
        same = theirs is not None and (theirs.set.current ^ volume.uuids.current) & ~1 == 0
        tentative = same and state.role == state.peer == Role.Secondary
        if same:
            # Until it has the sync UUID the target is UpToDate on disk, and would be so with our generation.
            volume.uuids = uuids.clear_bitmap_uuid(volume.uuids)
            if not tentative:
                node.changes.new_current_uuid(volume)
        volume.uuids, sync_uuid = self._sync_uuid(volume)
        running = node.resync.begin(volume)
        if tentative:
            # It may have left already, to go on alone: a generation of ours in which nobody has written would look like
            # a split brain. If it gets the sync UUID, our history tells that all of its data is to come from here.
            running.tentative = volume.uuids
            volume.uuids = uuids.clear_bitmap_uuid(volume.uuids)
        node.change(volume, conn=ConnState.SyncSource, pdsk=DiskState.Inconsistent)
        node.changes.write_superblock(volume, node.changes.bitmap_stage(volume, flush_data=False))
        node.send_data(Packet.P_SYNC_UUID, SyncUuid(sync_uuid).encode(), volume.vnr)

    def on_target_heard(self, volume: Volume) -> None:
        """The target has begun, or there is a Primary: the generation of this resync stands."""
        running = self._node.resync.progress(volume)
        if running is None or running.tentative is None:
            return
        found, running.tentative = running.tentative, None
        if Role.Primary in (volume.state.role, volume.state.peer):
            volume.uuids = replace(found, bitmap=0)
            self._node.changes.new_current_uuid(volume)
            found = replace(uuids.clear_bitmap_uuid(volume.uuids), bitmap=found.bitmap)
        volume.uuids = found
        self._node.changes.write_superblock(volume)

    def _sync_uuid(self, volume: Volume) -> tuple[UuidSet, int]:
        """Our set and the sync UUID of the resync that begins.

        A sync UUID that never reached the target is used again: were it pushed into the history each time, then after
        a few such losses the history would not tell any more what the target's data is.
        """
        mine, theirs = volume.uuids, volume.peer.uuids
        if theirs is not None and mine.bitmap not in (0, uuids.JUST_CREATED):
            past = {mine.history0 & ~1, mine.history1 & ~1} - {0}
            if theirs.set.current & ~1 in past:
                return mine, mine.bitmap
        return uuids.start_sync_source(mine, self._node.draw_u64())

    # --- requests ---

    def on_requests(self, volume: Volume, batch: Batch, mask: int) -> None:
        """A run of P_RS_DATA_REQUEST, P_RS_THIN_REQ and P_CSUM_RS_REQUEST."""
        if (
            native.records_out_of_bounds(batch, mask, volume.size_bytes)
            or native.records_unaligned(batch, mask, SECTOR_SIZE_BYTES)
            or native.records_longer(batch, mask, DRBD_IO_BYTES_MAX)
            or native.records_empty(batch, mask)
        ):
            raise PeerProtocolError(f"volume {volume.vnr}: a resync request for what can't be asked for")
        node, running = self._node, self._node.resync.progress(volume)
        self.on_target_heard(volume)
        if running is None or volume.state.disk != DiskState.UpToDate:
            node.send_acks(Packet.P_NEG_RS_DREPLY, volume, batch, mask)
            return
        for members in read_groups(batch, mask):
            byte_count = native.records_length_sum(batch, members)
            if running.served_bytes + running.waiting_bytes + byte_count > PEER_READ_BYTES_MAX:
                node.send_acks(Packet.P_NEG_RS_DREPLY, volume, batch, members)
            elif running.waiting or self._yields(volume, running):
                running.waiting.append((batch, members))
                running.waiting_bytes += byte_count
            else:
                self._serve(volume, running, batch, members)

    # --- yielding to the application (c-min-rate) ---

    def _yields(self, volume: Volume, running: ResyncProgress) -> bool:
        used = volume.counters.read + volume.counters.written - running.own_sectors
        return running.yielding.yields(volume.options.pace, self._node.now, used)

    def _running_here(self) -> Iterator[tuple[Volume, ResyncProgress]]:
        for volume in self._node.volumes.values():
            running = self._node.resync.progress(volume)
            if running is not None and running.waiting:
                yield volume, running

    def deadlines(self) -> list[float]:
        """When requests that had to yield get their turn."""
        return [running.yielding.next_step for _volume, running in self._running_here()]

    def on_tick(self) -> None:
        """Serve what has waited, as far as it may go now."""
        for volume, running in list(self._running_here()):
            while running.waiting and not self._yields(volume, running):
                batch, members = running.waiting.popleft()
                running.waiting_bytes -= native.records_length_sum(batch, members)
                self._serve(volume, running, batch, members)

    def _serve(self, volume: Volume, running: ResyncProgress, batch: Batch, mask: int) -> None:
        """Hold these ranges still, read, answer."""
        node = self._node
        request, buffer = node.pieces.read_batch(batch, mask, reply_head_bytes(node))
        digests = node.csums.received(volume, batch, mask)
        running.served += request.count
        byte_count = native.records_length_sum(request, request.all)
        running.served_bytes += byte_count
        running.yielding.served(byte_count)
        running.own_sectors += byte_count >> 9
        generation, disk = node.link_generation, volume.disk

        def start(hold: Hold, members: int) -> None:
            def done(holes: int, failed: int, errno: int, has_left: int = 0) -> None:
                if failed:
                    node.on_disk_error(volume, disk, f"read for resync failed ({errno_text(errno)})", data=True)
                running.served -= members.bit_count()
                running.served_bytes -= native.records_length_sum(request, members)
                if generation == node.link_generation and node.resync.progress(volume) is running:
                    good = members & ~failed
                    good &= ~node.resync.thin.send_empty(volume, request, good, holes)
                    if digests:
                        good &= ~node.csums.settle_equal(volume, running, request, good, digests)
                    if good & ~has_left:
                        self._send(volume, request, good & ~has_left, buffer)
                    if good:
                        volume.counters.resynced += native.records_length_sum(request, good) >> 9
                    node.send_acks(Packet.P_NEG_RS_DREPLY, volume, request, failed)
                volume.ranges.release(hold, members)
                self.check_end(volume)

            # Its turn may come late: what was asked for on a link that is lost must not leave on the next one.
            asked = generation == node.link_generation and node.resync.progress(volume) is running
            if asked and not digests and self._may_leave_uncopied(request, members):
                self._send_from_disk(volume, request, members, buffer, done)
            else:
                node.resync.thin.read(volume, request, members, buffer, done)

        volume.counters.read += byte_count >> 9
        volume.ranges.acquire(request, request.all, start)

    def _may_leave_uncopied(self, request: Batch, mask: int) -> bool:
        """Whether nobody here has to look at the data, and it is long enough for that to pay."""
        thin = native.records_with_command(request, mask, Packet.P_RS_THIN_REQ)
        byte_count = native.records_length_sum(request, mask)
        is_long = byte_count >= UNCOPIED_BYTES_MIN * mask.bit_count()
        return is_long and not thin and reply_head_bytes(self._node) > 0

    def _send_from_disk(self, volume: Volume, request: Batch, mask: int, buffer: bytearray, done: _OnServed) -> None:
        """Have the kernel send what its page cache has, if it has all of it; else read it as ever.

        A write that is let in when this has left may still change what the target gets of it; but it follows behind,
        as P_DATA or as P_OUT_OF_SYNC, so that the target ends with the same either way.
        """
        node = self._node

        def left(failed: int, errno: int) -> None:
            if failed and errno == EAGAIN:
                node.resync.thin.read(volume, request, mask, buffer, done)
                return
            volume.counters.sent += native.records_length_sum(request, mask & ~failed) >> 9
            done(0, failed & mask, errno, mask)

        node.send_barriers()
        native.drbd_reply_headers(
            request, mask, format=node.header_format, volume=volume.vnr, packet=Packet.P_RS_DATA_REPLY
        )
        node.out.put(DiskSend(volume.vnr, request, mask, buffer, reply_head_bytes(node), left))

    def _send(self, volume: Volume, request: Batch, mask: int, buffer: bytearray) -> None:
        if not reply_head_bytes(self._node):
            self._node.send_blocks(Packet.P_RS_DATA_REPLY, volume, request, mask, buffer)
            return
        parts = self._node.barrier_parts() + spaced_parts(self._node, Packet.P_RS_DATA_REPLY, volume, request, mask)
        volume.counters.sent += native.records_length_sum(request, mask) >> 9
        self._node.out.put(Send(Socket.DATA, parts))

    def on_acks(self, volume: Volume, batch: Batch, mask: int, *, good: bool) -> None:
        """The target has written these pieces, or failed to."""
        running = self._node.resync.progress(volume)
        if running is None or volume.disk is None:
            return
        if good:
            mask &= ~native.records_out_of_bounds(batch, mask, volume.size_bytes)
            volume.disk.bitmap.clear_records(batch, mask)
        else:
            for index in native.indices(mask):
                running.failed_bits += ceil_div(batch.records[index].length, BIT_SIZE_BYTES)
        self.check_end(volume)

    def check_end(self, volume: Volume) -> None:
        """Bits have been cleared: if the target has said before that it is done, so are we."""
        running = self._node.resync.progress(volume)
        if running is None or volume.disk is None or not running.notified:
            return
        if volume.disk.bitmap.count <= running.failed_bits:
            self._finish(volume, running)

    def lets_target_end(self) -> bool:
        """Whether the answer to a ping may be the one that lets a target end its resync (WIRE 12.7).

        From then on the target may be UpToDate without our knowing it, and be promoted when the link breaks. So our
        side of the generation ends before the ping is answered: with the sync UUID in the history, whatever we write
        alone afterwards belongs to a new generation, and a split brain is seen as one. If the target does not get to
        its end after all, it costs a full sync. Our data goes to disk with it: what a Secondary has written for a
        diskless Primary may be in the cache only, and no bit would tell that power has taken it here and not there.
        """
        ending, changes = False, self._node.changes
        for volume in self._node.volumes.values():
            running = volume.state.conn in (ConnState.SyncSource, ConnState.PausedSyncS)
            if running and volume.disk is not None and not volume.disk.bitmap.count:
                ending = True
                self.on_target_heard(volume)
                volume.uuids = uuids.finish_sync_source(volume.uuids)
                changes.write_superblock(volume, changes.flush_stage(volume))
        return ending

    def on_end_notice(self, volume: Volume) -> None:
        """The target says that it is done; while bits are left, their acknowledgements are still on their way."""
        running = self._node.resync.progress(volume)
        if running is None or volume.disk is None:
            return
        running.notified = True
        if volume.disk.bitmap.count <= running.failed_bits:
            self._finish(volume, running)

    def _finish(self, volume: Volume, running: ResyncProgress) -> None:
        good = not running.failed_bits
        if good:
            volume.uuids = uuids.finish_sync_source(volume.uuids)
        self._node.resync.end(volume, running, good)
        self._node.change(
            volume,
            conn=ConnState.Connected,
            pdsk=DiskState.UpToDate if good else DiskState.Inconsistent,
        )
        self._node.changes.write_superblock(volume)
        self._node.fence.on_peer_in_sync()
