"""The lanes of a service: when one begins, who waits for it, and what is done with what it leaves (core/lane.py).

A reader that has been woken asks for a lane first, and reads by itself only if there is none. The lane then reads and
writes all of its sockets in one native call after the other, with a turn for every other task in between. It ends when
it meets something that it was not told about, when nothing comes, and when anything else happens on the node: `feed`
ends it before it works in an event. What it leaves in the buffers is worked in at once, in the ordinary way.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import trio

from pydrbd import native
from pydrbd.core.effects import Socket
from pydrbd.core.events import LaneEnded, LaneWrites, PeerLaneEnded
from pydrbd.core.volume import Volume
from pydrbd.limits import (
    DISK_INLINE_SLOW_S,
    LANE_CLIENTS_MAX,
    LANE_DIRECT_SLOW_S,
    LANE_FLUSH_SLOW_S,
    LANE_FOLD_S,
    LANE_IDLE_US,
    LANE_SLICE_US,
)
from pydrbd.native import LaneFlush, LaneGroup, LaneStream
from pydrbd.runtime.exports import ClientSession
from pydrbd.runtime.patience import Patience
from pydrbd.wire.packet_numbers import DpFlag

if TYPE_CHECKING:
    from pydrbd.runtime.service import Service
    from pydrbd.runtime.volume_disk import VolumeDisk

__all__ = ["Lane"]

_SLOW_US: Final = round(DISK_INLINE_SLOW_S * 1e6)
_DIRECT_SLOW_US: Final = round(LANE_DIRECT_SLOW_S * 1e6)
_FLUSH_SLOW_US: Final = round(LANE_FLUSH_SLOW_S * 1e6)


class Lane:
    """One lane at a time: that of the clients on a Primary, that of the peer's writes on a Secondary."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._for_clients = native.ClientLane(_SLOW_US, _DIRECT_SLOW_US)
        self._for_peer = native.PeerLane(_SLOW_US, _DIRECT_SLOW_US, int(DpFlag.SEND_WRITE_ACK))
        self._volume: Volume | None = None  # while a lane is engaged
        self._is_for_peer = False
        self._disk: VolumeDisk
        self._link_stream: LaneStream
        self._sessions: list[ClientSession] = []
        self._streams: list[LaneStream] = []
        self._ended = trio.Event()
        self._patience = Patience()
        self.deadline: float | None = None
        """When the node must look up from this lane at the latest."""
        self.runs = 0

    # --- what the readers call ---

    @property
    def engaged(self) -> bool:
        return self._volume is not None

    def reads(self, which: Socket) -> bool:
        """Whether a lane is engaged that reads this socket to the peer."""
        return self.engaged and self._is_for_peer == (which is Socket.DATA)

    async def wait_ended(self) -> None:
        """Wait until no lane is engaged."""
        while self.engaged:
            await self._ended.wait()

    async def run(self, who: object) -> bool:
        """Engage a lane for a socket that has become readable (a client's session, or one of the two to the peer).

        Returns when the lane has ended; False if it has read nothing from that socket, or there is none.
        """
        if self.engaged:
            await self.wait_ended()
            return True
        begun = self._begin_for_peer() if who is Socket.DATA else self._begin_for_clients()
        if not begun:
            return False
        self.runs += 1
        lane = self._for_peer if self._is_for_peer else self._for_clients
        read_by = dict(zip(self._sessions, self._streams, strict=True))
        stream = read_by.get(who, self._link_stream) if isinstance(who, ClientSession) else self._link_stream
        try:
            while self.engaged:
                reason = lane.run(LANE_SLICE_US, LANE_IDLE_US)
                if reason != native.LANE_SLICE:
                    self.end(reason)
                else:
                    await trio.lowlevel.checkpoint()
        finally:
            self.end()
        return stream.received_bytes > 0

    def end(self, reason: int = native.LANE_SLICE) -> None:
        """End the lane that is engaged, if any, and work in what it has done and what it has left."""
        volume = self._volume
        if volume is None:
            return
        self._volume = self.deadline = None
        self._ended.set()
        if self._is_for_peer:
            self._end_for_peer(volume, reason)
        else:
            self._end_for_clients(volume, reason)

    def _engage(self, volume: Volume, disk: VolumeDisk, *, for_peer: bool) -> None:
        self._volume, self._disk, self._is_for_peer = volume, disk, for_peer
        self._ended = trio.Event()
        self.deadline = trio.current_time() + LANE_FOLD_S
        self._service.wake_clock(self.deadline)

    # --- a Primary's ---

    def _begin_for_clients(self) -> bool:
        service = self._service
        volume = service.node.lanes.client_volume()
        disk = None if volume is None else service.disks.get(volume.vnr)
        place = None if disk is None else disk.lane_place()
        if volume is None or disk is None or place is None:
            return False
        fit = [session for session in volume.sessions if session.fits_lane][:LANE_CLIENTS_MAX]
        if not fit or not service.node.lanes.sessions() <= set(fit):
            return False
        door = service.link.lane_enter(Socket.META)
        if door is None:
            return False
        terms = service.node.lanes.begin(volume)
        places = {session: place for place, session in enumerate(fit)}
        groups = []
        for lent in terms.lent:
            lent.session.lend(lent.batch, lent.busy)
            groups.append(LaneGroup(lent.serial, lent.epoch, places[lent.session], lent.batch, lent.busy, 0))
        streams = [session.lane_enter() for session in fit]
        self._sessions, self._streams, self._link_stream = fit, [stream for stream, _out in streams], door.stream
        lane = self._for_clients
        lane.begin(
            disk_fd=place[0],
            base_bytes=place[1],
            block_bytes=place[2],
            capacity_bytes=volume.size_bytes,
            volume=volume.vnr,
            hot=terms.hot,
            data_fd=door.other_fd,
            meta=door.stream,
            clients=streams,
        )
        lane.begin_writes(
            terms.log, terms.room, terms.epoch, terms.epoch_sent, terms.next_serial, terms.next_seq,
            volume.peer.seen_seq, groups, _flush(disk, allowed=terms.may_flush),
        )  # fmt: skip
        self._engage(volume, disk, for_peer=False)
        service.link.send(Socket.DATA, terms.barriers)
        service.link.flush()
        if not service.link.is_idle:
            self.end()  # the socket has no room for them: the lane's writes would be the first to arrive
        return self.engaged

    def _end_for_clients(self, volume: Volume, reason: int) -> None:
        service, lane = self._service, self._for_clients
        groups = lane.groups()
        spilled = lane.spilled()
        lane.end()
        sessions, self._sessions = self._sessions, []
        streams, self._streams = self._streams, []
        for session, stream in zip(sessions, streams, strict=True):
            session.lane_leave(stream)
        self._patience.learn(sum(stream.requests for stream in streams), sum(stream.wakeups for stream in streams))
        service.link.lane_leave(Socket.META, self._link_stream, packets=0)
        service.link.send(Socket.DATA, spilled)
        flushed = lane.flushed
        self._disk.lane_flushed(flushed)
        slow = reason == native.LANE_DISK and not lane.error and not flushed.errno
        self._disk.lane_ended(lane.written_bytes, lane.read_bytes, slow=slow)
        for group in groups:
            sessions[group.client].take_back(group.batch, group.busy)
        service.feed(
            LaneEnded(
                volume.vnr,
                lane.next_serial,
                lane.sent_count,
                lane.epoch,
                lane.log_count,
                lane.barrier_sent,
                lane.written_bytes,
                lane.read_bytes,
                lane.peer_seq,
                lane.take_touched(),
                [
                    LaneWrites(group.serial, group.epoch, sessions[group.client], group.batch, group.busy, group.failed)
                    for group in groups
                ],
                lane.error,
            )
        )
        if reason == native.LANE_LOST:
            service.link.lost(lane.error)
        service.link.lane_left(Socket.META)
        for session in sessions:
            session.lane_left()

    # --- a Secondary's ---

    def _begin_for_peer(self) -> bool:
        service = self._service
        volume = service.node.lanes.peer_volume()
        disk = None if volume is None else service.disks.get(volume.vnr)
        place = None if disk is None else disk.lane_place()
        if volume is None or disk is None or place is None:
            return False
        door = service.link.lane_enter(Socket.DATA)
        if door is None:
            return False
        self._link_stream = door.stream
        epoch_count, may_flush = service.node.peer_writes.lane_epoch(volume)
        self._for_peer.begin(
            disk_fd=place[0],
            base_bytes=place[1],
            block_bytes=place[2],
            capacity_bytes=volume.size_bytes,
            volume=volume.vnr,
            next_seq=volume.peer.next_seq,
            peer_seq=volume.peer.seen_seq,
            data=door.stream,
            meta_fd=door.other_fd,
            epoch_count=epoch_count,
            flush=_flush(disk, allowed=may_flush),
        )
        self._engage(volume, disk, for_peer=True)
        return True

    def _end_for_peer(self, volume: Volume, reason: int) -> None:
        service, lane = self._service, self._for_peer
        unsent = lane.end()
        self._patience.learn(lane.packets, self._link_stream.wakeups)
        service.link.lane_leave(Socket.DATA, self._link_stream, packets=lane.packets)
        if unsent:
            service.link.send(Socket.META, [unsent])
        flushed = lane.flushed
        self._disk.lane_flushed(flushed)
        slow = reason == native.LANE_DISK and not lane.error and not flushed.errno
        self._disk.lane_ended(lane.written_bytes, 0, slow=slow)
        ended = PeerLaneEnded(
            volume.vnr, lane.packets, lane.written_bytes, lane.epochs > 0, lane.epoch_count, lane.peer_seq
        )
        service.feed(ended)
        service.link.lane_left(Socket.DATA)


def _flush(disk: VolumeDisk, *, allowed: bool) -> LaneFlush:
    ready, size_bytes = disk.lane_flush()
    return LaneFlush(allowed and ready, size_bytes, _FLUSH_SLOW_US, beside=len(os.sched_getaffinity(0)) > 1)
