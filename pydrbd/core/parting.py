"""Parting in good order: `disconnect`, here or at the peer (WIRE 6).

With fencing one of the two must be outdated when they part while the other is Primary, or a handler would have to find
out what both could have agreed on. A Primary that leaves asks its peer to outdate itself; a Secondary that leaves, and
was refused, is outdated first and asks again. What was granted is durable before it is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydrbd.core.effects import Level
from pydrbd.core.refusals import StateCode
from pydrbd.core.states import Change, ConnState, DiskState, Role
from pydrbd.core.transitions import Fencing
from pydrbd.wire.packets import Packet

if TYPE_CHECKING:
    from pydrbd.core.events import Command
    from pydrbd.core.node import Node

__all__ = ["Parting"]

_BY_OPERATOR = "disconnected by the operator"


class Parting:
    """The verb `disconnect`, and the peer's wish to part."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def on_command(self, command: Command) -> None:
        """Leave the peer; with its consent unless that is forced, or there is none to ask."""
        node = self._node
        if node.cstate == ConnState.StandAlone:
            node.operator.answer(command, StateCode.SS_SUCCESS, "already StandAlone")
        elif node.cstate < ConnState.WFReportParams or command.arguments.get("force") or not node.established:
            self._leave(command)
        else:
            node.expect_teardown()
            outdated = DiskState.Outdated if self._defends else None
            self._ask(command, Change(conn=ConnState.Disconnecting, pdsk=outdated))

    @property
    def _defends(self) -> bool:
        """Whether this node is Primary, and may not go on as one without knowing that its peer does not."""
        return any(
            volume.state.role is Role.Primary
            and volume.options.fencing is not Fencing.DONT_CARE
            and volume.state.pdsk not in (DiskState.Inconsistent, DiskState.Outdated)
            for volume in self._node.volumes.values()
        )

    def _leave(self, command: Command) -> None:
        self._node.give_up_connection(_BY_OPERATOR, level=Level.INFO)
        self._node.operator.answer(command, StateCode.SS_SUCCESS)

    def _ask(self, command: Command, change: Change) -> None:
        node = self._node

        def answered(code: StateCode) -> None:
            # A kernel that agrees closes the sockets at once: the end of one may be seen before the word on the other.
            # Outdated on disk, and on our way, we go whatever the second word is: the peer may want to part, too.
            if code.granted or node.links.handshake is None or change.disk is not None:
                if code.granted and change.pdsk is not None:
                    node.links.parting = {"pdsk": DiskState.Outdated}
                self._leave(command)
            elif code is StateCode.SS_PRIMARY_NOP and change.disk is None and not self._is_primary:
                # The peer wants to see us outdated: on disk first, so that it can rely on it whatever happens next.
                node.set_cstate(ConnState.Disconnecting, disk=DiskState.Outdated)
                self._ask(command, Change(conn=ConnState.Disconnecting, disk=DiskState.Outdated))
            else:
                node.links.expect_teardown(False)
                node.operator.answer(command, code)

        node.operator.request(Packet.P_CONN_ST_CHG_REQ, 0, change, answered)

    @property
    def _is_primary(self) -> bool:
        return any(volume.state.role is Role.Primary for volume in self._node.volumes.values())

    def on_request(self, change: Change) -> StateCode:
        """The peer wants to part, `change` in our perspective: our word, with all that follows from it if granted."""
        node = self._node
        if change.conn is not ConnState.TearDown:
            return StateCode.SS_SUCCESS
        if self._defends and change.pdsk is not DiskState.Outdated:
            return StateCode.SS_PRIMARY_NOP
        node.expect_teardown()
        if change.pdsk is DiskState.Outdated:
            node.links.parting = {"pdsk": DiskState.Outdated}
        if change.disk is DiskState.Outdated:
            if self._is_primary:
                return StateCode.SS_NO_UP_TO_DATE_DISK
            node.set_cstate(ConnState.TearDown, disk=DiskState.Outdated)
        return StateCode.SS_SUCCESS
