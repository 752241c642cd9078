"""Put the last results into README.md and docs/performance.md, between their marks: nothing there is typed by hand.

    python -m benchmarks.quote
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks import growth_table, table
from benchmarks.places import KINDS, PLACES, picture

__all__ = ["main", "quoted"]

_ROOT = Path(__file__).resolve().parents[1]
_RESULTS = _ROOT / "benchmarks" / "results"
_MARKS = re.compile(r"(<!-- (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def _pieces() -> dict[str, str]:
    """What stands between the marks of each name."""
    pieces = {}
    if (_RESULTS / "latest.json").exists():
        report: dict[str, Any] = json.loads((_RESULTS / "latest.json").read_text())
        pieces["ratios"] = table.ratios(report)
        pieces["figures"] = table.markdown(report) + _pictures(report)
    if (_RESULTS / "growth.json").exists():
        pieces["growth"] = growth_table.markdown(json.loads((_RESULTS / "growth.json").read_text()))
    return pieces


def _pictures(report: dict[str, Any]) -> str:
    """Those that there are of each place."""
    return "".join(
        f"\n![{PLACES[group['place']].title}: {kind}](../benchmarks/results/{name}.png)\n"
        for group in report["groups"]
        for kind in KINDS
        if (_RESULTS / f"{(name := picture(kind, group['place']))}.png").exists()
    )


def quoted(text: str) -> str:
    """A text with the last results between its marks; what has no results stays."""
    pieces = _pieces()
    return _MARKS.sub(lambda found: found[1] + pieces.get(found[2], found[3]) + found[4], text)


def main() -> int:
    for path in (_ROOT / "README.md", _ROOT / "docs" / "performance.md"):
        path.write_text(quoted(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
