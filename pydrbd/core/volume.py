"""One volume of a resource: its disk, its peer's disk, its generation identifiers, what is under way on it.

Values only; the rules are in the files that act on them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydrbd.core.ranges import Ranges
from pydrbd.core.resync_pace import PaceOptions
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.core.transitions import Fencing
from pydrbd.core.uuids import PeerUuids, UuidSet
from pydrbd.limits import DRBD_IO_BYTES_MAX
from pydrbd.metadata.activity_log import ActivityLog
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import Superblock
from pydrbd.native import Batch
from pydrbd.units import sectors_to_bytes
from pydrbd.wire.packets import ResyncController, Sizes

if TYPE_CHECKING:
    from pydrbd.core.events import DiskOpened

__all__ = ["Counters", "LocalDisk", "PeerVolume", "Volume", "VolumeOptions"]


_CONTROLLER = ResyncController(c_plan_ahead=20, c_delay_target=10, c_fill_target=100, c_max_rate=102400)
"""DRBD's defaults."""

_AS_FAST_AS_IT_CAN_BE = PaceOptions()


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    """What the configuration says of one volume."""

    vnr: int
    minor: int = 0
    size_sectors: int = 0
    al_extents: int = 1237
    al_updates: bool = True
    on_io_error: str = "detach"
    fencing: Fencing = Fencing.DONT_CARE
    disk_flushes: bool = True
    """What is on the disk may not survive a power failure before a flush; else nobody flushes but clients.
    See `Volume.flushes_disk`."""
    read_balancing: str = "prefer-local"
    disk_timeout_s: float = 0.0
    max_bio_bytes: int = 1 << 20
    resync_rate_kib_s: int = 250
    controller: ResyncController = _CONTROLLER
    """A kernel as our sync target goes by this and the rate: it takes over what its peer says."""
    pace: PaceOptions = _AS_FAST_AS_IT_CAN_BE
    rs_discard_granularity_bytes: int = 0
    """How long a range of zeroes must be for a resync to leave a hole there; 0: it writes them as any data."""


@dataclass(slots=True)
class LocalDisk:
    """An attached backing disk."""

    layout: Layout
    superblock: Superblock
    bitmap: Bitmap
    log: ActivityLog
    capacity_sectors: int
    crashed_primary: bool
    planned: DiskState
    log_counts: bool = False
    """The activity log may cover what is not durable otherwise: this node has been Primary since it attached."""
    degraded: bool = False
    """It was last in use by a Primary that was alone."""
    zeroes_fast: bool = False
    """It can zero a range without writing it."""
    held_back: bool = False
    """A crash of this machine, not only its power, takes what was written since the last flush: always flush."""
    durable_epoch: int = -1
    """What clients have written in epochs up to this one is on the disk itself."""
    logs_for_peer: bool = False
    """The activity log has covered writes of a peer without a disk, which belong to no epoch of ours."""

    def is_durable(self, epoch: int) -> None:
        """A flush has ended: it covers what was written in epochs up to this one."""
        self.durable_epoch = max(self.durable_epoch, epoch)


@dataclass(slots=True)
class PeerVolume:
    """What the peer has said of its side during this connection."""

    sizes: Sizes | None = None
    request_bytes_max: int = DRBD_IO_BYTES_MAX
    """No longer write, read or resync request is sent to it."""
    uuids: PeerUuids | None = None
    next_seq: int = 1
    seen_seq: int = 0
    """The newest sequence number of the peer's packets (WIRE 9.6)."""
    disk_in_doubt: bool = False
    """It has refused a write: its word on its disk is under way, on the other socket."""
    grown: bool = False
    """Our side of the device has grown, and the peer has not said yet how large it is there."""
    skips_sync: bool = False
    """It has been told that its fresh disk is equal to ours: it does not say so itself."""
    bitmap_merged: bool = False
    """The target has sent back the one bitmap that both have now."""
    awaited_epoch: int = 0
    """What was sent to the target before our bitmap; until it has confirmed that, it may still refuse a part of it."""
    early_sync_uuid: int | None = None
    """P_SYNC_UUID has overtaken the reply that grants the resync: they come on different sockets."""


@dataclass(slots=True)
class Counters:
    """What /proc/drbd counts, in sectors unless said otherwise."""

    sent: int = 0
    received: int = 0
    written: int = 0
    read: int = 0
    al_writes: int = 0
    bm_writes: int = 0
    resynced: int = 0


