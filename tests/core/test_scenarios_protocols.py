"""Scenarios: replication protocols A and B: when a write is answered, what stays on record, what a slow peer costs."""

from __future__ import annotations

import dataclasses

import pytest

from pydrbd.core.handshake import NetOptions
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.units import KIB
from pydrbd.wire.packet_numbers import WireProtocol
from pydrbd.wire.packets import BlockAck, Packet
from tests.core.test_scenarios_lying_peer import say
from tests.harness.scene import BLOCK, MIB, AtReply, order, pair, read, sent, state, wait, write
from tests.harness.world import Client, World

A, B = NetOptions(WireProtocol.A), NetOptions(WireProtocol.B)
BOTH = pytest.mark.parametrize("net", [A, B], ids="AB")


def slow_peer(net: NetOptions, **options: object) -> tuple[World, Client]:
    """A pair whose Secondary's disk takes 20 s to begin anything, until that is undone."""
    world, client = pair(net=net, **options)
    world.run(3)
    begin = world.b._begin_disk

    def later(effect: object) -> None:
        world.at(world.now + 20, world.b, lambda: begin(effect))

    world.b._begin_disk = later  # type: ignore[method-assign]
    return world, client


@BOTH
def test_a_write_is_answered_before_the_peers_disk_has_it(net: NetOptions) -> None:
    """The local disk has it; the peer's has not. No P_WRITE_ACK is asked for, and none comes."""
    world, client = slow_peer(net)
    disks = [machine.disks[0].data for machine in (world.a, world.b)]
    moment = AtReply(world, lambda: [bytes(disk[:BLOCK]) == b"x" * BLOCK for disk in disks])
    assert write(client, 0, b"x" * BLOCK) == 0
    assert moment.seen == [[True, False]]
    world.run(60)
    assert world.copies_equal() and not sent(world.b, Packet.P_WRITE_ACK)
    assert len(sent(world.b, Packet.P_RECV_ACK)) == int(net is B)
    assert world.a.node is not None and not world.a.node.log.last_unacked()
    assert world.a.node.writes.early.in_flight_bytes == 0


def test_protocol_b_waits_until_the_peer_has_received_it() -> None:
    """While the wire is slow there is no answer in B; in A there is."""
    times = []
    for net in (A, B):
        world, client = pair(net=net)
        world.run(3)
        assert world.link is not None
        world.link.clogged_until = world.now + 2.0
        begun = world.now
        assert write(client, 0, b"x" * BLOCK) == 0
        times.append(world.now - begun)
    assert times[0] < 0.1 and 2.0 <= times[1] < 2.1


@BOTH
def test_what_was_answered_early_is_marked_when_the_peer_is_lost(net: NetOptions) -> None:
    """The peer's machine loses power before its disk has it: marked, and sent when it returns."""
    world, client = slow_peer(net)
    assert write(client, 0, b"x" * BLOCK) == write(client, MIB, b"y" * BLOCK) == 0
    assert world.a.volume.out_of_sync_bits == 0
    world.b.lose_power(world.rng)
    world.run(1)
    assert world.a.volume.out_of_sync_bits == 2
    del world.b._begin_disk  # type: ignore[method-assign]
    world.b.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and read(client, MIB, BLOCK) == b"y" * BLOCK


@BOTH
def test_a_flush_and_fua_are_answered_when_both_disks_are_safe(net: NetOptions) -> None:
    """As in protocol C: whoever asks for durability gets it from both nodes."""
    world, client = pair(net=net)
    assert write(client, 0, b"x" * BLOCK) == 0
    disks = [machine.disks[0] for machine in (world.a, world.b)]
    moment = AtReply(world, lambda: [disk.unflushed for disk in disks])
    assert wait(client, client.flush()) == [0] and moment.seen == [[0, 0]]
    world.observer = None
    assert write(client, BLOCK, b"f" * BLOCK, fua=True) == 0
    for machine in (world.a, world.b):
        machine.lose_power(world.rng)
        assert machine.disks[0].data[: 2 * BLOCK] == b"x" * BLOCK + b"f" * BLOCK


