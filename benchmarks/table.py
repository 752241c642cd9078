"""A report (JSON values) as Markdown tables: the figures of each place, and the ratios beside what is aimed at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.measure import NOISY_SHARE
from benchmarks.peers import PEERS
from benchmarks.places import PLACES

__all__ = ["figures", "line", "markdown", "ratios"]


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report for people."""
    parts = []
    for group in report["groups"]:
        parts += [f"### Measured {PLACES[group['place']].title}\n", figures(group), remarks(group)]
    parts += ["### Ratios\n", ratios(report)]
    return "\n".join(parts)


def figures(group: Mapping[str, Any]) -> str:
    """One line a row: medians of all peers, their CPU, wake-ups of the first."""
    peers: dict[str, str] = group["peers"]
    first = next(iter(peers))
    has_cpu = any(peer["cpu_us_per_request"] for row in group["rows"] for peer in row["peers"].values())
    head = ["work", *peers.values()]
    if has_cpu:
        cpu = PLACES[group["place"]].cpu
        head += [f"{cpu} per request, us: {', '.join(peers.values())}", f"{peers[first]}: requests per wake-up"]
    lines = [line(head), line(["---", *["---:"] * (len(head) - 1)])]
    for row in group["rows"]:
        found = row["peers"]
        cells = [row["title"], *(_figure(found[name], row["unit"]) if name in found else "" for name in peers)]
        if has_cpu:
            cells += [", ".join(_cpu(found.get(name)) for name in peers), _wakeups(found.get(first, {}))]
        lines.append(line(cells))
    return "\n".join(lines) + "\n"


def ratios(report: Mapping[str, Any]) -> str:
    """Every ratio that has a goal."""
    lines = [line(["work", "against", "ratio", "goal", ""]), line(["---", "---", "---:", "---:", "---"])]
    for group in report["groups"]:
        for row in group["rows"]:
            for goal in row["goals"]:
                is_cpu = goal["what"] == "cpu_per_request"
                lines.append(
                    line(
                        [
                            row["title"] + (", server CPU each" if is_cpu else ""),
                            _against(goal["against"]),
                            f"{goal['ratio']:.2f}",
                            f"{'at most ' if is_cpu else ''}{goal['goal']:g}",
                            "reached" if goal["reached"] else "not reached",
                        ]
                    )
                )
    return "\n".join(lines) + "\n"


def line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _against(names: Sequence[str]) -> str:
    titles = [PEERS[name].title for name in names]
    return titles[0] if len(titles) == 1 else f"the better of {' and '.join(titles)}"


def _figure(peer: Mapping[str, Any], unit: str) -> str:
    noisy = f" (n{peer['noisy_runs']})" if peer["noisy_runs"] else ""
    return f"{peer['rate']:,.0f} {unit}{noisy}".replace(" /s", "/s")


def _cpu(peer: Mapping[str, Any] | None) -> str:
    return "-" if peer is None or peer["cpu_us_per_request"] is None else f"{peer['cpu_us_per_request']:.0f}"


def _wakeups(peer: Mapping[str, Any]) -> str:
    here, there = peer.get("requests_per_wakeup"), peer.get("packets_per_wakeup")
    if here is None:
        return ""
    return f"{here:.1f}" if there is None else f"{here:.1f} (packets on the Secondary: {there:.1f})"


def remarks(group: Mapping[str, Any]) -> str:
    """How, when and on what it was measured, and what to distrust."""
    return "\n".join(_remarks(group)) + "\n"


def _remarks(group: Mapping[str, Any]) -> Iterator[str]:
    plan, machine = group["plan"], group["machine"]
    found = ", ".join(f"{name} {version}" for name, version in group["versions"].items() if version)
    yield (
        f"Medians of {plan['repeat']} runs of {plan['seconds']:g} s each, interleaved; ratios are medians of the "
        f"ratios within a repetition. {group['how']}"
    )
    yield ""
    yield (
        f"{group['started']}: {machine['cpu']}, {machine['cpu_count']} processors, {machine['memory_mib']} MiB, Linux "
        f"{machine['kernel']}, {machine['file_system']}; {found}."
    )
    if any(peer["noisy_runs"] for row in group["rows"] for peer in row["peers"].values()):
        yield ""
        yield (
            f"(nX): during X of the runs others used more than {NOISY_SHARE:.0%} of the processors: "
            "distrust the figure."
        )
    for left_out in group.get("left_out", ()):
        yield from ("", left_out)
    if group.get("failure"):
        yield from ("", f"**FAILED: {group['failure']}**")
