"""The scenario that CONTRIBUTING.md shows."""

from __future__ import annotations

from tests.harness.scene import pair, state, wait, write


def test_a_flush_is_answered_when_the_peer_dies(seed: int) -> None:
    """A4: what the peer can't flush any more, the disk here has."""
    world, client = pair(seed)
    assert write(client, 0, bytes(4096)) == 0
    flush = client.flush()
    world.b.lose_power(world.rng)
    assert wait(client, flush) == [0]
    assert state(world.a) == "WFConnection Primary/Unknown UpToDate/DUnknown"
