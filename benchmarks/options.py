"""The command line and BENCH: from words to a plan."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Plan
from benchmarks.peers import PEERS, can
from benchmarks.places import PLACES
from benchmarks.rows import ROWS
from pydrbd.units import MIB

__all__ = ["Options", "read_options"]

_RESULTS = Path(__file__).resolve().parent / "results"
_LENGTHS: dict[str, dict[str, tuple[float, int, int]]] = {
    "quick": {"here": (1.0, 2, 256), "lab": (1.0, 1, 64)},
    "full": {
        "here": (10.0, 4, 256),
        "direct": (6.0, 3, 256),
        "log": (5.0, 3, 1024),
        "plugin": (5.0, 3, 256),
        "lab": (7.0, 4, 256),
    },
}
"""BENCH -> place -> seconds of a run, repetitions, MiB of each disk."""

_PATH_BYTES_MAX = 45
"""Of the directory that ours is made in: a Unix socket's path below it must fit 107."""


@dataclass(frozen=True, slots=True)
class Options:
    """A plan for each place; `directory`: where the disks and sockets go; `output`: where the report."""

    plans: dict[str, Plan]
    directory: Path
    output: Path


def read_options(argv: Sequence[str] | None = None) -> Options:
    """Parse the command line; ends the program with code 2 for what can't be done."""
    length = os.environ.get("BENCH") or "full"
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure pydrbd beside its peers.")
    add = parser.add_argument
    add("--places", type=_names(PLACES), default=tuple(PLACES), help=f"of: {','.join(PLACES)}")
    add("--peers", type=_names(PEERS), default=tuple(PEERS), help=f"of: {','.join(PEERS)}")
    add("--rows", type=_names(ROWS), default=tuple(ROWS), help=f"of: {','.join(ROWS)}")
    add("--seconds", type=_positive(float), help=f"of each run ({_defaults(0)})")
    add("--repeat", type=_positive(int), help=f"how often ({_defaults(1)})")
    add("--size", type=_positive(int), help=f"MiB of each disk ({_defaults(2)})")
    add("--dir", type=Path, help="where the disks go (default: the temporary directory)")
    add("--output", type=Path, default=_RESULTS, help="where the report goes (default: benchmarks/results)")
    found = parser.parse_args(argv)
    if length not in _LENGTHS:
        parser.error(f"BENCH can't be '{length}' (but {' or '.join(_LENGTHS)})")
    place = (found.dir or Path(tempfile.gettempdir())).absolute()
    if not place.is_dir():
        parser.error(f"{place}: no such directory")
    if len(os.fsencode(place)) > _PATH_BYTES_MAX:
        parser.error(f"--dir: a path of at most {_PATH_BYTES_MAX} bytes is needed (for the sockets below it)")
    peers = [name for name in found.peers if PEERS[name].place in found.places]
    programs = dict.fromkeys(["fio", *(program for name in peers for program in PEERS[name].programs)])
    if missing := [program for program in programs if shutil.which(program) is None]:
        parser.error(f"not installed: {', '.join(missing)} (as root, make bench installs it)")
    plans = {}
    for where, (seconds, repeat, size_mib) in _LENGTHS[length].items():
        names = tuple(name for name in peers if PEERS[name].place == where)
        rows = tuple(ROWS[name] for name in found.rows if any(can(peer, ROWS[name]) for peer in names))
        if rows:
            lengths = (found.seconds or seconds, found.repeat or repeat, (found.size or size_mib) * MIB)
            plans[where] = Plan(rows, names, *lengths)
    if not plans:
        parser.error("of these peers none can do any of these rows")
    return Options(plans, place, found.output)


def _defaults(which: int) -> str:
    """What BENCH sets, in words."""
    found = (f"BENCH={length}: {', '.join(f'{of[which]:g} {where}' for where, of in places.items())}"
             for length, places in _LENGTHS.items())  # fmt: skip
    return "; ".join(found)


def _names(table: Mapping[str, object]) -> Callable[[str], tuple[str, ...]]:
    """A comma-separated list of keys, in the order given."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name for name in text.split(",") if name))
        unknown = [name for name in names if name not in table]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"'{', '.join(unknown)}' is not one of {', '.join(table)}")
        return names

    return parse


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
        return value

    return parse
