"""Where peers are measured. Those of one place are compared with each other, and all run at the same time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks import lab, plugin
from benchmarks.machine import versions

__all__ = ["KINDS", "PLACES", "Ground", "Place", "picture"]

KINDS = ("rates", "latency", "cpu", "resync")
"""Of pictures."""


def picture(kind: str, place: str) -> str:
    """The name of one, without its ending."""
    return kind if place == "here" else f"{kind}-{place}"


class Ground:
    """What the peers of a place are started on; whatever must be ended is left on the stack."""

    def __init__(self, directory: Path, size_bytes: int, stack: ExitStack) -> None:
        self.directory, self.size_bytes, self.stack = directory, size_bytes, stack

    def new_directory(self, name: str) -> Path:
        """Of one peer."""
        found = self.directory / name
        found.mkdir()
        return found

    @cached_property
    def guests(self) -> lab.Guests:
        """The lab's, started when they are first asked for. Raises NotHere."""
        return lab.Guests(self.new_directory("guests"), self.size_bytes, self.stack)


@dataclass(frozen=True, slots=True)
class Place:
    """`how` it is measured there, `cpu`: what a request's processor time is that of; `why_not`: None if it can be."""

    title: str
    how: str
    rows: tuple[str, ...]
    cpu: str = "server CPU"
    why_not: Callable[[], str | None] = lambda: None
    versions: Callable[[Ground], Mapping[str, str]] = lambda _: versions("fio", "nbdkit", "qemu")


_ONE_CLIENT = ("write-4k-1", "write-4k-32", "seqwrite-128k-8", "read-4k-32", "flush-4k-1")
_RESYNCS = ("resync-full", "resync-10")

PLACES: dict[str, Place] = {
    "here": Place(
        "on this machine",
        "fio's nbd engine on Unix sockets, all files in the page cache.",
        (*_ONE_CLIENT, "mix-4k-16x4", *_RESYNCS, "check"),
    ),
    "direct": Place(
        "on this machine, past the page cache",
        "fio's nbd engine on Unix sockets, files with O_DIRECT: QEMU with cache=none and aio=native.",
        ("write-4k-1", "write-4k-32"),
    ),
    "log": Place(
        "on a pydrbd pair whose activity log holds a quarter of the device, and on one whose log holds all",
        "fio's nbd engine on Unix sockets, all files in the page cache.",
        ("write-4k-1", "write-4k-32"),
        versions=lambda _: versions("fio"),
    ),
    "plugin": Place(
        "on a pydrbd pair whose Primary lives in nbdkit, and on one that serves itself",
        "fio's nbd engine on Unix sockets, all files in the page cache; nbdkit with its usual 16 threads.",
        ("write-4k-1", "write-4k-32", "read-4k-32"),
        why_not=plugin.why_not,
        versions=lambda _: versions("fio", "nbdkit"),
    ),
    "lab": Place(
        "in two guests of the lab",
        "fio in the guest of the Primary with libaio and direct=1, on /dev/drbd0 and on /dev/nbd0 (pydrbd's export, "
        "attached by the kernel's nbd). Both pairs are in the same two guests (user-mode Linux, each kept on one "
        "processor), on disks and a network of the same kind. CPU is that of all that runs in both guests.",
        (*_ONE_CLIENT, *_RESYNCS),
        "guests' CPU",
        lab.why_not,
        lambda ground: {**versions("fio"), **ground.guests.versions()},
    ),
}
