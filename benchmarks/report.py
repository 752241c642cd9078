"""From runs to a report: medians, ratios within one repetition, a JSON document and a Markdown table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import NOISY_SHARE, Plan, Run
from benchmarks.peers import PEERS
from benchmarks.rows import Row

__all__ = ["build", "markdown", "write"]

SCHEMA = 1


def build(plan: Plan, runs: Sequence[Run], surroundings: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report as JSON values. Rows and peers that have no run are left out."""
    return {
        "schema": SCHEMA,
        **surroundings,
        "plan": {"seconds": plan.seconds, "repeat": plan.repeat, "size_bytes": plan.size_bytes},
        "peers": {name: PEERS[name].title for name in plan.peers},
        "rows": [_row(row, plan, of_row) for row in plan.rows if (of_row := [r for r in runs if r.row == row.name])],
    }


def _row(row: Row, plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    of_peer = {name: [run for run in runs if run.peer == name] for name in plan.peers}
    first, *others = plan.peers
    return {
        "name": row.name,
        "title": row.title,
        "unit": row.unit,
        "peers": {name: _peer(row, of_peer[name]) for name in plan.peers if of_peer[name]},
        "ratios": {
            f"{first}/{other}": _ratios(of_peer[first], of_peer[other])
            for other in others
            if of_peer[first] and of_peer[other]
        },
    }


def _peer(row: Row, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "rate": median(_rate(row, run) for run in runs),
        "latency_p50_us": median(run.fio.latency_p50_us for run in runs),
        "latency_p99_us": median(run.fio.latency_p99_us for run in runs),
        "cpu_us_per_request": median(run.cpu_us_per_request for run in runs),
        "requests_per_wakeup": _quotient(runs, "nbd_requests", "nbd_wakeups"),
        "packets_per_wakeup": _quotient(runs, "secondary_packets", "secondary_wakeups") if row.writes else None,
        "noisy_runs": sum(run.noisy for run in runs),
        "runs": [asdict(run) for run in runs],
    }


def _rate(row: Row, run: Run) -> float:
    return run.fio.bytes_per_s / 1e6 if row.unit == "MB/s" else run.fio.rate_per_s


def _quotient(runs: Sequence[Run], of: str, per: str) -> float | None:
    """A counter over another, all runs together; None for a peer that has no such counters."""
    total = sum(run.counted.get(per, 0) for run in runs)
    return sum(run.counted[of] for run in runs) / total if total else None


def _ratios(ours: Sequence[Run], theirs: Sequence[Run]) -> dict[str, float]:
    """Medians of what was measured side by side: rates (more is better) and CPU per request (less is)."""
    other = {run.repetition: run for run in theirs}
    pairs = [(run, other[run.repetition]) for run in ours if run.repetition in other]
    return {
        "rate": median(our.fio.rate_per_s / their.fio.rate_per_s for our, their in pairs),
        "cpu_per_request": median(our.cpu_us_per_request / max(their.cpu_us_per_request, 1e-3) for our, their in pairs),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    peers: dict[str, str] = report["peers"]
    first, *others = peers
    head = ["work", *(title for title in peers.values())]
    head += [f"{peers[first]} / {peers[other]}" for other in others]
    head += [f"server CPU per request, us: {', '.join(peers.values())}", f"{peers[first]}: requests per wake-up"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for row in report["rows"]:
        found = row["peers"]
        cells = [row["title"]]
        cells += [_figure(found[name], row["unit"]) if name in found else "" for name in peers]
        ratios = [row["ratios"].get(f"{first}/{other}") for other in others]
        cells += [f"{ratio['rate']:.2f}" if ratio else "" for ratio in ratios]
        cells.append(", ".join(f"{found[name]['cpu_us_per_request']:.0f}" for name in peers if name in found))
        cells.append(_wakeups(found.get(first, {})))
        lines.append(_line(cells))
    return "\n".join([*lines, "", *_remarks(report)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(peer: Mapping[str, Any], unit: str) -> str:
    noisy = f" (n{peer['noisy_runs']})" if peer["noisy_runs"] else ""
    return f"{peer['rate']:,.0f} {unit}{noisy}".replace(" /s", "/s")


def _wakeups(peer: Mapping[str, Any]) -> str:
    here, there = peer.get("requests_per_wakeup"), peer.get("packets_per_wakeup")
    if here is None:
        return ""
    return f"{here:.1f}" if there is None else f"{here:.1f} (packets on the Secondary: {there:.1f})"


def _remarks(report: Mapping[str, Any]) -> list[str]:
    plan, machine, versions = report["plan"], report["machine"], report["versions"]
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    remarks = [
        f"Medians of {plan['repeat']} runs of {plan['seconds']:g} s each, interleaved; ratios are medians of the "
        "ratios within a repetition. fio's nbd engine, one connection on a Unix socket, all files in the page cache.",
        "",
        f"{report['started']}: {machine['cpu']}, {machine['cpu_count']} processors, {machine['memory_mib']} MiB, Linux "
        f"{machine['kernel']}, {machine['file_system']}; {found}.",
    ]
    if any(peer["noisy_runs"] for row in report["rows"] for peer in row["peers"].values()):
        remarks += [
            "",
            f"(nX): during X of the runs others used more than {NOISY_SHARE:.0%} of the processors: "
            "distrust the figure.",
        ]
    if report.get("failure"):
        remarks += ["", f"**FAILED: {report['failure']}**"]
    return remarks


def write(report: Mapping[str, Any], directory: Path) -> None:
    """latest.json and latest.md in `directory`; each is there whole, or as it was."""
    directory.mkdir(parents=True, exist_ok=True)
    _replace(directory / "latest.json", json.dumps(report, indent=1) + "\n")
    _replace(directory / "latest.md", markdown(report))


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)
