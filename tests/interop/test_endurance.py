"""A short endurance run, always the same one; `make endurance` is the long one."""

from __future__ import annotations

import contextlib

import pytest

from tests.endurance.__main__ import play
from tests.endurance.nodes import make_nodes
from tests.endurance.player import Player
from tests.lab.guest import GuestFailed
from tests.lab.lab import Lab, why_not

pytestmark = pytest.mark.interop

SEED = 1196
STEPS = 28
"""With most kinds of operation among them."""


@pytest.mark.timeout(600)
def test_random_operations_leave_both_copies_equal(tmp_path):
    """Whatever happens to the pair: what was acknowledged is there, both copies are equal, and the logs are clean."""
    if reason := why_not():
        pytest.skip(reason)
    with Lab() as lab:
        try:
            player = Player(make_nodes(lab), tmp_path)
        except GuestFailed as error:
            pytest.skip(f"a guest can't be started here: {error}")
        try:
            play(player, SEED, seconds=0, steps_least=STEPS)
        except BaseException:
            print(f"again: make endurance SEED={SEED}")
            print(player.judge.describe())
            raise
        finally:
            with contextlib.suppress(Exception):
                player.close()
    assert player.counts["wait_in_sync"] > 1 and player.written > 100
