"""How cost grows: `python -m benchmarks.growth` measures a pydrbd pair along one dimension after the other.

    device      memory of the process and time to attach, for devices of 1 GiB to 16 TiB (sparse files, one node alone)
    depth       4k random writes at depth 1 to 256: rate, requests per wake-up, CPU
    clients     the same with 1 to 16 connections at depth 4
    size        sequential writes of 512 bytes to 32 MiB, CPU seconds per GiB
    log         4k random writes over working sets that fit the activity log, and that don't
    resources   1 to 8 pairs at a time on this machine, together
    delay       writes at depth 256 with 0.1 to 10 ms each way between the nodes, through a relay that holds them back

Writes growth.json, growth.md and plots. Exit codes as `python -m benchmarks`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import fio
from benchmarks.cpu import Clock
from benchmarks.growth_table import TITLES, markdown
from benchmarks.machine import describe_machine, versions
from benchmarks.measure import NOISY_SHARE
from benchmarks.outcome import Outcome
from benchmarks.pair import PydrbdPair
from benchmarks.report import replace_file
from benchmarks.rows import Row
from pydrbd.admin.demo_pair import LocalPair
from pydrbd.units import GIB, KIB, MIB

__all__ = ["DIMENSIONS", "main"]

TIB = 1024 * GIB
_RESULTS = Path(__file__).with_name("results")
_WRITE = Row("write", "4k random write", "randwrite")
_SIZE_BYTES = 256 * MIB
_ATTACH_TIMEOUT_S = 120.0

Point = dict[str, Any]
Points = list[Point]


class Place:
    """Where and for how long: a directory for disks and sockets, seconds a run, and who hears of each point."""

    def __init__(self, directory: Path, seconds: float, say: Callable[[str], None]) -> None:
        self.seconds, self.say = seconds, say
        self._directory, self._count = directory, 0

    def new(self) -> Path:
        self._count += 1
        found = self._directory / f"p{self._count}"
        found.mkdir()
        return found

    @contextmanager
    def pair(self, size_bytes: int = _SIZE_BYTES) -> Iterator[PydrbdPair]:
        with ExitStack() as stack:
            yield PydrbdPair(self.new(), size_bytes, stack)

    def run(self, pair: PydrbdPair, row: Row, size_bytes: int | None = None) -> Point:
        """One run, its copies compared: rate, latency, CPU, wake-ups."""
        before, clock = pair.counters(), Clock.start(pair.cpu_seconds)
        seconds = self.seconds
        outcome, client_s = fio.run(row, pair.uri, size_bytes or pair.size_bytes, seconds, 1, pair.directory)
        servers_s, machine_s = clock.since()
        after = pair.counters()
        counted = {key: after[key] - before[key] for key in after}
        pair.verify(row, counted, outcome.writes)
        return _point(outcome, servers_s, machine_s - servers_s - client_s, counted)


def _point(outcome: Outcome, servers_s: float, others_s: float, counted: dict[str, int]) -> Point:
    wakeups = counted["nbd_wakeups"]
    return {
        "rate_per_s": outcome.rate_per_s,
        "mb_per_s": outcome.bytes_per_s / 1e6,
        "latency_us": outcome.latency_us.get("50"),
        "cpu_us_per_request": servers_s / outcome.requests * 1e6,
        "cpu_s_per_gib": servers_s / outcome.bytes_done * GIB,
        "wakeups_per_request": wakeups / outcome.requests,
        "log_writes_per_request": counted["log_writes"] / outcome.requests,
        "others_cpu_share": max(0.0, others_s) / outcome.seconds / (os.cpu_count() or 1),
    }


# --- the dimensions ---


def grow_device(place: Place) -> Points:
    points = []
    for size_bytes, name in ((GIB, "1 GiB"), (64 * GIB, "64 GiB"), (TIB, "1 TiB"), (16 * TIB - 64 * MIB, "16 TiB")):
        try:
            pair = LocalPair(place.new(), size_bytes=size_bytes, io="buffered")
        except OSError as error:
            place.say(f"device of {name}: no such file here ({error.strerror})")
            continue
        try:
            pair.create_meta_data()
            node = pair.nodes[0]
            began = time.monotonic()
            node.start()
            started_s = time.monotonic() - began
            node.grant("detach", force=True)
            began = time.monotonic()
            node.grant("attach")
            pair.wait_until(lambda node=node: node.volume()["disk"] != "Diskless", "the disk", _ATTACH_TIMEOUT_S)
            attach_s = time.monotonic() - began
            points.append(
                {"x": name, "bytes": size_bytes, "attach_s": attach_s, "start_s": started_s, **_memory(node.pid)}
            )
            place.say(f"device {name}: attach {attach_s:.2f} s, memory {points[-1]['anonymous_mib']:.0f} MiB")
        finally:
            pair.stop_all()
    for point in points[1:]:
        grown = point["anonymous_mib"] - points[0]["anonymous_mib"]
        point["mib_per_tib"] = grown / ((point["bytes"] - points[0]["bytes"]) / TIB)
    return points


def _memory(pid: int) -> Point:
    fields = dict(entry.split(":", 1) for entry in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in entry)
    return {
        name: int(fields[key].split()[0]) / KIB for name, key in (("rss_mib", "VmRSS"), ("anonymous_mib", "RssAnon"))
    }


def grow_depth(place: Place) -> Points:
    with place.pair() as pair:
        return [
            _said(place, "depth", d, place.run(pair, replace(_WRITE, depth=d)))
            for d in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        ]


def grow_clients(place: Place) -> Points:
    with place.pair() as pair:
        return [
            _said(place, "clients", n, place.run(pair, replace(_WRITE, depth=4, clients=n))) for n in (1, 2, 4, 8, 16)
        ]


def grow_size(place: Place) -> Points:
    points = []
    with place.pair() as pair:
        for size_bytes, name in (
            (512, "512"), (4 * KIB, "4k"), (32 * KIB, "32k"), (256 * KIB, "256k"), (2 * MIB, "2M"), (32 * MIB, "32M"),
        ):  # fmt: skip
            row = Row("size", "sequential write", "write", size_bytes, 4)
            points.append(_said(place, "request size", name, place.run(pair, row)))
    return points


def grow_log(place: Place) -> Points:
    """67 extents of 4 MiB are the smallest log that DRBD allows, and 268 MiB; 1237 by default."""
    points = []
    with ExitStack() as stack:
        pair = PydrbdPair(place.new(), GIB, stack, disk="al-extents 67;")
        for size_bytes, name in ((GIB // 8, "half"), (GIB // 4, "all"), (GIB // 2, "twice"), (GIB, "4 times")):
            point = place.run(pair, replace(_WRITE, depth=32), size_bytes)
            points.append(_said(place, "working set, of what the log holds:", name, point))
    return points


def grow_resources(place: Place) -> Points:
    points = []
    for count in (1, 2, 4, 8):
        with ExitStack() as stack:
            pairs = [PydrbdPair(place.new(), 64 * MIB, stack) for _ in range(count)]
            with ThreadPoolExecutor(count) as pool:
                found = list(pool.map(lambda pair: place.run(pair, replace(_WRITE, depth=8)), pairs))
        point = {**found[0], "rate_per_s": sum(one["rate_per_s"] for one in found), "others_cpu_share": 0.0}
        points.append(_said(place, "resources", count, point))
    return points


def grow_delay(place: Place) -> Points:
    """The bytes on the way must fill the wire: at depth 256 a longer one costs latency first."""
    points = []
    for delay_ms in (0.0, 0.1, 1.0, 10.0):
        with ExitStack() as stack:
            pair = PydrbdPair(place.new(), _SIZE_BYTES, stack, delay_s=delay_ms / 1000)
            points.append(_said(place, "delay each way, ms", delay_ms, place.run(pair, replace(_WRITE, depth=256))))
    return points


def _said(place: Place, what: str, x: object, point: Point) -> Point:
    noisy = ", disturbed" if point["others_cpu_share"] > NOISY_SHARE else ""
    rates = f"{point['rate_per_s']:,.0f}/s, {point['mb_per_s']:,.0f} MB/s"
    place.say(f"{what} {x}: {rates}, {point['cpu_us_per_request']:.0f} us CPU each{noisy}")
    return {"x": str(x), **point}


DIMENSIONS: dict[str, Callable[[Place], Points]] = {
    "device": grow_device,
    "depth": grow_depth,
    "clients": grow_clients,
    "size": grow_size,
    "log": grow_log,
    "resources": grow_resources,
    "delay": grow_delay,
}
"""What can be measured, in the order of the report."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description="How cost grows.")
    add = parser.add_argument
    add("dimensions", nargs="*", help=f"of: {' '.join(DIMENSIONS)} (default: all)")
    add("--seconds", type=float, default=3.0, help="of each run (default: %(default)s)")
    add("--dir", type=Path, help="where the disks go (default: the temporary directory)")
    add("--output", type=Path, default=_RESULTS, help="where the report goes (default: benchmarks/results)")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.dimensions if name not in DIMENSIONS]:
        parser.error(f"no such dimension: {', '.join(unknown)} (but {', '.join(DIMENSIONS)})")
    report: dict[str, Any] = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "dimensions": {}}
    path = options.output / "growth.json"
    if path.exists():
        report["dimensions"] = json.loads(path.read_text())["dimensions"]
    with tempfile.TemporaryDirectory(prefix="pydrbd-growth-", dir=options.dir) as name:
        report |= {"machine": describe_machine(Path(name)), "versions": versions("fio")}
        place = Place(Path(name), options.seconds, lambda text: print(text, file=sys.stderr, flush=True))
        wanted = options.dimensions or list(DIMENSIONS)
        for number, dimension in enumerate(wanted, 1):
            place.say(f"[{number}/{len(wanted)}] {TITLES[dimension]}")
            report["dimensions"][dimension] = DIMENSIONS[dimension](place)
    report["dimensions"] = {name: report["dimensions"][name] for name in DIMENSIONS if report["dimensions"].get(name)}
    options.output.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(report, indent=1) + "\n")
    replace_file(options.output / "growth.md", markdown(report))
    print(markdown(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
