"""Scenarios: data-integrity-alg. What was changed on its way is seen, reaches no disk and no client, and comes anew."""

from __future__ import annotations

import dataclasses

import pytest

from pydrbd.core.effects import Socket
from pydrbd.core.handshake import NetOptions
from pydrbd.core.states import ConnState
from pydrbd.wire.digests import DIGEST_NAMES
from pydrbd.wire.packet_numbers import FEATURES_KERNEL, AfterSb, Feature, WireProtocol
from pydrbd.wire.packets import Features, Packet, Protocol
from tests.core.test_scenarios_lying_peer import say
from tests.harness.scene import BLOCK, MIB, order, pair, read, sent, state, wait, write
from tests.harness.world import Machine, World

CRC = NetOptions(data_integrity_alg="crc32c")
MARK = b"to be changed on its way!"
LOOKS = b"to be changed on its way?"


class Corruption:
    """Changes one bit pattern, once, in what the world carries."""

    def __init__(self, world: World) -> None:
        self.done = 0
        self._receive = world.receive
        world.receive = self._changed  # type: ignore[method-assign]

    def _changed(self, machine: Machine, socket: Socket, data: bytes, link: object) -> None:
        if not self.done and MARK in data:
            self.done += 1
            data = data.replace(MARK, LOOKS, 1)
        self._receive(machine, socket, data, link)  # type: ignore[arg-type]


def block(text: bytes = MARK) -> bytes:
    return text.ljust(BLOCK, b".")


def disks_hold(world: World, data: bytes) -> list[bool]:
    return [data in bytes(machine.disks[0].image) for machine in (world.a, world.b)]


@pytest.mark.parametrize("name", DIGEST_NAMES)
def test_everything_works_with_every_algorithm(name: str) -> None:
    """Writes, discards, zeroes, a resync, and reads from the peer; each data packet carries the digest."""
    world, client = pair(net=NetOptions(data_integrity_alg=name))
    assert world.a.node is not None
    size = world.a.node.digest_bytes
    assert size > 0
    assert write(client, 0, b"x" * BLOCK) == 0 and sent(world.a, Packet.P_DATA) == [BLOCK]
    assert wait(client, client.trim(MIB, MIB), client.zero(0, 512), client.flush()) == [0, 0, 0]
    assert order(world, world.b, "invalidate") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and sent(world.a, Packet.P_RS_DATA_REPLY)
    assert order(world, world.a, "detach") == 1
    assert read(client, 0, BLOCK) == bytes(512) + b"x" * (BLOCK - 512)
    assert sent(world.b, Packet.P_DATA_REPLY) == [BLOCK] and not world.protocol_errors


@pytest.mark.parametrize("protocol", WireProtocol)
def test_a_changed_write_reaches_no_disk(protocol: WireProtocol) -> None:
    """The receiver leaves, and says which sector it was; the resync brings what the client wrote."""
    world, client = pair(net=dataclasses.replace(CRC, protocol=protocol))
    corruption = Corruption(world)
    assert write(client, 3 * BLOCK, block()) == 0
    world.run_until(lambda: bool(world.protocol_errors))
    assert "digest integrity check FAILED: 24s +4096 (crc32c)" in world.protocol_errors[0]
    world.run(5)
    world.run_until(world.is_in_sync)
    assert corruption.done == 1 and len(world.protocol_errors) == 1
    assert disks_hold(world, LOOKS) == [False, False] and disks_hold(world, MARK) == [True, True]
    assert world.copies_equal()


def test_without_an_algorithm_nobody_notices() -> None:
    """The same story without it: what the test changes does arrive."""
    world, client = pair()
    Corruption(world)
    assert write(client, 3 * BLOCK, block()) == 0
    assert disks_hold(world, LOOKS) == [False, True] and not world.protocol_errors


def test_changed_resync_data_reaches_no_disk() -> None:
    """P_RS_DATA_REPLY: the target leaves, and the resync begins again where it was."""
    world, client = pair(net=CRC)
    assert write(client, 3 * BLOCK, block()) == 0
    corruption = Corruption(world)
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: bool(world.protocol_errors))
    assert "P_RS_DATA_REPLY: digest integrity check FAILED" in world.protocol_errors[0]
    world.run_until(world.is_in_sync)
    assert corruption.done == 1 and disks_hold(world, LOOKS) == [False, False] and world.copies_equal()


