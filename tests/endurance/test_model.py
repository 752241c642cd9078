"""The table of operations and the model, without a pair: what is drawn makes sense, and can be played again."""

from __future__ import annotations

import inspect
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.endurance.model import BOTH, NODES, Model
from tests.endurance.operations import BY_NAME, OPERATIONS, Step, next_to_rest, possible, walk
from tests.endurance.player import Player

STEPS = 200
FRESH = Model(growths_left=5)


def models(seed: int, count: int = STEPS) -> list[tuple[Step, Model]]:
    """The steps of a run, each with what is known after it."""
    model, found = FRESH, []
    for step in islice(walk(seed, FRESH), count):
        assert step.operation.ready(model, step.who), f"{step} of {model}"
        model = step.operation.after(model, step.who)
        found.append((step, model))
    return found


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_the_same_seed_gives_the_same_steps(seed: int) -> None:
    """So a failure can be played again."""
    first, second = (list(islice(walk(seed, FRESH), STEPS)) for _ in range(2))
    assert first == second


@given(seeds)
def test_somebody_always_has_all_that_was_acknowledged(seed: int) -> None:
    """And a Primary can always reach a disk that has: the operations lose no data by themselves."""
    for step, model in models(seed):
        assert model.current and model.current <= BOTH, step
        assert model.primary is None or (model.primary in model.up and model.serves), f"{step}: {model}"
        assert (model.up | model.attached) == BOTH or model.up, step
        assert model.standalone <= model.up and model.paused <= model.up, f"{step}: {model}"


@given(seeds)
def test_a_node_with_old_data_is_not_promoted(seed: int) -> None:
    """It would be a split brain, or worse, that nobody wanted."""
    before = FRESH
    for step, model in models(seed):
        if step.operation.name == "promote":
            assert step.who in before.current & before.attached
            assert model.connected or model.current == {step.who}
        before = model


@given(seeds, st.integers(1, STEPS))
def test_from_everywhere_the_pair_comes_to_rest(seed: int, count: int) -> None:
    """In a few steps both are in sync, and one is Primary."""
    model = models(seed, count)[-1][1]
    for _ in range(2 * len(OPERATIONS)):
        assert possible(model)
        rest = next_to_rest(model)
        if rest is None:
            break
        name, who = rest
        assert BY_NAME[name].ready(model, who)
        model = BY_NAME[name].after(model, who)
    assert model.quiet and model.primary in NODES


def test_every_operation_comes_up() -> None:
    """None has a condition that is never met."""
    drawn = {step.operation.name for seed in range(20) for step, _ in models(seed)}
    assert drawn == BY_NAME.keys()


@pytest.mark.parametrize("name", BY_NAME)
def test_every_operation_can_be_carried_out(name: str) -> None:
    """The player has a method of that name."""
    assert list(inspect.signature(getattr(Player, name)).parameters) == ["self", "who", "rng"]


def test_a_write_after_a_cut_is_only_with_the_primary() -> None:
    """What the model is for."""
    model = FRESH.promoted("kernel").parted(cut=True).written()
    assert model.current == {"kernel"} and not BY_NAME["promote"].ready(model, "pydrbd")
    assert BY_NAME["outdate"].ready(model, "pydrbd") and not BY_NAME["outdate"].ready(model, "kernel")


def test_a_crashed_primary_comes_back_as_the_source() -> None:
    """Unless the other one has taken over meanwhile."""
    kill, back = BY_NAME["kill"], BY_NAME["bring_back"]
    crashed = kill.after(FRESH.promoted("kernel"), "kernel")
    assert back.after(crashed, "kernel").current == {"kernel"}
    assert back.after(crashed.promoted("pydrbd"), "kernel").current == {"pydrbd"}
