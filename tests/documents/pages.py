"""A page's blocks: what its reader is to type, on which machine, and what it shows.

    ```sh alpha beta        a script, carried out by bash on each of these machines
    ```output               what the last one has printed, on each of them
    ```file alpha /etc/x    a file with these contents, on these machines

README's sections have indented blocks instead, and a test of its own knows where each is to be carried out.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCS", "Block", "blocks", "indented"]

DOCS = Path(__file__).resolve().parents[2] / "docs"
README = DOCS.parent / "README.md"
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


def indented(title: str) -> list[str]:
    """The blocks of a section of README, without what they are indented by."""
    _, found, section = README.read_text().partition(f"\n## {title}\n")
    assert found, f"README has no section {title}"
    section, _, _ = section.partition("\n## ")
    return [textwrap.dedent(block) for block in re.findall(r"(?:^ {4}.*\n)+", section, re.MULTILINE)]
