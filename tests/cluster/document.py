"""The commands of docs/cluster.md: blocks whose fence names machines, as in ```sh alpha beta."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"

_HEADING = re.compile(r"^## (.+)$")
_BEGIN = re.compile(r"^```sh((?: \w+)+)$")


@dataclass(frozen=True, slots=True)
class Step:
    """A block as it stands there: under which heading, on which machines, and the script."""

    heading: str
    machines: tuple[str, ...]
    script: str


def steps(text: str) -> list[Step]:
    """All blocks that name machines, in order."""
    found: list[Step] = []
    heading, machines, lines = "", (), []
    for line in text.splitlines():
        if machines:
            if line == "```":
                found.append(Step(heading, machines, "\n".join(lines) + "\n"))
                machines, lines = (), []
            else:
                lines.append(line)
        elif match := _BEGIN.match(line):
            machines = tuple(match[1].split())
        elif match := _HEADING.match(line):
            heading = match[1]
    assert not machines, f"a block under {heading!r} has no end"
    return found
