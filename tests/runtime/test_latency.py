"""How long clients wait, in buckets: what counts, what does not, and that real requests get there."""

from __future__ import annotations

import pytest

from pydrbd import native
from pydrbd.native import Batch
from pydrbd.runtime.latency import BOUNDS_S, Latencies, Stopwatch
from pydrbd.wire.nbd import Command


def batch_of(*commands: Command) -> Batch:
    records = native.new_records(len(commands))
    for record, command in zip(records, commands, strict=True):
        record.command = int(command)
    return Batch(bytearray(), records, len(commands))


def counted(latencies: Latencies, kind: str) -> dict[float, int]:
    """Upper bound (infinite for the last bucket) to count, without the empty ones."""
    counts = latencies.as_dict()["0"][kind]["counts"]
    return {bound: count for bound, count in zip((*BOUNDS_S, float("inf")), counts, strict=True) if count}


def test_answers_are_counted_by_kind_and_time() -> None:
    """Each member of a batch when it is answered; a bound counts with its bucket; nothing is lost above the last."""
    latencies, now = Latencies(), [0.0]
    watch = Stopwatch(latencies, 0, lambda: now[0])
    batch = batch_of(Command.READ, Command.WRITE, Command.WRITE, Command.FLUSH, Command.TRIM)
    watch.begin(batch)
    watch.answered(batch, 0b00001)
    now[0] = 0.001
    watch.answered(batch, 0b01110)
    now[0] = 100.001
    watch.answered(batch, 0b10000)
    watch.forget(batch)
    assert counted(latencies, "read") == {0.0001: 1}
    assert counted(latencies, "write") == {0.001: 2} and counted(latencies, "flush") == {0.001: 1}
    assert counted(latencies, "other") == {float("inf"): 1}
    sums = {kind: one["sum_s"] for kind, one in latencies.as_dict()["0"].items()}
    assert sums == pytest.approx({"read": 0.0, "write": 0.002, "flush": 0.001, "other": 100.001})


def test_what_a_lane_answers_is_left_out() -> None:
    """Also what it hands back: nobody knows any more when it came."""
    latencies = Latencies()
    watch = Stopwatch(latencies, 0)
    batch = batch_of(Command.WRITE)
    watch.begin(batch)
    watch.forget(batch)
    watch.answered(batch, 1)
    assert counted(latencies, "write") == {}
