"""The pages of docs/ for users, followed word by word: every command is carried out, what is shown is compared."""

from __future__ import annotations

import pytest

from tests.documents.machines import BEGIN, PAIR, follow
from tests.documents.pages import DOCS

PAGES = ["production.md", "split-brain.md", "replacing-a-disk.md", "growing.md", "moving.md", "tuning.md"]


def test_the_quick_start(machines):
    """From two bare machines to a pair with data on it, and over to the other one."""
    follow(machines, BEGIN)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_true_for_the_pair_of_the_quick_start(machines, page):
    """Each goes on from where that one ends."""
    follow(machines, BEGIN)
    follow(machines, DOCS / page)


@pytest.mark.parametrize("machines", [(*PAIR, "gamma")], indirect=True)
def test_the_page_on_quorum_is_true_with_a_third_machine(machines):
    """A witness on gamma; beta loses its network, and is refused."""
    follow(machines, BEGIN)
    follow(machines, DOCS / "quorum.md")