def test_a_slow_peer_slows_the_clients_of_protocol_a_down() -> None:
    """Over the limit a write waits; all are answered in the end, and what is on the way never exceeds the limit."""
    limit = 64 * KIB
    world, client = slow_peer(dataclasses.replace(A, in_flight_bytes_max=limit))
    cookies = [client.write(n * 8 * KIB, bytes([n + 1]) * 8 * KIB) for n in range(20)]
    world.run(5)
    assert len(client.replies) == 8
    assert not any(cookie in client.replies for cookie in cookies[8:])
    del world.b._begin_disk  # type: ignore[method-assign]
    assert set(wait(client, *cookies)) == {0}
    world.run(30)
    assert world.copies_equal() and world.a.node is not None
    assert world.a.node.writes.early.in_flight_bytes == 0 and not world.a.node.writes.busy


def test_a_quick_peer_is_asked_in_good_time() -> None:
    """Far more than the limit goes through in less time than a barrier takes that nobody is in a hurry for."""
    world, client = pair(net=dataclasses.replace(A, in_flight_bytes_max=256 * KIB))
    begun = world.now
    for n in range(64):
        assert write(client, n * 64 * KIB, bytes([n]) * 64 * KIB) == 0
    assert world.now - begun < 1.0


def test_what_is_held_back_is_answered_when_the_peer_is_lost() -> None:
    world, client = slow_peer(dataclasses.replace(A, in_flight_bytes_max=4 * KIB))
    cookies = [client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(4)]
    world.run(1)
    assert len(client.replies) == 1
    world.b.stop()
    assert set(wait(client, *cookies)) == {0}
    assert world.a.volume.out_of_sync_bits == 4 and world.a.node is not None
    assert world.a.node.writes.early.in_flight_bytes == 0


@BOTH
def test_a_write_that_our_disk_failed_waits_for_the_peers(net: NetOptions) -> None:
    """The only copy must not be one in a socket or in memory: the answer comes when the peer's disk has it."""
    world, client = pair(net=net)
    world.run(3)
    world.a.disks[0].fail_once.add("write")
    there = world.b.disks[0].data
    moment = AtReply(world, lambda: bytes(there[:BLOCK]) == b"x" * BLOCK)
    assert write(client, 0, b"x" * BLOCK) == 0
    assert moment.seen == [True] and state(world.a).endswith("Diskless/UpToDate")
    assert write(client, BLOCK, b"y" * BLOCK) == 0  # without a disk, too
    assert read(client, 0, 2 * BLOCK) == b"x" * BLOCK + b"y" * BLOCK


def test_what_was_lost_on_the_wire_is_not_served_as_older_data() -> None:
    """A3: in A our disk fails, and so does the link with a write on it that was answered: nobody has it. Clients get
    errors, until an operator demotes this node; that the peer has gone on from its own data is then his decision."""
    world, client = pair(net=A)
    assert write(client, 0, b"o" * BLOCK) == 0
    world.run(3)
    assert world.link is not None
    world.link.clogged_until = world.now + 1.0
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.disks[0].fail_once.add("read")
    doomed = client.read(MIB, BLOCK)
    world.run_until(lambda: world.a.volume.state.disk == DiskState.Diskless)
    world.cut()
    assert wait(client, doomed) == [5]
    world.run(3)
    assert read(client, 0, BLOCK) == 5
    assert world.a.volume.state.conn == ConnState.StandAlone
    assert any("has been using" in line for line in world.a.log)
    world.a.volume.sessions.clear()
    assert order(world, world.a, "secondary") == order(world, world.a, "connect") == 1
    world.run(1)
    assert order(world, world.b, "primary") == 1
    assert read(Client(world, world.b), 0, BLOCK) == b"o" * BLOCK


