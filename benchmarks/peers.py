"""Who is measured: a table from names to servers. Each keeps its disks below a directory of its own.

On this machine all of them hand out `size_bytes` on a Unix socket, on files whose every block is written, through the
page cache; in the lab's guests both are block devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from benchmarks.lab import Guests
from benchmarks.lab_pairs import KernelPair, NbdPair
from benchmarks.outcome import Outcome
from benchmarks.pair import PydrbdPair
from benchmarks.places import PLACES, Ground
from benchmarks.plugin import PluginPair
from benchmarks.qemu import QemuMirror, QemuQuorum
from benchmarks.rows import Row
from benchmarks.single import DirectQemuNbd, NbdkitFile, QemuNbd

__all__ = ["PEERS", "Peer", "PeerKind", "can"]


class Peer(Protocol):
    """A server that runs; its constructor starts it and leaves everything that must be ended on the stack."""

    def cpu_seconds(self) -> float:
        """That its servers have used since they began. Raises OSError if one has ended."""

    def drive(self, row: Row, seconds: float, seed: int) -> tuple[Outcome, float]:
        """Have clients do a row's work: what came of it, and the clients' CPU seconds. Raises FioError, ServerError."""

    def prepare_resync(self, row: Row, seed: int) -> None:
        """Bring the copies as far apart as the row says; nothing mends them yet. Raises FioError, ServerError."""

    def resync(self, row: Row) -> Outcome:
        """Let it begin, it or the comparison, and wait for its end. Raises ServerError."""

    def counters(self) -> Mapping[str, int]:
        """Counts since the start, for differences over a run."""

    def verify(self, row: Row, counted: Mapping[str, int], writes: int) -> None:
        """After a run, with the differences of its counters: raises ServerError if an answer was wrong."""


@dataclass(frozen=True, slots=True)
class PeerKind:
    """A line of the table: `start(ground, name)` needs `programs` in the path.

    `resyncs`: the rows without clients that it can do.
    """

    title: str
    programs: tuple[str, ...]
    start: Callable[[Ground, str], Peer]
    resyncs: tuple[str, ...] = ()
    place: str = "here"


def _here(kind: Callable[[Path, int, ExitStack], Peer]) -> Callable[[Ground, str], Peer]:
    """A peer with a directory of its own on this machine."""
    return lambda ground, name: kind(ground.new_directory(name), ground.size_bytes, ground.stack)


def _in_guests(kind: Callable[[Guests, int], Peer]) -> Callable[[Ground, str], Peer]:
    return lambda ground, _name: kind(ground.guests, ground.size_bytes)


_RESYNCS = ("resync-full", "resync-10")

PEERS: dict[str, PeerKind] = {
    "pydrbd": PeerKind("pydrbd pair", (), _here(PydrbdPair), (*_RESYNCS, "check")),
    "nbdkit": PeerKind("nbdkit file", ("nbdkit",), _here(NbdkitFile)),
    "qemu-nbd": PeerKind("qemu-nbd", ("qemu-nbd",), _here(QemuNbd)),
    "mirror": PeerKind("QEMU mirror", ("qemu-storage-daemon",), _here(QemuMirror), ("resync-full",)),
    "quorum": PeerKind("QEMU quorum", ("qemu-storage-daemon",), _here(QemuQuorum)),
    "direct-pydrbd": PeerKind("pydrbd pair", (), _here(partial(PydrbdPair, direct=True)), (), "direct"),
    "direct-qemu-nbd": PeerKind("qemu-nbd", ("qemu-nbd",), _here(DirectQemuNbd), (), "direct"),
    "direct-mirror": PeerKind(
        "QEMU mirror", ("qemu-storage-daemon",), _here(partial(QemuMirror, direct=True)), (), "direct"
    ),
    "direct-quorum": PeerKind(
        "QEMU quorum", ("qemu-storage-daemon",), _here(partial(QemuQuorum, direct=True)), (), "direct"
    ),
    "log-small": PeerKind("67 extents (268 MiB)", (), _here(partial(PydrbdPair, disk="al-extents 67;")), (), "log"),
    "log-large": PeerKind("1237 extents (all)", (), _here(PydrbdPair), (), "log"),
    "plugin-nbdkit": PeerKind("node in nbdkit", ("nbdkit",), _here(PluginPair), (), "plugin"),
    "plugin-own": PeerKind("server of its own", (), _here(PydrbdPair), (), "plugin"),
    "lab-pydrbd": PeerKind("pydrbd pair, by the kernel's nbd", (), _in_guests(NbdPair), _RESYNCS, "lab"),
    "lab-kernel": PeerKind("kernel DRBD pair", (), _in_guests(KernelPair), _RESYNCS, "lab"),
}
"""The first one of a place is what the others there are compared with."""


def can(name: str, row: Row) -> bool:
    """Whether this peer can do this row's work."""
    kind = PEERS[name]
    return row.name in PLACES[kind.place].rows and (row.has_clients or row.name in kind.resyncs)
