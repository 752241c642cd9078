"""Scenarios: a thin resync leaves holes where the source has zeroes, and the copies are equal all the same."""

from __future__ import annotations

from typing import Any

import pytest

from pydrbd.core import effects as fx
from pydrbd.core.effects import Socket
from pydrbd.core.events import Done
from pydrbd.core.handshake import NetOptions
from pydrbd.core.resync_pace import PaceOptions
from pydrbd.core.states import ConnState
from pydrbd.wire.framing import encode_packet
from pydrbd.wire.packet_numbers import Feature
from pydrbd.wire.packets import BlockDesc, Packet
from tests.harness.scene import BLOCK, MIB, order, pair, sent, sent_bytes, wait, write
from tests.harness.world import Client, Machine, World

KIB = 1024
GRANULARITY = 64 * KIB
SIZE = 8 * MIB + 4608
SEEDS = range(4)


class Watch:
    """What the machines do to their disks and say to each other."""

    def __init__(self, world: World) -> None:
        self.read_bytes = self.discarded_bytes = 0
        self.discards = 0
        world.observer = self

    def on_effect(self, machine: Machine, effect: Any) -> None:
        match effect:
            case fx.DiskRead() | fx.DiskSend():
                self.read_bytes += sum(effect.batch.records[i].length for i in range(effect.batch.count))
            case fx.DiskDiscard():
                self.discards += 1
                self.discarded_bytes += effect.length_bytes

    def on_event(self, machine: Machine, event: Any) -> None: ...


def thin(seed: int = 1, granularity: int = GRANULARITY, **options: Any) -> tuple[World, Client]:
    """A pair in sync whose source has one MiB of data in the middle, and whose target must forget what it has."""
    disk = {"rs_discard_granularity_bytes": granularity, **options.pop("disk", {})}
    world, client = pair(seed, size_bytes=SIZE, disk=disk, **options)
    assert write(client, 4 * MIB, b"d" * MIB) == 0
    for offset in (0, 3 * MIB, SIZE - 65536 - 8192):
        world.b.disks[0].write(offset, b"?" * 8192)
    return world, client


def resync(world: World, target: Machine) -> None:
    assert order(world, target, "invalidate") == 1
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("knows", [False, True])
@pytest.mark.parametrize("granularity", [4096, GRANULARITY, MIB])
def test_where_the_source_has_zeroes_the_target_gets_a_hole(granularity: int, knows: bool) -> None:
    """What is sent is the data, and the end that is shorter than the granularity; a source that knows its holes does
    not read them."""
    world, _ = thin(granularity=granularity)
    world.a.disks[0].has_holes = knows
    watch = Watch(world)
    resync(world, world.b)
    size = world.a.volume.size_bytes
    tail = size % granularity
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == MIB + (tail // BLOCK * BLOCK + 512 * (tail % BLOCK > 0) or 0)
    assert watch.discarded_bytes == size - tail - MIB
    assert len(sent(world.b, Packet.P_RS_THIN_REQ)) == size // granularity
    assert (watch.read_bytes < size) == knows


@pytest.mark.parametrize("seed", SEEDS)
def test_writes_during_a_thin_resync_end_on_both_nodes(seed: int) -> None:
    """B6: the source writes into its holes, and makes new ones, while they are looked for: nothing is undone."""
    world, client = thin(seed)
    world.a.disks[0].has_holes = seed % 2 == 0
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    world.link_latency_s = 0.01
    cookies = []
    for n in range(200):
        offset = n * 37 % 900 * 8192
        cookies.append(client.trim(offset, 65536) if n % 3 == 0 else client.write(offset, bytes([n % 250 + 1]) * 2048))
        world.run(0.001)
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("seed", SEEDS)
def test_the_target_of_a_thin_resync_may_be_primary(seed: int) -> None:
    """Its own writes are not lost in holes that come later."""
    world, client = thin(seed)
    assert order(world, world.a, "invalidate") == 1
    cookies = [client.write(n * 40960, bytes([n % 250 + 3]) * 2048) for n in range(200)]
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("seed", SEEDS)
def test_a_target_that_loses_power_in_a_thin_resync_finishes_it(seed: int) -> None:
    """B7, B8: what was discarded and not flushed is asked for again."""
    world, _ = thin(seed)
    world.link_latency_s = 0.005
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.counters.resynced > 0)
    world.b.lose_power(world.rng)
    world.run(1)
    world.b.start()
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


