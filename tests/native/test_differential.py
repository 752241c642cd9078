"""The comparison by the million: a moment of it, and that it would see a difference."""

import random

import pytest

from pydrbd import native
from tests.native.differential import DRAWS, some, work


def test_c_does_as_its_twins(seed, rounds):
    """Every kind of draw, a few hundred times."""
    draw = random.Random(seed)
    assert sum(some(draw) for _ in range(30 * rounds)) > 30 * rounds * len(DRAWS)


def test_a_difference_is_found_and_named(monkeypatch, capsys):
    """C that counts one too many in a bitmap: the line that plays it again is printed."""
    monkeypatch.setattr(native, "bitmap_count", lambda bits, first, count: count)
    with pytest.raises(AssertionError):
        work(3, 10_000)
    assert "random.Random('differential/3/" in capsys.readouterr().out
