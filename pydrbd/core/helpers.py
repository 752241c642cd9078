"""Handlers: programs of the administrator that are run when something happens (`handlers { }` in the configuration).

The core only says when; the shell runs them (runtime/handlers.py). A handler that is not configured ends at once, and
well: exit code 0, as DRBD's does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydrbd.core.effects import Level, RunHelper
from pydrbd.core.volume import Volume

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Helpers"]

_Then = Callable[[int | None], None]


def _nobody_waits(_exit_code: int | None) -> None: ...


class Helpers:
    """The handlers of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.running = 0
        """How many have been started and have not ended."""

    def run(self, name: str, volume: Volume | None = None, then: _Then = _nobody_waits) -> None:
        """Run the handler of an event; `then` gets its exit code, or None if it could not be run to its end."""
        node = self._node
        if name not in node.options.handlers:
            then(0)
            return
        words = f"helper command: {name}" if volume is None else f"volume {volume.vnr}: helper command: {name}"
        node.log_line(Level.INFO, words)

        def ended(_failed: int, _errno: int) -> None:
            self.running -= 1
            code = helper.exit_code
            level = Level.INFO if code == 0 else Level.WARNING
            node.log_line(level, f"{words} {'did not end' if code is None else f'exit code {code}'}")
            then(code)

        helper = RunHelper(name, None if volume is None else volume.vnr, ended)
        self.running += 1
        node.out.put(helper)
