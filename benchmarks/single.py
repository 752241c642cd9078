"""NBD servers that keep one copy, with nobody to talk to: the limits of this machine."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import fio
from benchmarks.cpu import process_seconds
from benchmarks.outcome import Outcome
from benchmarks.rows import Row
from benchmarks.servers import Server, fill, forget, wait_for_socket

__all__ = ["DirectQemuNbd", "NbdPeer", "NbdkitFile", "QemuNbd"]


class NbdPeer:
    """What all peers that fio reaches at an NBD address of this machine have in common."""

    def __init__(self, directory: Path, size_bytes: int, uri: str) -> None:
        self.directory = directory
        self.size_bytes = size_bytes
        self.uri = uri

    @property
    def pids(self) -> tuple[int, ...]:
        """Of all server processes."""
        raise AssertionError(f"{self!r} says which processes are its servers")

    def cpu_seconds(self) -> float:
        return process_seconds(self.pids)

    def drive(self, row: Row, seconds: float, seed: int) -> tuple[Outcome, float]:
        return fio.run(row, self.uri, self.size_bytes, seconds, seed, self.directory)

    def prepare_resync(self, row: Row, seed: int) -> None:
        raise AssertionError(f"{self!r} can't do {row.name}")

    def resync(self, row: Row) -> Outcome:
        raise AssertionError(f"{self!r} can't do {row.name}")

    def counters(self) -> Mapping[str, int]:
        return {}


class _OneServer(NbdPeer):
    """One process, one file."""

    def __init__(self, directory: Path, size_bytes: int, stack: ExitStack) -> None:
        disk, socket = directory / "disk.img", directory / "nbd.sock"
        super().__init__(directory, size_bytes, f"nbd+unix:///?socket={socket}")
        fill(disk, size_bytes, random.Random(0))
        self._server = stack.enter_context(Server(self._words(disk, socket), directory / "log", directory))
        wait_for_socket(socket, self._server)

    def _words(self, disk: Path, socket: Path) -> Sequence[str]:
        raise AssertionError("a server of this kind says what its command line is")

    @property
    def pids(self) -> tuple[int, ...]:
        return (self._server.pid,)

    def verify(self, row: Row, counted: Mapping[str, int], writes: int) -> None:
        self._server.check()


class NbdkitFile(_OneServer):
    """`nbdkit file`: the same front door, with nothing behind it but a file."""

    def _words(self, disk: Path, socket: Path) -> Sequence[str]:
        return ["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(socket), "file", str(disk)]


class QemuNbd(_OneServer):
    """`qemu-nbd`: what QEMU's copies are made of, alone."""

    how = ("--cache=writeback", "--aio=threads")

    def _words(self, disk: Path, socket: Path) -> Sequence[str]:
        words = ["qemu-nbd", "--persistent", "--shared=0", "--format=raw", *self.how]
        return [*words, f"--socket={socket}", str(disk)]


class DirectQemuNbd(QemuNbd):
    """The same past the page cache."""

    how = ("--cache=none", "--aio=native")

    def _words(self, disk: Path, socket: Path) -> Sequence[str]:
        forget(disk)
        return super()._words(disk, socket)