def test_a_discard_that_fails_costs_the_target_its_disk() -> None:
    """And the source hears of it: nothing that failed counts as in sync."""
    world, _ = thin()

    class Failing(Watch):
        def on_effect(self, machine: Machine, effect: Any) -> None:
            if isinstance(effect, fx.DiskDiscard):
                machine.disks[0].fail_writes = True

    Failing(world)
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.state.disk.name == "Diskless")
    world.run(1)
    assert world.a.volume.state.conn == ConnState.Connected and not world.protocol_errors
    assert world.a.volume.out_of_sync_bits


def test_a_disk_that_goes_while_holes_are_looked_for_is_not_read() -> None:
    """The source detaches in between: what it would read then is nobody's answer."""
    world, _ = thin()
    seen: list[Any] = []

    class Detaching(Watch):
        def on_event(self, machine: Machine, event: Any) -> None:
            if isinstance(event, Done) and isinstance(event.effect, fx.MapDisk):
                seen.append(event)

        def on_effect(self, machine: Machine, effect: Any) -> None:
            if isinstance(effect, fx.MapDisk) and not seen:
                seen.append(effect)
                machine.command("detach", force=True)
            assert not (isinstance(effect, fx.DiskRead) and machine.volume.disk is None)

    Detaching(world)
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.a.volume.state.disk.name == "Diskless")
    world.run(1)
    assert len(seen) >= 2 and not world.protocol_errors


@pytest.mark.parametrize("why", ["off", "a peer that can't", "checksums"])
def test_a_resync_is_not_thin(why: str) -> None:
    """Without the option; with a peer that does not know it (8.4.6 and earlier); with checksums, which go first."""
    net = NetOptions(csums_alg="md5") if why == "checksums" else NetOptions()
    world, _ = thin(granularity=0 if why == "off" else GRANULARITY, net=net)
    if why == "a peer that can't":
        assert world.b.node is not None and world.b.node.links.handshake is not None
        world.b.node.links.handshake.features &= ~Feature.THIN_RESYNC
    resync(world, world.b)
    assert not sent(world.b, Packet.P_RS_THIN_REQ) and not sent(world.a, Packet.P_RS_DEALLOCATED)


@pytest.mark.parametrize("pace", [PaceOptions(fixed_kib_s=2048), PaceOptions(max_kib_s=2048)])
def test_a_thin_resync_keeps_to_its_pace(pace: PaceOptions) -> None:
    """A request is as long as the granularity though a step is worth less: the rest is owed."""
    world, _ = thin(granularity=MIB, disk={"pace": pace})
    began = world.now
    resync(world, world.b)
    assert 3 < world.now - began < 7
    assert sent(world.b, Packet.P_RS_THIN_REQ)


def test_a_granularity_is_a_power_of_two_that_the_peer_takes() -> None:
    """96 KiB becomes 128, and no request is longer than the peer's longest."""
    world, _ = thin(granularity=96 * KIB)
    running = world.b.volume
    assert world.b.node is not None
    begun = world.b.node.resync.begin(running)
    ask = world.b.node.resync.thin.request_bytes
    assert ask(running, begun) == 128 * KIB
    running.peer.request_bytes_max = 127 * KIB + 512
    assert ask(running, begun) == 64 * KIB


def test_a_hole_that_was_not_asked_for_costs_the_link_and_no_data() -> None:
    """D1: P_RS_DEALLOCATED for a plain request would make a hole where the source has data."""
    world, client = thin(granularity=0)
    world.link_latency_s = 0.05
    assert write(client, 0, b"x" * BLOCK) == 0
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    assert world.b.node is not None and world.link is not None
    request = next(iter(world.b.node.resync._running[0].requests.values()))
    lie = BlockDesc(request.offset_bytes // 512, request.length_bytes).encode()
    world.receive(world.b, Socket.DATA, encode_packet(Packet.P_RS_DEALLOCATED, lie, apv=101, volume=0), world.link)
    assert len(world.protocol_errors) == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()
