"""`python -m benchmarks`: start the peers, measure row by row, compare the copies, write and print the table.

Exit codes: 0 all measured that can be here; 1 a server or fio failed, an answer was wrong, or nothing can be measured;
2 wrong options; 130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.fio import FioError
from benchmarks.machine import describe_machine
from benchmarks.measure import Plan, Run, measure
from benchmarks.options import read_options
from benchmarks.peers import PEERS
from benchmarks.places import PLACES, Ground
from benchmarks.progress import Progress
from benchmarks.servers import NotHere, ServerError
from benchmarks.table import markdown
from pydrbd.units import MIB

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    options = read_options(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="pydrbd-bench-", dir=options.directory) as name:
            return _run(options.plans, Path(name), options.output)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _run(plans: Mapping[str, Plan], directory: Path, output: Path) -> int:
    progress = Progress(sum(plan.run_count for plan in plans.values()))
    groups, notes = [], []

    def leave_out(place: str, reason: str) -> None:
        notes.append(f"Not measured {PLACES[place].title}: {reason}")
        progress.leave_out(plans[place].run_count, notes[-1])

    try:
        missing = {place: reason for place in plans if (reason := PLACES[place].why_not()) is not None}
        for place, reason in missing.items():
            leave_out(place, reason)
        for place in [place for place in plans if place not in missing]:
            try:
                groups.append(_measure(place, plans[place], directory / place, progress))
            except NotHere as error:
                leave_out(place, str(error))
    finally:
        progress.end()
    if not groups:
        return 1
    if notes:
        groups[0]["left_out"] = notes
    made = report.merge(groups, _before(output))
    report.write(made, output)
    print(markdown(made), end="")
    failures = [group["failure"] for group in groups if "failure" in group]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _before(output: Path) -> dict[str, Any] | None:
    """The report that will be replaced."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((output / "latest.json").read_text())
        return found
    return None


def _measure(place: str, plan: Plan, directory: Path, progress: Progress) -> dict[str, Any]:
    """One place's peers, all there from its first run to its last. Raises NotHere."""
    surroundings: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(directory.parent),
        "versions": {},
        "how": PLACES[place].how,
    }
    runs: list[Run] = []

    def on_run(run: Run) -> None:
        runs.append(run)
        progress.on_run(run)

    try:
        with ExitStack() as stack:
            directory.mkdir()
            ground, peers = Ground(directory, plan.size_bytes, stack), {}
            for name in plan.peers:
                progress.say(f"starting {PEERS[name].title} ({plan.size_bytes // MIB} MiB)")
                peers[name] = PEERS[name].start(ground, name)
            surroundings["versions"] = PLACES[place].versions(ground)
            measure(plan, peers, on_run)
    except NotHere:
        raise
    except (FioError, ServerError, OSError) as error:
        surroundings["failure"] = str(error)
    return report.build_group(place, plan, runs, surroundings)


if __name__ == "__main__":
    sys.exit(main())
