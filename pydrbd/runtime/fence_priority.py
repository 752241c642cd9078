"""What this node is worth in a split, told to pydrbd-sbd by a file: of two that fence each other the better one lives.

The file holds one number; pydrbd-sbd adds those of all resources. A Primary with UpToDate data counts as much as ten
UpToDate Secondaries, and data that is old counts nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from pydrbd.core.states import DiskState, Role, State

__all__ = ["PRIMARY", "UP_TO_DATE", "FencePriority", "directory_for", "worth"]

_States = Callable[[], Iterable[State]]
_WaitFor = Callable[[Callable[[], bool]], Awaitable[None]]
_log = logging.getLogger(__name__)

PRIMARY: Final = 100
UP_TO_DATE: Final = 10


def directory_for(run_dir: Path) -> Path | None:
    """Where pydrbd-sbd looks; None for nodes that only play (another run directory than the machine's own)."""
    return Path("/run/pydrbd-sbd/priority") if run_dir == Path("/run/pydrbd") else None


def worth(states: Iterable[State]) -> int:
    """By roles and disk states of all volumes; 0 unless all are UpToDate here."""
    known = list(states)
    if not known or any(state.disk is not DiskState.UpToDate for state in known):
        return 0
    return PRIMARY if any(state.role is Role.Primary for state in known) else UP_TO_DATE


class FencePriority:
    """Keeps the file true; it is gone when nothing is worth anything, and at the end."""

    def __init__(self, resource: str, run_dir: Path) -> None:
        self.directory = directory_for(run_dir)
        self._resource = resource
        self._draft = run_dir / f"{resource}.priority"

    async def follow(self, states: _States, wait_for: _WaitFor) -> None:
        """For ever: write what `states` are worth whenever that changes."""
        told = -1
        try:
            while self.directory is not None:
                told = await self._next(told, states, wait_for)
                await trio.to_thread.run_sync(self._write, told)
        finally:
            self.forget()

    @staticmethod
    async def _next(told: int, states: _States, wait_for: _WaitFor) -> int:
        while (now := worth(states())) == told:
            await wait_for(lambda: worth(states()) != told)
        return now

    def _write(self, value: int) -> None:
        if self.directory is None or not value:
            self.forget()
            return
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._draft.write_text(f"{value}\n")
            self._draft.replace(self.directory / self._resource)  # never seen half written, nor twice
        except OSError as error:
            _log.warning("%s: what it is worth can't be told to pydrbd-sbd: %s", self._resource, error)

    def forget(self) -> None:
        """Nothing is worth anything here."""
        if self.directory is not None:
            with suppress(OSError):
                (self.directory / self._resource).unlink(missing_ok=True)
