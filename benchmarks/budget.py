"""What one request costs each node of a pair: `python -m benchmarks.budget` prints a table for each row, in Markdown.

CPU (user and kernel) and wake-ups from /proc, over a run of its own; system calls from `strace -f -c`, over another one
that it slows down; how the CPU time is spent from `perf record`, over a third. Needs fio, perf and strace, as root.

Exit codes: 0 measured; 1 a program is missing or failed; 2 wrong options.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cpu import TICKS_PER_S
from benchmarks.fio import FioError
from benchmarks.pair import PydrbdPair
from benchmarks.rows import ROWS, Row
from benchmarks.servers import ServerError
from pydrbd.units import MIB

__all__ = ["Readings", "main", "parse_perf", "parse_strace", "table"]

_ROWS = ("write-4k-1", "write-4k-32", "flush-4k-1", "read-4k-32")
_PROGRAMS = ("fio", "perf", "strace")
_SIZE_BYTES = 256 * MIB
_SHARE_MIN = 0.01
_STRACE_LINE = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", re.MULTILINE)
_PERF_LINE = re.compile(r"^ *([\d.]+)% +[\d.]+% +\[k\] __(?:x64|arm64|se)_sys_(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Readings:
    """Of one process since it began."""

    user_s: float
    kernel_s: float
    sleeps: int
    """Times that a thread has waited, and was woken."""

    @classmethod
    def take(cls, pid: int) -> Readings:
        """Raises OSError if it has ended."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        sleeps = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)
            sleeps += int(found[1]) if found else 0
        return cls(int(fields[11]) / TICKS_PER_S, int(fields[12]) / TICKS_PER_S, sleeps)

    def since(self, before: Readings) -> Readings:
        return Readings(self.user_s - before.user_s, self.kernel_s - before.kernel_s, self.sleeps - before.sleeps)


def parse_strace(text: str) -> dict[str, int]:
    """How often each system call was made."""
    return {name: int(count) for count, name in _STRACE_LINE.findall(text) if name != "total"}


def parse_perf(text: str) -> dict[str, float]:
    """Which share of the samples was in each system call."""
    return {name: float(share) / 100 for share, name in _PERF_LINE.findall(text)}


_Node = tuple[Readings, dict[str, float], dict[str, float]]


def table(title: str, requests: int, nodes: Mapping[str, _Node]) -> str:
    """Of each node what it used for all `requests`, where, and how many system calls each of them took."""
    lines = [f"**{title}**, for each request", "", "| | user, us | kernel, us | wake-ups | system calls | CPU |"]
    lines.append("| --- | ---: | ---: | ---: | --- | --- |")
    for name, (used, shares, calls) in nodes.items():
        count = max(1, requests)
        often = sorted(((each, call) for call, each in calls.items()), reverse=True)
        spent = sorted(((share, call) for call, share in shares.items() if share >= _SHARE_MIN), reverse=True)
        words = ", ".join(f"{call} {each:.2f}" for each, call in often if each >= _SHARE_MIN)
        parts = ", ".join(f"{call} {share:.0%}" for share, call in spent)
        figures = f"{used.user_s / count * 1e6:.1f} | {used.kernel_s / count * 1e6:.1f} | {used.sleeps / count:.2f}"
        lines.append(f"| {name} | {figures} | {words} | {parts} |")
    return "\n".join(lines) + "\n"


def _measure(pair: PydrbdPair, row: Row, seconds: float, directory: Path) -> str:
    names = dict(zip(("Primary", "Secondary"), pair.pids, strict=True))
    before = {name: Readings.take(pid) for name, pid in names.items()}
    outcome, _ = pair.drive(row, seconds, 1)
    used = {name: Readings.take(pid).since(before[name]) for name, pid in names.items()}
    shares, calls = {}, {}
    for name, pid in names.items():
        calls[name] = _traced(pair, row, seconds, pid)
        shares[name] = _sampled(pair, row, seconds, pid, directory)
    return table(row.title, outcome.requests, {name: (used[name], shares[name], calls[name]) for name in names})


def _traced(pair: PydrbdPair, row: Row, seconds: float, pid: int) -> dict[str, float]:
    words = ["strace", "-f", "-c", "-p", str(pid)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        outcome, _ = pair.drive(row, seconds, 2)
        process.send_signal(signal.SIGINT)
        made = parse_strace(process.communicate()[1])
    return {call: count / max(1, outcome.requests) for call, count in made.items()}


def _sampled(pair: PydrbdPair, row: Row, seconds: float, pid: int, directory: Path) -> dict[str, float]:
    worker = threading.Thread(target=pair.drive, args=(row, seconds, 3))
    worker.start()
    data = directory / "perf.data"
    record = ["perf", "record", "-q", "-g", "-e", "cpu-clock", "-p", str(pid), "-o", str(data)]
    report = ["perf", "report", "-i", str(data), "--children", "-g", "none", "--sort", "sym", "--stdio"]
    try:
        subprocess.run([*record, "sleep", f"{seconds:g}"], check=True)
    finally:
        worker.join()
    return parse_perf(subprocess.run(report, check=True, capture_output=True, text=True).stdout)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description="What a request costs a pair.")
    parser.add_argument("--rows", default=",".join(_ROWS), help=f"of: {','.join(ROWS)} (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run (default: %(default)s)")
    found = parser.parse_args(argv)
    if unknown := [name for name in found.rows.split(",") if name not in ROWS or ROWS[name].pattern == "resync"]:
        parser.error(f"no row to measure so: {', '.join(unknown)}")
    if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
        print(f"error: not installed: {', '.join(missing)}", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="pydrbd-budget-") as name, ExitStack() as stack:
            pair = PydrbdPair(Path(name), _SIZE_BYTES, stack)
            for row in found.rows.split(","):
                print(_measure(pair, ROWS[row], found.seconds, Path(name)), flush=True)
    except (FioError, ServerError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
