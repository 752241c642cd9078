"""The local disk comes, the local disk goes.

Attaching turns what the meta-data says into a disk state (META 2.3); while connected the peer has a word in it first
(Negotiating). An I/O error costs the disk (on-io-error detach, call-local-io-error): Failed, then Diskless, and the
peer is told of both. With pass_on only an error of the meta-data, or of a flush, does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydrbd.core import sizes, uuids
from pydrbd.core.changes import superblock_now
from pydrbd.core.effects import DetachDisk, Level, Persist, Stage
from pydrbd.core.events import DiskNotOpened, DiskOpened
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.transitions import Fencing
from pydrbd.core.uuids import UuidSet
from pydrbd.core.volume import LocalDisk, Volume
from pydrbd.limits import BAD_DISK_MARK_S
from pydrbd.metadata.activity_log import ActivityLog, slot_limit
from pydrbd.metadata.superblock import MdFlag

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["DiskEvents"]


class DiskEvents:
    """Attaching and losing the local disks of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def on_opened(self, event: DiskOpened) -> None:
        """The meta-data has been read and its activity log applied."""
        node = self._node
        volume = node.volumes[event.volume]
        if volume.state.conn == ConnState.WFReportParams:
            volume.opened = event  # the peer has been told that there is no disk, and must decide on that first
            return
        found = event.superblock.attach_state()
        planned = DiskState(int(found.disk))
        if planned is DiskState.Consistent and (volume.options.fencing is Fencing.DONT_CARE or found.peer_outdated):
            # The peer can't have gone on alone; or nobody asks whether it has (dont-care): as good as it gets.
            planned = DiskState.UpToDate
        refused = self._check_size(volume, event)
        if refused:
            node.out.put(DetachDisk(volume.vnr))
            node.change(volume, disk=DiskState.Diskless)
            self._attached(volume, refused)
            return
        if found.full_sync:
            event.bitmap.set_all()
        volume.disk = self._local_disk(volume, event, planned)
        stored = event.superblock
        primary = volume.state.role == Role.Primary
        volume.uuids = uuids.set_primary_bit(
            UuidSet(stored.current_uuid, stored.bitmap_uuid, *stored.history_uuids), primary
        )
        if volume.state.conn < ConnState.Connected and not volume.disk_is_current:
            volume.disk = None
            node.out.put(DetachDisk(volume.vnr))
            node.change(volume, disk=DiskState.Diskless)
            older = f"volume {volume.vnr}: this disk's data is older than what clients have seen; connect first"
            self._attached(volume, older)
            return
        if volume.disk_is_old:
            # Unlike the kernel: clients may have gone since, what they were told has not. Promoting it takes force.
            # A peer of its generation takes a crashed Primary's for the newer one (rule 40), unless it is Inconsistent.
            misleads = found.crashed_primary and volume.exposed_moves
            least = DiskState.Inconsistent if misleads else DiskState.Outdated
            volume.disk.planned = min(planned, least)
        if event.applied_extents:
            node.log_line(
                Level.WARNING,
                f"volume {volume.vnr}: crashed Primary, {event.applied_extents} activity log extents marked "
                f"out of sync ({event.bitmap.count} bits)",
            )
        node.peers.set_size(volume, self._size(volume, event))
        if found.full_sync:
            self._forget_full_sync(volume, volume.disk)
        self._enter(volume, DiskState.Outdated if found.peer_outdated else volume.state.pdsk)
        self._attached(volume, "")

    def _local_disk(self, volume: Volume, event: DiskOpened, planned: DiskState) -> LocalDisk:
        layout, found = event.layout, event.superblock.attach_state()
        return LocalDisk(
            layout,
            event.superblock,
            event.bitmap,
            ActivityLog(
                min(volume.options.al_extents, slot_limit(layout.al_block_count)),
                layout.al_stripes,
                layout.al_stripe_size_4k,
            ),
            event.capacity_sectors,
            found.crashed_primary,
            planned,
            degraded=found.degraded,
            zeroes_fast=event.zeroes_fast,
            held_back=event.held_back,
        )

    def _forget_full_sync(self, volume: Volume, disk: LocalDisk) -> None:
        """Every bit is set on disk: the flag that said so has done its duty, or each later attach would sync it all."""
        stages = self._node.changes.bitmap_stage(volume, flush_data=False)
        disk.superblock = replace(disk.superblock, flags=disk.superblock.flags & ~MdFlag.FULL_SYNC)
        self._node.changes.write_superblock(volume, stages or (Stage(False, ()),))

    def resume(self, volume: Volume) -> None:
        """The handshake that an attach had to wait for is over."""
        event, volume.opened = volume.opened, None
        assert event is not None
        self.on_opened(event)

    def _enter(self, volume: Volume, pdsk: DiskState) -> None:
        node = self._node
        assert volume.disk is not None
        if volume.state.conn >= ConnState.Connected:
            node.change(volume, disk=DiskState.Negotiating)
            node.changes.write_superblock(volume)
            node.peers.send_sizes(volume)
            node.send_uuids(volume)
            node.send_state(volume)
        else:
            node.change(volume, disk=volume.disk.planned, pdsk=pdsk)
        node.changes.write_superblock(volume)

    def _size(self, volume: Volume, event: DiskOpened) -> int:
        return sizes.agreed_size(
            event.capacity_sectors,
            0,
            last_agreed=event.superblock.la_size_sectors,
            user=volume.options.size_sectors,
        )

    def _check_size(self, volume: Volume, event: DiskOpened) -> str:
        last = event.superblock.la_size_sectors
        if last > event.capacity_sectors and event.superblock.attach_state().disk >= DiskState.Outdated:
            return (
                f"volume {volume.vnr}: the disk offers {event.capacity_sectors} sectors, but the device had {last}: "
                "it has been truncated, or this is another disk"
            )
        current = volume.size_sectors
        if current and volume.state.role == Role.Primary and self._size(volume, event) < current:
            return f"volume {volume.vnr}: the disk is smaller than the device in use ({current} sectors)"
        peer_has_it = volume.state.conn >= ConnState.Connected and volume.state.pdsk >= DiskState.Inconsistent
        if peer_has_it and event.capacity_sectors < current:
            # The peer would refuse it by leaving us, and stand alone, for a disk that is none for this device.
            return (
                f"volume {volume.vnr}: the disk offers {event.capacity_sectors} sectors, but the peer's device has "
                f"{current}: use a larger disk here, or shrink the peer's device first"
            )
        return ""

    def on_not_opened(self, event: DiskNotOpened) -> None:
        """No disk, or none of ours."""
        node = self._node
        volume = node.volumes[event.volume]
        node.log_line(Level.ERROR, f"volume {event.volume}: can't attach: {event.text}")
        node.change(volume, disk=DiskState.Diskless)
        self._attached(volume, event.text)

    def _attached(self, volume: Volume, error: str) -> None:
        then, volume.attach_request = volume.attach_request, None
        if then is not None:
            then(volume.vnr, error)

    def on_error(self, volume: Volume, text: str, *, data: bool = False) -> None:
        """The local disk did not do what it must: give it up, or (pass_on, `data`) hand the error up."""
        node = self._node
        if volume.disk is None or volume.state.disk <= DiskState.Failed:
            return
        if data and volume.options.on_io_error == "pass_on":
            self._pass_on(volume, text)
            return
        node.log_line(Level.ERROR, f"volume {volume.vnr}: {text}; detaching the local disk")
        self.run_handler(volume)
        # Before the two were compared, ours may be the newer one: marked as bad it would be overwritten by the older.
        peer_is_good = volume.state.pdsk == DiskState.UpToDate and volume.state.disk is not DiskState.Negotiating
        node.change(volume, disk=DiskState.Failed)
        self.finish_detach(volume, distrust=peer_is_good)

    def run_handler(self, volume: Volume) -> None:
        """The disk is being given up: whoever wants to be called is."""
        if volume.options.on_io_error == "call-local-io-error":
            self._node.helpers.run("local-io-error", volume)

    def _pass_on(self, volume: Volume, text: str) -> None:
        """The disk stays, and whoever asked gets the error, unless the peer's good disk stands in.

        Unlike the kernel's, a disk that is the only good one stays what it is: Inconsistent, it would be overwritten by
        the peer's older data when they meet, with all that clients have been told of since.
        """
        node = self._node
        node.log_line(Level.ERROR, f"volume {volume.vnr}: {text}; passed on")
        node.changes.write_bitmap(volume)  # where it is bad, it must know after a crash, too
        if volume.state.pdsk == DiskState.UpToDate and volume.state.disk > DiskState.Inconsistent:
            node.change(volume, disk=DiskState.Inconsistent)

    def _close(self, volume: Volume) -> None:
        if volume.closes_by is not None:
            volume.closes_by = None
            self._node.out.put_urgent(DetachDisk(volume.vnr))

    def _close_as_bad(self, volume: Volume, disk: LocalDisk) -> None:
        """Mark the disk Inconsistent, then close it.

        It may lack what the peer was told it has, and the link may break before the peer hears of the error: after a
        restart it would look as good as the peer's, and be a source. Without a good peer its data is the best there
        is, so it stays what it was.

        Nothing is flushed for it: what the activity log covers, it must cover further on, whatever our role is by now.
        """

        def done(_failed: int, _errno: int) -> None:
            self._close(volume)

        volume.closes_by = self._node.now + BAD_DISK_MARK_S
        place = disk.layout.superblock_offset_bytes
        bad = superblock_now(volume)
        if disk.log_counts:
            bad = replace(bad, flags=bad.flags | MdFlag.PRIMARY_IND)
        self._node.out.put(Persist(volume.vnr, (Stage(False, ((place, bad.encode()),)),), done))

    def next_deadline(self) -> float | None:
        """When a disk that was given up is closed, whether it could be marked as bad or not."""
        deadlines = (volume.closes_by for volume in self._node.volumes.values())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def close_overdue(self) -> None:
        """Close what takes too long to be marked."""
        for volume in self._node.volumes.values():
            if volume.closes_by is not None and self._node.now >= volume.closes_by:
                self._close(volume)

    def finish_detach(self, volume: Volume, *, distrust: bool = False, urgent: bool = False) -> None:
        """Failed becomes Diskless; what is under way on the disk ends with errors by itself.

        `urgent`: the disk hangs, and so may what is being persisted on it.
        """
        node = self._node
        if volume.disk is not None:
            if distrust:
                self._close_as_bad(volume, volume.disk)
            elif urgent:
                node.out.put_urgent(DetachDisk(volume.vnr))
            else:
                node.out.put(DetachDisk(volume.vnr))
            theirs = volume.peer.uuids
            volume.exposed = volume.uuids
            # A peer that is not good has nothing to serve us with, and begins no generation.
            serves = volume.state.connected and volume.state.pdsk is DiskState.UpToDate
            volume.exposed_moves = volume.state.role == Role.Primary and serves
            if theirs is not None and (theirs.set.bitmap ^ volume.uuids.current) & ~1 == 0:
                volume.exposed, volume.exposed_moves = theirs.set, False  # it has told us already
            was_good = MdFlag.WAS_UP_TO_DATE in volume.disk.superblock.flags
            # One that failed again before it was attached may be as good as it was: its last mark did not get there.
            volume.awaits_generation = volume.exposed_moves and (was_good or volume.awaits_generation)
        volume.disk = None
        node.change(volume, disk=DiskState.Diskless)
        node.writes.early.ask_for_the_rest()  # from here on only the peer has it
        node.gate.retry()
        node.resync.stop(volume)
        node.resync.let_go(volume)
