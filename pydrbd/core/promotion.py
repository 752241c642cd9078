"""Becoming Primary: who may, what must be settled first, and whom it takes to agree (WIRE 6; kernel: drbd_set_role).

    connected       the peer is asked, volume by volume
    alone           the data must be good, and with fencing the peer must be known not to be ahead: the handler
                    fence-peer is asked once. Only with its word does data that is merely Consistent count as good.
    no quorum       the witness is asked (core/quorum), last of all: whoever asks for nothing keeps others from it
    --force         bad data is called good; a peer that could not be fenced is taken for outdated; quorum it needs, too

Besides the operator's `primary` there is the client that wants to write (core/auto_promote): the same, without force.

What a lost peer has sent is on our disk first: in protocol B its clients may have been answered for it, and ours would
read what was there before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydrbd.core.auto_promote import CLIENT_COMES
from pydrbd.core.effects import Level
from pydrbd.core.refusals import StateCode
from pydrbd.core.states import Change, ConnState, DiskState, Role
from pydrbd.core.transitions import check_change, sanitize
from pydrbd.core.volume import Volume

if TYPE_CHECKING:
    from pydrbd.core.events import Command
    from pydrbd.core.node import Node

__all__ = ["Promotion"]

_ATTACHING = (DiskState.Attaching, DiskState.Negotiating)
_FORCEABLE = (DiskState.Inconsistent, DiskState.Outdated, DiskState.Consistent)


class Promotion:
    """The verb `primary`, and a client that comes."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiting: list[Command] = []
        self.by_client = False
        """Whether the node is Primary, if it is, because of a client and not by an operator's word."""

    def on_command(self, command: Command) -> None:
        peer_is_primary = any(volume.state.peer is Role.Primary for volume in self._node.volumes.values())
        if self._node.peer_writes.unfinished and not peer_is_primary:
            self._waiting.append(command)
        else:
            self._begin(command, None)

    def on_peer_writes_finished(self) -> None:
        """Our disk has all that was received."""
        waiting, self._waiting = self._waiting, []
        for command in waiting:
            self.on_command(command)

    def _begin(self, command: Command, fenced: bool | None) -> None:
        """Check every volume before the first is promoted. `fenced`: the word on the lost peer, None if not asked."""
        node = self._node
        for volume in node.volumes.values():
            wish = self._wish(volume, command, fenced)
            code = self._check(volume, wish)
            if fenced is None and _is_about_the_peer(volume, code):
                node.fence.ask(lambda good: self._begin(command, good))
                return
            if code is not StateCode.SS_NOTHING_TO_DO and not code.granted:
                self._end(command, code)
                return
        if not node.quorum.has and any(volume.state.role is not Role.Primary for volume in node.volumes.values()):
            node.quorum.win(lambda good: self._on_quorum(command, fenced, good))
        else:
            self._promote_next(command, list(node.volumes.values()), fenced)

    def _on_quorum(self, command: Command, fenced: bool | None, good: bool) -> None:
        """The witness has spoken; what else counts may have changed meanwhile."""
        if good:
            self._begin(command, fenced)
            return
        code = StateCode.SS_NO_QUORUM
        words = f"State change failed: ({int(code)}) {code.message}: {self._node.quorum.refusal}"
        self._node.operator.answer(command, code, words)

    def _check(self, volume: Volume, wish: dict[str, Any]) -> StateCode:
        old, rules = volume.state, self._node.rules(volume)
        if old.pdsk in _ATTACHING:
            return StateCode.SS_IN_TRANSIENT_STATE  # the peer's data may be newer: wait until they are compared
        if self._node.options.quorum.enabled and old.disk in _ATTACHING:
            return StateCode.SS_IN_TRANSIENT_STATE  # or ours, and the peer would begin a generation for us without it
        return check_change(old, sanitize(old, replace(old, role=Role.Primary, **wish), rules), rules)

    def _wish(self, volume: Volume, command: Command, fenced: bool | None) -> dict[str, Any]:
        """What is to be true besides the role."""
        state, force = volume.state, _is_forced(command)
        wish: dict[str, Any] = {}
        if state.role is Role.Primary:
            return wish
        if force and state.disk in _FORCEABLE:
            wish["disk"] = DiskState.UpToDate
        if state.connected:
            return wish
        if fenced and state.disk is DiskState.Consistent:
            wish["disk"] = DiskState.UpToDate
        if force and fenced is False and state.pdsk >= DiskState.DUnknown:
            wish["pdsk"] = DiskState.Outdated
        return wish

    def _promote_next(self, command: Command, volumes: list[Volume], fenced: bool | None) -> None:
        """Promote the volumes one after the other: each asks the peer first, if there is one."""
        node = self._node
        if not volumes:
            if command.verb != CLIENT_COMES:
                self.by_client = False
            self._end(command, StateCode.SS_SUCCESS)
            return
        volume, rest = volumes[0], volumes[1:]
        if volume.state.role is Role.Primary:
            self._promote_next(command, rest, fenced)
            return
        wish = self._wish(volume, command, fenced)
        forced = _is_forced(command) and "disk" in wish

        if "pdsk" in wish:
            node.log_line(Level.WARNING, f"volume {volume.vnr}: Forced into split brain situation!")

        def granted(code: StateCode) -> None:
            if not code.granted:
                self._end(command, code)
                return
            if volume.state.role is not Role.Primary:
                self.by_client = command.verb == CLIENT_COMES
            node.change(volume, role=Role.Primary, **wish, new_generation=forced)
            if not forced:
                # The peer serves us from now on, in a generation that it will tell us of.
                volume.exposed_moves = volume.exposed_moves or volume.state.disk < DiskState.Inconsistent
            self._promote_next(command, rest, fenced)

        if volume.state.conn >= ConnState.Connected:
            node.operator.ask_peer(volume.vnr, Change(role=Role.Primary, disk=wish.get("disk")), granted)
        else:
            granted(StateCode.SS_SUCCESS)

    def _end(self, command: Command, code: StateCode) -> None:
        self._node.operator.answer(command, code)
        self._node.operator.auto_promote.review()  # the client may have gone meanwhile


def _is_forced(command: Command) -> bool:
    return bool(command.arguments.get("force"))


def _is_about_the_peer(volume: Volume, code: StateCode) -> bool:
    """Whether a word on where the lost peer is could turn the refusal."""
    merely_consistent = volume.state.disk is DiskState.Consistent and not volume.state.connected
    return code is StateCode.SS_PRIMARY_NOP or (code is StateCode.SS_NO_UP_TO_DATE_DISK and merely_consistent)
