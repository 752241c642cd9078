"""The last word over this machine. Only the program's entry hands out the real one; everything else gets a `Power`.

Tests hand in one that writes down what it was asked: there is no way from a test to sysrq or to reboot(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Protocol

__all__ = ["MachinePower", "Power"]

SYSRQ = {"reboot": "b", "off": "o", "crashdump": "c"}
RESTART, POWER_OFF = 0x01234567, 0x4321FEDC


class Power(Protocol):
    """Ends the node."""

    def prepare(self) -> None:
        """Called once at the start: what is needed later is opened now."""

    def end(self, action: str) -> None:
        """`reboot`, `off` or `crashdump`, at once. If it returns, the watchdog does the rest."""


class MachinePower:
    """sysrq, then reboot(2)."""

    def __init__(self) -> None:
        self._trigger = -1
        self._libc: ctypes.CDLL | None = None

    def prepare(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._trigger = os.open("/proc/sysrq-trigger", os.O_WRONLY | os.O_CLOEXEC)
            allowed = Path("/proc/sys/kernel/sysrq")
            if int(allowed.read_text()) != 1:
                allowed.write_text(str(int(allowed.read_text()) | 8 | 128))
        except OSError:
            return  # a kernel without sysrq: reboot(2) and the watchdog are left

    def end(self, action: str) -> None:
        if self._trigger >= 0:
            with contextlib.suppress(OSError):  # there are other ways
                os.write(self._trigger, SYSRQ[action].encode())
        if self._libc is not None:
            self._libc.reboot(POWER_OFF if action == "off" else RESTART)
