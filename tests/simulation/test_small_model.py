"""All states of a small world; where a table of ours is wrong, the shortest way to the promise that it breaks."""

from __future__ import annotations

import dataclasses

import pytest

from pydrbd.core import transitions, uuids
from pydrbd.core.refusals import StateCode
from pydrbd.core.transitions import Fencing
from tests.harness.small_model import Bounds, explore

SHORT = Bounds(generations=2, writes=1, cuts=1, crashes=1)
POLICIES = (Fencing.DONT_CARE, Fencing.RESOURCE_AND_STONITH)


@pytest.mark.parametrize("fencing", POLICIES)
def test_every_state_keeps_every_promise(fencing: Fencing) -> None:
    """B1, C1 to C6 and C8, in thousands of states; `make prove` goes further."""
    found = explore(fencing, SHORT)
    print(f"{fencing.name}: {found.states} states, {found.transitions} transitions, {dict(found.checks)}")
    assert not found.broken, found.broken
    assert found.states > 5000 and found.checks["C3"] > 100


def test_a_second_primary_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """C2: two orders are the shortest way to it, and it is printed as a test."""
    tests = tuple(test for test in transitions.VALIDITY if test.code is not StateCode.SS_TWO_PRIMARIES)
    monkeypatch.setattr(transitions, "VALIDITY", tests)
    assert explore(bounds=SHORT).broken.splitlines() == [
        "C2: both are Primary, and connected",
        "def test_the_shortest_way() -> None:",
        "    world, client = pair()",
        '    order(world, world.a, "secondary")',
        '    order(world, world.a, "primary")',
        '    order(world, world.b, "primary")',
    ]


def test_a_rule_that_is_turned_around_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """C5: from the old to the new."""
    turned = {50: +1, 70: -1}
    rules = tuple(
        dataclasses.replace(rule, result=turned.get(rule.number, rule.result)) for rule in uuids._DIFFERENT_RULES
    )
    monkeypatch.setattr(uuids, "_DIFFERENT_RULES", rules)
    assert explore(bounds=SHORT).broken.startswith("C5: rule")


def test_a_crash_that_nobody_remembers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """B1: without the rules for a crashed Primary its last write is on one disk, and there is no resync."""
    rules = tuple(rule for rule in uuids._EQUAL_RULES if rule.number not in (40, 41))
    forgetful = uuids._Rule(40, lambda facts: True, 0)
    monkeypatch.setattr(uuids, "_EQUAL_RULES", (*rules, forgetful))
    assert explore(bounds=SHORT).broken.startswith("B1: no resync by rule 40, and the copies differ")


def test_a_primary_that_nobody_freezes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """C1, C8: it goes on before there is a verdict, and the other one is promoted."""
    monkeypatch.setattr(transitions, "_frozen", lambda old, new, rules: new)
    assert explore(Fencing.RESOURCE_AND_STONITH, SHORT).broken.startswith(("C1", "C8"))
