"""One node of a resource: where everything comes in and goes out. Start reading here.

`handle(event, now)` takes what happened and returns what is to be done; `next_deadline()` says when to call again with
a `Tick` if nothing happens. No clock, no socket, no file: time and chance come in as values.

    client batch -> writes.py, reads.py, flushes.py        peer's packets -> the table below
    operator     -> operator.py                            link up, down  -> link_events.py
    states       -> changes.py (the funnel)                disk events    -> disk_events.py
    what a lane has done -> lane.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydrbd import native
from pydrbd.core.bitmap_exchange import BitmapExchange
from pydrbd.core.block_status import BlockStatus
from pydrbd.core.changes import Changes
from pydrbd.core.clients import Clients
from pydrbd.core.conflicts import Conflicts
from pydrbd.core.congestion import Congestion
from pydrbd.core.csums import Csums
from pydrbd.core.data_packets import block_parts, failed_reply, out_of_sync_parts
from pydrbd.core.digests import Digests
from pydrbd.core.disk_events import DiskEvents
from pydrbd.core.disk_timeout import DiskTimeout
from pydrbd.core.effects import Effect, Level, Log, Part, Send, Socket
from pydrbd.core.epochs import TransferLog
from pydrbd.core.events import (
    ClientBatch,
    Command,
    DiskNotOpened,
    DiskOpened,
    Done,
    Event,
    LaneEnded,
    LinkDown,
    LinkUp,
    PeerLaneEnded,
    Received,
    SessionClosed,
    SessionOpened,
    Silence,
    Tick,
)
from pydrbd.core.fencing import Fence
from pydrbd.core.flushes import Flushes
from pydrbd.core.handshake import NetOptions
from pydrbd.core.helpers import Helpers
from pydrbd.core.lane import Lanes
from pydrbd.core.link_events import LinkEvents
from pydrbd.core.log_gate import LogGate
from pydrbd.core.new_uuid import NewUuids
from pydrbd.core.no_data import NoData
from pydrbd.core.operator import Operator
from pydrbd.core.outbox import Outbox
from pydrbd.core.packets_in import PacketsIn
from pydrbd.core.peer_reads import PeerReads
from pydrbd.core.peer_state import PeerStates
from pydrbd.core.peer_writes import PeerWrites
from pydrbd.core.quorum import Quorum
from pydrbd.core.quorum_options import QuorumOptions
from pydrbd.core.reads import Reads
from pydrbd.core.resize import Resizes
from pydrbd.core.resync import Resync
from pydrbd.core.resync_pieces import PieceBuffers
from pydrbd.core.resync_source import ResyncSource
from pydrbd.core.resync_start import ResyncStart
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.core.transitions import Fencing, Rules
from pydrbd.core.verify import Verify
from pydrbd.core.volume import LocalDisk, Volume, VolumeOptions
from pydrbd.core.writes import Writes
from pydrbd.errors import errno_text
from pydrbd.limits import BARRIER_IDLE_S
from pydrbd.native import Batch
from pydrbd.wire.digests import DigestAlg
from pydrbd.wire.framing import encode_packet, header_size
from pydrbd.wire.packets import Barrier, Packet

__all__ = ["Node", "NodeOptions"]


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the configuration says of this node's side of a resource."""

    resource: str
    net: NetOptions
    volumes: tuple[VolumeOptions, ...]
    handlers: frozenset[str] = frozenset()
    """The events for which there is a handler to run."""
    on_no_data_suspend: bool = False
    """A Primary without good data freezes its I/O instead of failing it (core/no_data)."""
    quorum: QuorumOptions = field(default_factory=QuorumOptions)


