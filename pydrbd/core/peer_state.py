"""What the two nodes tell each other of a volume: parameters, sizes, generation identifiers, states (WIRE 4.5 to 5.6).

The last of them, P_STATE, decides: whose data is newer, and whether a resync must follow, or the connection end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydrbd.core import sizes, uuids
from pydrbd.core.effects import Level, Stage
from pydrbd.core.link_events import SplitBrain
from pydrbd.core.sizes import SizeRefused
from pydrbd.core.split_brain import Abort, Policies, Situation, SyncSource, SyncTarget, decide
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.core.uuids import PeerUuids, UuidSet
from pydrbd.core.volume import Volume
from pydrbd.metadata.superblock import MdFlag
from pydrbd.units import bits_for_sectors, sectors_to_bytes
from pydrbd.wire.packet_numbers import AfterSb, UuidFlag
from pydrbd.wire.packets import Packet, QueueLimits, Sizes, SyncParam, Uuids
from pydrbd.wire.packets import State as WireState

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["PeerStates"]

_WAITING_FOR_SYNC = range(ConnState.StartingSyncS, ConnState.WFSyncUUID + 1)
_GOOD = DiskState.UpToDate
_RR_CONFLICT = {
    "disconnect": AfterSb.DISCONNECT,
    "call-pri-lost": AfterSb.CALL_PRI_LOST_AFTER_SB,
    "violently": AfterSb.VIOLENTLY_AS0P,
}


class PeerStates:
    """Sends and receives what describes a volume."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- sending ---

    def send_sync_param(self, volume: Volume) -> None:
        parameter = SyncParam(volume.options.resync_rate_kib_s, *self._node.digests.names, volume.options.controller)
        self._node.send_data(Packet.P_SYNC_PARAM89, parameter.encode(), volume.vnr)

    def send_sizes(self, volume: Volume, dds_flags: int = 0, *, asks: bool = False) -> None:
        """P_SIZES: what our disk offers, what the user wants, what is exported now (`asks`: the peer is to answer)."""
        disk = volume.disk if volume.state.disk >= DiskState.Negotiating else None
        packet = Sizes(
            disk.capacity_sectors if disk else 0,
            volume.options.size_sectors if disk else 0,
            0 if asks else volume.size_sectors,
            volume.options.max_bio_bytes,
            dds_flags=dds_flags,
            queue_limits=QueueLimits(4096, 512, 0, 4096, 0, 1) if self._node.long_sizes else None,
        )
        self._node.send_data(Packet.P_SIZES, packet.encode(), volume.vnr)

    def send_uuids(self, volume: Volume, extra_flags: int = 0) -> None:
        """P_UUIDS, unless there is no disk to have any."""
        disk = volume.disk
        if disk is None or volume.state.disk < DiskState.Negotiating:
            return
        flags = extra_flags
        if self._node.discards_my_data:
            flags |= UuidFlag.DISCARD_MY_DATA
        if disk.crashed_primary:
            flags |= UuidFlag.CRASHED_PRIMARY
        if volume.state.disk == DiskState.Negotiating and disk.planned == DiskState.Inconsistent:
            flags |= UuidFlag.INCONSISTENT
        mine = volume.uuids
        packet = Uuids(mine.current, mine.bitmap, mine.history0, mine.history1, disk.bitmap.count, int(flags))
        self._node.send_data(Packet.P_UUIDS, packet.encode(), volume.vnr)

    def send_state(self, volume: Volume, conn: ConnState | None = None) -> None:
        state = volume.state if conn is None else replace(volume.state, conn=conn)
        self._node.send_data(Packet.P_STATE, WireState(state.encode()).encode(), volume.vnr)

    # --- receiving ---

    def on_sizes(self, volume: Volume, payload: bytes) -> None:
        """Agree on the size of the device, or refuse the peer."""
        node, disk = self._node, volume.disk
        packet = Sizes.decode(payload, with_queue_limits=node.long_sizes)
        volume.peer.sizes = packet
        volume.peer.request_bytes_max = sizes.request_bytes_max(packet)
        if volume.state.conn > ConnState.WFReportParams:
            node.resizes.on_sizes(volume, packet)
            return
        if disk is None or volume.state.disk < DiskState.Negotiating:
            taken = sizes.diskless_size(packet, volume.size_sectors, volume.state.role)
            if isinstance(taken, SizeRefused):
                node.give_up_connection(taken.reason)
                return
            volume.size_sectors = taken
            return
        user = sizes.agreed_user_size(volume.options.size_sectors, packet.u_size, connecting=True)
        agreed = sizes.agreed_size(
            disk.capacity_sectors, packet.d_size, last_agreed=disk.superblock.la_size_sectors, user=user
        )
        refused = sizes.refuse_size(agreed, volume.size_sectors, volume.state)
        if refused is not None:
            node.give_up_connection(refused.reason)
            return
        if words := sizes.peer_will_refuse(agreed, packet):
            node.log_line(Level.ERROR, f"volume {volume.vnr}: {words}")
        self.set_size(volume, agreed)

    def set_size(self, volume: Volume, size_sectors: int, *, mark_new: bool = True) -> None:
        """Make the device this large: bitmap, superblock; new blocks are out of sync if the old ones were real."""
        disk = volume.disk
        assert disk is not None
        if size_sectors == volume.size_sectors and disk.superblock.la_size_sectors == size_sectors:
            return
        mark_new = mark_new and disk.superblock.la_size_sectors != 0
        disk.bitmap.resize(bits_for_sectors(size_sectors), sectors_to_bytes(size_sectors), mark_new=mark_new)
        volume.size_sectors = size_sectors
        self._node.log_line(Level.INFO, f"volume {volume.vnr}: size = {size_sectors // 2} KB ({size_sectors} sectors)")
        # In the middle of a resync what is clean in these pages is written, but not yet flushed.
        self._node.changes.write_superblock(volume, self._node.changes.bitmap_stage(volume, flush_data=True))

    def on_uuids(self, volume: Volume, payload: bytes) -> None:
        """Remember the peer's identifiers."""
        packet = Uuids.decode(payload)
        theirs = UuidSet(packet.current, packet.bitmap, packet.history_0, packet.history_1)
        if volume.peer.skips_sync and theirs.current == uuids.JUST_CREATED:
            return  # sent before the peer knew that the first sync is skipped
        volume.peer.skips_sync = False
        volume.peer.uuids = PeerUuids(theirs, packet.dirty_bits, UuidFlag(packet.flags & 0xF))
        state = volume.state
        # The peer has just come, or its disk has; later it is a new generation that begins under our eyes.
        comes = state.conn < ConnState.Connected or max(state.disk, state.pdsk) < DiskState.Negotiating
        if (
            state.role == Role.Primary
            and comes
            and state.disk < DiskState.Inconsistent
            and volume.exposed.current
            and not volume.is_exposed(theirs)
        ):
            self._node.give_up_connection("the peer's data is not the data that this diskless Primary has been using")
            return
        if self._node.new_uuids.on_peers_word(volume, packet):
            return
        if state.disk < DiskState.Inconsistent:
            # Meeting a diskless Primary, it begins a new generation at once; we may lose it before we hear of that. One
            # that has died before it heard that we were one is ahead of our disk, and has begun none.
            meets = state.role == Role.Primary and state.conn < ConnState.Connected and not theirs.bitmap
            stays = state.role != Role.Primary and (theirs.current ^ volume.exposed.current) & ~1 == 0
            volume.exposed_moves = meets or (stays and volume.exposed_moves)
            volume.exposed = theirs
            if (theirs.current ^ volume.uuids.current) & ~1:
                volume.awaits_generation = False
                self._node.writes.resume()
                self._node.flushes.check()

    def on_state(self, volume: Volume, payload: bytes) -> None:
        """P_STATE (WIRE 5.6): work in the peer's state, decide on a resync, end one."""
        node = self._node
        peer = State.decode(WireState.decode(payload).word)
        mine = volume.state
        theirs = volume.peer.uuids
        volume.peer.disk_in_doubt &= peer.disk is DiskState.UpToDate
        if mine.conn <= ConnState.TearDown:
            return
        real = peer.disk
        if real == DiskState.Negotiating:
            inconsistent = theirs is not None and theirs.flags & UuidFlag.INCONSISTENT
            real = DiskState.Inconsistent if inconsistent else DiskState.Consistent
        if (
            mine.pdsk in (DiskState.Inconsistent, DiskState.Consistent)
            and real == DiskState.UpToDate
            and mine.conn > ConnState.Connected
            and mine.disk == DiskState.UpToDate
        ):
            if peer.conn in _WAITING_FOR_SYNC:
                real = DiskState.Inconsistent
            elif mine.conn >= ConnState.SyncSource and peer.conn == ConnState.Connected:
                node.resync_source.on_end_notice(volume)
                return
        if mine.conn == ConnState.VerifyT and peer.conn == ConnState.Connected and mine.disk == real == _GOOD:
            node.verify.finish(volume)
            return
        if (
            mine.pdsk == DiskState.UpToDate
            and real == DiskState.Inconsistent
            and mine.conn == ConnState.Connected
            and peer.conn > ConnState.SyncSource
        ):
            real = DiskState.UpToDate
        if volume.peer.skips_sync and mine.pdsk == DiskState.UpToDate and peer.conn <= ConnState.Connected:
            # As above: older than our word. But a disk that is lost is news, whenever that was.
            real = mine.pdsk if real >= DiskState.Inconsistent else real
        conn: ConnState = ConnState.Connected if mine.conn == ConnState.WFReportParams else mine.conn
        if peer.conn == ConnState.Ahead:
            conn = ConnState.Behind
        compared = self._must_compare(volume, peer)
        if node.links.is_dry_run and not compared:
            node.links.end_dry_run(f"volume {volume.vnr}: dry run: one node has no disk, there is nothing to compare")
            return
        if compared:
            decided = self._decide(volume, peer, real)
            if decided is None:
                return
            conn = decided
        elif mine.conn < conn and mine.role is peer.role is Role.Primary and not node.net.allow_two_primaries:
            node.give_up_connection(f"volume {volume.vnr}: both nodes are Primary, and allow-two-primaries is not set")
            return
        self._adopt(volume, peer, real, conn, compared)

    def _must_compare(self, volume: Volume, peer: State) -> bool:
        mine = volume.state
        if volume.peer.uuids is None or min(peer.disk, mine.disk) < DiskState.Negotiating or _is_no_answer(mine, peer):
            return False
        if mine.conn < ConnState.Connected:
            return True
        return mine.conn == ConnState.Connected and (
            DiskState.Negotiating in (mine.disk, peer.disk)
            or volume.consider_resync
            or peer.conn in range(ConnState.StartingSyncS, ConnState.WFBitMapT + 1)
        )

    def _decide(self, volume: Volume, peer: State, real: DiskState) -> ConnState | None:
        """Whose data is newer; the next connection state, or None when the connection was given up.

        `real`: the peer's disk, with what it will be if it is Negotiating: Inconsistent data is no source there either.
        """
        node, disk, theirs = self._node, volume.disk, volume.peer.uuids
        assert disk is not None and theirs is not None
        verdict = uuids.compare(
            volume.uuids,
            theirs.set,
            i_crashed=disk.crashed_primary,
            peer_crashed=bool(theirs.flags & UuidFlag.CRASHED_PRIMARY),
            my_role=volume.state.role,
            peer_role=peer.role,
            resolve_conflicts=node.resolve_conflicts,
            apv=node.apv,
            features_wsame=node.long_sizes,
        )
        node.log_line(Level.INFO, f"volume {volume.vnr}: uuid_compare()={verdict.result} by rule {verdict.rule}")
        decision = decide(
            verdict,
            Situation(
                volume.state.role,
                peer.role,
                volume.state.disk,
                real,
                self._policies(),
                planned_disk=disk.planned if volume.state.disk == DiskState.Negotiating else None,
                my_dirty_bits=disk.bitmap.count,
                peer_dirty_bits=theirs.dirty_bits,
                resolve_conflicts=node.resolve_conflicts,
                discard_my_data=node.discards_my_data,
                peer_discards_its_data=node.peer_discards,
                can_demote=not any(each.sessions for each in node.volumes.values()),
                dry_run=node.links.is_dry_run,
            ),
        )
        for note in decision.notes:
            node.log_line(Level.WARNING, f"volume {volume.vnr}: {note}")
        for helper in decision.helpers if not node.links.is_dry_run else ():
            node.helpers.run(helper, volume)
        outcome = decision.outcome
        if decision.demote and not node.links.is_dry_run:
            self._demote()
        if isinstance(outcome, Abort):
            if outcome.dry_run:
                node.links.end_dry_run(f"volume {volume.vnr}: {outcome.reason}")
                return None
            if "split-brain" in decision.helpers:
                self._note_split_brain(volume, peer, theirs)
            node.give_up_connection(outcome.reason)
            return None
        volume.uuids = verdict.mine
        volume.peer.uuids = replace(theirs, set=verdict.peer)
        # Two bitmaps that are relative to different generations do not say together where the copies differ.
        vague = verdict.result == uuids.SPLIT_BRAIN_AMBIGUOUS and isinstance(outcome, SyncTarget)
        if isinstance(outcome, SyncSource | SyncTarget) and (outcome.full or vague):
            self._set_all_bits(volume)
        return outcome.conn

    def _demote(self) -> None:
        """Give up the Primary role that no client has a use for."""
        for volume in self._node.volumes.values():
            if volume.state.role is Role.Primary:
                self._node.change(volume, role=Role.Secondary)

    def _policies(self) -> Policies:
        net = self._node.net
        return Policies(
            net.after_sb_0pri,
            net.after_sb_1pri,
            net.after_sb_2pri,
            _RR_CONFLICT.get(net.rr_conflict, AfterSb.DISCONNECT),
            net.always_asbp,
        )

    def _note_split_brain(self, volume: Volume, peer: State, theirs: PeerUuids) -> None:
        self._node.log_line(Level.ERROR, "Split-Brain detected but unresolved, dropping connection!")
        self._node.links.split_brain = SplitBrain(
            volume.vnr, volume.out_of_sync_bits, theirs.dirty_bits, volume.state.role.name, peer.role.name
        )

    def _set_all_bits(self, volume: Volume) -> None:
        """A full sync: every bit, durable, under the FULL_SYNC flag while it is written."""
        disk = volume.disk
        assert disk is not None
        disk.bitmap.set_all()
        offset = disk.layout.superblock_offset_bytes
        flagged = replace(disk.superblock, flags=disk.superblock.flags | MdFlag.FULL_SYNC)
        self._node.changes.write_superblock(
            volume,
            (Stage(False, ((offset, flagged.encode()),)), *self._node.changes.bitmap_stage(volume, flush_data=False)),
        )

    def _adopt(self, volume: Volume, peer: State, real: DiskState, conn: ConnState, compared: bool) -> None:
        node = self._node
        mine = volume.state
        was_reporting = mine.conn <= ConnState.WFReportParams
        disk_state = mine.disk
        decides = not _is_no_answer(mine, peer) and conn in (ConnState.Connected, ConnState.WFBitMapS)
        if mine.disk == DiskState.Negotiating and decides:
            assert volume.disk is not None
            # Without a comparison (the peer has no disk any more) only what clients have been using is good enough.
            disk_state = volume.disk.planned if compared or volume.disk_is_current else DiskState.Diskless
        volume.consider_resync = False
        node.change(
            volume,
            peer=peer.role,
            pdsk=real,
            peer_isp=peer.aftr_isp or peer.user_isp,
            conn=conn,
            disk=disk_state,
        )
        now = volume.state
        if (
            not was_reporting
            and now.conn > ConnState.Connected
            and peer.conn <= ConnState.Connected
            and peer.disk != DiskState.Negotiating
        ):
            node.send_uuids(volume)
            node.send_state(volume)
        if now.conn == ConnState.WFBitMapS and mine.conn != ConnState.WFBitMapS:
            node.bitmaps.send(volume)
        node.resync.advance(volume)
        node.on_peer_known()


def _is_no_answer(mine: State, peer: State) -> bool:
    """Whether we wait for the peer's word on our disk, and this was sent before it knew that we have one.

    Unless its own disk has come at the same time: then each takes the other's news for the answer.
    """
    waits = mine.disk == DiskState.Negotiating and mine.conn == ConnState.Connected
    return waits and peer.pdsk < DiskState.Negotiating != peer.disk
