"""Two nodes with a common past agree whenever they meet, whatever has happened to them."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.harness.generations import RULE_PAIRS, Pair


@pytest.mark.parametrize("apv", [95, 101])
def test_two_nodes_with_a_common_past_always_agree(apv):
    """Thousands of histories: opposite verdicts, matching rules and corrections, no difference left behind."""
    rules = Counter()
    for seed in range(1000):
        pair = Pair(seed, apv, kernel_ends=seed % 2 == 0)
        try:
            for _ in range(80):
                pair.step()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, apv {apv}: {error}") from error
        rules += pair.rules
    seen = {number for rule in rules for number in (rule, RULE_PAIRS.get(rule, rule))}
    assert {10, 20, 30, 34, 35, 36, 37, 40, 41, 50, 51, 60, 70, 71, 80, 90} <= seen, rules


def test_a_primary_that_froze_while_bitmaps_were_exchanged_is_no_equal() -> None:
    """The history that `make prove` has found: it froze, and what it had written before made no generation."""
    pair = Pair(26037696039, 101)
    for _ in range(80):
        pair.step()


def test_a_source_that_ends_first_leaves_nothing_to_rule_34() -> None:
    """The other one: a kernel's source missed the end of a resync, and rule 34 then took two disks for equal on which
    the source had written since. Ours ends its side first, and no such history is left."""
    for apv in (95, 101):
        pair = Pair(39267167878, apv)
        for _ in range(80):
            pair.step()
        assert not pair.rules[34] + pair.rules[35]
