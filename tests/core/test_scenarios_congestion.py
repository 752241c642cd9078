"""Scenarios: protocol A with a peer that can't keep up (`on-congestion`)."""

from __future__ import annotations

from typing import Any

import pytest

from pydrbd.core.handshake import NetOptions
from pydrbd.core.states import ConnState
from pydrbd.wire.packet_numbers import WireProtocol
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, order, pair, sent, state, wait, write
from tests.harness.world import Client, World

SEEDS = range(6)
FILL_BYTES = 16 * BLOCK


def net(policy: str = "pull-ahead", **options: Any) -> NetOptions:
    return NetOptions(WireProtocol.A, on_congestion=policy, **options)


def congested(seed: int, policy: str = "pull-ahead") -> tuple[World, Client, Any]:
    """A peer whose disk is stuck, and more on its way than congestion-fill; `free()` lets the disk go on."""
    world, client = pair(seed, net=net(policy, congestion_fill_bytes=FILL_BYTES))
    world.run(2)
    held: list[Any] = []
    begin, world.b._begin_disk = world.b._begin_disk, held.append  # type: ignore[method-assign]

    def free() -> None:
        world.b._begin_disk = begin  # type: ignore[method-assign]
        for effect in held:
            begin(effect)

    for n in range(17):
        assert write(client, n * BLOCK, bytes([n + 1]) * BLOCK) == 0
    return world, client, free


@pytest.mark.parametrize("seed", SEEDS)
def test_a_primary_pulls_ahead_and_syncs_what_it_has_not_sent(seed: int) -> None:
    """Ahead and Behind; writes are answered and only marked; when the way is free a resync brings all of them."""
    world, client, free = congested(seed)
    world.run(0.1)
    assert state(world.a) == "Ahead Primary/Secondary UpToDate/Consistent"
    assert state(world.b) == "Behind Secondary/Primary Outdated/UpToDate"
    data = len(sent(world.a, Packet.P_DATA))
    for n in range(100, 120):
        assert write(client, n * BLOCK, b"a" * BLOCK) == 0
    world.run(0.5)
    assert len(sent(world.a, Packet.P_DATA)) == data == 16
    assert len(sent(world.a, Packet.P_OUT_OF_SYNC)) == 21 == world.a.volume.out_of_sync_bits
    assert world.b.volume.out_of_sync_bits == 21
    world.run(10)
    assert state(world.a).startswith("Ahead")
    free()
    freed = world.now
    world.run_until(lambda: world.a.volume.state.conn is ConnState.SyncSource)
    assert world.now >= freed + 1.0
    assert write(client, 200 * BLOCK, b"s" * BLOCK) == 0
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and not sent(world.a, Packet.P_BITMAP) and world.a.volume.out_of_sync_bits == 0
    assert write(client, 0, b"z" * BLOCK) == 0 and wait(client, client.flush()) == [0]
    world.run(2)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_link_that_breaks_while_ahead_loses_nothing(seed: int) -> None:
    """The peer is Outdated, and gets all by the usual resync when it is back, whoever is Primary by then."""
    world, client, free = congested(seed)
    for n in range(100, 120):
        assert write(client, n * BLOCK, b"a" * BLOCK) == 0
    if seed % 2:
        assert order(world, world.a, "secondary", force=True) == 1 or True
    world.cut()
    free()
    assert int(world.b.volume.state.disk) == 5
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_power_failure_while_ahead_loses_nothing(seed: int) -> None:
    """Of either node: the generation is the Primary's, and the marks are of what the peer lacks."""
    world, client, free = congested(seed)
    for n in range(100, 120):
        assert write(client, n * BLOCK, b"a" * BLOCK) == 0
    lost = world.a if seed % 2 else world.b
    free()
    lost.lose_power(world.rng)
    world.run(1)
    lost.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_extents_in_use_count_too() -> None:
    """congestion-extents: of the activity log, by writes that the peer has not confirmed, and the one that comes."""
    world, client = pair(size_bytes=400 * MIB, net=net(congestion_extents=67), al_extents=100)
    world.run(2)
    held: list[Any] = []
    begin, world.b._begin_disk = world.b._begin_disk, held.append  # type: ignore[method-assign]
    for n in range(66):
        assert write(client, n * 4 * MIB, b"x" * BLOCK) == 0
    assert state(world.a).startswith("Connected")
    assert write(client, 70 * 4 * MIB, b"x" * BLOCK) == 0
    assert state(world.a).startswith("Ahead")
    world.b._begin_disk = begin  # type: ignore[method-assign]
    for effect in held:
        begin(effect)
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_disconnect_leaves_the_peer() -> None:
    """StandAlone, in a new generation; the peer is brought up to date when an operator connects again."""
    world, client, free = congested(1, "disconnect")
    assert state(world.a) == "StandAlone Primary/Unknown UpToDate/DUnknown"
    assert write(client, 100 * BLOCK, b"x" * BLOCK) == 0
    free()
    world.run(1)
    assert order(world, world.a, "connect") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("options", [net("block", congestion_fill_bytes=BLOCK), NetOptions()])
def test_otherwise_nobody_pulls_ahead(options: NetOptions) -> None:
    """block, as by default: in protocol A clients are slowed down, in C they wait anyhow."""
    world, client = pair(net=options)
    wait(client, *[client.write(n * BLOCK, b"x" * BLOCK) for n in range(50)])
    world.run(2)
    assert not sent(world.a, Packet.P_OUT_OF_SYNC) and world.is_in_sync()


def test_a_resync_that_is_paused_stays_so_after_ahead() -> None:
    """pause-sync while Ahead: PausedSyncS, and the resync when it is allowed."""
    world, _client, free = congested(2)
    assert order(world, world.a, "pause-sync") == 1
    free()
    world.run_until(lambda: world.a.volume.state.conn is ConnState.PausedSyncS)
    assert order(world, world.a, "resume-sync") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("how", ["fails", "detached by force"])
def test_a_primary_that_loses_its_disk_while_ahead_has_no_good_data(how: str) -> None:
    """The peer stays Outdated, for both nodes: errors for clients, no old data and no endless wait."""
    world, client, free = congested(1)
    world.run(0.1)
    assert write(client, 100 * BLOCK, b"a" * BLOCK) == 0
    if how == "fails":
        world.a.disks[0].fail_writes = True
    else:
        assert order(world, world.a, "detach") == -2
        assert order(world, world.a, "detach", force=True) == 1
    failed = client.write(200 * BLOCK, b"f" * BLOCK)
    world.run(1)
    free()
    world.run(1)
    assert state(world.a) == "Connected Primary/Secondary Diskless/Outdated"
    assert state(world.b) == "Connected Secondary/Primary Outdated/Diskless"
    later = client.write(0, b"w" * BLOCK), client.read(0, BLOCK), client.read(100 * BLOCK, BLOCK)
    world.run(1)
    assert [client.replies[cookie][0] for cookie in (failed, *later)] == [5] * 4
    assert not world.protocol_errors
