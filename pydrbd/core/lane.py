"""When a lane may carry requests by itself, and what it has done when it ends.

A lane (native/lane.c, native/lane_peer.c) does what this core would do with plain writes and reads while there is
nothing to decide: both nodes up to date and connected, extents hot, no overlap. It never runs beside the core: before
any event is worked in, the shell ends it, and what it has done comes here as an event of its own. So everything else in
the core may believe that it has seen every write itself.

    may_run -> begin: writes under way are lent to the lane -> [the lane runs] -> LaneEnded: counted, and taken back

Writes of a lane join the open epoch without closing it when they are answered: only a node of ours is the peer of a
lane, and that flushes for many epochs at once anyhow. The epoch ends when it is full, when the node next looks up, or
with a FLUSH that finds nothing else under way (native/lane_flush.c): then both disks have it, and the next one begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydrbd.core.effects import Part
from pydrbd.core.events import LaneEnded, PeerLaneEnded
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.volume import Volume
from pydrbd.core.write_batch import WriteBatch
from pydrbd.limits import DRBD_IO_BYTES_MAX
from pydrbd.native import LANE_GROUPS, LaneLog
from pydrbd.units import EXTENT_SIZE_BYTES
from pydrbd.wire.packet_numbers import WireProtocol

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["LaneTerms", "Lanes", "LentWrites"]


@dataclass(frozen=True, slots=True)
class LentWrites:
    """Writes under way that the lane carries on with."""

    serial: int
    epoch: int
    session: Any
    batch: Any
    busy: int


@dataclass(frozen=True, slots=True)
class LaneTerms:
    """What a Primary's lane goes by. `hot`: a bit for each 4 MiB extent that may be written; None: all may."""

    barriers: list[Part]
    """To be sent to the peer before the lane's first write."""
    hot: bytearray | None
    log: LaneLog
    room: int
    epoch: int
    epoch_sent: int
    """Writes that the peer has got in this epoch, from lanes and others."""
    may_flush: bool
    next_serial: int
    next_seq: int
    lent: list[LentWrites]


