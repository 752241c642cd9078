"""`python -m benchmarks`: start the peers, measure row by row, compare the copies, write and print the table.

Exit codes: 0 all measured; 1 a server or fio failed, or an answer was wrong; 2 wrong options; 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.fio import FioError
from benchmarks.machine import describe_machine, versions
from benchmarks.measure import Plan, Run, measure
from benchmarks.options import read_options
from benchmarks.peers import PEERS
from benchmarks.progress import Progress
from benchmarks.servers import ServerError
from pydrbd.units import MIB

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    options = read_options(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="pydrbd-bench-", dir=options.directory) as name:
            return _run(options.plan, Path(name), options.output)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _run(plan: Plan, directory: Path, output: Path) -> int:
    surroundings: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(directory),
        "versions": versions(),
    }
    progress = Progress(plan.run_count)
    runs: list[Run] = []

    def on_run(run: Run) -> None:
        runs.append(run)
        progress.on_run(run)

    try:
        with ExitStack() as stack:
            peers = {}
            for name in plan.peers:
                progress.say(f"starting {PEERS[name].title} ({plan.size_bytes // MIB} MiB)")
                (directory / name).mkdir()
                peers[name] = PEERS[name].start(directory / name, plan.size_bytes, stack)
            measure(plan, peers, directory, on_run)
    except (FioError, ServerError, OSError) as error:
        surroundings["failure"] = str(error)
    finally:
        progress.end()
    made = report.build(plan, runs, surroundings)
    report.write(made, output)
    print(report.markdown(made))
    failure = surroundings.get("failure")
    if failure:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
