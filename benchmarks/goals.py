"""What is aimed at: a ratio to others on the same machine, in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["GOALS", "Goal"]


@dataclass(frozen=True, slots=True)
class Goal:
    """`against`: peers, of which the better one counts. A rate is to be at least `ratio` times theirs, CPU at most."""

    row: str
    ours: str
    against: tuple[str, ...]
    ratio: float
    what: Literal["rate", "cpu_per_request"] = "rate"

    def is_reached(self, ratio: float) -> bool:
        return ratio >= self.ratio if self.what == "rate" else ratio <= self.ratio


_QEMU = ("mirror", "quorum")
_KERNEL = ("lab-kernel",)

GOALS: tuple[Goal, ...] = (
    Goal("write-4k-1", "pydrbd", _QEMU, 1.5),
    Goal("write-4k-1", "pydrbd", ("nbdkit",), 0.4),
    Goal("write-4k-1", "lab-pydrbd", _KERNEL, 0.7),
    Goal("write-4k-32", "pydrbd", _QEMU, 4),
    Goal("write-4k-32", "pydrbd", ("nbdkit",), 0.55),
    Goal("write-4k-32", "lab-pydrbd", _KERNEL, 1.5),
    Goal("write-4k-32", "pydrbd", _QEMU, 0.3, "cpu_per_request"),
    Goal("write-4k-32", "pydrbd", ("nbdkit",), 3, "cpu_per_request"),
    Goal("seqwrite-128k-8", "pydrbd", _QEMU, 2.5),
    Goal("seqwrite-128k-8", "pydrbd", ("nbdkit",), 0.5),
    Goal("seqwrite-128k-8", "lab-pydrbd", _KERNEL, 1.5),
    Goal("read-4k-32", "pydrbd", _QEMU, 1.75),
    Goal("read-4k-32", "pydrbd", ("nbdkit",), 0.85),
    Goal("read-4k-32", "lab-pydrbd", _KERNEL, 1),
    Goal("flush-4k-1", "pydrbd", ("quorum",), 1.5),  # the mirror flushes one disk only
    Goal("flush-4k-1", "lab-pydrbd", _KERNEL, 0.7),
    Goal("mix-4k-16x4", "pydrbd", _QEMU, 3),
    Goal("resync-full", "pydrbd", ("mirror",), 3),
    Goal("resync-full", "lab-pydrbd", _KERNEL, 2),
    Goal("resync-10", "lab-pydrbd", _KERNEL, 2),
)
