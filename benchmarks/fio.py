"""fio's nbd engine: one run on one export, and what its report says."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import Row

__all__ = ["FioError", "FioResult", "command", "parse", "run"]

_START_TIMEOUT_S = 60.0


class FioError(Exception):
    """fio failed, or reported something that we can't use."""


@dataclass(frozen=True, slots=True)
class FioResult:
    """One run. `latency_*_us` is from submission to reply (of writes, if there are any), without a flush after it."""

    requests: int
    writes: int
    flushes: int
    seconds: float
    rate_per_s: float
    bytes_per_s: float
    latency_mean_us: float
    latency_p50_us: float
    latency_p99_us: float


def command(row: Row, uri: str, size_bytes: int, seconds: float, seed: int) -> list[str]:
    """fio's command line. `seconds` is rounded up to whole milliseconds."""
    words: dict[str, object] = {
        "name": row.name,
        "ioengine": "nbd",
        "uri": uri,
        "rw": row.pattern,
        "bs": row.block_bytes,
        "iodepth": row.depth,
        "size": size_bytes,
        "time_based": 1,
        "runtime": f"{-(-round(seconds * 1e6) // 1000)}ms",
        "randseed": seed,
        "thread": 1,
        "eta": "never",
        "output-format": "json",
    }
    if row.flush:
        words["fsync"] = 1
    if row.pattern == "randrw":
        words["rwmixread"] = 70
    if row.clients > 1:
        words |= {"numjobs": row.clients, "group_reporting": 1}
    return ["fio", *(f"--{key}={value}" for key, value in words.items())]


def run(row: Row, uri: str, size_bytes: int, seconds: float, seed: int, directory: Path) -> tuple[FioResult, float]:
    """Run fio in `directory` (it may leave files there): its result and its own CPU seconds. Raises FioError."""
    before = _children_cpu_seconds()
    try:
        done = subprocess.run(
            command(row, uri, size_bytes, seconds, seed),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds + _START_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise FioError(f"{row.name}: fio did not end in {error.timeout:.0f} s: was a request not answered?") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-500:]
        raise FioError(f"{row.name}: fio ended with code {done.returncode}: {words}")
    return parse(done.stdout, row), _children_cpu_seconds() - before


def parse(text: str, row: Row) -> FioResult:
    """fio's JSON report of one job (lines of notes before it are skipped). Raises FioError."""
    start = text.find("\n{") + 1 if not text.startswith("{") else 0
    try:
        report, _end = json.JSONDecoder().raw_decode(text, start)
        (job,) = report["jobs"]
        if job["error"]:
            raise FioError(f"{row.name}: fio saw error {job['error']}")
        sides = {"randread": ["read"], "randrw": ["read", "write"]}.get(row.pattern, ["write"])
        done = job[sides[-1]]
        seconds = done["runtime"] / 1000
        requests = sum(job[side]["total_ios"] for side in sides)
        if not requests or not seconds:
            raise FioError(f"{row.name}: fio did nothing in {seconds} s")
        latency = done["clat_ns"]
        return FioResult(
            requests=requests,
            flushes=job["sync"]["total_ios"] if row.flush else 0,
            seconds=seconds,
            rate_per_s=requests / seconds,
            bytes_per_s=sum(job[side]["io_bytes"] for side in sides) / seconds,
            writes=job["write"]["total_ios"],
            latency_mean_us=latency["mean"] / 1000,
            latency_p50_us=_percentile_us(latency, "50.000000"),
            latency_p99_us=_percentile_us(latency, "99.000000"),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FioError(f"{row.name}: not a report of fio's: {error!r} in {text[:200]!r}") from error


def _percentile_us(latency: Mapping[str, Any], percent: str) -> float:
    return float(latency["percentile"][percent]) / 1000


def _children_cpu_seconds() -> float:
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
