"""Who is measured: a table from names to servers. Each keeps its disks below a directory of its own.

All of them hand out `size_bytes` on a Unix socket, on files whose every block is written, through the page cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from benchmarks.outcome import Outcome
from benchmarks.pair import PydrbdPair
from benchmarks.qemu import QemuMirror, QemuQuorum
from benchmarks.rows import Row
from benchmarks.single import NbdkitFile, QemuNbd

__all__ = ["PEERS", "PLACES", "Peer", "PeerKind", "can"]

PLACES = {"here": "on this machine", "lab": "in two guests of the lab"}
"""Peers of one place are compared with each other, and run at the same time."""


class Peer(Protocol):
    """A server that runs; its constructor starts it and leaves everything that must be ended on the stack."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Whose processor time counts; none: it can't be told."""

    def drive(self, row: Row, seconds: float, seed: int) -> tuple[Outcome, float]:
        """Have clients do a row's work: what came of it, and the clients' CPU seconds. Raises FioError, ServerError."""

    def prepare_resync(self, row: Row, seed: int) -> None:
        """Bring the copies as far apart as the row says; nothing mends them yet. Raises FioError, ServerError."""

    def resync(self, row: Row) -> Outcome:
        """Let it begin, and wait for its end. Raises ServerError."""

    def counters(self) -> Mapping[str, int]:
        """Counts since the start, for differences over a run."""

    def verify(self, row: Row, counted: Mapping[str, int], writes: int) -> None:
        """After a run, with the differences of its counters: raises ServerError if an answer was wrong."""


@dataclass(frozen=True, slots=True)
class PeerKind:
    """A line of the table: `start(directory, size_bytes, stack)` needs `programs` in the path.

    `resyncs`: the rows of that kind that it can do.
    """

    title: str
    programs: tuple[str, ...]
    start: Callable[[Path, int, ExitStack], Peer]
    resyncs: tuple[str, ...] = ()
    place: Literal["here", "lab"] = "here"


PEERS: dict[str, PeerKind] = {
    "pydrbd": PeerKind("pydrbd pair", (), PydrbdPair, ("resync-full", "resync-10")),
    "nbdkit": PeerKind("nbdkit file", ("nbdkit",), NbdkitFile),
    "qemu-nbd": PeerKind("qemu-nbd", ("qemu-nbd",), QemuNbd),
    "mirror": PeerKind("QEMU mirror", ("qemu-storage-daemon",), QemuMirror, ("resync-full",)),
    "quorum": PeerKind("QEMU quorum", ("qemu-storage-daemon",), QemuQuorum),
}
"""The first one of a place is what the others there are compared with."""


def can(name: str, row: Row) -> bool:
    """Whether this peer can do this row's work."""
    return row.pattern != "resync" or row.name in PEERS[name].resyncs