class Lanes:
    """The core's side of both lanes."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- whether ---

    def _steady(self) -> Volume | None:
        """The volume of a node that has nothing to decide; a resource of several volumes has no lane."""
        node = self._node
        if len(node.volumes) != 1 or not node.peer_is_pydrbd or node.integrity is not None or node.out.fenced:
            return None
        (volume,) = node.volumes.values()
        state = volume.state
        steady = (
            state.conn == ConnState.Connected
            and state.disk == state.pdsk == DiskState.UpToDate
            and node.header_format == 100
            and volume.peer.request_bytes_max == DRBD_IO_BYTES_MAX
            and volume.disk is not None
            and not volume.options.disk_timeout_s  # a lane that waits for the disk can't look at the clock
            and not volume.frozen
        )
        return volume if steady else None

    def client_volume(self) -> Volume | None:
        """The volume whose clients a lane may serve now, if there is one."""
        node, volume = self._node, self._steady()
        if volume is None or volume.state.role != Role.Primary or volume.state.peer == Role.Primary:
            return None
        quiet = (
            node.net.protocol is WireProtocol.C
            and volume.options.read_balancing == "prefer-local"
            and not node.operator.demoting
            and not volume.awaits_generation
            and not node.gate.working
            and not node.reads.busy
            and not node.flushes.busy
            and not node.peer_writes.busy
            and self._may_be_lent(volume)
        )
        return volume if quiet else None

    def _may_be_lent(self, volume: Volume) -> bool:
        """Whether all that is under way waits for nothing but plain acknowledgements of the peer."""
        writes = self._node.writes
        if writes.waits:
            return False
        for write in writes.in_flight():
            plain = (
                write.volume is volume
                and getattr(write.session, "may_lend", False)
                and write.mask == write.sent
                and write.peer_busy == write.write_due == write.mask & ~write.released
                and write.replied == write.released
                and not (write.local_busy or write.local_failed or write.peer_failed or write.in_sync)
                and writes.next_serial - write.serial < LANE_GROUPS
            )
            if not plain:
                return False
        return True

    def sessions(self) -> set[Any]:
        """Whose writes are under way."""
        return {write.session for write in self._node.writes.in_flight()}

    def peer_volume(self) -> Volume | None:
        """The volume for whose Primary a lane may write now, if there is one."""
        node, volume = self._node, self._steady()
        if volume is None or volume.state.role != Role.Secondary or volume.state.peer != Role.Primary:
            return None
        return volume if not len(volume.ranges) and node.peer_writes.is_quiet else None

    # --- a Primary's ---

    def begin(self, volume: Volume) -> LaneTerms:
        """Lend the writes under way to a lane. `client_volume` has just allowed it."""
        node, disk = self._node, volume.disk
        assert disk is not None
        hot = None
        if volume.options.al_updates:
            hot = disk.log.hot_map(volume.size_bytes // EXTENT_SIZE_BYTES + 1)
        lent = [
            LentWrites(write.serial, write.epoch.number, write.session, write.batch, write.peer_busy)
            for write in node.writes.lend()
        ]
        log, room = node.log.lane_log()
        serial, seq = node.writes.next_serial, volume.peer.next_seq
        barriers, epoch = node.barrier_parts(), node.log.current
        may_flush = node.log.only_the_current and not (volume.flush_in_doubt or node.gate.room.flushing)
        return LaneTerms(barriers, hot, log, room, epoch.number, epoch.sent_count, may_flush, serial, seq, lent)

    def on_ended(self, event: LaneEnded) -> None:
        """Work in what a Primary's lane has done, and take back what it has under way."""
        node, volume = self._node, self._node.volumes[event.volume]
        disk = volume.disk
        assert disk is not None, "a disk that is gone while a lane runs"
        volume.counters.written += event.written_bytes >> 9
        volume.counters.sent += event.written_bytes >> 9
        volume.counters.read += event.read_bytes >> 9
        volume.next_seq(event.write_count)
        volume.peer.seen_seq = event.peer_seq
        node.writes.next_serial = event.next_serial
        if event.epoch != node.log.current.number:
            disk.is_durable(event.epoch - 1)
        node.log.end_lane(event.epoch, event.log_count, barrier_sent=event.barrier_sent, now=node.now)
        if event.touched:
            # An epoch without writes never ends: what was written before it is over.
            disk.log.touch(event.touched, event.epoch if event.log_count else event.epoch - 1)
        failed: list[tuple[WriteBatch, int]] = []
        for group in event.groups:
            write = WriteBatch(group.serial, volume, group.session, group.batch, group.busy, None)
            write.epoch = node.log.find(group.epoch)
            write.sent = write.peer_busy = write.write_due = group.busy
            node.writes.take_back(write)
            if group.failed:
                failed.append((write, group.failed))
        for write, members in failed:
            node.writes.fail_locally(write, disk, members, event.errno)
        node.log.release()
        node.gate.retry()
        node.on_write_finished()

    def lose_peer(self, unacked: list[LaneLog]) -> None:
        """The peer is gone: mark what it may lack of what lanes have sent."""
        for volume in self._node.volumes.values():  # there is one, else there are no lanes
            for batch in (batch for log in unacked for batch in log.batches()):
                self._node.flushes.on_unconfirmed(volume)
                if volume.disk is not None:
                    volume.disk.bitmap.set_records(batch, batch.all)

    # --- a Secondary's ---

    def on_peer_ended(self, event: PeerLaneEnded) -> None:
        """Work in what a Secondary's lane has written and acknowledged."""
        volume = self._node.volumes[event.volume]
        volume.counters.received += event.written_bytes >> 9
        volume.counters.written += event.written_bytes >> 9
        volume.next_seq(event.write_count)
        volume.peer.seen_seq = event.peer_seq
        if event.flushed:
            self._node.peer_writes.forget_flushed()
        count = event.epoch_count if event.flushed else event.write_count
        self._node.peer_writes.add_lane(volume, count)
