"""When lanes may run, and what the core makes of what they have done."""

from __future__ import annotations

import pytest

from pydrbd.core.handshake import NetOptions
from pydrbd.core.node import Node
from pydrbd.wire.packet_numbers import WireProtocol
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, pair, sent, wait, write
from tests.harness.simulation import fresh_pair_superblock
from tests.harness.world import Client, World

SIZE_BYTES = 24 * MIB


def with_lanes(seed: int = 0, **how: object) -> tuple[World, Client]:
    """A pair in sync whose nodes have lanes, and a client; the first extent is hot."""
    world = World(seed, size_bytes=SIZE_BYTES, superblock=fresh_pair_superblock(SIZE_BYTES), lanes=True, **how)
    world.a.start()
    world.b.start()
    world.run_until(world.is_in_sync)
    request = world.a.command("primary")
    world.run_until(lambda: request in world.a.answers)
    client = Client(world, world.a)
    assert write(client, 0, b"0" * BLOCK) == 0
    world.run(0.2)
    return world, client


def node(world: World) -> Node:
    assert world.a.node is not None
    return world.a.node


def taken(world: World) -> tuple[int, int]:
    """How many writes the lanes of both have served."""
    assert world.a.lane is not None and world.b.lane is not None
    return world.a.lane.taken, world.b.lane.taken


def test_writes_go_by_lanes_on_both_nodes() -> None:
    """From socket to socket without the core, and both copies are the same."""
    world, client = with_lanes()
    before = taken(world)
    assert set(wait(client, *[client.write(index * BLOCK, b"l" * BLOCK) for index in range(50)])) == {0}
    assert [now - then for now, then in zip(taken(world), before, strict=True)] == [50, 50]
    world.settle()
    assert world.copies_equal() and not len(node(world).volumes[0].ranges)


@pytest.mark.parametrize("protocol", [WireProtocol.A, WireProtocol.B])
def test_other_protocols_have_no_lane(protocol: WireProtocol) -> None:
    """Who is answered early waits for other words of the peer, which a lane does not know."""
    world, client = with_lanes(net=NetOptions(protocol))
    assert write(client, 0, b"x" * BLOCK) == 0
    assert taken(world)[0] == 0


def test_a_kernel_as_the_peer_has_no_lane() -> None:
    """Its epochs order its disk's writes: a lane does not close them."""
    world, _client = with_lanes()
    assert node(world).lanes.client_volume() is not None
    node(world).peer_is_pydrbd = False
    assert node(world).lanes.client_volume() is None


@pytest.mark.parametrize("verb", ["disconnect", "detach", "secondary", "verify"])
def test_what_an_operator_begins_ends_the_lane(verb: str) -> None:
    """There is something to decide: every write is the core's again, and none is lost."""
    world, client = with_lanes(net=NetOptions(verify_alg="crc32c"))
    cookies = [client.write(index * BLOCK, b"v" * BLOCK) for index in range(20)]
    world.a.command(verb, force=True)
    assert node(world).lanes.client_volume() is None or verb == "verify"
    assert set(wait(client, *cookies)) == {0}


def test_what_a_lane_sent_is_marked_when_the_peer_is_lost() -> None:
    """B2: every block that the peer has not confirmed durably, answered or not, and no other."""
    world, client = with_lanes()
    assert set(wait(client, *[client.write(index * BLOCK, b"1" * BLOCK) for index in range(10)])) == {0}
    late = [client.write(index * BLOCK, b"2" * BLOCK) for index in range(10, 15)]
    world.link_allowed = False
    world.cut()
    assert set(wait(client, *late)) == {0}
    assert taken(world)[0] >= 15 and world.a.volume.out_of_sync_bits == 15


def test_what_the_peer_has_confirmed_is_not_marked() -> None:
    """The epoch that a lane has filled is closed by the node, and the barrier acknowledgement ends it."""
    world, client = with_lanes()
    assert set(wait(client, *[client.write(index * BLOCK, b"1" * BLOCK) for index in range(10)])) == {0}
    world.run(3.0)
    world.link_allowed = False
    world.cut()
    world.run(0.1)
    assert world.a.volume.out_of_sync_bits == 0


def test_a_full_epoch_is_closed_with_its_barrier_before_the_next_write() -> None:
    """Epochs of four writes, by lane: the peer counts the same writes in each as we do, else it would be a lie."""
    world, client = with_lanes(net=NetOptions(max_epoch_size=4))
    before = len(sent(world.a, Packet.P_BARRIER))
    assert set(wait(client, *[client.write(index * BLOCK, b"e" * BLOCK) for index in range(40)])) == {0}
    world.settle()
    assert not world.protocol_errors
    assert len(sent(world.a, Packet.P_BARRIER)) - before >= 10


