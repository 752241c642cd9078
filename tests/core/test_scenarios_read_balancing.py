"""Scenarios: reads that the peer serves although our disk could (`read-balancing`)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, order, pair, read, sent, state, wait, write
from tests.harness.world import Client, World

KIB = 1024


def balanced(policy: str, seed: int = 1) -> tuple[World, Client]:
    return pair(seed, disk={"read_balancing": policy})


def asked(world: World) -> int:
    """How many reads have gone to the peer."""
    return len(sent(world.a, Packet.P_DATA_REQUEST))


def test_prefer_remote_asks_the_peer_for_all() -> None:
    """While it is UpToDate; then our disk serves them."""
    world, client = balanced("prefer-remote")
    for n in range(4):
        assert write(client, n * BLOCK, bytes([n + 1]) * BLOCK) == 0
    before = world.a.volume.counters.read
    assert [read(client, n * BLOCK, BLOCK) for n in range(4)] == [bytes([n + 1]) * BLOCK for n in range(4)]
    assert asked(world) == 4 and world.a.volume.counters.read == before
    world.b.stop()
    world.run(1)
    assert read(client, 0, BLOCK) == b"\1" * BLOCK and asked(world) == 4


def test_round_robin_asks_the_peer_for_every_second_one() -> None:
    """In the order of the reads, alone or together."""
    world, client = balanced("round-robin")
    for n in range(6):
        assert isinstance(read(client, n * BLOCK, BLOCK), bytes)
    assert asked(world) == 3
    wait(client, *client.submit(*[(0, 0, n * BLOCK, bytes(BLOCK)) for n in range(10)]))
    assert asked(world) == 8


@pytest.mark.parametrize(
    ("policy", "stripe"), [("32K-striping", 32 * KIB), ("256K-striping", 256 * KIB), ("1M-striping", MIB)]
)
def test_stripes_are_shared_out_by_place(policy: str, stripe: int) -> None:
    """Every second stripe is the peer's, however it is asked for."""
    world, client = balanced(policy)
    for n in range(3):
        for place in (n * 2 * stripe, n * 2 * stripe + stripe - BLOCK):
            assert isinstance(read(client, place, BLOCK), bytes)
    assert not asked(world)
    for n in range(3):
        for place in ((n * 2 + 1) * stripe, (n * 2 + 2) * stripe - BLOCK):
            assert isinstance(read(client, place, BLOCK), bytes)
    assert asked(world) == 6


def test_least_pending_asks_whoever_has_less_to_do() -> None:
    """A lone read is ours; of many at once each side gets a half."""
    world, client = balanced("least-pending")
    assert isinstance(read(client, 0, BLOCK), bytes) and not asked(world)
    wait(client, *client.submit(*[(0, 0, n * BLOCK, bytes(BLOCK)) for n in range(20)]))
    assert 9 <= asked(world) <= 10


def test_when_congested_remote_spares_a_disk_with_much_to_do() -> None:
    """Only what comes on top of it goes to the peer."""
    world, client = balanced("when-congested-remote")
    batches = [client.submit(*[(0, 0, n * BLOCK, bytes(BLOCK)) for n in range(50)]) for _ in range(3)]
    for cookies in batches:
        wait(client, *cookies)
    assert asked(world) == 150 - 112
    assert isinstance(read(client, 0, BLOCK), bytes) and asked(world) == 38


def test_what_the_peer_can_not_read_is_read_here() -> None:
    """Its disk fails: the client gets our data."""
    world, client = balanced("prefer-remote")
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.disks[0].fail_reads = True
    assert read(client, 0, BLOCK) == b"x" * BLOCK
    world.run(1)
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless"
    assert read(client, 0, BLOCK) == b"x" * BLOCK and asked(world) == 1


def test_reads_of_a_peer_that_is_lost_are_done_here() -> None:
    """They were under way."""
    world, client = balanced("prefer-remote")
    assert write(client, 0, b"x" * BLOCK) == 0
    cookies = [client.read(0, BLOCK) for _ in range(5)]
    world.b.stop()
    assert wait(client, *cookies) == [0] * 5
    assert {client.replies[cookie][1] for cookie in cookies} == {b"x" * BLOCK}


@pytest.mark.parametrize("seed", range(20))
def test_no_read_finds_less_than_one_before_it(seed: int) -> None:
    """The peer has a write, our disk is slow: a read there, and then one here, see it both or neither."""
    world, client = balanced("round-robin", seed)
    assert write(client, 0, b"o" * BLOCK) == 0
    world.disk_stall_probability = 0.5
    for n in range(10):
        new = bytes([n]) * BLOCK
        cookie = client.write(0, new)
        found = False
        while cookie not in client.replies:
            data = read(client, 0, BLOCK)
            assert not found or data == new, "a later read has found the older data"
            found = data == new


def test_another_policy_is_taken_over_at_once() -> None:
    """While the node runs (adjust)."""
    world, client = balanced("prefer-local")
    assert isinstance(read(client, 0, BLOCK), bytes) and not asked(world)
    node = world.a.node
    assert node is not None
    (volume,) = node.options.volumes
    options = replace(node.options, volumes=(replace(volume, read_balancing="prefer-remote"),))
    assert order(world, world.a, "reconfigure", options=options) == 1
    assert isinstance(read(client, 0, BLOCK), bytes) and asked(world) == 1


def test_no_lane_runs_but_with_prefer_local() -> None:
    """Native code reads from our disk only."""
    for policy, runs in (("prefer-local", True), ("round-robin", False)):
        world, client = balanced(policy)
        assert write(client, 0, b"x" * BLOCK) == 0 and world.a.node is not None
        world.run(5)
        assert (world.a.node.lanes.client_volume() is not None) == runs
