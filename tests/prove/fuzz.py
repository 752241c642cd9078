"""Bytes from a stranger: what was really said, changed a little, to every parser. Each takes it or refuses it (D1).

The parsers are those of the long run by coverage (tests/fuzz); and C has its Python twin beside it (D4).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial

from tests.fuzz import targets
from tests.fuzz.engine import INPUT_BYTES_MAX, Target
from tests.fuzz.mutation import mutate
from tests.native.differential import some
from tests.prove.run import Broken, Rung

__all__ = ["RUNGS", "TARGETS"]

INPUTS_PER_SEED = 200


def parse(target: Target, draw: random.Random) -> None:
    """One input for one parser."""
    target.run(mutate(draw.choice(target.kept_seeds()), draw)[:INPUT_BYTES_MAX])


TARGETS: dict[str, Callable[[random.Random], object]] = {
    "twins": some,
    **{target.name: partial(parse, target) for target in targets.TARGETS},
}


def fuzz(seed: int, figures: Counter[str]) -> None:
    """One target, a number of inputs. Raises Broken."""
    names = sorted(TARGETS)
    name = names[seed % len(names)]
    promise = "D4" if name == "twins" else "D1"
    draw = random.Random(f"fuzz/{seed}")
    for _ in range(INPUTS_PER_SEED):
        figures["fuzz inputs"] += 1
        figures[f"checked {promise}"] += 1
        try:
            TARGETS[name](draw)
        except Exception as error:
            replay_line = f"python -m tests.prove --only 'fuzz' --seed {seed} --once"
            raise Broken(promise, f"{name}: {type(error).__name__}: {error}", replay_line) from error


RUNGS = (Rung("fuzz", 2, fuzz),)
