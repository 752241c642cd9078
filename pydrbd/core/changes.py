"""The funnel of all state changes of a volume, and what each change brings with it.

    sanitise -> store -> consequences, in this order:
        a new current UUID (a Primary that goes on without its peer's disk; WIRE 8)
        the superblock, if what it says has changed      (a fence: everything later waits until it is durable)
        P_UUIDS and P_STATE to the peer, where the protocol asks for them (WIRE 5.6)
        clients that were held back are let in again
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydrbd.core import uuids
from pydrbd.core.effects import DetachDisk, Level, Stage, StateChanged
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.core.transitions import Planned, sanitize
from pydrbd.core.volume import Volume
from pydrbd.metadata.superblock import MdFlag, Superblock

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Changes", "superblock_now"]

_HAS_DATA = (DiskState.Inconsistent, DiskState.Consistent, DiskState.UpToDate)
_LOST_DATA = (
    DiskState.Diskless,
    DiskState.Attaching,
    DiskState.Failed,
    DiskState.Negotiating,
    DiskState.DUnknown,
    DiskState.Outdated,
)
_VERIFYING = (ConnState.VerifyS, ConnState.VerifyT)
_STATE_FLAGS = (
    MdFlag.CONSISTENT
    | MdFlag.PRIMARY_IND
    | MdFlag.CONNECTED_IND
    | MdFlag.WAS_UP_TO_DATE
    | MdFlag.PEER_OUT_DATED
    | MdFlag.CRASHED_PRIMARY
    | MdFlag.AL_CLEAN
    | MdFlag.AL_DISABLED
)


def superblock_now(volume: Volume) -> Superblock:
    """The superblock that the volume's state asks for (META 2.2)."""
    disk, state = volume.disk, volume.state
    assert disk is not None
    local = disk.planned if state.disk in (DiskState.Attaching, DiskState.Negotiating) else state.disk
    flags = disk.superblock.flags & ~_STATE_FLAGS
    conditions = (
        (MdFlag.CONSISTENT, local > DiskState.Inconsistent),
        (
            MdFlag.PRIMARY_IND,
            state.role == Role.Primary or (state.pdsk < DiskState.Inconsistent and state.peer == Role.Primary),
        ),
        (MdFlag.CONNECTED_IND, state.conn > ConnState.WFReportParams),
        (MdFlag.WAS_UP_TO_DATE, local > DiskState.Outdated),
        (MdFlag.PEER_OUT_DATED, state.pdsk in (DiskState.Inconsistent, DiskState.Outdated)),
        (MdFlag.CRASHED_PRIMARY, disk.crashed_primary),
        (MdFlag.AL_DISABLED, not volume.options.al_updates),
    )
    for flag, holds in conditions:
        if holds:
            flags |= flag
    return replace(
        disk.superblock,
        la_size_sectors=volume.size_sectors,
        current_uuid=volume.uuids.current,
        bitmap_uuid=volume.uuids.bitmap,
        history_uuids=(volume.uuids.history0, volume.uuids.history1),
        flags=flags,
        al_extents=disk.log.slot_count,
    ).marked_unclean()


