"""Online verify: are both copies the same, block by block, while they are in use? (WIRE 13)

    VerifyS  P_OV_REQUEST ->                                          VerifyT: read, sum up
             read, compare        <- P_OV_REPLY with the digest
             P_OV_RESULT (meta) ->                                    (both mark what differs)

A difference is real only if nobody writes there between the two reads. A Primary holds the range of a block from before
the first of them to the result; for its own writes that begins when both nodes have them. The Secondary only waits, at
its read, for the writes that it is busy with: if it held more, its Primary would wait for it, and it for its Primary.
So there is no verify while both are Primary; VerifyS ends one when the second is promoted.

What differs is marked out of sync; the next resync, after disconnect and connect, repairs it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.effects import DiskRead, Level, Send, Socket
from pydrbd.core.ranges import Hold
from pydrbd.core.states import ConnState, Role
from pydrbd.core.verify_group import Group, Running, VerifyProgress
from pydrbd.core.verify_target import VerifyTarget
from pydrbd.core.volume import Volume
from pydrbd.errors import PeerProtocolError
from pydrbd.limits import (
    BATCH_RECORDS_MAX,
    RESYNC_PERSIST_S,
    VERIFY_IN_FLIGHT_BLOCKS_MAX,
)
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES, SECTOR_SIZE_BYTES, SECTORS_PER_BIT, bits_for_sectors, ceil_div
from pydrbd.wire.packet_numbers import ID_SYNCER, OV_IN_SYNC, OV_OUT_OF_SYNC
from pydrbd.wire.packets import BlockReq, Packet

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
            self._let_go(volume, group, group.open)
        running.blocks.clear()
        running.waiting.clear()
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

    def _let_go(self, volume: Volume, group: Group, members: int) -> None:
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
                self._let_go(volume, group, group.open)
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
        while running.next_bit < stop and len(running.blocks) + BATCH_RECORDS_MAX <= VERIFY_IN_FLIGHT_BLOCKS_MAX:
            count = min(BATCH_RECORDS_MAX, stop - running.next_bit)
            group = _new_group(running.next_bit, count, volume.size_bytes, volume.vnr)
            for index in range(count):
                running.blocks[group.batch.records[index].offset] = group, 1 << index
            running.next_bit += count
            self.hold(volume, running, group, partial(self._request, volume, group))
        if running.next_bit >= stop and not running.blocks and not running.waits_for_ping:
            running.waits_for_ping = self._node.send_ping()

    def _request(self, volume: Volume, group: Group, members: int) -> None:
        packets = bytearray()
        for index in native.indices(members):
            record = group.batch.records[index]
            wire = BlockReq(record.offset // SECTOR_SIZE_BYTES, ID_SYNCER, record.length)
            packets += self._node.packet(Packet.P_OV_REQUEST, wire.encode(), volume.vnr)
        self._node.out.put(Send(Socket.DATA, [*self._node.barrier_parts(), packets]))

    def on_replies(self, volume: Volume, batch: Batch, mask: int) -> None:
        """A run of P_OV_REPLY: read our own blocks, compare, tell."""
        node, running, algorithm = self._node, self._running.get(volume.vnr), self._node.digests.verify
        if running is None or volume.state.conn != ConnState.VerifyS or algorithm is None:
            _number(batch, mask, OV_IN_SYNC)  # cut off here: as good as equal, so that the peer comes to its end
            node.send_acks(Packet.P_OV_RESULT, volume, batch, mask)
            return
        digests: list[bytes] = []
        for index in native.indices(mask):
            record = batch.records[index]
            known = running.blocks.get(record.offset)
            if known is None or record.offset in running.answered or record.length != _length(*known):
                raise PeerProtocolError(f"volume {volume.vnr}: P_OV_REPLY for {record.offset}, which nobody asked for")
            if record.digest != algorithm.size:
                raise PeerProtocolError(f"volume {volume.vnr}: P_OV_REPLY with a digest of {record.digest} bytes")
            running.answered.add(record.offset)
            digests.append(bytes(batch.view[record.data : record.data + record.digest]))
        request, buffer = self._node.pieces.read_batch(batch, mask)

        def compare(members: int) -> None:
            unequal = 0
            for index in native.indices(members):
                if algorithm.compute(request.data(index)) != digests[index]:
                    unequal |= 1 << index
            self._compared(volume, running, request, members & ~unequal, unequal)

        self.read(volume, running, request, buffer, compare)

    def _compared(self, volume: Volume, running: Running, request: Batch, equal: int, unequal: int) -> None:
        for members, number in ((equal, OV_IN_SYNC), (unequal, OV_OUT_OF_SYNC)):
            _number(request, members, number)
        for index in native.indices(equal | unequal):
            record = request.records[index]
            self.settle(volume, running, record.offset, equal=bool(equal >> index & 1))
        self._node.send_acks(Packet.P_OV_RESULT, volume, request, equal | unequal)
        self.persist(volume, running)
        self._ask_more(volume)

    def on_negative(self, volume: Volume, offset_bytes: int) -> None:
        """P_NEG_RS_DREPLY: the peer can't read there; its P_STATE will say why."""
        running = self._running.get(volume.vnr)
        if running is None or volume.state.conn != ConnState.VerifyS:
            return
        if offset_bytes in running.blocks and offset_bytes not in running.answered:
            group, member = running.blocks.pop(offset_bytes)
            group.open &= ~member
            running.progress.skipped.set_range(offset_bytes, 1)
            self._let_go(volume, group, member)
            self._ask_more(volume)

    def on_ping_ack(self) -> None:
        """The peer has seen all results: the verify that waited for that is over."""
        for vnr, running in list(self._running.items()):
            if 0 < running.waits_for_ping <= self._node.pings_answered:
                self.finish(self._node.volumes[vnr])

    # --- both ---

    def read(
        self, volume: Volume, running: Running, request: Batch, buffer: bytearray, then: Callable[[int], None]
    ) -> None:
        """Read these blocks when no write to them is under way here; `then(members)` for those that were read."""
        node, disk = self._node, volume.disk

        def start(hold: Hold | None, members: int) -> None:
            def done(failed: int, errno: int) -> None:
                if failed & members:
                    node.on_disk_error(volume, disk, f"read for verify failed (errno {errno})", data=True)
                if self._running.get(volume.vnr) is running:
                    then(members)
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
        group, member = running.blocks.pop(offset)
        running.answered.discard(offset)
        length = _length(group, member)
        group.open &= ~member
        if not equal:
            volume.disk.bitmap.set_range(offset, length)
        text = running.progress.settle(offset // SECTOR_SIZE_BYTES, length // SECTOR_SIZE_BYTES, equal=equal)
        if text is not None:
            self.log(volume, text)
        self._let_go(volume, group, member)

    def persist(self, volume: Volume, running: Running) -> None:
        """Now and then put what was found on disk, so that it outlives a crash."""
        if self._node.now >= running.next_persist:
            running.next_persist = self._node.now + RESYNC_PERSIST_S
            self._node.changes.write_bitmap(volume)


def _groups(running: Running) -> list[Group]:
    return list({id(group): group for group, _ in running.blocks.values()}.values())


def _length(group: Group, member: int) -> int:
    return int(group.batch.records[member.bit_length() - 1].length)


def _number(batch: Batch, mask: int, number: int) -> None:
    """Have these members bear the id that says how the comparison ended."""
    for index in native.indices(mask):
        batch.records[index].id = number


def _new_group(first_bit: int, count: int, size_bytes: int, vnr: int) -> Group:
    """`count` consecutive blocks from a bit on; the device may end in the last one."""
    batch = Batch(bytearray(), native.new_records(count), count)
    for index in range(count):
        record = batch.records[index]
        record.volume = vnr
        record.offset = (first_bit + index) * BIT_SIZE_BYTES
        record.length = min(BIT_SIZE_BYTES, size_bytes - record.offset)
    return Group(batch, batch.all)