@dataclass(slots=True, eq=False)
class Volume:
    """The state of one volume on this node."""

    options: VolumeOptions
    state: State
    disk: LocalDisk | None = None
    peer: PeerVolume = field(default_factory=PeerVolume)
    size_sectors: int = 0
    uuids: UuidSet = field(default_factory=lambda: UuidSet(0, 0, 0, 0))
    exposed: UuidSet = field(default_factory=lambda: UuidSet(0, 0, 0, 0))
    """While there is no local disk: the generation of the data that clients see, as far as we were told."""
    exposed_moves: bool = False
    """The peer serves our clients and begins a new generation for it, which it has not told us yet."""
    awaits_generation: bool = False
    """Our disk failed while it was good, and the peer has not said that a new generation begins without it: until
    then that disk, coming back, would count for as good as the peer's, and no client is told what only the peer has."""
    owes_generation: bool = False
    """A new generation is due, and waits for the verdict on the peer: it begins when I/O goes on without it."""
    flush_in_doubt: bool = False
    """The only good disk may have lost what clients were told of: their next FLUSH says so."""
    ranges: Ranges = field(default_factory=Ranges)
    held: deque[tuple[Any, Batch]] = field(default_factory=deque)
    sessions: set[Any] = field(default_factory=set)
    readers: set[Any] = field(default_factory=set)
    counters: Counters = field(default_factory=Counters)
    fails: bool = False
    """There is no quorum, and requests fail for it (`on-no-quorum io-error`) though I/O is frozen (core/quorum)."""
    consider_resync: bool = False
    invalid: bool = False
    attach_request: Any = None
    closes_by: float | None = None
    """The disk that was given up is being marked as bad, and will be closed then at the latest."""
    opened: DiskOpened | None = None
    """A disk that was opened in the middle of a handshake: it is attached when that is over."""

    @property
    def vnr(self) -> int:
        return self.options.vnr

    @property
    def size_bytes(self) -> int:
        return sectors_to_bytes(self.size_sectors)

    @property
    def disk_is_current(self) -> bool:
        """Whether the local disk's data, just attached, is what our clients have been using (if there are any)."""
        return self.state.role != Role.Primary or not self.disk_is_old

    @property
    def disk_is_old(self) -> bool:
        """Whether the peer has gone on, by what this node knows, in a generation that the local disk does not have.

        A Primary's disk must hold what its clients have seen. Without clients the peer may as well be behind this disk,
        or have nothing at all: then only a generation that comes from this disk's makes it old.
        """
        seen = self.exposed
        if self.state.role == Role.Primary:
            return self.exposed_moves or (seen.current ^ self.uuids.current) & ~1 != 0
        if not seen.current:
            return False
        return self.exposed_moves or self.uuids.current & ~1 in {
            older & ~1 for older in (seen.bitmap, seen.history0, seen.history1)
        }

    def is_exposed(self, theirs: UuidSet) -> bool:
        """Whether the peer's data is what clients of this diskless node have been using."""
        known = {theirs.current & ~1} | ({theirs.bitmap & ~1} if self.exposed_moves else set())
        return self.exposed.current & ~1 in known

    @property
    def out_of_sync_bits(self) -> int:
        return self.disk.bitmap.count if self.disk else 0

    @property
    def has_disk(self) -> bool:
        """Whether the local disk takes reads and writes (its data may be out of date)."""
        return self.disk is not None and self.state.disk >= DiskState.Inconsistent

    @property
    def flushes_disk(self) -> bool:
        """Whether what was written is flushed before others rely on it; `disk-flushes no` needs a disk that has it."""
        return self.options.disk_flushes or self.disk is None or self.disk.held_back

    @property
    def replicates(self) -> bool:
        """Whether a write goes to the peer as data (WIRE 9.1)."""
        state = self.state
        return state.pdsk == DiskState.UpToDate or (
            state.pdsk >= DiskState.Inconsistent and ConnState.WFBitMapT <= state.conn < ConnState.Ahead
        )

    @property
    def sends_out_of_sync(self) -> bool:
        """Whether a write that is not replicated is told to the peer as P_OUT_OF_SYNC."""
        return self.state.conn in (ConnState.WFBitMapS, ConnState.Ahead)

    @property
    def frozen(self) -> bool:
        """Whether client requests must wait (WIRE 5.5)."""
        state = self.state
        return not self.fails and (
            state.conn in (ConnState.WFBitMapT, ConnState.WFSyncUUID)
            or state.disk in (DiskState.Attaching, DiskState.Negotiating)
            or state.susp
            or state.susp_nod
            or state.susp_fen
        )

    @property
    def holds_answers(self) -> bool:
        """Whether clients must not hear yet of what has ended."""
        state = self.state
        return not self.fails and (
            state.susp_fen or state.susp_nod or (self.awaits_generation and state.connected)
        )  # fmt: skip

    @property
    def serves(self) -> bool:
        """Whether clients may be let in: Primary, with good data somewhere, or I/O frozen until there is."""
        state = self.state
        return state.role == Role.Primary and (DiskState.UpToDate in (state.disk, state.pdsk) or state.susp_nod)

    def next_seq(self, count: int) -> int:
        """Take `count` sequence numbers for this connection's packets (WIRE 9.6); the first of them."""
        first = self.peer.next_seq
        self.peer.next_seq = first + count
        return first & 0xFFFF_FFFF
