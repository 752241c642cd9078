"""`auto-promote`: a client that wants to write makes the node Primary, and the last one that goes makes it Secondary.

    client-comes      its export is about to be opened: promote, unless the node is Primary already
    client-settled    that attempt is over: the session is open now, or never will be

Between the two the role is kept for it, though it has no session yet. A role that an operator asked for stays when the
clients go, also if he did so while they had it. While I/O is suspended nobody is demoted: what waits would fail, and
a client that lost its connection may come back for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pydrbd.core.effects import Level
from pydrbd.core.events import Command
from pydrbd.core.refusals import StateCode
from pydrbd.core.states import Role

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["CLIENT_COMES", "CLIENT_SETTLED", "AutoPromote", "unheard"]

CLIENT_COMES: Final = "client-comes"
CLIENT_SETTLED: Final = "client-settled"


class AutoPromote:
    """Whom the role is kept for. Bounded by the number of connections: each has one attempt at a time."""

    def __init__(self, node: Node, demote: Callable[[Command], None]) -> None:
        self._node = node
        self._demote = demote
        self._coming: dict[object, None] = {}
        self._waiting: dict[object, Command] = {}
        self.postponed = False
        """The last client has gone while I/O was suspended: look again when it goes on."""

    def on_comes(self, command: Command) -> None:
        """Answered when the node is Primary, or with why it can't be."""
        self._coming[command.request] = None
        if self._node.operator.demoting:
            self._waiting[command.request] = command
        else:
            self._node.operator.promotion.on_command(command)

    def on_settled(self, command: Command) -> None:
        """`arguments["of"]`: the request of the attempt."""
        attempt = command.arguments["of"]
        assert attempt in self._coming, "an attempt has ended twice"
        del self._coming[attempt]
        self._waiting.pop(attempt, None)
        self._node.operator.answer(command, StateCode.SS_SUCCESS)
        self.review()

    def on_demoted(self) -> None:
        """Those who came meanwhile want it back."""
        waiting, self._waiting = self._waiting, {}
        for command in waiting.values():
            self._node.operator.promotion.on_command(command)

    def review(self) -> None:
        """Give the role up if it was had for clients, and none is left."""
        node, volumes = self._node, self._node.volumes.values()
        self.postponed = False
        if not node.operator.promotion.by_client or node.operator.demoting or self._coming:
            return
        if any(volume.sessions for volume in volumes) or not any(v.state.role is Role.Primary for v in volumes):
            return
        if any(v.state.susp or v.state.susp_nod or v.state.susp_fen for v in volumes):
            self.postponed = True
            return
        node.log_line(Level.INFO, "The last client has gone, and with it the role that it was given")
        self._demote(Command(unheard, "secondary"))


def unheard(_code: int, _text: str) -> None:
    """Nobody waits for the answer."""