def test_a_primary_that_loses_its_disk_asks_the_peer_at_once_what_it_has() -> None:
    """In A: the barrier that nobody was in a hurry for is, and with its answer a lost link costs nothing."""
    world, client = pair(net=A)
    world.run(3)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.disks[0].fail_once.add("read")
    client.read(MIB, BLOCK)
    world.run_until(lambda: world.a.volume.state.disk == DiskState.Diskless)
    assert world.a.node is not None and world.a.node.log.last_unacked()
    world.run(0.1)
    assert not world.a.node.log.last_unacked()
    world.cut()
    world.run(3)
    assert read(client, 0, BLOCK) == b"x" * BLOCK


@BOTH
def test_a_write_that_nobody_could_store_fails(net: NetOptions) -> None:
    """Our disk fails, and the peer is lost before its disk has the write: EIO."""
    world, client = slow_peer(net)
    world.a.disks[0].fail_once.add("write")
    cookie = client.write(0, b"x" * BLOCK)
    world.run(1)
    assert not client.replies
    world.b.stop()
    assert wait(client, cookie) == [5]


@BOTH
def test_writes_during_a_resync_clear_their_bits(net: NetOptions) -> None:
    """They ask for P_RS_WRITE_ACK, which comes after the answer; both bitmaps end empty, both copies equal."""
    world, client = pair(net=net)
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.a.volume.state.conn == ConnState.SyncSource)
    world.disk_latency_s = 0.02
    cookies = [client.write(n * 7 % 40 * BLOCK, bytes([n + 1]) * 2 * BLOCK) for n in range(60)]
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    world.run(3)
    assert world.copies_equal() and sent(world.b, Packet.P_RS_WRITE_ACK)
    assert world.a.volume.out_of_sync_bits == world.b.volume.out_of_sync_bits == 0 and not world.protocol_errors


@pytest.mark.parametrize("seed", range(3))
@BOTH
def test_overlapping_writes_end_equal(net: NetOptions, seed: int) -> None:
    """A later write may leave before the earlier one is on the peer's disk: there, too, the last one wins."""
    world, client = pair(seed, net=net)
    world.disk_latency_s = 0.02
    cookies = []
    for n in range(40):
        cookies.append(client.write(n % 3 * BLOCK, bytes([n + 1]) * 3 * BLOCK))
        world.run(0.004)
    assert set(wait(client, *cookies)) == {0}
    world.run(3)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", range(3))
@BOTH
def test_a_sync_target_reads_from_the_peer_what_it_has_just_written(net: NetOptions, seed: int) -> None:
    """The Primary's own disk is not good there: the peer serves the read after the write that came before it."""
    world, client = pair(seed, net=net)
    assert order(world, world.a, "invalidate") == 1
    world.disk_latency_s = 0.02
    for n in range(20):
        assert write(client, 15 * MIB, bytes([n + 1]) * BLOCK) == 0
        assert read(client, 15 * MIB, BLOCK) == bytes([n + 1]) * BLOCK
    world.run_until(world.is_in_sync)
    world.run(3)
    assert world.copies_equal()


@BOTH
def test_a_demotion_waits_until_the_peer_has_everything(net: NetOptions) -> None:
    """Else the next Primary would begin without writes that were answered."""
    world, client = pair(net=net)
    cookies = [client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(30)]
    assert order(world, world.a, "secondary", force=True) == 1
    assert set(wait(client, *cookies)) == {0} and world.copies_equal()
    assert [machine.disks[0].unflushed for machine in (world.a, world.b)] == [0, 0]


def test_a_peer_that_confirms_no_barrier_is_left() -> None:
    """ko-count counts for barriers, too: in A nothing else would show that the peer hangs."""
    world, client = pair(net=dataclasses.replace(A, timeout_s=1.0, ko_count=2))
    world.run(3)
    world.b._begin_disk = lambda effect: None  # type: ignore[method-assign]
    assert write(client, 0, b"x" * BLOCK) == 0
    before = world.a.node.link_generation if world.a.node else 0
    world.run(2.5)
    assert world.a.node is not None and world.a.node.link_generation > before
    assert world.a.volume.out_of_sync_bits == 1


