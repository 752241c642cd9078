"""A node's life in virtual time, cancelled, stopped or cut off at some of its steps; `--rounds` takes more of them."""

from __future__ import annotations

import random

import pytest

from pydrbd.runtime.volume_disk import VolumeDisk
from tests.shell.sweep import ACTIONS, Broken, count_steps, interrupt


@pytest.mark.parametrize("action", ACTIONS)
def test_whatever_is_interrupted_loses_nothing_and_leaves_nothing(action: str, seed: int, rounds: int) -> None:
    """A1, A2, D5, D7: it ends, both come together again, answered writes are there, nothing stays open."""
    draw = random.Random(seed)
    for inline in (False, True):
        count = count_steps(seed, inline=inline)
        for at in sorted(draw.sample(range(count), rounds)):
            interrupt(seed, at, action, inline=inline)


def test_with_lanes_too(seed: int, rounds: int) -> None:
    """Native code carries the writes, in real time: what is interrupted is near the step that was drawn."""
    draw = random.Random(seed)
    for _ in range(rounds):
        interrupt(seed, draw.randrange(200), draw.choice(ACTIONS), lanes=True)


def test_a_seed_has_one_story() -> None:
    """D9, for the shell: the same steps again, other ones for another seed."""
    counts = [count_steps(seed) for seed in (1, 2, 1, 2)]
    assert counts[:2] == counts[2:] and counts[0] != counts[1]


def test_a_disk_that_stays_open_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep is worth something: a node that keeps its disk open keeps it from its successor, and is told."""

    async def stop(self: VolumeDisk) -> None:
        self.fail()

    monkeypatch.setattr(VolumeDisk, "stop", stop)
    with pytest.raises((Broken, BaseExceptionGroup)):
        interrupt(0, 60, "cancel a")