def test_an_extent_that_a_lane_has_written_to_stays_hot() -> None:
    """B4: a lane's last write counts as a use, so the extent is not forgotten before the barrier acknowledgement."""
    world, client = with_lanes(al_extents=4)
    world.b.disks[0].ignores_flush = True
    for round_number in range(6):
        for extent in range(5):
            assert write(client, extent * 4 * MIB + round_number * BLOCK, b"h" * BLOCK) == 0
            assert extent in node(world).volumes[0].disk.log.hot_extents()  # type: ignore[union-attr]


def test_a_write_that_overlaps_one_of_a_lane_comes_after_it() -> None:
    """A7: the core takes the lane's writes back with their ranges held."""
    world, client = with_lanes()
    first = client.write(0, b"a" * 8 * BLOCK)
    second = client.write(4 * BLOCK, b"b" * 8 * BLOCK)
    third = client.zero(0, BLOCK)
    assert wait(client, first, second, third) == [0, 0, 0]
    world.settle()
    assert world.copies_equal()
    assert world.a.disks[0].data[: 5 * BLOCK] == bytes(BLOCK) + b"a" * 3 * BLOCK + b"b" * BLOCK


def test_a_flush_after_writes_of_a_lane_waits_for_both_disks() -> None:
    """A4+: what a lane has written counts like any other write."""
    world, client = with_lanes()
    assert set(wait(client, *[client.write(index * BLOCK, b"f" * BLOCK) for index in range(5)])) == {0}
    assert wait(client, client.flush()) == [0]
    assert [machine.disks[0].unflushed for machine in (world.a, world.b)] == [0, 0]


def test_without_lanes_nothing_of_them_is_noticed() -> None:
    """The world of all other tests has none."""
    world, client = pair(0)
    assert write(client, 0, b"x" * BLOCK) == 0
    assert world.a.lane is None


def flushed(world: World) -> tuple[int, int]:
    """How many flushes the lanes of both have carried out."""
    assert world.a.lane is not None and world.b.lane is not None
    return world.a.lane.flushed, world.b.lane.flushed


def settled(world: World) -> None:
    """What was written before is confirmed: the open epoch is the only one."""
    world.run(3.0)
    world.settle()


def test_a_flush_goes_by_lanes_on_both_nodes_and_ends_the_epoch() -> None:
    """A4+: both disks have flushed when it is answered, and what it covers is marked no more if the peer is lost."""
    world, client = with_lanes()
    settled(world)
    before, disks = flushed(world), [machine.disks[0] for machine in (world.a, world.b)]
    for round_number in range(5):
        assert write(client, round_number * BLOCK, b"f" * BLOCK) == 0
        assert all(disk.unflushed for disk in disks)
        assert wait(client, client.flush()) == [0]
        assert [disk.unflushed for disk in disks] == [0, 0]
    assert [now - then for now, then in zip(flushed(world), before, strict=True)] == [5, 5]
    assert write(client, 9 * BLOCK, b"g" * BLOCK) == 0
    world.link_allowed = False
    world.cut()
    world.run(0.1)
    assert world.a.volume.out_of_sync_bits == 1 and not world.protocol_errors


def test_a_flush_that_is_cut_off_in_a_lane_begins_anew() -> None:
    """The barrier has gone out, the peer's word has not come: the core waits for it, or marks what it covers."""
    for cut in (True, False):
        world, client = with_lanes()
        settled(world)
        assert write(client, 0, b"f" * BLOCK) == 0
        cookie = client.flush()
        if cut:
            world.link_allowed = False
            world.cut()
        else:
            other = client.write(BLOCK, b"w" * BLOCK)  # ends the lane, which takes nothing while it waits
            assert wait(client, other) == [0]
        assert wait(client, cookie) == [0]
        assert world.a.volume.out_of_sync_bits == int(cut) and not world.protocol_errors


def test_an_extent_of_a_flushed_epoch_may_be_forgotten() -> None:
    """An epoch without writes never ends: what was written before it must not keep the activity log full."""
    world, client = with_lanes(al_extents=4)
    settled(world)
    for extent in (*range(6), *range(6)):
        assert write(client, extent * 4 * MIB, b"h" * BLOCK) == 0
        assert wait(client, client.flush()) == [0]
    assert flushed(world)[0]
