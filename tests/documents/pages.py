"""A page's blocks: what its reader is to type, on which machine, and what it shows.

    ```sh alpha beta        a script, carried out by bash on each of these machines
    ```output               what the last one has printed, on each of them
    ```file alpha /etc/x    a file with these contents, on these machines
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCS", "Block", "blocks"]

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BEGIN = re.compile(r"^```(sh|output|file)((?: \S+)*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """`words` are the machines, and for a file its path at the end."""

    kind: str
    words: tuple[str, ...]
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """In order. An output that follows nothing, and a block without an end, are mistakes of the page."""
    found: list[Block] = []
    begun: tuple[str, tuple[str, ...], int] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if begun is not None:
            if line == "```":
                kind, words, place = begun
                found.append(Block(kind, words, "".join(f"{one}\n" for one in lines), place))
                begun, lines = None, []
            else:
                lines.append(line)
        elif match := _BEGIN.match(line):
            begun = match[1], tuple(match[2].split()), number
            assert match[1] == "output" or match[2], f"{page.name}:{number}: on which machine?"
    assert begun is None, f"{page.name}: a block has no end"
    return found
