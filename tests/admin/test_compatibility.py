"""docs/compatibility.md has a row for everything that DRBD 8.4 has, and says what the code does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pydrbd.admin.command_table import COMMANDS
from pydrbd.config.options import OPTIONS
from pydrbd.core.states import ConnState, DiskState, Role
from tests.config.drbdadm import find_drbdadm

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"\| `([^`]+)` \| (done|partly|no) \| (.+) \|")
TAKEN = {"unplug-watermark", "tcp-cork", "disable-write-same", "max-bio-bvecs"}
"""Options that are done because nobody could tell what they change: taken, without a notice."""


def sections() -> dict[str, dict[str, tuple[str, str]]]:
    """Title to name to (state, words)."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    title = ""
    for line in (ROOT / "docs/compatibility.md").read_text().splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
            found[title] = {}
        elif line.startswith("| `"):
            match = ROW.fullmatch(line)
            assert match, line
            assert match[1] not in found[title], line
            found[title][match[1]] = match[2], match[3]
    return found


def test_what_is_done_names_a_test_that_is_there():
    """And what is not, a reason."""
    for rows in sections().values():
        for name, (state, words) in rows.items():
            if state == "done":
                assert (ROOT / words.split(";")[0]).is_file(), name
            else:
                assert len(words) > 5, name


def test_every_option_has_a_row_that_says_what_the_table_of_options_says():
    """As the code acts on it: wholly, for one value only, or not."""
    found = sections()
    for option in OPTIONS:
        state, _words = found[f"Section {option.section}"][option.name]
        acts = option.effective or option.name in TAKEN
        assert state == ("done" if acts else "no"), option.name


def test_every_state_has_a_row():
    found = sections()
    kinds = {"Roles": Role, "States of a disk": DiskState, "States of a connection": ConnState}
    for title, kind in kinds.items():
        assert list(found[title]) == [member.name for member in kind]


def test_every_command_is_where_the_page_says():
    """What is done is a command, what is not is none."""
    found = sections()
    rows = found["Commands of drbdadm"] | found["Commands that only drbdsetup has"]
    ours = set(found["Commands that DRBD does not have"])
    stands_for_nothing = {"sh-lr-of"}
    assert {name for name, (state, _) in rows.items() if state != "no"} | stands_for_nothing == set(COMMANDS) - ours


@pytest.mark.interop
def test_every_command_of_drbdadm_has_a_row():
    """What it lists itself, besides the entry points of the kernel's handlers."""
    listed: set[str] = set()
    for words in (["help"], ["hidden-commands"]):
        done = subprocess.run([find_drbdadm("8.4"), *words], capture_output=True, text=True, timeout=30)
        text = done.stdout + done.stderr
        start = text.find("COMMANDS:")
        lines = [line for line in text[max(0, start) :].splitlines() if line.startswith(" ")]
        listed |= {word for line in lines for word in line.split() if re.fullmatch(r"[a-z][a-z-]+", word)}
    handlers = {option.name for option in OPTIONS if option.section == "handlers"}
    missing = listed - set(sections()["Commands of drbdadm"]) - handlers - {"hidden-commands"}
    assert not missing
