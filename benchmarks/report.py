"""From runs to a report: medians, ratios within one repetition, goals; as JSON values, which `table` shows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.goals import GOALS, Goal
from benchmarks.measure import Plan, Run
from benchmarks.peers import PEERS
from benchmarks.rows import Row
from benchmarks.table import markdown

__all__ = ["build_group", "merge", "replace_file", "write"]

SCHEMA = 2


def build_group(place: str, plan: Plan, runs: Sequence[Run], surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured side by side, as JSON values. Rows and peers that have no run are left out."""
    return {
        "place": place,
        **surroundings,
        "plan": {"seconds": plan.seconds, "repeat": plan.repeat, "size_bytes": plan.size_bytes},
        "peers": {name: PEERS[name].title for name in plan.peers},
        "rows": [_row(row, plan, of_row) for row in plan.rows if (of_row := [r for r in runs if r.row == row.name])],
    }


def merge(groups: Sequence[Mapping[str, Any]], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """A report of these groups. What none of them has measured is kept from the report before, with its date."""
    places = {group["place"] for group in groups}
    kept = [] if before is None or before.get("schema") != SCHEMA else before["groups"]
    return {"schema": SCHEMA, "groups": [*groups, *(group for group in kept if group["place"] not in places)]}


def _row(row: Row, plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    of_peer = {name: of for name in plan.peers if (of := [run for run in runs if run.peer == name])}
    goals = [goal for goal in GOALS if goal.row == row.name and goal.ours in of_peer]
    return {
        "name": row.name,
        "title": row.title,
        "unit": row.unit,
        "peers": {name: _peer(row, of) for name, of in of_peer.items()},
        "goals": [
            _reached(goal, of_peer[goal.ours], others)
            for goal in goals
            if len(others := [of_peer[name] for name in goal.against if name in of_peer]) == len(goal.against)
        ],
    }


def _peer(row: Row, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "rate": median(_rate(row, run) for run in runs),
        "latency_us": {
            percent: median(run.outcome.latency_us[percent] for run in runs) for percent in runs[0].outcome.latency_us
        },
        "cpu_us_per_request": median(run.cpu_us_per_request for run in runs) or None,
        "cpu_s_per_gib": median(run.server_cpu_s / run.outcome.bytes_done for run in runs) * (1 << 30) or None,
        "requests_per_wakeup": _quotient(runs, "nbd_requests", "nbd_wakeups"),
        "packets_per_wakeup": _quotient(runs, "secondary_packets", "secondary_wakeups") if row.writes else None,
        "noisy_runs": sum(run.noisy for run in runs),
        "runs": [{**asdict(run), "rate": _rate(row, run), "noisy": run.noisy} for run in runs],
    }


def _rate(row: Row, run: Run) -> float:
    return run.outcome.bytes_per_s / 1e6 if row.unit == "MB/s" else run.outcome.rate_per_s


def _quotient(runs: Sequence[Run], of: str, per: str) -> float | None:
    """A counter over another, all runs together; None for a peer that has no such counters."""
    total = sum(run.counted.get(per, 0) for run in runs)
    return sum(run.counted[of] for run in runs) / total if total else None


def _reached(goal: Goal, ours: Sequence[Run], theirs: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """A goal, and the ratio that there is: the one that is worse for us of those to each of the others.

    Each is a median of the ratios within a repetition, of what was measured side by side.
    """
    ratios = [_ratio(goal, ours, runs) for runs in theirs]
    ratio = min(ratios) if goal.what == "rate" else max(ratios)
    return {
        "against": list(goal.against),
        "what": goal.what,
        "goal": goal.ratio,
        "ratio": ratio,
        "reached": goal.is_reached(ratio),
    }


def _ratio(goal: Goal, ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    other = {run.repetition: run for run in theirs}
    pairs = [(run, other[run.repetition]) for run in ours if run.repetition in other]
    if goal.what == "cpu_per_request":
        return median(our.cpu_us_per_request / max(their.cpu_us_per_request, 1e-3) for our, their in pairs)
    return median(our.outcome.bytes_per_s / their.outcome.bytes_per_s for our, their in pairs)


def write(report: Mapping[str, Any], directory: Path) -> None:
    """latest.json and latest.md in `directory`; each is there whole, or as it was."""
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / "latest.json", json.dumps(report, indent=1) + "\n")
    replace_file(directory / "latest.md", markdown(report))


def replace_file(path: Path, text: str) -> None:
    """Write a file that nobody sees half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)
