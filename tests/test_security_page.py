"""SECURITY.md promises nothing that no test holds; nor does the table of DRBD's own scenarios in docs/interop.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEST = re.compile(r"`(tests/[a-z_/]+\.py)(?:::(test_\w+))?`")
PROMISES_MIN = 40
SCENARIOS_MIN = 29


def promises() -> list[str]:
    """The lines of its tables, without their heads."""
    lines = (ROOT / "SECURITY.md").read_text().splitlines()
    return [line for line in lines if line.startswith("| ") and not line.endswith("| held by |")]


def scenarios() -> list[str]:
    """The rows of the table of DRBD's test-suite."""
    section = (ROOT / "docs/interop.md").read_text().split("\n## The scenarios of DRBD's own test-suite\n")[1]
    lines = section.split("\n## ")[0].splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith("| name there")]


def names_in(path: Path) -> set[str]:
    """The names of the tests in a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


@pytest.mark.parametrize("line", promises() + scenarios())
def test_a_promise_names_a_test(line: str) -> None:
    """At its end, and that one is there."""
    match = TEST.search(line.rsplit("|", 2)[1])
    assert match and match[2], line
    assert match[2] in names_in(ROOT / match[1]), line


def test_what_else_is_named_is_there() -> None:
    """And the page has not lost its promises."""
    assert len(promises()) >= PROMISES_MIN and len(scenarios()) >= SCENARIOS_MIN
    for name, _test in TEST.findall((ROOT / "SECURITY.md").read_text()):
        assert (ROOT / name).is_file(), name
