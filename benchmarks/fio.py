"""fio: one run on one export (its nbd engine) or block device, and what its report says."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path

from benchmarks.outcome import Outcome
from benchmarks.rows import Row

__all__ = [
    "DIRTY_TIMEOUT_S",
    "START_TIMEOUT_S",
    "FioError",
    "check",
    "command",
    "dirty_command",
    "make_dirty",
    "parse",
    "run",
    "target_words",
]

START_TIMEOUT_S = 60.0
"""What a run may take beyond its time."""

DIRTY_TIMEOUT_S = 300.0
_PERCENTILES = {"50": "50.000000", "90": "90.000000", "99": "99.000000", "99.9": "99.900000"}
"""As we call them, and as fio does."""


class FioError(Exception):
    """fio failed, or reported something that we can't use."""


def target_words(where: str) -> dict[str, object]:
    """fio's words for an NBD address, or for a block device."""
    if "://" in where:
        return {"ioengine": "nbd", "uri": where}
    return {"ioengine": "libaio", "filename": where, "direct": 1}


def command(row: Row, where: str, size_bytes: int, seconds: float, seed: int) -> list[str]:
    """fio's command line. `seconds` is rounded up to whole milliseconds."""
    words: dict[str, object] = {
        "name": row.name,
        **target_words(where),
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
        # Each has a part of its own: where two write the same block at a time, QEMU's two copies may end up different.
        part = size_bytes // row.clients // row.block_bytes * row.block_bytes
        words |= {"numjobs": row.clients, "group_reporting": 1, "size": part, "offset_increment": part}
    return ["fio", *(f"--{key}={value}" for key, value in words.items())]


def dirty_command(where: str, size_bytes: int, share: float, seed: int) -> list[str]:
    """Write this share of all blocks of 4 KiB once, all over the place, each with bytes that were not there before."""
    words: dict[str, object] = {
        "name": "dirty",
        **target_words(where),
        "rw": "randwrite",
        "bs": 4096,
        "iodepth": 32,
        "size": size_bytes,
        "io_size": max(4096, int(size_bytes * share) // 4096 * 4096),
        "randseed": seed,
        "refill_buffers": 1,
        "thread": 1,
        "eta": "never",
        "output-format": "json",
    }
    return ["fio", *(f"--{key}={value}" for key, value in words.items())]


def run(row: Row, where: str, size_bytes: int, seconds: float, seed: int, directory: Path) -> tuple[Outcome, float]:
    """Run fio in `directory` (it may leave files there): its result and its own CPU seconds. Raises FioError."""
    before = _children_cpu_seconds()
    text = _call(command(row, where, size_bytes, seconds, seed), directory, seconds + START_TIMEOUT_S)
    return parse(text, row), _children_cpu_seconds() - before


def make_dirty(where: str, size_bytes: int, share: float, seed: int, directory: Path) -> None:
    """Run `dirty_command` here. Raises FioError."""
    _call(dirty_command(where, size_bytes, share, seed), directory, DIRTY_TIMEOUT_S)


def _call(words: list[str], directory: Path, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            words, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise FioError(_late(words, timeout_s)) from None
    check(words, done.returncode, done.stderr or done.stdout, timeout_s)
    return done.stdout


def _late(words: list[str], timeout_s: float) -> str:
    return f"{_name(words)}: fio did not end in {timeout_s:.0f} s: was a request not answered?"


def _name(words: list[str]) -> str:
    return words[1].removeprefix("--name=")


def check(words: list[str], code: int | None, said: str, timeout_s: float) -> None:
    """Raises FioError if a fio with these words has failed, or was ended after its time (code None)."""
    if code is None:
        raise FioError(_late(words, timeout_s))
    if code:
        raise FioError(f"{_name(words)}: fio ended with code {code}: {said.strip()[-500:]}")


def parse(text: str, row: Row) -> Outcome:
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
        percentiles = done["clat_ns"]["percentile"]
        return Outcome(
            requests=requests,
            bytes_done=sum(job[side]["io_bytes"] for side in sides),
            seconds=seconds,
            writes=job["write"]["total_ios"],
            flushes=job["sync"]["total_ios"] if row.flush else 0,
            latency_us={name: float(percentiles[key]) / 1000 for name, key in _PERCENTILES.items()},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FioError(f"{row.name}: not a report of fio's: {error!r} in {text[:200]!r}") from error


def _children_cpu_seconds() -> float:
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
