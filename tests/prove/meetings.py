"""Generations of data without anything else: histories of two nodes, and the verdict whenever they meet (C4, C5)."""

from __future__ import annotations

from collections import Counter

from tests.harness.generations import Pair
from tests.harness.situations import RULES, SOMETIMES
from tests.prove.run import Broken, Rung

__all__ = ["RUNGS"]

HISTORIES_PER_SEED = 20
STEPS = 80
PROTOCOLS = (95, 101)


def meet(seed: int, figures: Counter[str]) -> None:
    """Some histories. Raises Broken."""
    for number in range(seed * HISTORIES_PER_SEED, (seed + 1) * HISTORIES_PER_SEED):
        pair = Pair(number, PROTOCOLS[number % len(PROTOCOLS)])
        try:
            for _ in range(STEPS):
                pair.step()
        except AssertionError as error:
            replay = f"python -m tests.prove --only 'meetings' --seed {seed} --once"
            raise Broken("C4", f"history {number}: {error}", replay) from error
        figures["histories"] += 1
        figures["checked C4"] += pair.rules.total()
        for rule in pair.rules:
            if str(rule) in RULES:
                figures[SOMETIMES + RULES[str(rule)]] += 1


RUNGS = (Rung("meetings", 2, meet),)
