"""The log: syslog (and stderr in the foreground), from a thread of its own. A log that hangs costs lines, not time."""

from __future__ import annotations

import os
import queue
import syslog
import threading
import time

__all__ = ["Journal"]

WAITING_LINES_MAX = 1000
STDERR = 2


class Journal:
    """Takes lines at once; writes them when it can."""

    def __init__(self, foreground: bool, verbosity: int) -> None:
        syslog.openlog("pydrbd-sbd", syslog.LOG_PID, syslog.LOG_DAEMON)
        self._foreground = foreground
        self._level = syslog.LOG_NOTICE + min(verbosity, 2)
        self._lines: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._written = 0
        self._taken = 0

    def start(self) -> None:
        """From here on lines are written; call it after the last fork."""
        threading.Thread(target=self._write, name="journal", daemon=True).start()

    def log(self, level: int, text: str) -> None:
        """Never blocks; beyond a thousand waiting lines new ones are lost."""
        if level <= self._level and self._taken - self._written < WAITING_LINES_MAX:
            self._taken += 1
            self._lines.put((level, text))

    def flush(self, limit_s: float) -> None:
        """Wait until all is written, but no longer than that."""
        end = time.monotonic() + limit_s
        while self._written < self._taken and time.monotonic() < end:
            time.sleep(limit_s / 20)

    def _write(self) -> None:
        while True:
            level, text = self._lines.get()
            syslog.syslog(level, text)
            if self._foreground:
                os.write(STDERR, f"pydrbd-sbd: {text}\n".encode())
            self._written += 1
