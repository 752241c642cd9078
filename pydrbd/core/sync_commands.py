"""What an operator may ask about resync: invalidate, invalidate-remote, pause-sync, resume-sync, verify.

A full sync or a verify of two nodes that are connected is agreed on with the peer (WIRE 12.9, 13); a pause is only
told to it, by P_STATE, and holds for both (WIRE 5.3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from pydrbd.core.refusals import StateCode
from pydrbd.core.states import Change, ConnState, DiskState, Role
from pydrbd.core.volume import Volume
from pydrbd.metadata.superblock import MdFlag

if TYPE_CHECKING:
    from pydrbd.core.events import Command
    from pydrbd.core.node import Node

__all__ = ["SyncCommands"]

_IS_SET = "Sync-pause flag is already set"
_IS_CLEAR = "Sync-pause flag is already cleared"
_BOTH_PRIMARY = "State change failed: (-1) Online verify needs one of the two nodes to be Secondary"


class _Answer(Protocol):
    def __call__(self, command: Command, code: StateCode, text: str = "") -> None: ...


class _Check(Protocol):
    def __call__(self, volume: Volume, **fields: Any) -> StateCode: ...


class SyncCommands:
    """The operator's commands about resync; `answer` ends one, `check` says whether a volume's state may change."""

    def __init__(self, node: Node, answer: _Answer, check: _Check) -> None:
        self._node = node
        self._answer = answer
        self._check = check
        self.verbs: dict[str, Callable[[Command], None]] = {
            "invalidate": lambda command: self._invalidate(command, list(node.volumes.values())),
            "invalidate-remote": lambda command: self._invalidate_remote(command, list(node.volumes.values())),
            "pause-sync": self._pause,
            "resume-sync": self._resume,
            "resync-after": self._hold,
            "verify": self._verify_all,
        }

    # --- full syncs ---

    def _invalidate(self, command: Command, volumes: list[Volume]) -> None:
        """Forget what the local data was worth, volume by volume: a full sync from the peer, now or when it comes."""
        node = self._node
        if not volumes:
            self._answer(command, StateCode.SS_SUCCESS)
            return
        volume, rest = volumes[0], volumes[1:]
        old = volume.state
        if volume.disk is None or old.disk < DiskState.Inconsistent:
            self._answer(command, StateCode.SS_IS_DISKLESS)
            return
        if old.conn >= ConnState.Connected:
            self._agree(command, volume, ConnState.StartingSyncT, lambda: self._invalidate(command, rest))
            return
        if old.role == Role.Primary:
            self._answer(command, StateCode.SS_NO_UP_TO_DATE_DISK)
            return
        volume.disk.bitmap.set_all()
        flagged = replace(volume.disk.superblock, flags=volume.disk.superblock.flags | MdFlag.FULL_SYNC)
        volume.disk.superblock = flagged
        node.changes.write_superblock(volume, node.changes.bitmap_stage(volume, flush_data=False))
        node.change(volume, disk=DiskState.Inconsistent)
        unflagged = volume.disk.superblock.flags & ~MdFlag.FULL_SYNC
        volume.disk.superblock = replace(volume.disk.superblock, flags=unflagged)
        self._invalidate(command, rest)

    def _invalidate_remote(self, command: Command, volumes: list[Volume]) -> None:
        """The peer's data is worth nothing: a full sync to it, now or (for a Primary) when it comes."""
        if not volumes:
            self._answer(command, StateCode.SS_SUCCESS)
            return
        volume, rest = volumes[0], volumes[1:]
        code = self._may_invalidate_remote(volume)
        if not code.granted:
            self._answer(command, code)
        elif volume.state.conn >= ConnState.Connected:
            self._agree(command, volume, ConnState.StartingSyncS, lambda: self._invalidate_remote(command, rest))
        else:
            assert volume.disk is not None
            volume.disk.bitmap.set_all()
            self._node.changes.write_bitmap(volume)
            self._invalidate_remote(command, rest)

    def _may_invalidate_remote(self, volume: Volume) -> StateCode:
        state = volume.state
        if volume.disk is None or state.disk < DiskState.Inconsistent:
            return StateCode.SS_IS_DISKLESS
        if state.conn == ConnState.WFReportParams:
            return StateCode.SS_IN_TRANSIENT_STATE
        if state.conn < ConnState.Connected:
            return StateCode.SS_SUCCESS if state.role == Role.Primary else StateCode.SS_NEED_CONNECTION
        if state.conn == ConnState.Connected and state.disk < DiskState.UpToDate:
            return StateCode.SS_NO_UP_TO_DATE_DISK  # unlike the kernel: bad data does not become good by giving it away
        return StateCode.SS_SUCCESS

    def _agree(self, command: Command, volume: Volume, conn: ConnState, then: Callable[[], None]) -> None:
        """Have the peer agree to a full sync of this volume, start it, and go on."""
        node = self._node
        wanted: dict[str, Any] = {"conn": conn}
        if conn == ConnState.StartingSyncT:
            wanted["disk"] = DiskState.Inconsistent
        code = StateCode.SS_NO_REMOTE_DISK
        if volume.state.pdsk >= DiskState.Inconsistent:
            code = self._check(volume, **wanted)
        if not code.granted:
            self._answer(command, code)
            return

        def granted(code: StateCode) -> None:
            if code.granted:
                code = self._check(volume, **wanted)  # as it is by now: a disk may be gone
                if min(volume.state.disk, volume.state.pdsk) < DiskState.Inconsistent:
                    code = StateCode.SS_NO_REMOTE_DISK if volume.has_disk else StateCode.SS_NO_LOCAL_DISK
                if not code.granted:
                    node.drop_link("could not do what the peer has agreed to")
            if not code.granted:
                self._answer(command, code)
                return
            node.change(volume, conn=conn)
            self.start_full_sync(volume)
            then()

        node.operator.ask_peer(volume.vnr, Change(**wanted), granted)

    def start_full_sync(self, volume: Volume) -> None:
        """StartingSyncS or StartingSyncT: both sides set all bits; the source names the sync UUID (WIRE 12.9)."""
        node = self._node
        assert volume.disk is not None
        volume.disk.bitmap.set_all()
        node.changes.write_bitmap(volume)
        if volume.state.conn != ConnState.StartingSyncT:
            node.resync_source.start(volume)
            return
        node.change(volume, conn=ConnState.WFSyncUUID)
        if volume.peer.early_sync_uuid is not None:
            node.resync_start.start_target(volume, volume.peer.early_sync_uuid)
            volume.peer.early_sync_uuid = None

    # --- pauses ---

    def _pause(self, command: Command) -> None:
        """Hold every resync, now and to come, until it is resumed."""
        if not self._set_pause(True):
            self._answer(command, StateCode.SS_UNKNOWN_ERROR, _IS_SET)
            return
        self._answer(command, StateCode.SS_SUCCESS)

    def _resume(self, command: Command) -> None:
        """Let go of what was held here; the peer may still hold it."""
        if self._set_pause(False):
            self._answer(command, StateCode.SS_SUCCESS)
            return
        by_peer = any(volume.state.peer_isp for volume in self._node.volumes.values())
        note = "; the resync is paused by the peer" if by_peer else ""
        self._answer(command, StateCode.SS_UNKNOWN_ERROR, _IS_CLEAR + note)

    def _set_pause(self, paused: bool) -> bool:
        """Set the flag of every volume; whether any of them has changed."""
        changed = [volume for volume in self._node.volumes.values() if volume.state.user_isp != paused]
        for volume in changed:
            self._node.change(volume, user_isp=paused)
            self._node.resync.advance(volume)
        return bool(changed)

    def _hold(self, command: Command) -> None:
        """`volumes`: by number, whether its resync has to wait for one of another resource."""
        for vnr, waits in command.arguments["volumes"].items():
            volume = self._node.volumes.get(vnr)
            if volume is not None and volume.state.aftr_isp != waits:
                self._node.change(volume, aftr_isp=waits)
                self._node.resync.advance(volume)
        self._answer(command, StateCode.SS_SUCCESS)

    # --- verify ---

    def _verify_all(self, command: Command) -> None:
        places = [command.arguments.get(name, 0) for name in ("start_sector", "stop_sector")]
        if all(isinstance(place, int) and place >= 0 for place in places):
            self._verify(command, list(self._node.volumes.values()))
        else:
            self._answer(command, StateCode.SS_UNKNOWN_ERROR, f"not sectors: {places}")

    def _verify(self, command: Command, volumes: list[Volume]) -> None:
        """Have the peer agree to an online verify, volume by volume; the answer comes when all have begun."""
        node = self._node
        if not volumes:
            self._answer(command, StateCode.SS_SUCCESS)
            return
        volume, rest = volumes[0], volumes[1:]
        code = self._may_verify(volume)
        if not code.granted:
            self._refuse_verify(command, code)
            return

        def granted(code: StateCode) -> None:
            if code.granted:
                code = self._may_verify(volume)  # as it is by now: a disk may be gone
                if code is StateCode.SS_TWO_PRIMARIES:
                    node.send_state(volume)  # the peer, promoted meanwhile, sees that nothing comes
                elif not code.granted:
                    node.drop_link("could not do what the peer has agreed to")
            if not code.granted:
                self._refuse_verify(command, code)
                return
            node.change(volume, conn=ConnState.VerifyS)
            node.verify.begin_source(
                volume, command.arguments.get("start_sector"), command.arguments.get("stop_sector")
            )
            self._verify(command, rest)

        node.operator.ask_peer(volume.vnr, Change(conn=ConnState.VerifyS), granted)

    def _refuse_verify(self, command: Command, code: StateCode) -> None:
        self._answer(command, code, _BOTH_PRIMARY if code is StateCode.SS_TWO_PRIMARIES else "")

    def _may_verify(self, volume: Volume) -> StateCode:
        code, state = self._check(volume, conn=ConnState.VerifyS), volume.state
        if state.role is Role.Primary is state.peer:
            return StateCode.SS_TWO_PRIMARIES
        if code is not StateCode.SS_NOTHING_TO_DO:
            return code
        if state.conn > ConnState.Connected:
            return StateCode.SS_RESYNC_RUNNING
        return StateCode.SS_NO_REMOTE_DISK if volume.has_disk else StateCode.SS_NO_LOCAL_DISK