@BOTH
def test_a_failed_write_of_the_peer_is_marked_after_the_answer(net: NetOptions) -> None:
    """P_NEG_ACK comes in every protocol, for a write that has been answered already."""
    world, client = slow_peer(net)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.disks[0].fail_once.add("write")
    del world.b._begin_disk  # type: ignore[method-assign]
    world.run(60)
    assert sent(world.b, Packet.P_NEG_ACK) and world.a.volume.out_of_sync_bits == 1
    assert state(world.a).endswith("UpToDate/Diskless")


@BOTH
def test_a_promotion_waits_until_the_lost_peers_writes_are_on_disk(net: NetOptions) -> None:
    """A1, B3: they were answered while they waited for this disk; a client must read them, and none may come later."""
    world, client = slow_peer(net)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.run(0.1)
    world.a.stop()
    promoted = world.b.command("primary")
    world.run(10)
    assert promoted not in world.b.answers and world.b.volume.state.role == Role.Secondary
    del world.b._begin_disk  # type: ignore[method-assign]
    world.run_until(lambda: promoted in world.b.answers)
    assert world.b.answers[promoted] == (1, "") and world.b.node.peer_writes.busy_bytes == 0
    assert read(Client(world, world.b), 0, BLOCK) == b"x" * BLOCK


@pytest.mark.parametrize("seed", range(8))
@BOTH
def test_a_failed_write_of_a_disk_that_is_soon_back_is_synced(net: NetOptions, seed: int) -> None:
    """B1, D5: its P_NEG_ACK comes on the other socket, later perhaps than the bitmap of the resync."""
    world, client = pair(seed, net=net)
    world.run(3)
    world.link_latency_s = 0.05
    world.b.disks[0].fail_once.add("write")
    cookies = [client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(3)]
    world.run_until(lambda: world.b.volume.state.disk == DiskState.Diskless and not world.b.attached)
    assert order(world, world.b, "attach") == 1
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    world.run(3)
    assert world.copies_equal() and not world.protocol_errors
    assert world.a.volume.out_of_sync_bits == world.b.volume.out_of_sync_bits == 0


@pytest.mark.parametrize(
    ("net", "packet"),
    [(A, Packet.P_RECV_ACK), (A, Packet.P_WRITE_ACK), (B, Packet.P_WRITE_ACK), (NetOptions(), Packet.P_RECV_ACK)],
)
def test_an_acknowledgement_that_was_not_asked_for_is_a_lie(net: NetOptions, packet: Packet) -> None:
    """The write is not answered by it; the connection begins anew."""
    world, client = pair(net=net)
    assert write(client, MIB, b"w" * BLOCK) == 0  # its extent is hot now
    world.run(3)
    world.disk_latency_s = 1.0
    client.write(0, b"x" * BLOCK)
    assert world.a.node is not None
    (write_in_flight,) = world.a.node.writes._in_flight.values()
    block_id = write_in_flight.first_id
    say(world, world.a, packet, BlockAck(0, block_id, BLOCK, 1).encode())
    assert "acknowledgement" in world.protocol_errors[0] or "did not ask" in world.protocol_errors[0]
    world.run_until(world.is_in_sync)
    world.run(5)
    assert world.copies_equal()


def test_differing_protocols_are_refused_by_both() -> None:
    """WIRE 4.3: StandAlone on both sides, and the log says why."""
    world = World(1, net=A)
    world.a.start()
    world.net = B
    world.b.start()
    world.run(30)
    for machine in (world.a, world.b):
        assert machine.volume.state.conn == ConnState.StandAlone
        assert any("protocol" in line and "differs" in line for line in machine.log)