class Node:
    """One resource on one node."""

    primary_role = Role.Primary

    def __init__(self, options: NodeOptions, draw_u64: Callable[[], int]) -> None:
        self.options = options
        self.net = options.net
        self.draw_u64 = draw_u64
        self.now = 0.0
        self.cstate = ConnState.StandAlone
        self.volumes: dict[int, Volume] = {
            volume.vnr: Volume(volume, State()) for volume in sorted(options.volumes, key=lambda v: v.vnr)
        }
        self.out = Outbox(self._on_fence_failed, failed_reply)
        self.log = TransferLog(options.net.max_epoch_size)
        self.changes = Changes(self)
        self.helpers, self.fence, self.no_data, self.quorum = Helpers(self), Fence(self), NoData(self), Quorum(self)
        self.gate = LogGate(self)
        self.writes = Writes(self)
        self.reads, self.block_status = Reads(self), BlockStatus(self)
        self.flushes = Flushes(self)
        self.clients = Clients(self)
        self.peer_writes, self.peer_reads = PeerWrites(self), PeerReads(self)
        self.peers = PeerStates(self)
        self.bitmaps = BitmapExchange(self)
        self.resync_start, self.resync, self.resync_source = ResyncStart(self), Resync(self), ResyncSource(self)
        self.congestion, self.new_uuids = Congestion(self), NewUuids(self)
        self.resizes = Resizes(self)
        self.digests, self.csums, self.pieces = Digests(self), Csums(self), PieceBuffers()
        self.verify = Verify(self)
        self.operator = Operator(self)
        self.links = LinkEvents(self)
        self.disks, self.disk_timeout = DiskEvents(self), DiskTimeout(self)
        self.packets, self.lanes, self.conflicts = PacketsIn(self), Lanes(self), Conflicts(self)
        self.apv = 80
        self.header_format = 80
        self.header_bytes = 8
        self.long_sizes = False
        self.peer_is_pydrbd = False
        self.integrity: DigestAlg | None = None
        """What data on this connection is summed with, in both directions (data-integrity-alg)."""
        self.zeroes_agreed = True
        """Whether P_ZEROES may be sent, and P_TRIM leaves the content open; else P_TRIM must zero."""
        self.resolve_conflicts = False
        self.wants_discard = False
        self.link_generation = 0
        self.pings_sent = self.pings_answered = 0
        self._barrier_deadline: float | None = None
        self._handlers: Mapping[type[Any], Callable[[Any], None]] = {
            ClientBatch: self.clients.on_batch,
            Received: self.packets.on_received,
            Done: self._on_done,
            Tick: self._on_tick,
            LinkUp: self.links.on_up,
            LinkDown: self.links.on_down,
            Silence: self._on_silence,
            LaneEnded: self.lanes.on_ended,
            PeerLaneEnded: self.lanes.on_peer_ended,
            DiskOpened: self.disks.on_opened,
            DiskNotOpened: self.disks.on_not_opened,
            Command: self.operator.on_command,
            SessionOpened: self.clients.on_opened,
            SessionClosed: self.clients.on_closed,
        }

    # --- the door ---

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Work in one event. Raises PeerProtocolError for a peer that lies (the shell then sends LinkDown)."""
        assert now >= self.now, "time went backwards"
        self.now = now
        self._handlers[type(event)](event)
        if self.log.barrier_due and self._barrier_deadline is None:
            self._barrier_deadline = now + BARRIER_IDLE_S
        effects = self.out.take()
        self.disk_timeout.watch(effects)
        return effects

    def next_deadline(self) -> float | None:
        """When to come back with a Tick; None: not before something happens."""
        candidates = (
            self._barrier_deadline,
            self.peer_writes.next_deadline(),
            self.links.ko_deadline(),
            self.disks.next_deadline(),
            self.disk_timeout.next_deadline(),
            self.resync.next_deadline(),
            self.congestion.next_deadline(),
            self.conflicts.next_deadline(),
            self.quorum.next_deadline(),
        )
        return min((deadline for deadline in candidates if deadline is not None), default=None)

    def _on_done(self, event: Done) -> None:
        then = getattr(event.effect, "then", None)
        assert then is not None, f"{type(event.effect).__name__} has no end"
        if self.disk_timeout.listens(event.effect):
            then(event.failed, event.errno)

    def _on_tick(self, _event: Tick) -> None:
        if self._barrier_deadline is not None and self.now >= self._barrier_deadline:
            self._barrier_deadline = None
            self.log.close_lane()
            self.send_barriers()
        self.peer_writes.flush_due(self.now)
        self.links.check_ko()
        self.disks.close_overdue()
        self.disk_timeout.check()
        self.resync.on_tick()
        self.congestion.start_due()
        self.conflicts.check_wait(self.now)
        self.quorum.on_tick()

    # --- what the parts share: states ---

    def rules(self, volume: Volume, *, for_peer: bool = False) -> Rules:
        """What configuration and surroundings say about the states of a volume."""
        return Rules(
            allow_two_primaries=self.net.allow_two_primaries,
            fencing=volume.options.fencing if volume.disk is not None else Fencing.DONT_CARE,
            needs_lease=self.quorum.needs_lease and volume.disk is not None,
            counts_disks=self.quorum.counts_disks,
            on_no_data_suspend=self.options.on_no_data_suspend,
            verify_alg_set=self.digests.verify is not None,
            opened=bool(volume.sessions) and not for_peer and not self.operator.demoting,
            other_volume_peer_primary=any(
                other is not volume and other.state.peer == Role.Primary for other in self.volumes.values()
            ),
            handshake_in_flight=self.cstate == ConnState.WFReportParams
            and volume.state.conn == ConnState.WFReportParams,
        )

    def change(self, volume: Volume, **fields: Any) -> None:
        self.changes.change(volume, **fields)

    def set_cstate(self, conn: ConnState, **known: Any) -> None:
        """The connection-wide state, and that of every volume with it; `known`: what else becomes known by it."""
        self.cstate = conn
        for volume in self.volumes.values():
            state = volume.state
            news = {name: value for name, value in known.items() if getattr(state, name) > DiskState.Inconsistent}
            self.change(volume, conn=conn, **news)

    @property
    def established(self) -> bool:
        """Whether the peer is known: the handshake is over."""
        return any(volume.state.conn >= ConnState.Connected for volume in self.volumes.values())

    @property
    def discards_my_data(self) -> bool:
        return self.wants_discard

    @property
    def peer_discards(self) -> bool:
        return self.links.peer_discards

    def set_protocol(self, apv: int, long_sizes: bool) -> None:
        """What the features exchange agreed on."""
        self.apv = apv
        self.header_format = 100 if apv >= 100 else 95
        self.header_bytes = header_size(apv)
        self.long_sizes = long_sizes

    @property
    def digest_bytes(self) -> int:
        """The length of the digest in each packet with data that comes from the peer."""
        return 0 if self.integrity is None else self.integrity.size

    def enter_report_params(self) -> None:
        self.fence.on_meeting()
        self.set_cstate(ConnState.WFReportParams)

    def give_up_connection(self, reason: str, *, level: Level = Level.ERROR) -> None:
        self.links.give_up(reason, level)

    def expect_teardown(self) -> None:
        self.links.expect_teardown()

    @property
    def holds_data(self) -> bool:
        """Whether nobody should read from the data socket now."""
        return self.peer_writes.behind or self.packets.holds

    def drop_link(self, reason: str) -> None:
        self.links.drop(reason)

    def on_peer_known(self) -> None:
        """The handshake of a volume is over: the one-shot wish to discard is used up."""
        if all(volume.state.conn >= ConnState.Connected for volume in self.volumes.values()):
            self.wants_discard = False

    def on_disk_error(self, volume: Volume, disk: LocalDisk | None, text: str, *, data: bool = False) -> None:
        """Something on this disk has failed; `disk` is the volume's disk of the time when it began.

        `data`: a read or a write of data, which on-io-error pass_on hands up.
        """
        if disk is volume.disk:
            self.disks.on_error(volume, text, data=data)

    def finish_detach(self, volume: Volume) -> None:
        self.disks.finish_detach(volume)

    def _on_fence_failed(self, vnr: int, errno: int) -> None:
        self.disks.on_error(self.volumes[vnr], f"meta-data write failed ({errno_text(errno)})")

    # --- what the parts share: sending ---

    def packet(self, packet: int, payload: bytes, vnr: int) -> bytes:
        return encode_packet(packet, payload, apv=self.apv, volume=vnr)

    def send_data(self, packet: Packet, payload: bytes, vnr: int) -> None:
        self.out.put(Send(Socket.DATA, [self.packet(packet, payload, vnr)]))

    def send_state(self, volume: Volume) -> None:
        self.peers.send_state(volume)

    def send_uuids(self, volume: Volume) -> None:
        self.peers.send_uuids(volume)

    def send_ping(self) -> int:
        """Ask for a sign of life; the number of this ping on this connection, from 1 on."""
        self.out.put(Send(Socket.META, [self.packet(Packet.P_PING, b"", 0)]))
        self.pings_sent += 1
        return self.pings_sent

    def _on_silence(self, _event: Silence) -> None:
        self.send_ping()

    def send_blocks(self, packet: Packet, volume: Volume, batch: Batch, mask: int, buffer: bytearray) -> None:
        """P_DATA_REPLY or P_RS_DATA_REPLY for each member, with its data."""
        parts = self.barrier_parts() + block_parts(self, packet, volume, batch, mask, buffer)
        volume.counters.sent += native.records_length_sum(batch, mask) >> 9
        self.out.put(Send(Socket.DATA, parts, answer=True))

    def send_acks(self, packet: Packet, volume: Volume, batch: Batch, mask: int) -> None:
        """A block acknowledgement for each member, on the meta socket."""
        if mask:
            first_seq = volume.next_seq(mask.bit_count())
            acks = native.drbd_acks(batch, mask, format=self.header_format, packet=packet, first_seq=first_seq)
            self.out.put(Send(Socket.META, [acks]))

    def send_out_of_sync(self, volume: Volume, batch: Batch, mask: int) -> None:
        """P_OUT_OF_SYNC for writes that the peer will get by the resync."""
        self.out.put(Send(Socket.DATA, self.barrier_parts() + out_of_sync_parts(self, volume, batch, mask)))

    def barrier_parts(self) -> list[Part]:
        """The barriers that must go out before the next packet of a new epoch."""
        self._barrier_deadline = None
        return [
            self.packet(Packet.P_BARRIER, Barrier(number, int(urgent and self.peer_is_pydrbd)).encode(), 0)
            for number, urgent in self.log.take_barriers(self.now)
        ]

    def send_barriers(self) -> None:
        parts = self.barrier_parts()
        if parts:
            self.out.put(Send(Socket.DATA, parts))

    def press_for_barrier(self) -> None:
        """Somebody waits for what the peer has not confirmed: close the epoch and say that it is urgent.

        A barrier that went out without hurry is followed by an empty one, which only a node of ours understands.
        """
        late = self.log.press()
        parts = self.barrier_parts()
        if late and self.peer_is_pydrbd:
            parts.append(self.packet(Packet.P_BARRIER, Barrier(0, 1).encode(), 0))
        if parts:
            self.out.put(Send(Socket.DATA, parts))

    # --- what the parts share: clients and logs ---

    def reply(self, volume: Volume, session: Any, batch: Batch, mask: int, error: int) -> None:
        self.clients.reply(volume, session, batch, mask, error)

    def thaw(self, volume: Volume) -> None:
        self.gate.thaw(volume)
        self.clients.thaw(volume)

    def refuse_held(self, volume: Volume) -> None:
        self.clients.refuse_held(volume)

    def on_write_finished(self) -> None:
        self.operator.on_idle()

    def on_read_finished(self) -> None:
        self.operator.on_idle()

    def log_line(self, level: Level, text: str) -> None:
        self.out.put_urgent(Log(level, text))
