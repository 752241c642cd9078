"""Scenarios: `connect --tentative`: what a connection would do is said, and nothing is done."""

from __future__ import annotations

import pytest

from pydrbd.core.states import ConnState
from tests.harness.scene import BLOCK, order, pair, state, write
from tests.harness.world import World


def ask(world: World, **arguments: bool) -> str:
    """The word that `a` gets; it stands alone again then."""
    machine = world.a
    assert machine.node is not None
    assert order(world, machine, "connect", tentative=True, **arguments) == 1
    world.run_until(lambda: machine.node.cstate == ConnState.StandAlone)
    return machine.node.links.reason


def test_the_word_on_a_connection_that_would_resync() -> None:
    """`a` has written alone; nothing is synced, the peer goes on looking; a real connection then does it."""
    world, client = pair()
    assert order(world, world.a, "disconnect") == 1
    assert write(client, 0, b"x" * BLOCK) == 0
    assert order(world, world.b, "connect") == 1
    assert ask(world) == "volume 0: dry run: SyncSource"
    world.run(5)
    assert not world.copies_equal() and state(world.b).startswith("WFConnection ")
    assert order(world, world.a, "connect") == 1
    world.run_until(world.is_in_sync)
    world.run(5)
    assert world.copies_equal()


@pytest.mark.parametrize(("discard", "word"), [(False, "split brain"), (True, "dry run: SyncTarget")])
def test_a_split_brain_is_only_told(discard: bool, word: str) -> None:
    """No handler runs and nobody's data is given up: also what --discard-my-data would do can be asked."""
    world, client = pair()
    for machine in (world.a, world.b):
        assert order(world, machine, "disconnect", force=True) == 1
    assert write(client, 0, b"x" * BLOCK) == 0
    assert order(world, world.a, "secondary", force=True) == 1
    assert order(world, world.b, "primary", force=True) == 1 and order(world, world.b, "secondary") == 1
    assert order(world, world.b, "connect") == 1
    assert word in ask(world, discard_my_data=discard)
    world.run(5)
    assert world.b.node is not None and state(world.b).startswith("WFConnection ")
    assert world.b.node.links.split_brain is None
