"""How cost grows, as Markdown tables: one for each dimension of `growth`."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import NOISY_SHARE
from benchmarks.table import line

__all__ = ["TITLES", "markdown"]

TITLES = {
    "device": "Size of the device (one node, sparse file, page cache)",
    "depth": "Depth (4k random writes, one connection)",
    "clients": "Connections (4k random writes, depth 4 each)",
    "size": "Size of a request (sequential writes, depth 4)",
    "log": "Working set (4k random writes, depth 32, an activity log of 67 extents)",
    "resources": "Resources on one machine (4k random writes, depth 8 each; the rate of all together)",
    "delay": "Delay between the nodes, ms each way (4k random writes, depth 256, through a relay)",
}
_COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "device": (
        ("attach, s", "attach_s", ".2f"),
        ("anonymous memory, MiB", "anonymous_mib", ".0f"),
        ("MiB for each TiB", "mib_per_tib", ".0f"),
    ),
}
_USUAL = (
    ("requests/s", "rate_per_s", ",.0f"),
    ("MB/s", "mb_per_s", ",.0f"),
    ("latency (median), us", "latency_us", ",.0f"),
    ("CPU each, us", "cpu_us_per_request", ",.1f"),
    ("CPU s per GiB", "cpu_s_per_gib", ".2f"),
    ("wake-ups per request", "wakeups_per_request", ".3f"),
)
_LOG = (*_USUAL[:4], ("log writes per request", "log_writes_per_request", ".3f"))


def markdown(report: dict[str, Any]) -> str:
    """The report for people: a table for each dimension. (n): others used the machine."""
    parts = []
    for name, points in report["dimensions"].items():
        columns = _COLUMNS.get(name, _LOG if name == "log" else _USUAL)
        lines = [line(["", *(title for title, _, _ in columns)]), line(["---", *["---:"] * len(columns)])]
        for point in points:
            noisy = " (n)" if point.get("others_cpu_share", 0) > NOISY_SHARE else ""
            cells = [_cell(point.get(key), form) for _, key, form in columns]
            lines.append(line([f"{point['x']}{noisy}", *cells]))
        parts.append(f"### {TITLES[name]}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
