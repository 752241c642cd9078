"""Put the last long run of `make prove` into README.md, between its marks: what it claims there is not typed by hand.

python -m tests.prove.quote
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.prove.canary_hunt import CAUGHT

__all__ = ["REPORT", "main", "quoted", "quoted_nothing", "sentence"]

_ROOT = Path(__file__).resolve().parents[2]
REPORT = _ROOT / "RELIABILITY.json"
_MARKS = re.compile(r"(<!-- reliability -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_WIDTH = 120
_FIGURES = {
    "replies": "answered requests", "kills": "killed nodes", "power losses": "power losses", "cuts": "cut links",
    "disk errors": "disk errors", "crash states": "crash states of disks", "fuzz inputs": "inputs from strangers",
}  # fmt: skip


def sentence(report: Mapping[str, Any]) -> str:
    """What the report says, in words."""
    figures, promises, situations = report["figures"], report["promises"], report["situations"]
    seeds = sum(rung["seeds"] for rung in report["rungs"].values())
    counts = ", ".join(f"{figures.get(name, 0):,} {words}" for name, words in _FIGURES.items())
    checked = sum(one["checked"] > 0 for one in promises.values())
    failed = sum(one["failed"] for one in promises.values())
    met = sum(count > 0 for count in situations.values())
    hunted = [name for name in figures if name.startswith(CAUGHT)]
    caught = sum(figures[name] > 0 for name in hunted)
    minutes, busy = report["seconds"] / 60, report["cpu_seconds"] / 60
    return (
        f"The last long run (`make prove`, {report['date']}, {report['commit']}) took {minutes:.0f} minutes, "
        f"{busy:.0f} of processors: {seeds:,} seeds with {counts}. {checked} promises were checked, "
        f"{failed or 'none'} failed. {met} of {len(situations)} situations were met, and of {len(hunted)} "
        f"lines of pydrbd that were broken on purpose {caught} were found. By promise: `RELIABILITY.json`."
    )


def _wrapped(text: str) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > _WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines) + "\n"


def quoted(text: str, report: Mapping[str, Any]) -> str:
    """A text with the report between its marks."""
    return _MARKS.sub(lambda found: found[1] + _wrapped(sentence(report)) + found[3], text)


def quoted_nothing(text: str) -> str:
    """The same where there is no report."""
    return _MARKS.sub(lambda found: found[1] + found[3], text)


def main() -> int:
    readme = _ROOT / "README.md"
    readme.write_text(quoted(readme.read_text(), json.loads(REPORT.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
