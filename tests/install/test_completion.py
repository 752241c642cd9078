"""The completion for bash, in a bash of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pydrbd.admin.command_table import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def complete(tmp_path):
    """`complete("pydrbd pri")` gives what the last word may become; `sh-resources` answers r0 and r1."""
    made = tmp_path / "completion"
    subprocess.run([sys.executable, ROOT / "tools/completion.py", made], check=True)
    command = tmp_path / "pydrbd"
    command.write_text('#!/bin/sh\n[ "$*" = sh-resources ] && echo r0 r1 && exit\necho "asked $*"\n')
    command.chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None

    def ask(line: str) -> list[str]:
        words = line.split(" ")
        array = " ".join(f"'{word}'" for word in words)
        previous = words[-2] if len(words) > 1 else ""
        script = (
            f"source {made}; COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; "
            f"_pydrbd pydrbd '{words[-1]}' '{previous}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        done = subprocess.run([bash, "-euc", script], env=env, capture_output=True, text=True, timeout=30, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_verbs(complete):
    """Every one of them, and by their first letters; options of all before them."""
    assert set(COMMANDS) <= set(complete("pydrbd "))
    assert complete("pydrbd pri") == ["primary"]
    assert complete("pydrbd -c /etc/drbd.conf sec") == ["secondary"]
    assert complete("pydrbd --dr") == ["--dry-run"]


def test_names_and_options_of_a_verb(complete):
    """Resources by asking, options from the table; a common option goes along with the question."""
    assert complete("pydrbd primary ") == ["all", "r0", "r1"]
    assert complete("pydrbd primary --fo") == ["--force"]
    assert complete("pydrbd net-options --verify") == ["--verify-alg"]
    assert {"--now", "--poll", "--json", "--node", "--help"} <= set(complete("pydrbd events2 --"))
    assert complete("pydrbd -c other.conf up ") == ["all", "asked", "-c", "other.conf", "sh-resources"]
