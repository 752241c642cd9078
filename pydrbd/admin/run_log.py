"""What the log of a resource's process tells: when the nodes were connected last, and the errors of its last run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["last_connected", "last_error", "last_words", "place_of"]

_LOG_BYTES: Final = 4 << 20
"""How much of its end is read."""

_UP: Final = re.compile(r"[\d-]+ [\d:,]+ INFO \S+: starts as ")
"""What a process logs first (runtime/process)."""
_ERROR: Final = " ERROR "
_COMPLAINT: Final = "pydrbd: "
"""Begins the line with which it ends for an error."""

_DISCONNECTS: Final = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d).* conn\( (\w+) -> (?!Sync|PausedSync|Verify|WFB|WFS|Conn|Start)"
)
_CONNECTED: Final = ("Connected", "SyncSource", "SyncTarget", "PausedSyncS", "PausedSyncT", "VerifyS", "VerifyT")


def place_of(log: Path) -> str:
    """Where to read it, in words: under systemd there is no file."""
    return str(log) if log.exists() else f"journalctl -u pydrbd@{log.stem}"


def last_connected(log: Path) -> str:
    """When the nodes were connected last, over all runs, in words."""
    if not log.exists():
        return "a time that only the journal knows"
    found = ""
    for line in _tail(log):
        if (match := _DISCONNECTS.match(line)) and match[2] in _CONNECTED:
            found = match[1]
    return found or "a time before the log begins"


def last_error(log: Path, vnr: int) -> str:
    """The last error of this run that is about a volume, else about anything; empty if there is none."""
    errors = [line.partition(_ERROR)[2] for line in _last_run(log) if _ERROR in line]
    of_volume = [text for text in errors if f"volume {vnr}: " in text]
    return next(reversed(of_volume or errors), "")


def last_words(log: Path) -> str:
    """The last error of the last run, or why it could not begin; empty if it left none."""
    for line in reversed(_last_run(log)):
        if line.startswith(_COMPLAINT) or _ERROR in line:
            return line.removeprefix(_COMPLAINT)
    return ""


def _last_run(log: Path) -> list[str]:
    """The lines since a process started last."""
    lines = _tail(log)
    begins = (at for at in range(len(lines) - 1, -1, -1) if _UP.match(lines[at]))
    return lines[next(begins, 0) :]


def _tail(log: Path) -> list[str]:
    """The last lines of a log; none if it can't be read."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _LOG_BYTES))
            return stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
