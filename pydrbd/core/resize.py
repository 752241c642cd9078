"""The device grows while it is in use: `resize`, and the peer's side of it (WIRE 4.6 and 12.9).

    measure the disks -> move the meta-data -> agree on a size -> P_UUIDS, P_SIZES (c_size 0: "and yours?")
    the peer does the same and answers with P_SIZES; whoever has grown then fills the new end: the Primary is source

Each side computes the size by itself. The new area is out of sync until it has been resynced, unless an operator says
that it is equal (--assume-clean). The activity log may be given other stripes on the way.

A device shrinks only if an operator asks for that very size, and says that he means it (--assume-peer-has-space): on
the only Primary, and not while anything is under way beyond the new end. A kernel shrinks for the size alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pydrbd.core import sizes
from pydrbd.core.changes import superblock_now
from pydrbd.core.effects import Answer, Level, MeasureDisk, Stage
from pydrbd.core.refusals import (
    ERR_IMPLICIT_SHRINK,
    ERR_MD_LAYOUT_CONNECTED,
    ERR_MD_LAYOUT_NO_FIT,
    ERR_MD_LAYOUT_TOO_BIG,
    ERR_MD_LAYOUT_TOO_SMALL,
    ERR_NO_DISK,
    ERR_NO_PRIMARY,
    ERR_RESIZE_RESYNC,
    StateCode,
    chosen_volumes,
    failure,
)
from pydrbd.core.sizes import SizeRefused
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.volume import LocalDisk, Volume
from pydrbd.errors import MetaDataError
from pydrbd.metadata.activity_log import slot_limit
from pydrbd.metadata.layout import AL_BLOCKS_MAX, AL_BLOCKS_MIN, Layout
from pydrbd.metadata.moving import grown_layout, plan_move, with_layout
from pydrbd.units import sectors_to_bytes
from pydrbd.wire.packet_numbers import DdsFlag
from pydrbd.wire.packets import Sizes

if TYPE_CHECKING:
    from pydrbd.core.events import Command
    from pydrbd.core.node import Node

__all__ = ["Resizes"]


class Resizes:
    """Changes of size while the peer is known, or by an operator alone."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- the operator ---

    def on_command(self, command: Command) -> None:
        """Arguments: `size_sectors`, `assume_clean`, `assume_peer_has_space`, `al_stripes`, `al_stripe_size_kib`, and
        `volume` to name a single one."""
        self._next(command, chosen_volumes(self._node.volumes, command.arguments), [])

    def _next(self, command: Command, volumes: list[Volume], notes: list[str]) -> None:
        """One volume after the other, each measured first; the first refusal ends it. `notes`: what it can't do yet."""
        if not volumes:
            self._node.out.put(Answer(command.request, int(StateCode.SS_SUCCESS), "; ".join(notes)))
            return
        volume, rest = volumes[0], volumes[1:]

        def measured(error: str) -> None:
            refused = error or self._refusal(volume, command) or self._resize(volume, command, notes)
            if refused:
                self._fail(command, refused)
            else:
                self._next(command, rest, notes)

        refused = self._refusal(volume, command)
        if refused:
            self._fail(command, refused)
        else:
            self._measure(volume, measured, _stripes(volume, command))

    def _fail(self, command: Command, text: str) -> None:
        self._node.out.put(Answer(command.request, int(StateCode.SS_UNKNOWN_ERROR), text))

    def _refusal(self, volume: Volume, command: Command) -> str:
        state = volume.state
        if not volume.has_disk:
            return failure(ERR_NO_DISK)
        if state.conn > ConnState.Connected:
            return failure(ERR_RESIZE_RESYNC)
        if state.role is Role.Secondary is state.peer:
            return failure(ERR_NO_PRIMARY)
        return self._refused_stripes(volume, command)

    def _refused_stripes(self, volume: Volume, command: Command) -> str:
        """Why the activity log can't have the stripes that an operator asks for."""
        disk, stripes = volume.disk, _stripes(volume, command)
        assert disk is not None
        if stripes is None:
            return ""
        blocks = stripes[0] * stripes[1]
        if volume.state.conn < ConnState.Connected and not command.arguments.get("assume_peer_has_space"):
            return failure(ERR_MD_LAYOUT_CONNECTED)
        if blocks > AL_BLOCKS_MAX:
            return failure(ERR_MD_LAYOUT_TOO_BIG)
        if blocks < AL_BLOCKS_MIN:
            return failure(ERR_MD_LAYOUT_TOO_SMALL)
        if disk.log.slot_count > slot_limit(blocks):
            words = f"(it has room for al-extents {slot_limit(blocks)}, {disk.log.slot_count} are in force)"
            return failure(ERR_MD_LAYOUT_TOO_SMALL, words)
        return ""

    def _resize(self, volume: Volume, command: Command, notes: list[str]) -> str:
        """The disks are measured: grow on this side, and ask the peer. Words if it is refused."""
        node, disk, arguments = self._node, volume.disk, command.arguments
        assert disk is not None
        wanted = arguments.get("size_sectors")
        user = volume.options.size_sectors if wanted is None else int(wanted)
        flags = DdsFlag(0)
        if arguments.get("assume_peer_has_space"):
            flags |= DdsFlag.FORCED
        if arguments.get("assume_clean"):
            flags |= DdsFlag.NO_RESYNC
        peers = self._peers_disk(volume)
        if DdsFlag.FORCED in flags and volume.state.conn < ConnState.Connected:
            node.log_line(Level.WARNING, f"volume {volume.vnr}: resized while not connected, as the operator insists")
            peers = disk.capacity_sectors
        agreed = self._agreed(volume, disk, peers, user)
        if agreed < volume.size_sectors:
            asked = bool(wanted) and agreed == user and DdsFlag.FORCED in flags
            refused = self._no_shrink(volume, agreed) if asked else failure(ERR_IMPLICIT_SHRINK, _words(volume, agreed))
            if refused:
                return refused
            node.log_line(Level.WARNING, f"volume {volume.vnr}: shrinks, as the operator insists")
        if user > agreed:
            whose, room = ("this", disk.capacity_sectors) if user > disk.capacity_sectors else ("the peer's", agreed)
            unless = "" if whose == "this" else "unless it has grown meanwhile, "
            notes.append(
                f"volume {volume.vnr}: {user} sectors are wanted, {whose} disk has room for {room}: {unless}make it "
                "larger and resize again"
            )
            node.log_line(Level.WARNING, notes[-1])
        volume.options = replace(volume.options, size_sectors=user)
        grown = agreed > volume.size_sectors
        node.peers.set_size(volume, agreed, mark_new=DdsFlag.NO_RESYNC not in flags)
        if volume.state.conn >= ConnState.Connected:
            volume.peer.grown = grown
            node.send_uuids(volume)
            node.peers.send_sizes(volume, int(flags), asks=True)
        return ""

    def _no_shrink(self, volume: Volume, sectors: int) -> str:
        """Why the device can't be made smaller now, although an operator asks for it; "" if it can."""
        node, size_bytes = self._node, sectors_to_bytes(sectors)
        if volume.state.role is not Role.Primary:
            return failure(ERR_NO_PRIMARY, "a device that is in use is made smaller where it is Primary")
        if volume.state.peer is Role.Primary:  # what its clients have under way is not known here
            return failure(ERR_IMPLICIT_SHRINK, "the peer is Primary too: make it Secondary first")
        if (
            volume.ranges.reaches_beyond(size_bytes)
            or node.clients.reaches_beyond(volume, size_bytes)
            or node.log.reaches_beyond(volume, size_bytes)
        ):
            node.press_for_barrier()
            return failure(ERR_IMPLICIT_SHRINK, "writes beyond the new end are under way: stop them, and try again")
        return ""

    # --- the peer ---

    def on_sizes(self, volume: Volume, packet: Sizes) -> None:
        """P_SIZES after the handshake: a disk has come, or grown, there."""
        node, disk = self._node, volume.disk
        if disk is None or volume.state.disk < DiskState.Negotiating:
            self._on_sizes_diskless(volume, packet)
            return
        if packet.d_size:
            volume.options = replace(volume.options, size_sectors=packet.u_size)
        # What we know of our disk counts at once: writes to what the peer knows to be there may follow.
        if not self._follow(volume, packet):
            return
        if packet.c_size or not volume.has_disk:
            self._reply(volume, packet)
            return
        generation = node.link_generation

        def measured(error: str) -> None:
            if generation != node.link_generation or volume.disk is not disk:
                return
            if error:
                node.log_line(Level.ERROR, f"volume {volume.vnr}: {error}")
            if self._follow(volume, packet):
                self._reply(volume, packet)

        self._measure(volume, measured)

    def _on_sizes_diskless(self, volume: Volume, packet: Sizes) -> None:
        node = self._node
        if packet.c_size or not volume.size_sectors:
            taken = sizes.diskless_size(packet, volume.size_sectors, volume.state.role)
            if isinstance(taken, SizeRefused):
                node.give_up_connection(taken.reason)
                return
            volume.size_sectors = taken
        else:
            node.peers.send_sizes(volume, packet.dds_flags)  # a resize: without our disk the peer does not grow

    def _follow(self, volume: Volume, packet: Sizes) -> bool:
        """Make the device as large as both agree by now; False if the connection was given up over it."""
        node, disk = self._node, volume.disk
        assert disk is not None
        agreed = self._agreed(volume, disk, packet.d_size, packet.u_size)
        refused = sizes.refuse_size(agreed, volume.size_sectors, volume.state)
        if refused is not None:
            node.give_up_connection(refused.reason)
            return False
        volume.peer.grown = volume.peer.grown or 0 < volume.size_sectors < agreed
        node.peers.set_size(volume, agreed, mark_new=not packet.dds_flags & DdsFlag.NO_RESYNC)
        return True

    def _reply(self, volume: Volume, packet: Sizes) -> None:
        """Our size, if the peer does not know it; then the new end is made equal."""
        node = self._node
        conn = volume.state.conn
        if sizes.must_reply_with_sizes(packet, volume.size_sectors, conn, backing_changed=False):
            node.peers.send_sizes(volume, packet.dds_flags)
        grown, volume.peer.grown = volume.peer.grown, False
        if grown:
            self._fill_new_end(volume, DdsFlag(packet.dds_flags))

    def _fill_new_end(self, volume: Volume, flags: DdsFlag) -> None:
        """Both have grown, and their new bits are set: resync them without an exchange of bitmaps."""
        node, state = self._node, volume.state
        if not sizes.grow_needs_resync(state, flags):
            if DdsFlag.NO_RESYNC in flags:
                node.log_line(Level.INFO, f"volume {volume.vnr}: the new end is not resynced (--assume-clean)")
            return
        source = sizes.i_am_source_of_grow(state, resolve_conflicts=node.resolve_conflicts)
        if (state.disk if source else state.pdsk) is not DiskState.UpToDate:
            return  # nobody has data to fill it with; the bits stay
        node.log_line(Level.INFO, f"volume {volume.vnr}: resync of the new end")
        if source:
            node.resync_source.start(volume)
        else:
            node.change(volume, conn=ConnState.WFSyncUUID)

    # --- the disks ---

    def _peers_disk(self, volume: Volume) -> int:
        theirs = volume.peer.sizes
        return theirs.d_size if theirs is not None and volume.state.pdsk > DiskState.Diskless else 0

    def _agreed(self, volume: Volume, disk: LocalDisk, peers: int, user: int) -> int:
        last = disk.superblock.la_size_sectors
        return sizes.agreed_size(disk.capacity_sectors, peers, last_agreed=last, user=user)

    def _measure(self, volume: Volume, then: Callable[[str], None], stripes: tuple[int, int] | None = None) -> None:
        """Look how large the disks are, and have the meta-data follow them; `then` gets words if that failed."""
        node, disk = self._node, volume.disk

        def measured(failed: int, _errno: int) -> None:
            if volume.disk is not disk or disk is None:
                then(failure(ERR_NO_DISK))
            elif failed:
                then("the disk has shrunk, or can't be measured")
            else:
                node.gate.when_quiet(volume, take_up)

        def take_up() -> None:
            if volume.disk is not disk or disk is None:
                then(failure(ERR_NO_DISK))
                return
            try:
                layout = grown_layout(disk.layout, effect.md_sectors, stripes)
            except MetaDataError as error:
                then(failure(ERR_MD_LAYOUT_NO_FIT, str(error)))
                return
            room = layout.data_sectors(effect.backing_sectors)
            if stripes is not None and room < volume.size_sectors:
                words = f"it leaves {room} sectors, and the device has {volume.size_sectors}: make it smaller first"
                then(failure(ERR_MD_LAYOUT_NO_FIT, words))
                return
            self._take_up(volume, disk, layout, room)
            then("")

        effect = MeasureDisk(volume.vnr, measured)
        node.out.put(effect)

    def _take_up(self, volume: Volume, disk: LocalDisk, layout: Layout, capacity_sectors: int) -> None:
        """The disks have these sizes now. Everything that is written from here on goes to the new place."""
        node, old = self._node, disk.layout
        disk.layout, disk.capacity_sectors = layout, capacity_sectors
        if replace(layout, md_device_sectors=old.md_device_sectors) == old:
            return
        node.log_line(
            Level.INFO,
            f"volume {volume.vnr}: the meta-data moves from byte {old.superblock_offset_bytes} to "
            f"{layout.superblock_offset_bytes}, its activity log has {layout.al_stripes} stripes of "
            f"{layout.al_stripe_size_4k * 4} KiB: the device has {sectors_to_bytes(layout.md_device_sectors)} bytes",
        )
        if (layout.al_stripes, layout.al_stripe_size_4k) != (old.al_stripes, old.al_stripe_size_4k):
            disk.log.restripe(layout.al_stripes, layout.al_stripe_size_4k)
        disk.superblock = with_layout(disk.superblock, disk.layout)
        disk.superblock = superblock_now(volume)
        disk.bitmap.mark_all_dirty()
        pages = disk.bitmap.take_dirty_pages()
        stages = plan_move(old, disk.layout, disk.superblock, pages, disk.log.rewrite())
        # What was resynced is clean in these pages: its data is durable first.
        node.out.persist(volume.vnr, tuple(Stage(not number, writes) for number, writes in enumerate(stages)))


def _stripes(volume: Volume, command: Command) -> tuple[int, int] | None:
    """How many stripes the activity log is to have, and blocks in each: what is not said stays. None: all stays."""
    disk, stripes = volume.disk, command.arguments.get("al_stripes")
    size_kib = command.arguments.get("al_stripe_size_kib")
    if disk is None or (stripes is None and size_kib is None):
        return None
    now = disk.layout
    wanted = int(stripes or now.al_stripes), int(size_kib) // 4 if size_kib else now.al_stripe_size_4k
    return None if wanted == (now.al_stripes, now.al_stripe_size_4k) else wanted


def _words(volume: Volume, sectors: int) -> str:
    return (
        f"{sectors} sectors wanted, the device has {volume.size_sectors}; what lies beyond would be lost: "
        "ask for it with --size and --assume-peer-has-space, after all that uses the device has been made smaller"
    )
