"""Scenarios: both nodes are Primary (allow-two-primaries), and their clients write where they like."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pydrbd import native
from pydrbd.core.handshake import NetOptions
from pydrbd.native import Batch
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, order, pair, read, sent, state, wait, write
from tests.harness.world import Client, World


def both(seed: int = 1, **options: Any) -> tuple[World, Client, Client]:
    """Both Primary, each with a client."""
    world, one = pair(seed, net=NetOptions(allow_two_primaries=True), **options)
    assert order(world, world.b, "primary") == 1
    world.run_until(lambda: state(world.a) == "Connected Primary/Primary UpToDate/UpToDate")
    return world, one, Client(world, world.b)


def test_without_the_option_there_is_one_primary() -> None:
    """-1: Multiple primaries not allowed by config."""
    world, _client = pair()
    assert order(world, world.b, "primary") == -1


def test_each_side_sees_what_the_other_has_written() -> None:
    """A guest may move while both are Primary: what one side was told is done, the other reads."""
    world, one, two = both()
    assert write(one, 0, b"1" * BLOCK) == 0 and read(two, 0, BLOCK) == b"1" * BLOCK
    assert write(two, 0, b"2" * BLOCK) == 0 and read(one, 0, BLOCK) == b"2" * BLOCK
    assert order(world, world.a, "secondary", force=True) == 1
    assert write(two, 0, b"3" * BLOCK) == 0
    assert world.copies_equal() and not world.protocol_errors
    assert not sent(world.a, Packet.P_SUPERSEDED) and not sent(world.b, Packet.P_SUPERSEDED)


@pytest.mark.parametrize("seed", range(4))
def test_of_two_equal_writes_at_the_same_time_the_one_that_decides_wins_on_both(seed: int) -> None:
    """WIRE 9.7: P_SUPERSEDED; both clients are told that it is done."""
    world, one, two = both(seed)
    world.link_latency_s = 0.05
    cookies = one.write(0, b"1" * BLOCK), two.write(0, b"2" * BLOCK)
    wait(one, cookies[0])
    wait(two, cookies[1])
    assert world.a.node is not None
    winner = b"1" if world.a.node.resolve_conflicts else b"2"
    world.run(1)
    assert read(one, 0, BLOCK) == read(two, 0, BLOCK) == winner * BLOCK
    assert world.copies_equal() and not world.protocol_errors
    assert len(sent(world.a, Packet.P_SUPERSEDED) + sent(world.b, Packet.P_SUPERSEDED)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_what_is_only_partly_covered_is_written_after_it(seed: int) -> None:
    """P_RETRY_WRITE: no byte of either write is lost that the other has not covered."""
    world, one, two = both(seed)
    world.link_latency_s = 0.05
    first, second = one.write(0, b"1" * 2 * BLOCK), two.write(BLOCK, b"2" * 2 * BLOCK)
    wait(one, first)
    wait(two, second)
    world.run(1)
    assert read(one, 0, 3 * BLOCK) == read(two, 0, 3 * BLOCK)
    seen = bytes(world.a.disks[0].data[: 3 * BLOCK])
    assert seen[:BLOCK] == b"1" * BLOCK and seen[2 * BLOCK :] == b"2" * BLOCK
    assert world.copies_equal() and not world.protocol_errors
    assert sent(world.a, Packet.P_RETRY_WRITE) or sent(world.b, Packet.P_RETRY_WRITE)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_they_write_both_copies_end_equal(seed: int) -> None:
    """Writes of both sides to few places, of many sizes, in batches, with flushes, across cold extents."""
    world, one, two = both(seed, size_bytes=400 * MIB)
    rng = random.Random(seed)
    cookies: list[tuple[Client, int]] = []
    for n in range(400):
        client = rng.choice((one, two))
        place = rng.randrange(6) * 512 + rng.choice((0, 0, 0, rng.randrange(90) * 4 * MIB))
        length = 512 * rng.randrange(1, 6)
        if n % 40 == 39:
            cookies.append((client, client.flush()))
        if rng.random() < 0.2:
            request = [(1, 0, place + k * rng.choice((512, 8 * MIB)), bytes([k + 1]) * length) for k in range(3)]
            cookies += [(client, cookie) for cookie in client.submit(*request)]
        else:
            cookies.append((client, client.write(place, bytes([n % 251 + 1]) * length)))
        world.run(rng.choice((0.0, 0.0, 0.0001, 0.001)))
    for client, cookie in cookies:
        assert wait(client, cookie) == [0]
    world.run(2)
    assert world.copies_equal() and not world.protocol_errors
    assert state(world.a) == state(world.b) == "Connected Primary/Primary UpToDate/UpToDate"


@pytest.mark.parametrize("seed", range(10))
def test_a_link_that_breaks_in_the_middle_of_conflicts_leaves_no_client_waiting(seed: int) -> None:
    """Each goes on alone, which is a split brain: the operator chooses, and both are equal again."""
    world, one, two = both(seed)
    rng = random.Random(seed)
    cookies = []
    for n in range(60):
        client = rng.choice((one, two))
        cookies.append((client, client.write(rng.randrange(4) * 512, bytes([n + 1]) * 512 * rng.randrange(1, 5))))
        world.run(rng.choice((0.0, 0.0002)))
    world.cut()
    for client, cookie in cookies:
        assert wait(client, cookie) == [0]
    world.run(5)
    assert state(world.a).startswith(("StandAlone", "WFConnection"))
    assert order(world, world.b, "secondary", force=True) == 1
    for machine, wish in ((world.b, True), (world.a, False)):
        order(world, machine, "connect", discard_my_data=wish)
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", range(6))
def test_a_disk_that_fails_in_a_conflict_costs_no_write(seed: int) -> None:
    """The side that has lost its disk goes on through the other's."""
    world, one, two = both(seed)
    rng = random.Random(seed)
    cookies = []
    for n in range(80):
        if n == 40:
            rng.choice((world.a, world.b)).disks[0].fail_writes = True
        client = rng.choice((one, two))
        cookies.append((client, client.write(rng.randrange(4) * 512, bytes([n + 1]) * 512 * rng.randrange(1, 5))))
        world.run(rng.choice((0.0, 0.0002)))
    for client, cookie in cookies:
        assert wait(client, cookie) == [0]
    assert read(one, 0, 4 * 512) == read(two, 0, 4 * 512)


