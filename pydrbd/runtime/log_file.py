"""The log of a process that `up` started: a file that never grows beyond its limit, so that nobody has to rotate it.

Python's own handler does the work: a full file becomes FILE.1, in place of an older one. Standard error goes with it,
because that is where a dying process says its last words.
"""

from __future__ import annotations

import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from pydrbd.limits import LOG_FILE_BYTES_MAX

__all__ = ["LogFile"]


class LogFile(RotatingFileHandler):
    """A handler for `logging` that writes to `path`, and to one older file at most."""

    def __init__(self, path: Path, bytes_max: int = LOG_FILE_BYTES_MAX) -> None:
        super().__init__(path, maxBytes=bytes_max, backupCount=1, encoding="utf-8", errors="backslashreplace")
        self._take_stderr()

    def doRollover(self) -> None:  # noqa: N802 - the name of its base class
        """Begin a new file."""
        super().doRollover()
        self._take_stderr()

    def _take_stderr(self) -> None:
        stream = self.stream or self._open()
        self.stream = stream
        os.fchmod(stream.fileno(), 0o600)
        for standard in (sys.__stdout__, sys.__stderr__):
            if standard is not None:
                standard.flush()
                os.dup2(stream.fileno(), standard.fileno())
