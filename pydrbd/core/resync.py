"""Resync, and its target's side: ask for what is out of sync, write it, say that it is there (WIRE 12).

Target: find runs of set bits, ask, write, clear the bits, acknowledge; in the end flush, write bitmap and superblock,
say so. It is durably Inconsistent from before the first resync write until after that flush (B7).
How it begins: resync_start.py. Source: resync_source.py.

A resync write must not overtake a newer write, nor the other way round. The source holds the range of a request
against client writes from before it reads until its answer is in the stream to the target. The target does not ask for
ranges that are being written, holds a range while it writes, and as a Primary holds it from the request on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core import uuids
from pydrbd.core.effects import DiskFlush, DiskWrite, Level, Persist
from pydrbd.core.ranges import Hold
from pydrbd.core.resync_pace import Pace, Yielding
from pydrbd.core.resync_pieces import read_groups
from pydrbd.core.resync_progress import Request, ResyncProgress
from pydrbd.core.resync_requests import ResyncRequests
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.thin_resync import ThinResync
from pydrbd.core.uuids import PeerUuids
from pydrbd.core.volume import Volume
from pydrbd.errors import PeerProtocolError, errno_text
from pydrbd.limits import (
    RESYNC_PERSIST_S,
    RESYNC_WRITE_OUT_BYTES,
)
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES, KIB, ceil_div
from pydrbd.wire.packet_numbers import ID_SYNCER
from pydrbd.wire.packets import Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Resync"]

_TARGET = (ConnState.SyncTarget, ConnState.PausedSyncT)
_PLACE_BYTES = 28 * KIB  # what each place of its own costs a disk that has to write it out, beside its length


class Resync:
    """The resyncs of all volumes of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._running: dict[int, ResyncProgress] = {}
        self._stopped: dict[int, ResyncProgress] = {}
        """Resyncs that have ended, and whose ranges are still held."""
        self.thin = ThinResync(node)
        self._requests = ResyncRequests(node, self.thin)

    def progress(self, volume: Volume) -> ResyncProgress | None:
        return self._running.get(volume.vnr)

    def stop(self, volume: Volume) -> None:
        """The resync has ended or was cut off; what is not clean stays marked. What is being written ends by itself.

        Writes that waited for it still do, until `let_go`.
        """
        running = self._running.pop(volume.vnr, None)
        if running is not None:
            self._stopped[volume.vnr] = running
            self._node.changes.write_bitmap(volume)

    def let_go(self, volume: Volume) -> None:
        """Writes that waited for a resync that was stopped wait no more: the peer has been told how things are now."""
        stopped = self._stopped.pop(volume.vnr, None)
        if stopped is not None:
            self._free_requests(volume, stopped)

    def _free_requests(self, volume: Volume, running: ResyncProgress) -> None:
        for request in running.requests.values():
            if request.hold is not None:
                volume.ranges.release(request.hold, request.member)
                request.hold = None

    def on_role_changed(self, volume: Volume) -> None:
        """What was asked for in the other role must not stand in the way of, nor undo, a write of this one."""
        running = self._running.get(volume.vnr)
        if running is None:
            return
        if volume.state.role == Role.Primary:
            for request in running.requests.values():
                request.void = request.hold is None
        else:
            self._free_requests(volume, running)

    # --- beginning and end ---

    def begin(self, volume: Volume) -> ResyncProgress:
        """Both bitmaps are one, and this is what there is to do."""
        assert volume.disk is not None
        bits = volume.disk.bitmap.count
        now, used = self._node.now, volume.counters.read + volume.counters.written
        running = ResyncProgress(bits, now, Pace(now), Yielding(now, used), next_persist=now + RESYNC_PERSIST_S)
        self._running[volume.vnr] = running
        kib = bits * BIT_SIZE_BYTES // 1024
        self._node.log_line(Level.INFO, f"volume {volume.vnr}: began resync, will sync {kib} KB [{bits} bits set]")
        return running

    def end(self, volume: Volume, running: ResyncProgress, good: bool) -> None:
        """What both sides do: the log line, the bitmap on disk, and our copy of the peer's identifiers (WIRE 8)."""
        node = self._node
        seconds = max(node.now - running.started, 0.001)
        kib = running.total_bits * BIT_SIZE_BYTES // 1024
        node.log_line(
            Level.INFO if good else Level.ERROR,
            f"volume {volume.vnr}: resync done (total {seconds:.1f} sec; {kib / seconds:.0f} K/sec)"
            + ("" if good else f"; {running.failed_bits} blocks failed"),
        )
        node.csums.report(volume, running)
        if good:
            volume.peer.uuids = PeerUuids(volume.uuids, 0)
        node.changes.write_bitmap(volume)

    # --- asking ---

    def advance(self, volume: Volume) -> None:
        """Ask for more while there is room, or end the resync when nothing is left."""
        running, disk = self._running.get(volume.vnr), volume.disk
        if running is None or disk is None or volume.state.conn not in _TARGET or running.finishing:
            return
        restarted = False
        while volume.state.conn == ConnState.SyncTarget and self._requests.room_bytes(volume, running) > 0:
            pieces = self._requests.next_pieces(volume, running)
            if pieces:
                self._requests.ask(volume, running, pieces)
            elif running.in_flight_bytes or restarted:
                break
            else:
                restarted, running.next_bit = True, 0  # what was passed over, because it was being written
        if not running.in_flight_bytes and disk.bitmap.count <= running.failed_bits:
            self._finish_target(volume, running)

    def _waits_for_pace(self) -> Iterator[tuple[Volume, ResyncProgress]]:
        for vnr, running in self._running.items():
            volume = self._node.volumes[vnr]
            asks = volume.state.conn == ConnState.SyncTarget and volume.disk is not None and not running.finishing
            if asks and volume.options.pace.bounds:
                yield volume, running

    def next_deadline(self) -> float | None:
        """When more may be asked for, or be served, if anybody waits for that."""
        if not self._running:
            return None
        steps = [running.pace.next_step for _volume, running in self._waits_for_pace()]
        return min([*steps, *self._node.resync_source.deadlines()], default=None)

    def on_tick(self) -> None:
        """Time has passed."""
        for volume, running in list(self._waits_for_pace()):
            if self._node.now >= running.pace.next_step:
                self.advance(volume)
        self._node.resync_source.on_tick()

    def on_range_free(self, volume: Volume) -> None:
        """A write has ended: what was passed over because of it can be asked for, or was the last that was missing."""
        if volume.vnr in self._running:
            self.advance(volume)

    # --- answers ---

    def on_data(self, volume: Volume, batch: Batch, mask: int) -> None:
        """A run of P_RS_DATA_REPLY and P_RS_DEALLOCATED: write, or discard, then clear bits and acknowledge."""
        running = self._running.get(volume.vnr)
        if running is None:
            if volume.state.conn in _TARGET:
                raise PeerProtocolError(f"volume {volume.vnr}: resync data that was never asked for")
            return  # a resync that has just been ended: the bits are still set
        holes = native.records_with_command(batch, mask, Packet.P_RS_DEALLOCATED)
        groups = [holes] if holes else []
        groups += read_groups(batch, mask & ~holes) if mask & ~holes else []
        for members in groups:
            self._take(volume, running, batch, members)
        self.advance(volume)

    def _take(self, volume: Volume, running: ResyncProgress, batch: Batch, mask: int) -> None:
        taken = self._take_requests(volume, running, batch, mask)
        held = loose = 0
        for index, request in taken.items():
            if request.void and request.hold is None:
                running.in_flight_bytes -= request.length_bytes
            elif request.hold is not None:
                held |= 1 << index
            else:
                loose |= 1 << index
        if held:
            holds = [(request.hold, request.member) for request in taken.values() if request.hold is not None]
            self._write(volume, running, batch, held, holds)

        def start(hold: Hold, members: int) -> None:
            if self._running.get(volume.vnr) is running:
                self._write(volume, running, batch, members, [(hold, members)])
            else:
                volume.ranges.release(hold, members)

        if loose:
            volume.ranges.acquire(batch, loose, start)

    def _take_requests(self, volume: Volume, running: ResyncProgress, batch: Batch, mask: int) -> dict[int, Request]:
        """The requests that these members of the batch answer, by member: all data, or all holes."""
        are_holes = bool(native.records_with_command(batch, mask, Packet.P_RS_DEALLOCATED))
        taken: dict[int, Request] = {}
        offsets: set[int] = set()
        for index in native.indices(mask):
            record = batch.records[index]
            request = running.requests.get(record.offset)
            if are_holes:
                record.id = ID_SYNCER  # which the packet has no room for, and its acknowledgement must bear
            if (
                request is None
                or request.length_bytes != record.length
                or record.id != ID_SYNCER
                or (are_holes and not request.thin)
                or record.offset in offsets
            ):
                raise PeerProtocolError(
                    f"volume {volume.vnr}: resync data for {record.length} bytes at {record.offset}, never asked for"
                )
            taken[index] = request
            offsets.add(record.offset)
        for offset in offsets:
            del running.requests[offset]
        byte_count = native.records_length_sum(batch, mask)
        running.pace.came_in(byte_count)
        volume.counters.received += 0 if are_holes else byte_count >> 9
        return taken

    def _write(
        self, volume: Volume, running: ResyncProgress, batch: Batch, members: int, holds: list[tuple[Hold, int]]
    ) -> None:
        disk = volume.disk

        def written(failed: int, errno: int) -> None:
            if failed & members:
                self._node.on_disk_error(volume, disk, f"resync write failed ({errno_text(errno)})", data=True)
            if self._running.get(volume.vnr) is running and volume.disk is not None:
                self._account(volume, running, batch, members & ~failed, members & failed)
            for hold, held in holds:
                volume.ranges.release(hold, held)
            self.advance(volume)

        sectors = native.records_length_sum(batch, members) >> 9
        running.own_sectors += sectors
        volume.counters.written += sectors
        if native.records_with_command(batch, members, Packet.P_RS_DEALLOCATED):
            self.thin.discard(volume, batch, members, written)
        else:
            self._node.out.put(DiskWrite(volume.vnr, batch, members, False, written))

    def _account(self, volume: Volume, running: ResyncProgress, batch: Batch, good: int, failed: int) -> None:
        """Clear the bits of what has been written, and tell the source of it and of what has not."""
        node, disk = self._node, volume.disk
        assert disk is not None
        disk.bitmap.clear_records(batch, good)
        byte_count = native.records_length_sum(batch, good)
        running.in_flight_bytes -= byte_count + native.records_length_sum(batch, failed)
        running.unflushed_bytes += byte_count + _PLACE_BYTES * good.bit_count()
        volume.counters.resynced += byte_count >> 9
        for index in native.indices(failed):
            running.failed_bits += ceil_div(batch.records[index].length, BIT_SIZE_BYTES)
        node.send_acks(Packet.P_RS_WRITE_ACK, volume, batch, good)
        node.send_acks(Packet.P_NEG_ACK, volume, batch, failed)
        self.persist_progress(volume, running)
        self._write_out(volume, running)

    def _write_out(self, volume: Volume, running: ResyncProgress) -> None:
        """Have the disk work on what has been written. Only the flush at the end proves anything."""
        if running.flushing or running.unflushed_bytes < RESYNC_WRITE_OUT_BYTES:
            return
        running.flushing, running.unflushed_bytes = True, 0
        disk = volume.disk

        def flushed(failed: int, errno: int) -> None:
            running.flushing = False
            if failed:
                self._node.on_disk_error(volume, disk, f"flush during a resync failed ({errno_text(errno)})")

        self._node.out.put(DiskFlush(volume.vnr, flushed))

    def on_negative(self, volume: Volume, offset_bytes: int, *, canceled: bool) -> None:
        """P_NEG_RS_DREPLY (it could not be read) or P_RS_CANCEL (not now): the bits stay set."""
        running = self._running.get(volume.vnr)
        request = running.requests.pop(offset_bytes, None) if running is not None else None
        if running is None or request is None:
            return
        if not canceled:
            running.failed_bits += ceil_div(request.length_bytes, BIT_SIZE_BYTES)
        running.in_flight_bytes -= request.length_bytes
        if request.hold is not None:
            volume.ranges.release(request.hold, request.member)
        self.advance(volume)

    def persist_progress(self, volume: Volume, running: ResyncProgress) -> None:
        """Now and then put what is clean on disk, so that an interrupted resync does not begin anew."""
        node = self._node
        if node.now < running.next_persist:
            return
        running.next_persist = node.now + RESYNC_PERSIST_S
        stages, disk = node.changes.bitmap_stage(volume, flush_data=True), volume.disk
        if stages:

            def done(failed: int, errno: int) -> None:
                if failed:
                    node.on_disk_error(volume, disk, f"bitmap write failed ({errno_text(errno)})")

            node.out.put(Persist(volume.vnr, stages, done))

    def _finish_target(self, volume: Volume, running: ResyncProgress) -> None:
        """Everything is here: make it durable, and let a ping round trip carry the last acknowledgements home."""
        running.finishing = True
        disk = volume.disk

        def flushed(failed: int, errno: int) -> None:
            if failed:
                self._node.on_disk_error(volume, disk, f"flush at the end of a resync failed ({errno_text(errno)})")
            elif self._running.get(volume.vnr) is running:
                running.waits_for_ping = self._node.send_ping()

        self._node.out.put(DiskFlush(volume.vnr, flushed))

    def on_ping_ack(self) -> None:
        """The source has seen all acknowledgements: the target may say that it is done."""
        node = self._node
        for vnr, running in list(self._running.items()):
            volume = node.volumes[vnr]
            disk = volume.disk
            if not 0 < running.waits_for_ping <= node.pings_answered or disk is None:
                continue
            if disk.bitmap.count > running.failed_bits:
                running.waits_for_ping, running.finishing = 0, False  # written to meanwhile, and not acknowledged
                self.advance(volume)
                continue
            good = not running.failed_bits
            if good and volume.peer.uuids is not None:
                primary = volume.state.role == Role.Primary
                volume.uuids = uuids.finish_sync_target(volume.uuids, volume.peer.uuids.set, primary)
            self.end(volume, running, good)
            state = DiskState.UpToDate if good else DiskState.Inconsistent
            node.change(volume, conn=ConnState.Connected, disk=state)
            node.send_state(volume)
            node.helpers.run("after-resync-target", volume)