@pytest.mark.parametrize("seed", range(3))
def test_a_second_primary_after_lanes_knows_the_order_of_the_first_ones_words(seed: int) -> None:
    """Sequence numbers are counted through lanes."""
    world, one = pair(seed, net=NetOptions(allow_two_primaries=True), lanes=True)
    for n in range(50):
        assert write(one, n * BLOCK, bytes([n + 1]) * BLOCK) == 0
    assert order(world, world.b, "primary") == 1
    two = Client(world, world.b)
    cookies = [(client, client.write(0, bytes([n + 1]) * BLOCK)) for n in range(20) for client in (one, two)]
    for client, cookie in cookies:
        assert wait(client, cookie) == [0]
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


def test_numbers_that_never_come_end_the_connection() -> None:
    """A write that must wait for something that was not sent: the connection begins anew, with a word."""
    world, _one, two = both()
    node = world.a.node if world.a.node is not None and world.a.node.resolve_conflicts else world.b.node
    assert node is not None
    decider, other = (world.a, two) if node is world.a.node else (world.b, Client(world, world.a))
    decider.volume.peer.seen_seq -= 5
    cookie = other.write(0, b"x" * BLOCK)
    world.run(3)
    assert state(decider).startswith("Connected") and cookie not in other.replies
    world.run_until(lambda: not state(decider).startswith("Connected"))
    assert wait(other, cookie) == [0]


