"""Pictures of the last reports: `python -m benchmarks.plots` draws latest.json and growth.json as PNG and SVG.

    rates       each row's rate beside its peers, as a share of the best of them
    latency     percentiles of each row's requests
    cpu         server CPU seconds per GiB
    resync      how a resync goes on over time
    growth-*    a pydrbd pair along each dimension of `growth`

Needs matplotlib (the extra `bench`, which make bench installs).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure

from benchmarks.growth_table import TITLES
from benchmarks.places import KINDS, picture

__all__ = ["draw", "draw_growth", "main"]

_RESULTS = Path(__file__).with_name("results")
_DPI = 110
rcParams["svg.hashsalt"] = "pydrbd"  # the same picture is the same file


@contextmanager
def _picture(directory: Path, name: str, columns: int = 1, width: float = 9.0, height: float = 4.5) -> Iterator[Any]:
    figure = Figure(figsize=(width, height), layout="tight")
    yield figure.subplots(1, columns, squeeze=False)[0]
    figure.savefig(directory / f"{name}.png", dpi=_DPI)
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})


def draw(report: dict[str, Any], directory: Path) -> list[str]:
    """Pictures of a report of `python -m benchmarks`; their names."""
    made = []
    for group in report["groups"]:
        rates, latency, cpu, resync = (picture(kind, group["place"]) for kind in KINDS)
        peers, rows = group["peers"], group["rows"]
        clients = [row for row in rows if any(peer["latency_us"] for peer in row["peers"].values())]
        if rows:
            _bars(rows, peers, "rate", "rate, as a share of the best", directory, rates, relative=True)
            _bars(rows, peers, "cpu_s_per_gib", "server CPU seconds per GiB", directory, cpu, log=True)
            made += [rates, cpu]
        if clients:
            _latency(clients, peers, directory, latency)
            made.append(latency)
        if any(curve for row in rows for curve in _curves(row).values()):
            _resync([row for row in rows if _curves(row)], peers, directory, resync)
            made.append(resync)
    return made


def _bars(
    rows: list[Any], peers: dict[str, str], key: str, label: str, directory: Path, name: str, *, relative: bool = False,
    log: bool = False,
) -> None:  # fmt: skip
    with _picture(directory, name, width=11.0) as (axes,):
        for place, (peer, title) in enumerate(peers.items()):
            heights = []
            for row in rows:
                values = {other: found.get(key) or 0.0 for other, found in row["peers"].items()}
                best = max(values.values(), default=0.0) if relative else 1.0
                heights.append(values.get(peer, 0.0) / best if best else 0.0)
            offset = (place - (len(peers) - 1) / 2) * 0.8 / len(peers)
            axes.bar([at + offset for at in range(len(rows))], heights, 0.8 / len(peers), label=title)
        axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=20, ha="right")
        axes.set_ylabel(label)
        if log:
            axes.set_yscale("log")
        axes.legend(fontsize="small")
        axes.grid(axis="y", alpha=0.3)


def _latency(rows: list[Any], peers: dict[str, str], directory: Path, name: str) -> None:
    with _picture(directory, name, len(rows), width=3.2 * len(rows)) as every:
        for axes, row in zip(every, rows, strict=True):
            for peer, title in peers.items():
                found = row["peers"].get(peer, {}).get("latency_us")
                if found:
                    axes.plot(list(found), list(found.values()), marker="o", label=title)
            axes.set_yscale("log")
            axes.set_title(row["name"], fontsize="small")
            axes.set_xlabel("percentile")
            axes.grid(alpha=0.3)
        every[0].set_ylabel("latency, us")
        every[0].legend(fontsize="x-small")


def _curves(row: Any) -> dict[str, Any]:
    first = {peer: found["runs"][0]["outcome"].get("curve") for peer, found in row["peers"].items()}
    return {peer: curve for peer, curve in first.items() if curve}


def _resync(rows: list[Any], peers: dict[str, str], directory: Path, name: str) -> None:
    with _picture(directory, name, len(rows), width=5.0 * len(rows)) as every:
        for axes, row in zip(every, rows, strict=True):
            for peer, curve in _curves(row).items():
                axes.plot([at for at, _ in curve], [100 * share for _, share in curve], label=peers[peer])
            axes.set_title(row["title"], fontsize="small")
            axes.set_xlabel("seconds")
            axes.set_ylabel("done, %")
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")


_GROWTH = {
    "device": (("attach_s", "attach, s"), ("anonymous_mib", "memory, MiB")),
    "depth": (("rate_per_s", "requests/s"), ("wakeups_per_request", "wake-ups per request")),
    "size": (("mb_per_s", "MB/s"), ("cpu_s_per_gib", "CPU s per GiB")),
    "log": (("rate_per_s", "requests/s"), ("log_writes_per_request", "log writes per request")),
}
_USUAL = (("rate_per_s", "requests/s"), ("cpu_us_per_request", "CPU each, us"))


def draw_growth(report: dict[str, Any], directory: Path) -> list[str]:
    """Pictures of a report of `python -m benchmarks.growth`; their names."""
    made = []
    for dimension, points in report["dimensions"].items():
        with _picture(directory, f"growth-{dimension}", 2) as every:
            for axes, (key, label) in zip(every, _GROWTH.get(dimension, _USUAL), strict=True):
                axes.plot([point["x"] for point in points], [point[key] for point in points], marker="o")
                axes.set_ylabel(label)
                axes.set_ylim(bottom=0)
                axes.grid(alpha=0.3)
                axes.tick_params(axis="x", rotation=20)
            every[0].set_title(TITLES[dimension], fontsize="small", loc="left")
        made.append(f"growth-{dimension}")
    return made


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description="Pictures of the last reports.")
    parser.add_argument(
        "directory", type=Path, nargs="?", default=_RESULTS, help="where they are (default: %(default)s)"
    )
    directory: Path = parser.parse_args(argv).directory
    made = []
    for name, paint in (("latest.json", draw), ("growth.json", draw_growth)):
        if (directory / name).exists():
            made += paint(json.loads((directory / name).read_text()), directory)
    print("\n".join(f"{directory / name}.png" for name in made))
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main())
