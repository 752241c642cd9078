"""Scenarios: a node or the link goes, the other one goes on, and nothing that was answered is lost."""

from __future__ import annotations

import pytest

from pydrbd.core.states import ConnState
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, AtReply, order, pair, read, sent_bytes, state, wait, write
from tests.harness.world import Client

SEEDS = range(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_new_generation_is_on_disk_before_the_first_reply_alone(seed: int) -> None:
    """C6: with the Secondary gone in the middle of writes, no reply leaves before the new current UUID is durable."""
    world, client = pair(seed)
    before = world.a.disks[0].superblock().current_uuid
    cookies = [client.write(n * BLOCK, b"x" * BLOCK) for n in range(20)]
    world.b.stop()
    alone = AtReply(world, lambda: world.a.disks[0].superblock())
    assert set(wait(client, *cookies, client.write(0, b"y" * BLOCK))) == {0}
    assert alone.seen and all(found.current_uuid != before == found.bitmap_uuid for found in alone.seen)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_secondary_takes_over_with_everything_that_was_answered(seed: int) -> None:
    """A2: the Primary dies in the middle of writes; what was answered is on the other node, promoted without force."""
    world, client = pair(seed)
    cookies = {client.write(n * BLOCK, bytes([n + 1]) * BLOCK): n for n in range(40)}
    world.run_until(lambda: len(client.replies) > 10)
    world.a.lose_power(world.rng)
    world.run(1)
    assert order(world, world.b, "primary") == 1
    other = Client(world, world.b)
    for cookie in client.replies:
        n = cookies[cookie]
        assert read(other, n * BLOCK, BLOCK) == bytes([n + 1]) * BLOCK
    assert write(other, 100 * BLOCK, b"new" + bytes(BLOCK - 3)) == 0
    world.a.start()
    world.run_until(world.is_in_sync)
    assert not sent_bytes(world.a, Packet.P_RS_DATA_REPLY) and world.copies_equal()
    assert state(world.a) == "Connected Secondary/Primary UpToDate/UpToDate"


@pytest.mark.parametrize("seed", SEEDS)
def test_both_lose_power_and_come_back_without_a_loss(seed: int) -> None:
    """A4+: flushed data is there on both; the two agree again."""
    world, client = pair(seed)
    assert set(wait(client, *[client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(30)])) == {0}
    assert wait(client, client.flush()) == [0]
    for n in range(40):
        client.write(n % 50 * BLOCK + 50 * BLOCK, b"unflushed" * 64 + bytes(BLOCK - 576))
    world.run(0.003)
    world.a.lose_power(world.rng)
    world.b.lose_power(world.rng)
    for machine in (world.a, world.b):
        assert machine.disks[0].data[: 30 * BLOCK] == b"".join(bytes([n + 1]) * BLOCK for n in range(30))
        machine.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("seed", SEEDS)
def test_the_link_breaks_in_the_middle_of_writes_and_comes_back(seed: int) -> None:
    """Every write is answered, the peer catches up, the copies are equal."""
    world, client = pair(seed)
    cookies = []
    for turn in range(5):
        cookies += [client.write(n % 7 * BLOCK, bytes([turn * 30 + n + 1]) * 2 * BLOCK) for n in range(30)]
        world.run(0.002)
        world.sever(late_s=0.3 * (turn % 2))
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("seed", range(8))
def test_an_unseen_end_of_resync_does_not_hide_a_split_brain(seed: int) -> None:
    """C3: the link breaks around the end of a resync; target and source both write alone: that must be seen."""
    world, client = pair(seed)
    world.b.stop()
    assert write(client, 0, b"1" * BLOCK) == 0
    world.b.start()
    # The target ends; its P_STATE is on its way, and is lost.
    world.run_until(lambda: world.b.node is not None and world.b.volume.state.conn == ConnState.SyncTarget)
    world.run_until(lambda: world.b.volume.state.conn == ConnState.Connected)
    assert world.a.volume.state.conn == ConnState.SyncSource
    world.link_allowed = False
    world.cut()
    assert write(client, BLOCK, b"a" * BLOCK) == 0
    assert order(world, world.b, "primary") == 1
    assert write(Client(world, world.b), 2 * BLOCK, b"b" * BLOCK) == 0
    world.link_allowed = True
    world.try_link()
    world.run(5)
    assert [machine.volume.state.conn for machine in (world.a, world.b)] == [ConnState.StandAlone] * 2
    assert world.a.disks[0].data[BLOCK : 2 * BLOCK] == b"a" * BLOCK


@pytest.mark.parametrize("crash", [False, True])
def test_an_unseen_end_of_resync_costs_nothing_if_nobody_wrote(crash: bool) -> None:
    """The same moment, without a split brain: they find together again by themselves."""
    world, client = pair()
    world.b.stop()
    assert write(client, 0, b"1" * BLOCK) == 0
    assert order(world, world.a, "secondary", force=True) == 1
    world.b.start()
    world.run_until(lambda: world.b.node is not None and world.b.volume.state.conn == ConnState.SyncTarget)
    world.run_until(lambda: world.b.volume.state.conn == ConnState.Connected)
    if crash:
        world.a.lose_power(world.rng)
        world.a.start()
    else:
        world.cut()
    before = sent_bytes(world.a, Packet.P_RS_DATA_REPLY)
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == before


@pytest.mark.parametrize("seed", SEEDS)
def test_a_peer_that_does_not_answer_is_left_after_the_ko_time(seed: int) -> None:
    """D6: a stalled peer costs a write 42 s (ko-count 7, timeout 6 s), no more."""
    world, client = pair(seed)
    assert world.link is not None
    world.link.clogged_until = world.now + 1000
    begun = world.now
    assert write(client, 0, b"x" * BLOCK) == 0
    assert 42 <= world.now - begun < 43


def test_a_crashed_primary_that_loses_the_link_while_attaching_is_still_a_crashed_primary() -> None:
    """B2: the flag goes only when both disks are known to be in sync, so that the next connection resyncs."""
    world, client = pair()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.lose_power(world.rng)
    attach, world.a._attach = world.a._attach, lambda vnr: None
    world.a.start()
    world.run_until(world.is_linked)
    attach(0)
    assert world.a.volume.state.disk.name == "Negotiating"
    world.cut()
    world.run_until(world.is_in_sync)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) > 0 and world.copies_equal()
