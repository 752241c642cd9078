"""wait-con-int on a terminal, as at the start of a machine: who sits before it may end the wait.

The seconds are counted beside the question, every `dialog-refresh` seconds, without disturbing what is being typed.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TextIO

from pydrbd.admin.exit_codes import WaitTimedOut

if TYPE_CHECKING:
    from pydrbd.admin.verbs_wait import Patience

__all__ = ["Dialog"]

_QUESTION: Final = " To abort waiting enter 'yes' [ -- ]: "
_COUNT_COLUMN: Final = _QUESTION.index("[") + 1
_LINE_BYTES_MAX: Final = 256


class Dialog:
    """Asks on a terminal while a resource is waited for. `refresh_s`: how often the count is drawn; 0 is never."""

    def __init__(
        self, resource: str, patience: Patience, refresh_s: float, terminal: tuple[TextIO, TextIO],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._resource = resource
        self._patience = patience
        self._refresh_s = refresh_s
        self._input, self._output = terminal
        self._clock = clock
        self._begun: float | None = None
        self._drawn = 0.0
        self._typed = b""

    def show(self, data: dict[str, Any]) -> None:
        """Draw the count if it is time to; raises WaitTimedOut when somebody has said yes."""
        now = self._clock()
        if self._begun is None:
            self._begun = self._drawn = now
            self._write(self._greeting(data))
        if self._refresh_s and now - self._drawn >= self._refresh_s:
            self._drawn = now
            self._write(f"\x1b[s\x1b[{_COUNT_COLUMN}G[{int(now - self._begun):4d}]\x1b[u")
        self._listen()

    def explain(self, data: dict[str, Any]) -> None:
        """What there is to say has been said."""

    def end(self, *, good: bool) -> None:
        """Leave the line of the question."""
        if self._begun is not None:
            self._write("\n")

    def _greeting(self, data: dict[str, Any]) -> str:
        """Who waits for what, and how long."""
        limit_s = self._patience.timeout_s(data)
        how_long = f"{limit_s:g} seconds at most" if limit_s else "for ever"
        peer = data.get("peer", "")
        return f"{self._resource}: waiting for the peer {peer}, {how_long} (section startup)\n{_QUESTION}"

    def _listen(self) -> None:
        """Take what was typed; a whole line is an answer."""
        while select.select([self._input], [], [], 0)[0]:
            piece = os.read(self._input.fileno(), _LINE_BYTES_MAX)
            if not piece:
                return
            *lines, rest = (self._typed + piece).split(b"\n")
            self._typed = rest[-_LINE_BYTES_MAX:]
            if any(line.strip() == b"yes" for line in lines):
                raise WaitTimedOut(f"{self._resource}: nobody waits for the peer any more: the answer was yes")
            if lines:
                self._write(_QUESTION)

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()