def test_a_changed_reply_reaches_no_client() -> None:
    """P_DATA_REPLY: a diskless Primary answers EIO rather than something else than what was written."""
    world, client = pair(net=CRC)
    assert write(client, 3 * BLOCK, block()) == 0
    assert order(world, world.a, "detach") == 1
    corruption = Corruption(world)
    assert read(client, 3 * BLOCK, BLOCK) == 5
    assert "P_DATA_REPLY: digest integrity check FAILED" in world.protocol_errors[0] and corruption.done == 1
    world.run_until(lambda: state(world.a) == "Connected Primary/Secondary Diskless/UpToDate")
    assert read(client, 3 * BLOCK, BLOCK) == block()


@pytest.mark.parametrize(("ours", "theirs"), [("crc32c", "sha1"), ("", "md5"), ("sha256", "")])
def test_differing_algorithms_are_refused_by_both(ours: str, theirs: str) -> None:
    """WIRE 4.3: StandAlone on both sides, and the log says why."""
    world = World(1, net=NetOptions(data_integrity_alg=ours))
    world.a.start()
    world.net = NetOptions(data_integrity_alg=theirs)
    world.b.start()
    world.run(30)
    for machine in (world.a, world.b):
        assert machine.volume.state.conn == ConnState.StandAlone
        assert any("data-integrity-alg" in line and "differs" in line for line in machine.log)


def test_zeroes_are_sent_as_discards_that_zero() -> None:
    """WIRE 18, 10: with an algorithm a kernel can't take P_ZEROES. P_TRIM then zeroes, on our side, too."""
    world, client = pair(net=CRC)
    for offset in (0, MIB):
        assert write(client, offset, b"x" * BLOCK) == 0
    seen: list[str] = []
    begin = world.b._begin_disk

    def watched(effect: object) -> None:
        seen.append(type(effect).__name__)
        begin(effect)

    world.b._begin_disk = watched  # type: ignore[method-assign]
    assert wait(client, client.zero(0, BLOCK), client.trim(MIB, BLOCK)) == [0, 0]
    assert not sent(world.a, Packet.P_ZEROES) and len(sent(world.a, Packet.P_TRIM)) == 2
    assert seen.count("DiskZero") == 2 and "DiskDiscard" not in seen and world.copies_equal()


def test_the_offer_of_zeroes_is_withdrawn_only_with_an_algorithm() -> None:
    """Our P_CONNECTION_FEATURES."""
    for net, offered in ((CRC, FEATURES_KERNEL & ~Feature.WZEROES), (NetOptions(), FEATURES_KERNEL)):
        world = World(1, net=net)
        heard: list[int] = []
        receive = world.receive

        def listen(machine: Machine, socket: Socket, data: bytes, link: object, heard=heard, receive=receive) -> None:
            if not heard:
                heard.append(Features.decode(data[8:80]).feature_flags)
            receive(machine, socket, data, link)

        world.receive = listen  # type: ignore[method-assign]
        world.start()
        assert heard == [offered]


def update(protocol: WireProtocol = WireProtocol.C, alg: str = "") -> bytes:
    policy = int(AfterSb.DISCONNECT)
    return Protocol(int(protocol), policy, policy, policy, 0, 0, alg).encode()


def test_a_peer_that_changes_its_algorithm_is_left() -> None:
    """P_PROTOCOL_UPDATE with another name: what follows could not be read; ours must be configured, too."""
    world, _client = pair(net=CRC)
    say(world, world.b, Packet.P_PROTOCOL_UPDATE, update(alg="crc32c"))
    assert world.b.volume.state.conn == ConnState.Connected
    say(world, world.b, Packet.P_PROTOCOL_UPDATE, update(alg="sha1"))
    assert world.b.volume.state.conn == ConnState.StandAlone
    assert any("'sha1' now, ours is 'crc32c'" in line for line in world.b.log)


def test_a_peer_that_changes_its_protocol_is_served_as_it_asks() -> None:
    """Its writes say which acknowledgement they want."""
    world, client = pair()
    say(world, world.b, Packet.P_PROTOCOL_UPDATE, update(WireProtocol.A))
    assert any("protocol is A now" in line for line in world.b.log)
    assert write(client, 0, b"x" * BLOCK) == 0 and not world.protocol_errors