def test_a_device_does_not_shrink_while_both_are_primary() -> None:
    """What the other one's clients have under way beyond the new end is not known here."""
    world, _one, two = both()
    world.link_latency_s = 0.05
    cookie = two.write(12 * MIB, b"z" * BLOCK)
    before = world.a.volume.size_sectors
    request = world.a.command("resize", size_sectors=8 * MIB // 512, assume_peer_has_space=True)
    assert wait(two, cookie) == [0]
    assert world.a.answers[request][0] == 0 and "the peer is Primary too" in world.a.answers[request][1]
    assert world.a.volume.size_sectors == world.b.volume.size_sectors == before
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("seed", [0, 5, 17])
def test_a_full_activity_log_keeps_nobody_waiting_for_the_other(seed: int) -> None:
    """The slot that one side waits for may be freed by a write that waits there for the word of this side."""
    world, one, two = both(seed, size_bytes=480 * MIB)
    rng = random.Random(seed)
    world.link_latency_s = rng.choice((0.001, 0.01))
    cookies: list[tuple[Client, int]] = []
    for n in range(500):
        client = rng.choice((one, two))
        border = rng.randrange(1, 112 if rng.random() < 0.5 else 4) * 4 * MIB
        before, length = rng.choice((BLOCK, BLOCK, 0, 2 * BLOCK)), rng.choice((BLOCK, 2 * BLOCK, 3 * BLOCK))
        cookies.append((client, client.write(border - before, bytes([n % 251 + 1]) * length)))
        if n % 16 == 0:
            world.run(rng.choice((0.0, 0.0005, 0.003)))
    world.run(20)
    assert not [cookie for client, cookie in cookies if cookie not in client.replies]
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("seed", range(3))
def test_both_write_during_a_resync(seed: int) -> None:
    """The target is Primary, too: an answer that came too late for a write is dropped, and asked for again."""
    world, one = pair(seed, net=NetOptions(allow_two_primaries=True), size_bytes=64 * MIB)
    world.link_allowed = False
    world.cut()
    world.run(1)
    for n in range(64):
        assert write(one, n * MIB // 2, bytes([n + 1]) * (256 * 1024)) == 0
    world.link_latency_s, world.link_allowed = 0.002, True
    world.try_link()
    world.run_until(lambda: "SyncTarget" in state(world.b))
    assert order(world, world.b, "primary") == 1
    two, rng = Client(world, world.b), random.Random(seed)
    cookies: list[tuple[Client, int]] = []
    for n in range(300):
        client = rng.choice((one, one, two))
        cookies.append((client, client.write(rng.randrange(32 * MIB // BLOCK) * BLOCK, bytes([n % 251 + 1]) * BLOCK)))
        world.run(0.0003)
    world.run(10)
    assert [client.replies[cookie][0] for client, cookie in cookies] == [0] * 300
    assert world.copies_equal() and not world.protocol_errors


def test_a_write_of_the_peers_that_has_waited_finds_no_disk() -> None:
    """It is refused, so that the peer marks it: written to a disk that is being left, nobody would know of it."""
    world, one, _two = both()
    batch = Batch(bytearray(), native.new_records(1), 1)
    batch.records[0].length = BLOCK
    hold = world.b.volume.ranges.acquire(batch, 1, lambda _hold, _members: None)
    cookie = one.write(0, b"1" * BLOCK)
    world.run(0.1)
    assert order(world, world.b, "detach", force=True) == 1
    written = bytes(world.b.disks[0].data[:BLOCK])
    world.b.volume.ranges.release(hold, 1)
    world.run(1)
    assert wait(one, cookie) == [0] and bytes(world.b.disks[0].data[:BLOCK]) == written
    assert sent(world.b, Packet.P_NEG_ACK) and world.a.volume.out_of_sync_bits == 1


def test_a_peer_that_asks_for_a_write_again_for_ever_is_left() -> None:
    """P_RETRY_WRITE as often as the write comes: after a time the connection ends, and the client has its answer."""
    world, one, two = both(3)
    decider, other = (world.a, two) if world.a.node.resolve_conflicts else (world.b, one)  # type: ignore[union-attr]
    assert decider.node is not None
    decider.node.conflicts._unsettled = lambda _volume, _batch, mask: mask  # type: ignore[method-assign]
    world.link_latency_s = 0.5
    cookie = other.write(0, b"x" * BLOCK)
    world.run(20)
    assert cookie not in other.replies and len(sent(decider, Packet.P_RETRY_WRITE)) > 10
    world.run_until(lambda: cookie in other.replies)
    assert other.replies[cookie][0] == 0 and 40 < world.now < 60
