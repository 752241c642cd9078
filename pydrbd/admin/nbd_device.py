"""/dev/nbdN as sysfs and /proc show it: what is attached, who uses it; and its link in /dev/drbd/by-res."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydrbd.errors import BusyError, DiskError, UsageError

__all__ = ["BACKEND_PREFIX", "NbdDevice", "find_backend"]

BACKEND_PREFIX: Final = "pydrbd:"
"""How the kernel knows a device of ours: `pydrbd:r0`, in /sys/block/nbdN/backend."""

BY_RES: Final = Path("/dev/drbd/by-res")
_SYS_BLOCK: Final = Path("/sys/block")
_UDEV: Final = Path("/run/udev/control")
_STUCK_REQUEST_MS: Final = 5000
"""A request that was under way when its connection died is sent again when it is this old; the kernel has 30 s."""

_SLOW_REQUEST_MS: Final = 15_000
"""The same with several connections, where the kernel takes one that answers so late for dead, and another one gets the
request: longer than a peer's fencing takes as a rule, shorter than a cluster's time limits."""


@dataclass(frozen=True, slots=True)
class NbdDevice:
    """One of the kernel's nbd devices."""

    index: int

    @classmethod
    def of_path(cls, path: str) -> NbdDevice:
        """`/dev/nbd3`, or a link to it. Raises UsageError."""
        name = Path(path).resolve().name
        number = name.removeprefix("nbd")
        if not (name.startswith("nbd") and number.isascii() and number.isdigit() and len(number) <= 4):
            raise UsageError(f"'{path}' is no nbd device: expected /dev/nbd0, /dev/nbd1, ...")
        return cls(int(number))

    @property
    def name(self) -> str:
        return f"nbd{self.index}"

    @property
    def path(self) -> Path:
        return Path("/dev") / self.name

    @property
    def _sysfs(self) -> Path:
        return _SYS_BLOCK / self.name

    @property
    def is_attached(self) -> bool:
        """Whether it has a server, be it one that is away."""
        return (self._sysfs / "pid").exists()

    @property
    def backend(self) -> str:
        """What whoever attached it has called it; empty: nothing."""
        try:
            return (self._sysfs / "backend").read_text().strip()
        except OSError:
            return ""

    @property
    def size_bytes(self) -> int:
        return int((self._sysfs / "size").read_text()) * 512

    def tune(self, connections: int) -> None:
        """Requests that a dead connection has taken with it are sent again soon."""
        timeout_ms = _STUCK_REQUEST_MS if connections == 1 else _SLOW_REQUEST_MS
        (self._sysfs / "queue/io_timeout").write_text(f"{timeout_ms}\n")

    # --- who uses it ---

    def check_unused(self) -> None:
        """Raises BusyError if it is mounted, swapped to, or part of another device."""
        try:
            os.close(os.open(self.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise BusyError(f"{self.path} is in use: {self._user()}") from error
            if error.errno not in (errno.ENOENT, errno.ENXIO, errno.EIO):
                raise

    def _user(self) -> str:
        for line in Path("/proc/mounts").read_text().splitlines():
            device, place = line.split()[:2]
            if device.startswith("/dev/") and Path(device).resolve() == self.path:
                return f"umount {place}"
        for line in Path("/proc/swaps").read_text().splitlines()[1:]:
            if Path(line.split()[0]).resolve() == self.path:
                return f"swapoff {self.path}"
        holders = sorted(path.name for path in (self._sysfs / "holders").glob("*"))
        return f"by {', '.join(holders)}" if holders else "another program has it for itself"

    def flush(self, timeout_s: float) -> None:
        """Have what was written to it written to its server. Raises DiskError, also if that does not end in time.

        By a process of its own: one that waits for a server that is away can't be stopped. It holds nothing that
        somebody might wait for.
        """
        child = os.fork()
        if not child:
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nothing, descriptor)
            try:
                os.fsync(os.open(self.path, os.O_RDWR))
            except OSError as error:
                os._exit(0 if error.errno in (errno.EROFS, errno.EACCES) else 1)
            os._exit(0)
        waiter = select.poll()
        descriptor = os.pidfd_open(child)
        try:
            waiter.register(descriptor, select.POLLIN)
            if not waiter.poll(int(timeout_s * 1000)):
                os.kill(child, signal.SIGKILL)
                raise DiskError(f"{self.path}: its server did not take what was written within {timeout_s:g} s")
            if os.waitpid(child, 0)[1]:
                raise DiskError(f"{self.path}: its server did not take what was written")
        finally:
            os.close(descriptor)

    # --- /dev/drbd/by-res ---

    def show_link(self, export: str) -> None:
        """Make /dev/drbd/by-res/EXPORT: udev's rule does, where udev is."""
        if _UDEV.exists():
            (self._sysfs / "uevent").write_text("change\n")
            return
        link = BY_RES / export
        link.parent.mkdir(parents=True, exist_ok=True)
        new = link.with_name(f".{link.name}.{os.getpid()}")
        new.symlink_to(self.path)
        new.replace(link)

    def drop_link(self, export: str) -> None:
        """Remove it again, if it is still ours."""
        if _UDEV.exists():
            with contextlib.suppress(OSError):
                (self._sysfs / "uevent").write_text("change\n")
            return
        link = BY_RES / export
        if link.is_symlink() and link.readlink() == self.path:
            link.unlink()


def find_backend(backend: str) -> NbdDevice | None:
    """The device that is attached under this name."""
    for place in sorted(_SYS_BLOCK.glob("nbd[0-9]*")):
        device = NbdDevice(int(place.name.removeprefix("nbd")))
        if device.backend == backend and device.is_attached:
            return device
    return None
