"""How long clients wait for their answers: a histogram for each volume and kind of request.

The clock is looked at once for a wake-up's requests and once for each group of answers. Requests that a native lane has
served, or carried on with, are not in it: the lane keeps no times.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydrbd import native
from pydrbd.native import Batch
from pydrbd.wire.nbd import Command

__all__ = ["BOUNDS_S", "Latencies", "Stopwatch"]

BOUNDS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
"""The upper bounds of the buckets; one more counts what took longer."""

_KINDS: Final[Mapping[int, str]] = {
    int(Command.READ): "read", int(Command.WRITE): "write", int(Command.FLUSH): "flush"
}  # fmt: skip
_OTHER: Final = "other"


class _Histogram:
    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, latency_s: float, count: int) -> None:
        self.counts[bisect_left(BOUNDS_S, latency_s)] += count
        self.sum_s += latency_s * count


class Latencies:
    """Of all volumes of a resource, since its process began."""

    def __init__(self) -> None:
        self._of: dict[int, dict[str, _Histogram]] = {}

    def of_volume(self, vnr: int) -> dict[str, _Histogram]:
        """By kind: read, write, flush, other."""
        return self._of.setdefault(vnr, {kind: _Histogram() for kind in (*_KINDS.values(), _OTHER)})

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: volume to kind to `counts` (one for each bucket, the last one without a bound) and `sum_s`."""
        return {
            str(vnr): {kind: {"counts": list(one.counts), "sum_s": one.sum_s} for kind, one in kinds.items()}
            for vnr, kinds in self._of.items()
        }


class Stopwatch:
    """The requests of one client that have not been answered, and since when."""

    __slots__ = ("_begun", "_clock", "_into")

    def __init__(self, latencies: Latencies, vnr: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._into = latencies.of_volume(vnr)
        self._begun: dict[Batch, float] = {}

    def begin(self, batch: Batch) -> None:
        """They have come."""
        self._begun[batch] = self._clock()

    def forget(self, batch: Batch) -> None:
        """Somebody else answers what is left of them, or all have been answered."""
        self._begun.pop(batch, None)

    def answered(self, batch: Batch, mask: int) -> None:
        """Members have been answered. Mostly they are of one kind, or there is just one."""
        begun = self._begun.get(batch)
        if begun is None:
            return
        latency_s = self._clock() - begun
        while mask:
            command = batch.records[(mask & -mask).bit_length() - 1].command
            members = native.records_with_command(batch, mask, command) if mask & (mask - 1) else mask
            self._into[_KINDS.get(command, _OTHER)].add(latency_s, members.bit_count())
            mask &= ~members