class Changes:
    """All state changes of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def change(self, volume: Volume, *, new_generation: bool = False, **wanted: Any) -> None:
        """Make fields of the state what they are now to be, with all that follows.

        `new_generation`: a new current UUID belongs to it in any case (forced promotion), before the peer hears of it.
        """
        old = volume.state
        if _may_have_ended_unseen(volume, wanted):
            wanted["pdsk"] = DiskState.DUnknown
        planned = None
        if volume.disk is not None and old.disk == DiskState.Negotiating and volume.disk_is_current:
            planned = Planned(volume.disk.planned, DiskState.DUnknown)
        new = sanitize(old, replace(old, **wanted), self._node.rules(volume), planned)
        if new == old:
            return
        volume.state = new
        self._node.log_line(Level.INFO, f"volume {volume.vnr}: {_difference(old, new)}")
        self._after(volume, old, new, new_generation)

    def _after(self, volume: Volume, old: State, new: State, new_generation: bool) -> None:
        node = self._node
        if old.disk == old.pdsk == DiskState.Inconsistent and old.peer == Role.Secondary and new.peer == Role.Primary:
            volume.consider_resync = True
        if new.connected and new.disk == new.pdsk == DiskState.UpToDate and volume.disk is not None:
            volume.disk.crashed_primary = False
        if volume.disk is None and new.role == Role.Primary and new.connected and _peer_begins_to_serve(old, new):
            volume.exposed_moves = True  # in a generation that we will hear of; with quorum, only after its lease
        if Role.Primary in (new.role, new.peer) and new.connected:
            node.resync_source.on_target_heard(volume)
        if old.conn >= ConnState.SyncSource and (new.conn < ConnState.SyncSource or new.conn >= ConnState.Ahead):
            node.resync.stop(volume)
        if old.conn == ConnState.Ahead != new.conn:
            node.congestion.forget(volume)
        if new.susp_fen and not old.susp_fen and volume.disk is not None:
            volume.disk.crashed_primary = True  # it may have written what the peer lacks (core/fencing)
        if new_generation or (self._needs_new_current(volume, old, new) and not self._must_wait(new)):
            self.new_current_uuid(volume)  # before bit 0 follows: the generation that ends was not this Primary's
        elif self._needs_new_current(volume, old, new):
            volume.owes_generation = True
        self._follow_role(volume, old, new)
        if volume.disk is not None and new.disk > DiskState.Failed:
            self.write_superblock(volume)
        if new.conn >= ConnState.Connected and _peer_attached(old, new):
            node.send_uuids(volume)
            node.send_state(volume)
        elif new.conn >= ConnState.Connected and self._is_announced(old, new):
            node.send_state(volume)
        # A write that is let go by now may be for the peer alone: it must know that, to mark what we lack.
        node.resync.let_go(volume)
        if old.conn in _VERIFYING and new.conn not in _VERIFYING:
            node.verify.stop(volume)
        if old.disk == DiskState.Negotiating and new.disk == DiskState.Diskless:
            volume.disk = None  # the link broke before the peer's word, and it may hold old data
            node.out.put(DetachDisk(volume.vnr))
        if _is_without_data(new) and not _is_without_data(old):
            node.helpers.run("pri-on-incon-degr", volume)
        node.out.put(StateChanged())
        if old.conn == ConnState.WFReportParams != new.conn and volume.opened is not None:
            node.disks.resume(volume)
        if volume.awaits_generation and volume.has_disk:
            volume.awaits_generation = False
            node.writes.resume()
        if new.connected and not old.connected:
            node.quorum.on_connected()
        node.quorum.review()
        if new.susp_fen:
            node.fence.review()
        if new.susp_nod:
            node.no_data.review()
        if not volume.frozen:
            node.thaw(volume)

    def _must_wait(self, new: State) -> bool:
        """Whether it is not settled yet that this node's disk is to go on without the peer's."""
        return new.susp_fen or self._node.quorum.holds_peer

    def _follow_role(self, volume: Volume, old: State, new: State) -> None:
        """Bit 0 of the current UUID says whether this node is or was Primary."""
        if old.role != new.role and volume.disk is not None:
            volume.uuids = uuids.set_primary_bit(volume.uuids, new.role == Role.Primary)
            self._node.resync.on_role_changed(volume)
        if old.role != new.role:
            volume.flush_in_doubt = False  # those who could be told of it are gone
            self._node.verify.on_role_changed(volume)

    def _needs_new_current(self, volume: Volume, old: State, new: State) -> bool:
        if volume.disk is None or new.disk < DiskState.UpToDate or volume.uuids.bitmap:
            return False
        lost = (old.pdsk in _HAS_DATA and new.pdsk in _LOST_DATA) or (
            old.pdsk == DiskState.DUnknown and new.pdsk in (DiskState.Diskless, DiskState.Failed, DiskState.Outdated)
        )
        if lost and Role.Primary in (new.role, new.peer):
            return True
        begins_alone = (  # by a promotion, or because a Primary that had none gets its disk
            (old.role != Role.Primary or old.disk < DiskState.Inconsistent)
            and new.role == Role.Primary
            and (new.conn < ConnState.Connected or new.pdsk <= DiskState.Failed)
        )
        serves = new.peer == Role.Primary and new.pdsk < DiskState.Inconsistent and new.conn >= ConnState.Connected
        begins_to_serve = old.peer == Role.Secondary or old.disk < DiskState.UpToDate
        return begins_alone or (serves and begins_to_serve)

    def _is_announced(self, old: State, new: State) -> bool:
        """Whether the peer is told by P_STATE (WIRE 5.6, last paragraph)."""
        if old.conn <= ConnState.WFReportParams:
            return True
        return (
            old.role != new.role
            or old.aftr_isp != new.aftr_isp
            or old.user_isp != new.user_isp
            or (old.disk != new.disk and new.disk in (DiskState.Failed, DiskState.Diskless))
            or (old.disk == DiskState.UpToDate and new.disk == DiskState.Inconsistent)
            or (old.conn != new.conn and new.conn == ConnState.Ahead)
            or (old.conn == ConnState.VerifyS and new.role == new.peer == Role.Primary)  # the verify is over
        )

    # --- what is written ---

    def new_current_uuid(self, volume: Volume) -> None:
        """Begin a new generation: durable before anything that is decided later is told to anybody (C6)."""
        volume.uuids = uuids.new_current(volume.uuids, self._node.draw_u64(), volume.state.role == Role.Primary)
        self._node.log_line(Level.INFO, f"volume {volume.vnr}: new current UUID {volume.uuids.current:016X}")
        self.write_superblock(volume)
        if volume.state.conn >= ConnState.Connected:
            self._node.send_uuids(volume)

    def write_superblock(self, volume: Volume, before: tuple[Stage, ...] = ()) -> None:
        """Put the superblock behind a fence if it differs from the one on disk; `before` is written first."""
        disk = volume.disk
        if disk is None:
            return
        wanted = superblock_now(volume)
        if wanted == disk.superblock and not before:
            return
        if MdFlag.PRIMARY_IND in disk.superblock.flags & ~wanted.flags and not before:
            # From here on the activity log covers nothing any more: what it covered must be durable.
            before = self.bitmap_stage(volume, flush_data=True) or self.flush_stage(volume)
        disk.superblock = wanted
        disk.log_counts = disk.log_counts or MdFlag.PRIMARY_IND in wanted.flags
        stages = before
        stages += (Stage(False, ((disk.layout.superblock_offset_bytes, wanted.encode()),)),)
        self._node.out.persist(volume.vnr, stages)

    def bitmap_stage(self, volume: Volume, *, flush_data: bool) -> tuple[Stage, ...]:
        """The changed bitmap pages as a stage; with `flush_data` the data that cleared bits rest on goes first."""
        flush_data = flush_data and volume.flushes_disk
        disk = volume.disk
        assert disk is not None
        pages = disk.bitmap.take_dirty_pages()
        if not pages:
            return ()
        volume.counters.bm_writes += len(pages)
        base = disk.layout.bitmap_offset_bytes
        return (Stage(flush_data, tuple((base + index * len(page), page) for index, page in pages)),)

    def flush_stage(self, volume: Volume) -> tuple[Stage, ...]:
        """The data, durable, as a stage."""
        return (Stage(True, ()),) if volume.flushes_disk else ()

    def write_bitmap(self, volume: Volume) -> None:
        """Put the changed bitmap pages behind a fence."""
        if volume.disk is not None:
            stages = self.bitmap_stage(volume, flush_data=True)
            if stages:
                self._node.out.persist(volume.vnr, stages)


def _peer_begins_to_serve(old: State, new: State) -> bool:
    """Its disk comes beside a Primary that has none either: what clients do from here on is there, and only there."""
    return old.connected and old.pdsk < DiskState.Inconsistent and new.pdsk == DiskState.UpToDate


def _may_have_ended_unseen(volume: Volume, wanted: dict[str, Any]) -> bool:
    """Whether a sync target is being lost that may have ended the resync, and so be UpToDate, unknown to its source.

    The source has put the sync UUID into its history before it let the target end (ResyncSource.lets_target_end):
    only then does a resync run without a bitmap UUID.
    """
    running = (ConnState.SyncSource, ConnState.PausedSyncS)
    lost = wanted.get("conn", ConnState.Connected) < ConnState.Connected
    return lost and volume.state.conn in running and volume.disk is not None and not volume.uuids.bitmap


def _is_without_data(state: State) -> bool:
    """A Primary that can't reach good data, here or there."""
    return state.role == Role.Primary and max(state.disk, state.pdsk) < DiskState.UpToDate


def _peer_attached(old: State, new: State) -> bool:
    """The peer has got a disk while connected: it needs to know ours to find out which data is newer (WIRE 17)."""
    return old.conn >= ConnState.Connected and old.pdsk < DiskState.Negotiating <= new.pdsk


def _difference(old: State, new: State) -> str:
    """The changed fields as the kernel's log shows them."""
    names = ("role", "peer", "conn", "disk", "pdsk", "susp", "aftr_isp", "peer_isp", "user_isp", "susp_nod", "susp_fen")
    return " ".join(
        f"{name}( {_text(getattr(old, name))} -> {_text(getattr(new, name))} )"
        for name in names
        if getattr(old, name) != getattr(new, name)
    )


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value.name)
