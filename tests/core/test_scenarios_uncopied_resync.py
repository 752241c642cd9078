"""Scenarios: the kernel sends what the source's page cache has by then, not what it had when it was asked for."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pydrbd.core import effects as fx
from pydrbd.core import resync_source
from pydrbd.core.handshake import NetOptions
from pydrbd.core.states import ConnState
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, order, pair, sent, state
from tests.harness.world import Machine, World

IN_SYNC = "Connected Secondary/Primary UpToDate/UpToDate"


class Watch:
    """How many answers have left from the disk, and how many were read."""

    def __init__(self, world: World) -> None:
        self.left = self.read = 0
        world.observer = self

    def on_effect(self, machine: Machine, effect: Any) -> None:
        self.left += isinstance(effect, fx.DiskSend)
        self.read += isinstance(effect, fx.DiskRead)

    def on_event(self, machine: Machine, event: Any) -> None: ...


@pytest.mark.parametrize("primary_is_target", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_writes_while_answers_are_on_their_way_end_up_the_same_on_both(
    seed: int, primary_is_target: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is slow, so that nearly every write changes what an answer on its way carries: it follows behind it."""
    monkeypatch.setattr(resync_source, "UNCOPIED_BYTES_MIN", 0)
    world, client = pair(seed, size_bytes=4 * MIB)
    watch, chance = Watch(world), random.Random(seed)
    world.link_latency_s = 0.02
    assert order(world, world.a if primary_is_target else world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.state.conn in (ConnState.SyncTarget, ConnState.SyncSource))
    while world.b.volume.state.conn in (ConnState.SyncTarget, ConnState.SyncSource):
        for _ in range(8):
            block = chance.randrange(4 * MIB // BLOCK - 2)
            client.write(block * BLOCK, chance.randbytes(BLOCK))
        world.run(0.004)
    world.settle()
    assert watch.left > 4
    assert world.copies_equal() and not world.protocol_errors and state(world.b) == IN_SYNC


@pytest.mark.parametrize("seed", range(4))
def test_a_source_that_is_cut_off_has_marked_what_was_on_its_way(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that changed answers on their way, and a link that breaks before they arrive: the next resync has them."""
    monkeypatch.setattr(resync_source, "UNCOPIED_BYTES_MIN", 0)
    world, client = pair(seed, size_bytes=4 * MIB)
    chance = random.Random(seed)
    world.link_latency_s = 0.02
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    for _ in range(3):
        for _ in range(16):
            client.write(chance.randrange(4 * MIB // BLOCK) * BLOCK, chance.randbytes(BLOCK))
        world.run(0.01)
        world.sever()
        world.run_until(lambda: world.b.volume.state.conn in (ConnState.SyncTarget, ConnState.Connected))
    world.run_until(world.is_in_sync)
    world.settle()
    assert world.copies_equal() and not world.protocol_errors and state(world.b) == IN_SYNC


def test_with_digests_on_the_wire_somebody_has_to_read() -> None:
    """Each block goes with its digest: the source looks at its data."""
    world, _ = pair(1, size_bytes=4 * MIB, net=NetOptions(data_integrity_alg="crc32c"))
    watch = Watch(world)
    assert order(world, world.b, "invalidate") == 1
    world.run_until(world.is_in_sync)
    assert not watch.left and watch.read and world.copies_equal()
    assert sent(world.a, Packet.P_RS_DATA_REPLY)
