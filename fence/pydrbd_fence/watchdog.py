"""The watchdog: one write is one kick, and only a close after "V" (magic close) disarms it.

A FIFO or a file may stand for it (`-T`: its time is not set by us). Closing without "V" leaves it armed: that is what a
node does that must not come back to its senses.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from .errors import DeviceError

__all__ = ["SOFTDOG", "Watchdog", "WatchdogInfo", "list_watchdogs"]

SET_OPTIONS = 0x80045704
SET_TIMEOUT = 0xC0045706
DISABLE_CARD = 1
KICK = b"\0"
MAGIC_CLOSE = b"V"
CLOSE_TRIES = 100
SOFTDOG = "Software Watchdog"


@dataclass(frozen=True, slots=True)
class WatchdogInfo:
    """A watchdog that this machine has. Nothing was opened to find it: that might arm it."""

    path: str
    identity: str
    driver: str


class Watchdog:
    """An armed watchdog, from `arm` on."""

    def __init__(self, path: str, timeout_s: int, set_time: bool) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._set_time = set_time
        self._fd = -1

    @property
    def armed(self) -> bool:
        return self._fd >= 0

    def arm(self) -> None:
        """Open it, give it its time; DeviceError if it does not take it."""
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            if self._set_time and not self.set_timeout(self._timeout_s):
                self.disarm()
                raise DeviceError(f"{self.path} does not take a time of {self._timeout_s} s (-T leaves its time alone)")
            self.kick()
        except OSError as error:
            raise DeviceError(f"watchdog {self.path} can't be used: {error.strerror}") from error

    def set_timeout(self, seconds: int) -> bool:
        """Whether the driver took exactly that time."""
        value = ctypes.c_int(seconds)
        try:
            fcntl.ioctl(self._fd, SET_TIMEOUT, value)
        except OSError:
            return False
        return value.value == seconds

    def kick(self) -> None:
        """One more period. What fails is not repeated here: the next kick comes, or the watchdog acts."""
        os.write(self._fd, KICK)

    def disarm(self) -> None:
        """Switch it off and close it properly; with `nowayout` it acts all the same."""
        if self._fd < 0:
            return
        try:
            fcntl.ioctl(self._fd, SET_OPTIONS, ctypes.c_int(DISABLE_CARD))
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
                raise DeviceError(f"watchdog {self.path} can't be disarmed: {error.strerror}") from error
        for _ in range(CLOSE_TRIES):
            if os.write(self._fd, MAGIC_CLOSE) == len(MAGIC_CLOSE):
                break
        self.abandon()

    def abandon(self) -> None:
        """Close it as it is: armed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def list_watchdogs(system: Path = Path("/sys/class/watchdog")) -> list[WatchdogInfo]:
    """What the kernel says of its watchdogs, by name."""
    found = []
    for directory in sorted(system.glob("watchdog*")):
        try:
            identity = (directory / "identity").read_text().strip()
        except OSError:
            identity = "unknown"
        driver = directory / "device" / "driver"
        found.append(WatchdogInfo(f"/dev/{directory.name}", identity, driver.resolve().name if driver.exists() else ""))
    return found
