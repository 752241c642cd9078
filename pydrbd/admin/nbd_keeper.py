"""The helper that stays with an attached device, and hands it a new socket when its server has been away.

    attach: a connection -> CONNECT; adopt: the device is there, its helper is not -> RECONFIGURE, taken if it has lost
    then:   LINK_DEAD of the kernel -> ask the servers in turn until one opens the export -> RECONFIGURE

A device may have several connections. Which of them are dead only the kernel knows: after LINK_DEAD it is offered as
many new ones as the device has, and closes those that it does not need.

While no server answers, the kernel holds requests back (its dead-connection time-out is the limit), so a file system
on top waits and loses nothing. The helper is in the way of its own machine's memory: it asks for none that the device
would have to be written to for, can't be swapped out, and is not chosen when memory runs out.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydrbd.admin.nbd_address import ServerAddress, open_first, open_several
from pydrbd.admin.nbd_device import BACKEND_PREFIX, NbdDevice
from pydrbd.admin.nbd_netlink import NbdKernel
from pydrbd.errors import BusyError, DiskError, PydrbdError

__all__ = ["Keeper", "Wish", "pid_of_keeper"]

_LOOK_S: Final = 5.0
"""How often the helper looks whether its device is still attached; whoever detaches it tells it, too."""

_RETRY_S: Final = (0.1, 0.2, 0.5, 1.0)
"""The pauses between attempts to reach a server; the last one is repeated."""

_PR_SET_IO_FLUSHER: Final = 57
_MCL_CURRENT_AND_FUTURE: Final = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be attached, and where the helper keeps its pid file."""

    export: str
    addresses: list[ServerAddress]
    index: int | None
    dead_timeout_s: int
    run_dir: Path
    connections: int = 1

    @property
    def backend(self) -> str:
        return BACKEND_PREFIX + self.export


class Keeper:
    """One device and its servers. `attach` or `adopt`, then `stay`."""

    def __init__(self, wish: Wish, kernel: NbdKernel) -> None:
        self._wish = wish
        self._kernel = kernel
        self._links = kernel.dead_links()  # before there is a link that could die
        self._device: NbdDevice
        self._lock = -1
        self._ended = False

    def attach(self) -> NbdDevice:
        """Make the device. Raises BusyError, NbdKernelError, NbdClientError, PermissionError."""
        wish = self._wish
        with open_several(wish.addresses, wish.export, wish.connections) as (socks, opened):
            index = self._kernel.connect(
                wish.index,
                socks,
                size_bytes=opened.size_bytes,
                server_flags=opened.flags,
                backend=wish.backend,
                dead_timeout_s=wish.dead_timeout_s,
            )
        self._device = NbdDevice(index)
        try:
            self._settle()
        except BaseException:
            self._kernel.disconnect(index)  # a device that nobody keeps is a trap
            raise
        return self._device

    def adopt(self, device: NbdDevice) -> None:
        """Take over a device whose helper is gone; if its server was away meanwhile, it gets a socket now."""
        self._device = device
        self._settle()
        self._renew()

    def _settle(self) -> None:
        self._lock = _lock(_pid_file(self._wish.run_dir, self._device))
        self._device.tune(self._wish.connections)
        self._device.show_link(self._wish.export)

    def stay(self) -> None:
        """Until the device is detached, or SIGTERM: then it stays attached, as long as its server does not go."""
        signal.signal(signal.SIGTERM, self._on_term)
        _be_careful_with_memory()
        while not self._ended and self._device.is_attached:
            readable, _, _ = select.select([self._links], [], [], _LOOK_S)
            if readable:
                dead = self._links.take()
                if dead is None or self._device.index in dead:
                    _log.warning("%s has lost its server", self._device.path)
                    self._renew()
        if self._ended and self._device.is_attached:
            _log.warning("%s stays attached, but nobody will find it a new server", self._device.path)
        else:
            _log.info("%s was detached", self._device.path)
            self._device.drop_link(self._wish.export)

    def _on_term(self, _number: int, _frame: object) -> None:
        self._ended = True

    def _renew(self) -> None:
        """Hand over new sockets as soon as a server opens the export."""
        attempt = 0
        missing = self._wish.connections
        complaint = ""
        while not self._ended and self._device.is_attached:
            try:
                while missing:
                    self._hand_over()
                    missing -= 1
                return
            except (PydrbdError, OSError) as error:
                if str(error) != complaint:
                    complaint = str(error)
                    _log.warning("%s waits for a server: %s", self._device.path, complaint)
            time.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
            attempt += 1

    def _hand_over(self) -> None:
        device, backend = self._device, self._wish.backend
        sock, opened = open_first(self._wish.addresses, self._wish.export)
        with sock:
            if opened.size_bytes < device.size_bytes:
                raise DiskError(f"the server's {opened.size_bytes} bytes are fewer than {device.path} has")
            self._kernel.reconfigure(device.index, backend, sock)
        _log.info("%s has a new connection", device.path)
        if opened.size_bytes > device.size_bytes:
            self._kernel.resize(device.index, backend, opened.size_bytes)


def pid_of_keeper(run_dir: Path, device: NbdDevice) -> int | None:
    """The process that keeps a device; None: there is none."""
    try:
        with _pid_file(run_dir, device).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


def _pid_file(run_dir: Path, device: NbdDevice) -> Path:
    return run_dir / f"{device.name}.attach.pid"


def _lock(path: Path) -> int:
    """Be the only one of this device; one whose device was detached behind its back sees so soon. Raises BusyError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + 2 * _LOOK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise BusyError(f"another process holds {path}: it looks after this device") from None
        time.sleep(_RETRY_S[0])
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _be_careful_with_memory() -> None:
    """What a machine without privileges or with an old kernel refuses is only less safe."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000\n")
    libc = ctypes.CDLL(None, use_errno=True)
    for name, failed in (
        ("mlockall", libc.mlockall(_MCL_CURRENT_AND_FUTURE)),
        ("PR_SET_IO_FLUSHER", libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)),
    ):
        if failed:
            _log.info("%s: %s", name, os.strerror(ctypes.get_errno()))
