"""The pages of docs/ for users, followed word by word: every command is carried out, what is shown is compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import MARK
from tests.documents.machines import Machines
from tests.documents.pages import DOCS, blocks

BEGIN = DOCS / "quick-start.md"
PAGES = ["production.md", "split-brain.md", "replacing-a-disk.md", "growing.md", "moving.md", "tuning.md"]


@pytest.fixture
def machines(need, short_tmp, processes, monkeypatch):
    """Two bare ones."""
    need("unshare", "nsenter", "ip", "nbdcopy", "nbdinfo")
    if os.geteuid() != 0:
        pytest.skip("only root can make machines of namespaces")
    monkeypatch.setenv(MARK, processes.mark)
    made = Machines(short_tmp, processes)
    yield made
    made.stop()


def follow(machines: Machines, page: Path) -> None:
    """Carry out a page's blocks in order."""
    shown: dict[str, str] = {}
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.kind == "output":
            assert shown and set(shown.values()) == {block.text}, f"{where}: {shown}"
        elif block.kind == "file":
            *names, path = block.words
            for name in names:
                machines.by_name[name].write(path, block.text)
        else:
            shown = {}
            for name in block.words:
                done = machines.by_name[name].run(block.text)
                assert done.returncode == 0, f"{where}, on {name}: {done.stdout}{done.stderr}"
                shown[name] = done.stdout


def test_the_quick_start(machines):
    """From two bare machines to a pair with data on it, and over to the other one."""
    follow(machines, BEGIN)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_true_for_the_pair_of_the_quick_start(machines, page):
    """Each goes on from where that one ends."""
    follow(machines, BEGIN)
    follow(machines, DOCS / page)
