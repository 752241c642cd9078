"""Scenarios: what becomes of a disconnect when the link ends before the peer's word has come."""

from __future__ import annotations

import pytest

from pydrbd.core.states import ConnState
from tests.harness.scene import pair, state


@pytest.mark.parametrize("reason", [ConnState.BrokenPipe, ConnState.NetworkFailure])
def test_a_disconnect_stays_disconnected_when_the_sockets_close_before_the_answer(reason: ConnState) -> None:
    """A kernel agrees on the meta socket and closes both at once: seeing the end first must not mean a reconnect."""
    world, _client = pair()
    request = world.b.command("disconnect")
    assert request not in world.b.answers
    world.link.drop(world.b, reason)
    world.run_until(lambda: request in world.b.answers)
    assert world.b.answers[request][0] == 1
    assert state(world.b).startswith("StandAlone")
    world.run(30)
    assert state(world.b).startswith("StandAlone") and not world.b.wants_link
