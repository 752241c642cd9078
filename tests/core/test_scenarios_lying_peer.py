"""Scenarios: a peer that says what can't be true. The link is dropped, the connection begins anew, no data changes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pydrbd.core.effects import Socket
from pydrbd.core.states import ConnState
from pydrbd.wire.framing import encode_packet
from pydrbd.wire.packet_numbers import ID_SYNCER, PACKET_SPECS, SocketKind
from pydrbd.wire.packets import (
    Barrier,
    BarrierAck,
    BlockAck,
    BlockReq,
    Data,
    Packet,
    State,
    StateChgReq,
    SyncUuid,
)
from tests.harness.scene import BLOCK, MIB, order, pair, state, wait, write
from tests.harness.world import Machine, World

END = 16 * MIB // 512


def say(world: World, to: Machine, packet: int, payload: bytes, vnr: int = 0) -> None:
    """Let a packet arrive as if the peer had sent it."""
    socket = Socket.META if PACKET_SPECS[Packet(packet)].sockets == SocketKind.META else Socket.DATA
    assert world.link is not None
    world.receive(to, socket, encode_packet(packet, payload, apv=101, volume=vnr), world.link)


LIES = {
    "a barrier acknowledgement for no epoch": (Packet.P_BARRIER_ACK, BarrierAck(77, 1).encode()),
    "an acknowledgement for no write": (Packet.P_WRITE_ACK, BlockAck(0, 0x1234, BLOCK, 1).encode()),
    "a write past the end": (Packet.P_DATA, Data(END, 1, 1, 256, b"x" * BLOCK).encode()),
    "a write of half a sector": (Packet.P_DATA, Data(0, 1, 1, 256, b"x" * 100).encode()),
    "a read past the end": (Packet.P_DATA_REQUEST, BlockReq(END, 1, BLOCK).encode()),
    "a read of 8 MiB": (Packet.P_DATA_REQUEST, BlockReq(0, 1, 8 * MIB).encode()),
    "a read of nothing": (Packet.P_DATA_REQUEST, BlockReq(0, 1, 0).encode()),
    "data that was not asked for": (Packet.P_DATA_REPLY, Data(0, 99, 0, 0, b"x" * BLOCK).encode()),
    "a read error that was not asked for": (Packet.P_NEG_DREPLY, BlockAck(0, 99, BLOCK, 1).encode()),
    "a resync request past the end": (Packet.P_RS_DATA_REQUEST, BlockReq(END, ID_SYNCER, BLOCK).encode()),
    "a bitmap at the wrong time": (Packet.P_BITMAP, bytes(4080)),
    "a sync uuid at the wrong time": (Packet.P_SYNC_UUID, SyncUuid(77).encode()),
    "a state with impossible numbers": (Packet.P_STATE, (0xFFFF_FFFF).to_bytes(4, "big")),
    "a request that cuts a field in two": (Packet.P_STATE_CHG_REQ, StateChgReq(1, 1).encode()),
    "a short packet": (Packet.P_UUIDS, bytes(7)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_costs_the_link_and_nothing_else(lie: str) -> None:
    """D1: PeerProtocolError, a new connection, both copies equal and unchanged."""
    world, client = pair()
    assert write(client, 0, b"good" * 1024) == 0 and wait(client, client.flush()) == [0]
    for machine in (world.a, world.b):
        errors = len(world.protocol_errors)
        say(world, machine, *LIES[lie])
        world.run(1)
        assert len(world.protocol_errors) == errors + 1, world.protocol_errors
    world.run_until(world.is_in_sync)
    assert write(client, BLOCK, b"more" * 1024) == 0 and world.copies_equal()


def test_a_barrier_acknowledgement_must_have_the_right_count() -> None:
    """WIRE 9.4: another count than was sent is not believed; the write is marked, and copied on reconnect."""
    world, client = pair()
    cookie = client.write(0, b"x" * BLOCK)
    world.run_until(lambda: cookie in client.replies)
    world.run(0.1)  # the barrier has been sent, and the peer takes its time
    assert world.a.node is not None
    number = world.a.node.log.current.number - 1
    say(world, world.a, Packet.P_BARRIER_ACK, BarrierAck(number, 7).encode())
    assert world.protocol_errors and world.a.node.log.last_unacked() == number
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("block", [BlockAck(END, 7, BLOCK, 1), BlockAck(0, 7, 0xFFFF_FFFF, 1), BlockAck(0, 7, 100, 1)])
def test_a_refusal_of_what_was_never_sent_is_ignored(block: BlockAck) -> None:
    """D1, WIRE 3: P_NEG_ACK for an unknown write is tolerated; one for a place that no write can have marks nothing."""
    world, client = pair()
    say(world, world.a, Packet.P_NEG_ACK, block.encode())
    assert world.a.volume.out_of_sync_bits == 0 and not world.protocol_errors
    assert write(client, 0, b"x" * BLOCK) == 0 and world.copies_equal()


def test_a_packet_for_a_volume_that_does_not_exist_is_a_lie() -> None:
    world, _client = pair()
    say(world, world.a, Packet.P_DATA, Data(0, 1, 1, 256, b"x" * BLOCK).encode(), vnr=3)
    assert "volume 3" in world.protocol_errors[0]


def test_a_bitmap_of_the_wrong_length_costs_the_link_and_no_bit() -> None:
    """In the right state, a chunk that is too short: the target stays marked, and syncs after reconnect."""
    world, client = pair()
    world.b.stop()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.start()
    world.run_until(lambda: world.b.node is not None and world.b.volume.state.conn == ConnState.WFBitMapT)
    say(world, world.b, Packet.P_BITMAP, bytes(8))
    assert "P_BITMAP" in world.protocol_errors[0]
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_a_late_state_of_the_target_disturbs_nothing() -> None:
    """WIRE 5.6: its WFBitMapT may come when the source already is SyncSource."""
    world, _client = pair()
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    late = replace(world.b.volume.state, conn=ConnState.WFBitMapT)
    say(world, world.a, Packet.P_STATE, State(late.encode()).encode())
    assert state(world.a) == "SyncSource Primary/Secondary UpToDate/Inconsistent"
    world.run_until(world.is_in_sync)
    assert not world.protocol_errors and world.copies_equal()


def test_an_early_end_notice_is_remembered() -> None:
    """WIRE 12.7: it overtakes the last acknowledgements; the source ends when they are in."""
    world, _client = pair()
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    done = replace(world.b.volume.state, conn=ConnState.Connected, disk=world.a.volume.state.disk)
    say(world, world.a, Packet.P_STATE, State(done.encode()).encode())
    assert world.a.volume.state.conn == ConnState.SyncSource
    world.run_until(lambda: world.a.volume.state.conn == ConnState.Connected)
    assert world.b.volume.state.conn == ConnState.SyncTarget  # its own notice is still to come, and changes nothing
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_an_empty_barrier_is_not_answered() -> None:
    """WIRE 9.4: no write since the last one, no acknowledgement."""
    world, _client = pair()
    before = len(world.b.sent_packets)
    say(world, world.b, Packet.P_BARRIER, Barrier(9).encode())
    world.run(3)
    assert [command for command, _ in world.b.sent_packets[before:]].count(Packet.P_BARRIER_ACK) == 0


@pytest.mark.parametrize("seed", range(30))
def test_no_packet_raises_anything_but_a_protocol_error(seed: int) -> None:
    """D1: random packets with random and nearly right payloads, on a node that is at any point of its life."""
    rng = random.Random(seed)
    world, client = pair(seed)
    if seed % 3 == 0:
        order(world, world.b, "invalidate")
    client.write(0, b"x" * BLOCK)
    for _ in range(25):
        machine = rng.choice((world.a, world.b))
        packet = rng.choice([p for p in PACKET_SPECS if p not in (Packet.P_INITIAL_DATA, Packet.P_INITIAL_META)])
        size = rng.choice([0, 4, 8, 16, 24, 28, 48, 56, 24 + BLOCK, rng.randrange(200)])
        small = b"\0\0\0\0\0\0\0\x08" * (size // 8 + 1)
        payload = bytearray(rng.choice([bytes(size), rng.randbytes(size), small])[:size])
        if packet in (Packet.P_STATE_CHG_REQ, Packet.P_STATE):
            payload = bytearray(rng.getrandbits(23).to_bytes(4, "big") + rng.getrandbits(23).to_bytes(4, "big"))[:size]
        if world.link is not None and world.link.up.get(machine):
            say(world, machine, packet, bytes(payload))
        world.run(rng.choice([0, 0.001, 0.1]))
    world.run(20)
