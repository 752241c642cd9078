"""Bytes from a stranger: what was really said, changed a little, to every parser. Each takes it or refuses it (D1).

The parsers are those of the long run by coverage (tests/fuzz); and C has its Python twin beside it (D4).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial

from pydrbd import native, reference
from tests.fuzz import targets
from tests.fuzz.engine import INPUT_BYTES_MAX, Target
from tests.fuzz.mutation import mutate
from tests.prove.run import Broken, Rung

__all__ = ["RUNGS", "TARGETS"]

INPUTS_PER_SEED = 200


def parse(target: Target, draw: random.Random) -> None:
    """One input for one parser."""
    target.run(mutate(draw.choice(target.kept_seeds()), draw)[:INPUT_BYTES_MAX])


def twins(draw: random.Random) -> None:
    """D4: the C code for bits, and its Python twin."""
    bits = b"".join(
        draw.choice((bytes(count), b"\xff" * count, draw.randbytes(count))) for count in draw.choices(range(12), k=6)
    )
    end = draw.randint(0, 8 * len(bits))
    first = draw.randint(0, end)
    assert native.crc32c_raw(bits, first) == reference.crc32c_raw(bits, first)
    assert native.bitmap_count(bits, first, end - first) == reference.bitmap_count(bits, first, end - first)
    assert native.bitmap_find_set(bits, first, end) == reference.bitmap_find_set(bits, first, end)
    assert native.bitmap_find_clear(bits, first, end) == reference.bitmap_find_clear(bits, first, end)
    for change, twin in ((native.bitmap_set, reference.bitmap_set), (native.bitmap_clear, reference.bitmap_clear)):
        mine, its = bytearray(bits), bytearray(bits)
        assert change(mine, first, end - first) == twin(its, first, end - first)
        assert mine == its
    room = draw.randint(8, 40)  # a run may need as much as 8
    code, its_code = native.vli_encode(bits, end, first, room), reference.vli_encode(bits, end, first, room)
    assert tuple(code) == tuple(its_code)


TARGETS: dict[str, Callable[[random.Random], None]] = {
    "twins": twins,
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
