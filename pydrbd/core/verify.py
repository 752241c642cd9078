"""Online verify: are both copies the same, block by block, while they are in use? (WIRE 13)

    VerifyS  P_OV_REQUEST ->                                          VerifyT: read, sum up
             read, compare        <- P_OV_REPLY with the digest
             P_OV_RESULT (meta) ->                                    (both mark what differs)

A difference is real only if nobody writes there between the two reads. A Primary holds the range of a block from before
the first of them to the result; for its own writes that begins when both nodes have them. The Secondary only waits, at
its read, for the writes that it is busy with: if it held more, its Primary would wait for it, and it for its Primary.
So there is no verify while both are Primary; VerifyS ends one when the second is promoted.

What differs is marked out of sync; the next resync, after disconnect and connect, repairs it.

Two nodes of ours compare VERIFY_PIECE_BYTES by one digest. A piece that differs is asked for again block by block: they
take its place on both sides, and no result is told of it. A kernel is asked for blocks only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.effects import DiskRead, Level, Send, Socket
from pydrbd.core.ranges import Hold
from pydrbd.core.resync_pieces import read_groups
from pydrbd.core.states import ConnState, Role
from pydrbd.core.verify_group import Group, Running, VerifyProgress
from pydrbd.core.verify_target import VerifyTarget
from pydrbd.core.volume import Volume
from pydrbd.errors import PeerProtocolError, errno_text
from pydrbd.limits import (
    BATCH_RECORDS_MAX,
    RESYNC_PERSIST_S,
    VERIFY_IN_FLIGHT_BLOCKS_MAX,
    VERIFY_PIECE_BYTES,
)
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES, SECTORS_PER_BIT, bits_for_sectors, ceil_div
from pydrbd.wire.packet_numbers import ID_SYNCER, OV_IN_SYNC, OV_OUT_OF_SYNC
from pydrbd.wire.packets import Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Verify"]


class Verify:
    """The online verifies of all volumes of a node, on either side."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._running: dict[int, Running] = {}
        self._last: dict[int, VerifyProgress] = {}
        self.target = VerifyTarget(node, self)
        self._next_start: dict[int, int] = {}
        """Bit of each volume at which a verify that does not say where begins: where the last one was cut off."""

    def running(self, volume: Volume) -> Running | None:
        return self._running.get(volume.vnr)

    def progress(self, volume: Volume) -> VerifyProgress | None:
        running = self._running.get(volume.vnr)
        return running.progress if running is not None else None

    def last(self, volume: Volume) -> VerifyProgress | None:
        """The one that is running, else the one that ran last, with what it has found."""
        return self._last.get(volume.vnr)

    # --- beginning and end ---

    def begin_source(self, volume: Volume, start_sector: int | None, stop_sector: int | None) -> None:
        """The peer has agreed, and this is VerifyS now: ask."""
        bits = bits_for_sectors(volume.size_sectors)
        first = self._next_start.get(volume.vnr, 0) if start_sector is None else start_sector // SECTORS_PER_BIT
        first = min(first, bits - 1)
        stop = bits if stop_sector is None else min(bits, max(first + 1, ceil_div(stop_sector, SECTORS_PER_BIT)))
        progress = VerifyProgress(first, stop, bits, self._node.now)
        self._last[volume.vnr] = progress
        self._running[volume.vnr] = Running(progress, first, next_persist=self._node.now + RESYNC_PERSIST_S)
        self.log(volume, f"Starting Online Verify from sector {first * SECTORS_PER_BIT}")
        self._ask_more(volume)

    def begin_target(self, volume: Volume) -> None:
        """The peer starts one here, as VerifyT; its first request will say from where."""
        bits = bits_for_sectors(volume.size_sectors)
        self._last[volume.vnr] = progress = VerifyProgress(None, bits, bits, self._node.now)
        self._running[volume.vnr] = Running(progress, next_persist=self._node.now + RESYNC_PERSIST_S)

    def finish(self, volume: Volume) -> None:
        """All results are there (or the peer says so): back to Connected."""
        running = self._running.pop(volume.vnr, None)
        if running is None:
            return
        was_source = volume.state.conn == ConnState.VerifyS
        self._end(volume, running)
        progress = running.progress
        self._next_start[volume.vnr] = progress.next_bit if progress.next_bit < progress.device_bits else 0
        if (found := progress.end_run()) is not None:
            self.log(volume, found)
        self.log(volume, progress.done_text(self._node.now))
        if volume.out_of_sync_bits:
            self._node.log_line(
                Level.WARNING,
                f"volume {volume.vnr}: Online verify found {volume.out_of_sync_bits} 4k block out of sync!",
            )
            self._node.helpers.run("out-of-sync", volume)
        self._node.change(volume, conn=ConnState.Connected)
        if was_source:
            self._node.send_state(volume)

    def stop(self, volume: Volume) -> None:
        """It was cut off: the next one goes on from here."""
        running = self._running.pop(volume.vnr, None)
        if running is None:
            return
        self._end(volume, running)
        reached = running.progress.next_bit
        if running.progress.left_bits:
            self._next_start[volume.vnr] = reached
            self.log(volume, f"Online Verify reached sector {reached * SECTORS_PER_BIT}")

    def _end(self, volume: Volume, running: Running) -> None:
        for group in _groups(running):
            self.let_go(volume, group, group.open)
        running.blocks.clear()
        running.waiting.clear()
        running.open_blocks = 0
        self._node.changes.write_bitmap(volume)

    def log(self, volume: Volume, text: str) -> None:
        self._node.log_line(Level.INFO, f"volume {volume.vnr}: {text}")

    # --- who may write meanwhile ---

    def hold(self, volume: Volume, running: Running, group: Group, then: Callable[[int], None]) -> None:
        """Call `then(members)` when nobody writes to them any more, and nobody will before their result."""
        if volume.state.role != Role.Primary:
            then(group.batch.all)
            return

        def start(hold: Hold, members: int) -> None:
            if self._running.get(volume.vnr) is not running:
                volume.ranges.release(hold, members)
                return
            if volume.state.role == Role.Primary:
                group.hold = hold
            else:
                volume.ranges.release(hold, members)
            then(members)

        volume.ranges.acquire(group.batch, group.batch.all, start)

    def let_go(self, volume: Volume, group: Group, members: int) -> None:
        hold = group.hold
        if hold is not None and hold.mask & members:
            volume.ranges.release(hold, hold.mask & members)

    def on_role_changed(self, volume: Volume) -> None:
        """The Primary holds what is being looked at. In a change of roles nobody writes, so nothing is in the way."""
        running = self._running.get(volume.vnr)
        if running is None:
            return
        for group in _groups(running):
            if volume.state.role != Role.Primary:
                self.let_go(volume, group, group.open)
                group.hold = None
            elif not volume.ranges.busy(group.batch, group.open):
                group.hold = volume.ranges.acquire(group.batch, group.open, lambda _hold, _members: None)

    # --- VerifyS ---

    def _ask_more(self, volume: Volume) -> None:
        """Ask while there is room; when all has been answered, have the peer see the last results, and end."""
        running = self._running.get(volume.vnr)
        if running is None or volume.state.conn != ConnState.VerifyS:
            return
        stop = running.progress.stop_bit
        unit_bits = (VERIFY_PIECE_BYTES if self.by_pieces else BIT_SIZE_BYTES) // BIT_SIZE_BYTES
        most = max(unit_bits, BATCH_RECORDS_MAX)
        while running.next_bit < stop and running.open_blocks + most <= VERIFY_IN_FLIGHT_BLOCKS_MAX:
            end = min((running.next_bit // most + 1) * most, stop)
            self._ask(volume, running, running.next_bit, end, unit_bits)
            running.next_bit = end
        if running.next_bit >= stop and not running.blocks and not running.waits_for_ping:
            running.waits_for_ping = self._node.send_ping()

    @property
    def by_pieces(self) -> bool:
        """Whether the peer knows of pieces, too."""
        handshake = self._node.links.handshake
        return handshake is not None and handshake.verifies_pieces

    def _ask(self, volume: Volume, running: Running, first_bit: int, end_bit: int, unit_bits: int) -> None:
        group = _new_group(first_bit, end_bit, unit_bits, volume)
        for index in range(group.batch.count):
            running.add(group, index)
        self.hold(volume, running, group, partial(self._request, volume, group))

    def _ask_closer(self, volume: Volume, running: Running, offset: int) -> None:
        """A piece differs, or can't be read: its blocks, one by one."""
        first = offset // BIT_SIZE_BYTES
        group, member, length = running.remove(offset)
        self.let_go(volume, group, member)
        self._ask(volume, running, first, first + ceil_div(length, BIT_SIZE_BYTES), 1)

    def _request(self, volume: Volume, group: Group, members: int) -> None:
        words = {"format": self._node.header_format, "volume": volume.vnr, "block_id": ID_SYNCER}
        packets = native.drbd_requests(group.batch, members, packet=Packet.P_OV_REQUEST, **words)
        self._node.out.put(Send(Socket.DATA, [*self._node.barrier_parts(), packets]))

    def on_replies(self, volume: Volume, batch: Batch, mask: int) -> None:
        """A run of P_OV_REPLY: read our own blocks, compare, tell."""
        node, running, algorithm = self._node, self._running.get(volume.vnr), self._node.digests.verify
        if running is None or volume.state.conn != ConnState.VerifyS or algorithm is None:
            _number(batch, mask, OV_IN_SYNC)  # cut off here: as good as equal, so that the peer comes to its end
            node.send_acks(Packet.P_OV_RESULT, volume, batch, mask)
            return
        digests: dict[int, bytes] = {}
        for index in native.indices(mask):
            record = batch.records[index]
            known = running.blocks.get(record.offset)
            if known is None or record.offset in running.answered or record.length != known[0].length(known[1]):
                raise PeerProtocolError(f"volume {volume.vnr}: P_OV_REPLY for {record.offset}, which nobody asked for")
            if record.digest != algorithm.size:
                raise PeerProtocolError(f"volume {volume.vnr}: P_OV_REPLY with a digest of {record.digest} bytes")
            running.answered.add(record.offset)
            digests[record.offset] = bytes(batch.view[record.data : record.data + record.digest])
        for members in read_groups(batch, mask):
            request, buffer = node.pieces.read_batch(batch, members)
            self.read(volume, running, request, buffer, partial(self._compare, volume, running, request, digests))

    def _compare(
        self, volume: Volume, running: Running, request: Batch, digests: dict[int, bytes], members: int, failed: int
    ) -> None:
        """These have been read, or could not be."""
        algorithm, unequal = self._node.digests.verify, failed
        assert algorithm is not None, "the algorithm was changed in the middle of a verify"
        for index in native.indices(members & ~failed):
            if algorithm.compute(request.data(index)) != digests[request.records[index].offset]:
                unequal |= 1 << index
        closer = native.records_longer(request, unequal, BIT_SIZE_BYTES) if unequal else 0
        settled = members & ~closer
        _number(request, members & ~unequal, OV_IN_SYNC)
        _number(request, unequal, OV_OUT_OF_SYNC)
        for index in native.indices(settled):
            self.settle(volume, running, request.records[index].offset, equal=not unequal >> index & 1)
        self._node.send_acks(Packet.P_OV_RESULT, volume, request, settled)
        for index in native.indices(closer):
            self._ask_closer(volume, running, request.records[index].offset)
        self.persist(volume, running)
        self._ask_more(volume)

    def on_negative(self, volume: Volume, offset_bytes: int) -> None:
        """P_NEG_RS_DREPLY: the peer can't read there; its P_STATE will say why."""
        running = self._running.get(volume.vnr)
        if running is None or volume.state.conn != ConnState.VerifyS:
            return
        if offset_bytes not in running.blocks or offset_bytes in running.answered:
            return
        known, member = running.blocks[offset_bytes]
        if known.length(member) > BIT_SIZE_BYTES:
            self._ask_closer(volume, running, offset_bytes)
            return
        group, member, length = running.remove(offset_bytes)
        self._log_all(volume, running.progress.skip(offset_bytes, length))
        self.let_go(volume, group, member)
        self._ask_more(volume)

    def on_ping_ack(self) -> None:
        """The peer has seen all results: the verify that waited for that is over."""
        for vnr, running in list(self._running.items()):
            if 0 < running.waits_for_ping <= self._node.pings_answered:
                self.finish(self._node.volumes[vnr])

    # --- both ---

    def read(
        self, volume: Volume, running: Running, request: Batch, buffer: bytearray, then: Callable[[int, int], None]
    ) -> None:
        """Read a batch when no write to it is under way here; `then(members, failed)` for those that end together.

        What could not be read counts as different, as with a kernel: what the buffer has there is anything.
        """
        node, disk = self._node, volume.disk

        def start(hold: Hold | None, members: int) -> None:
            def done(failed: int, errno: int) -> None:
                if failed & members:
                    node.on_disk_error(volume, disk, f"read for verify failed ({errno_text(errno)})", data=True)
                if self._running.get(volume.vnr) is running:
                    then(members, members & failed)
                if hold is not None:
                    volume.ranges.release(hold, members)

            node.out.put(DiskRead(volume.vnr, request, members, buffer, done))

        volume.counters.read += native.records_length_sum(request, request.all) >> 9
        if volume.state.role == Role.Primary:
            start(None, request.all)
        else:
            volume.ranges.acquire(request, request.all, start)

    def settle(self, volume: Volume, running: Running, offset: int, *, equal: bool) -> None:
        """One block has its result."""
        assert volume.disk is not None
        group, member, length = running.remove(offset)
        if not equal:
            volume.disk.bitmap.set_range(offset, length)
        self._log_all(volume, running.progress.settle(offset, length, equal=equal))
        self.let_go(volume, group, member)

    def _log_all(self, volume: Volume, texts: list[str]) -> None:
        for text in texts:
            self.log(volume, text)

    def persist(self, volume: Volume, running: Running) -> None:
        """Now and then put what was found on disk, so that it outlives a crash."""
        if self._node.now >= running.next_persist:
            running.next_persist = self._node.now + RESYNC_PERSIST_S
            self._node.changes.write_bitmap(volume)


def _groups(running: Running) -> list[Group]:
    return list({id(group): group for group, _ in running.blocks.values()}.values())


def _number(batch: Batch, mask: int, number: int) -> None:
    """Have these members bear the id that says how the comparison ended."""
    for index in native.indices(mask):
        batch.records[index].id = number


def _new_group(first_bit: int, end_bit: int, unit_bits: int, volume: Volume) -> Group:
    """The blocks from one bit to another, in pieces that end where their length, or the device, does."""
    borders = [first_bit, *range((first_bit // unit_bits + 1) * unit_bits, end_bit, unit_bits), end_bit]
    batch = Batch(bytearray(), native.new_records(len(borders) - 1), len(borders) - 1)
    for record, first, end in zip(batch.records, borders[:-1], borders[1:], strict=True):
        record.volume = volume.vnr
        record.offset = first * BIT_SIZE_BYTES
        record.length = min(end * BIT_SIZE_BYTES, volume.size_bytes) - record.offset
    return Group(batch, batch.all)
