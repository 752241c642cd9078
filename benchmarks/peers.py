"""Who is measured: a table from names to servers. Each keeps its disks below a directory of its own.

All of them hand out `size_bytes` on a Unix socket, on files whose every block is written, through the page cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.pair import PydrbdPair
from benchmarks.qemu import QemuMirror, QemuQuorum
from benchmarks.rows import Row
from benchmarks.servers import Server, fill, wait_for_socket

__all__ = ["PEERS", "NbdkitFile", "Peer", "PeerKind"]


class Peer(Protocol):
    """A server that runs; its constructor starts it and leaves everything that must be ended on the stack."""

    uri: str

    @property
    def pids(self) -> tuple[int, ...]: ...

    def counters(self) -> Mapping[str, int]:
        """Counts since the start, for differences over a run."""

    def verify(self, row: Row, counted: Mapping[str, int], writes: int) -> None:
        """After a run, with the differences of its counters: raises ServerError if an answer was wrong."""


class NbdkitFile:
    """`nbdkit file`: the same front door and one copy, with nobody to talk to. The limit on this machine."""

    def __init__(self, directory: Path, size_bytes: int, stack: ExitStack) -> None:
        disk, socket = directory / "disk.img", directory / "nbd.sock"
        fill(disk, size_bytes, random.Random(0))
        words = ["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(socket), "file", str(disk)]
        self._server = stack.enter_context(Server(words, directory / "log", directory))
        wait_for_socket(socket, self._server)
        self.uri = f"nbd+unix:///?socket={socket}"

    @property
    def pids(self) -> tuple[int, ...]:
        return (self._server.pid,)

    def counters(self) -> Mapping[str, int]:
        return {}

    def verify(self, row: Row, counted: Mapping[str, int], writes: int) -> None:
        self._server.check()


@dataclass(frozen=True, slots=True)
class PeerKind:
    """A line of the table: `start(directory, size_bytes, stack)` needs `programs` in the path."""

    title: str
    programs: tuple[str, ...]
    start: Callable[[Path, int, ExitStack], Peer]


PEERS: dict[str, PeerKind] = {
    "pydrbd": PeerKind("pydrbd pair", (), PydrbdPair),
    "nbdkit": PeerKind("nbdkit file", ("nbdkit",), NbdkitFile),
    "mirror": PeerKind("QEMU mirror", ("qemu-storage-daemon",), QemuMirror),
    "quorum": PeerKind("QEMU quorum", ("qemu-storage-daemon",), QemuQuorum),
}
"""The first one is what the others are compared with."""
