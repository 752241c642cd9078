"""Scenarios: an online verify finds what differs, all of it and nothing else, while the device is in use."""

from __future__ import annotations

import random
from dataclasses import replace
from errno import EIO
from typing import Any

import pytest

from pydrbd import native
from pydrbd.core import handshake
from pydrbd.core.effects import DiskRead
from pydrbd.core.events import Done, Received
from pydrbd.core.handshake import NetOptions
from pydrbd.core.snapshot import snapshot
from pydrbd.core.states import ConnState
from pydrbd.limits import VERIFY_IN_FLIGHT_BLOCKS_MAX
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, order, pair, sent, sent_bytes, state, wait, write
from tests.harness.world import Client, Machine, World

NET = NetOptions(verify_alg="crc32c")
SIZE = 8 * MIB + 4608


@pytest.fixture(autouse=True, params=["pieces", "blocks"])
def unit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is compared by one digest: both nodes say that they know of pieces, or none does, as a kernel doesn't."""
    if request.param == "blocks":
        monkeypatch.setattr(handshake, "_VERIFIES_PIECES", 0)
    return str(request.param)


def verifying(seed: int = 1, size_bytes: int = SIZE, **options: Any) -> tuple[World, Client]:
    return pair(seed, size_bytes=size_bytes, net=NET, **options)


def damage(machine: Machine, *blocks: int) -> None:
    """Change these blocks behind DRBD's back."""
    for block in blocks:
        offset = block * BLOCK
        machine.disks[0].write(offset, b"bad" + bytes(min(BLOCK, machine.volume.size_bytes - offset) - 3))
    machine.disks[0].flush(machine.disks[0].sequence)


def over(world: World) -> bool:
    return {world.a.volume.state.conn, world.b.volume.state.conn} == {ConnState.Connected}


def marked(machine: Machine) -> list[int]:
    disk = machine.volume.disk
    assert disk is not None
    return [bit for first, count in disk.bitmap.runs() for bit in range(first, first + count)]


def verify(world: World, machine: Machine, **where: int) -> None:
    assert order(world, machine, "verify", **where) == 1
    world.run_until(lambda: over(world))


def lines(machine: Machine, text: str) -> list[str]:
    return [line for line in machine.log if text in line]


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("seed", range(2))
def test_what_differs_is_found_marked_told_and_repaired(seed: int, name: str) -> None:
    """From either side: both mark the same blocks, say so in DRBD's words; disconnect and connect copies just them."""
    world, client = verifying(seed)
    assert write(client, 0, b"1" * MIB) == 0 and wait(client, client.flush()) == [0]
    last = (world.a.volume.size_bytes - 1) // BLOCK
    damaged = [3, 700, 701, 702, last]
    damage(world.b, *damaged)
    verify(world, getattr(world, name))
    assert marked(world.a) == marked(world.b) == damaged
    for machine in (world.a, world.b):
        tail = (machine.volume.size_bytes - last * BLOCK) // 512
        assert [line.split(": ", 1)[1] for line in lines(machine, "Out of sync")] == [
            "Out of sync: start=24, size=8 (sectors)",
            "Out of sync: start=5600, size=24 (sectors)",
            f"Out of sync: start={last * 8}, size={tail} (sectors)",
        ]
        assert lines(machine, "Online verify found 5 4k block out of sync!")
    assert order(world, world.b, "disconnect") == 1
    world.run(1)
    assert order(world, world.b, "connect") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and not marked(world.a) and not marked(world.b)
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) == 4 * BLOCK + tail * 512
    verify(world, world.a)
    assert not marked(world.a) and not world.protocol_errors


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("seed", range(5))
def test_writes_go_on_and_are_never_taken_for_differences(seed: int, name: str) -> None:
    """The Primary writes all over the device while it is verified: nothing is found, everything is written."""
    world, client = verifying(seed)
    world.link_latency_s = 0.003
    rng = random.Random(seed)
    request = getattr(world, name).command("verify")
    cookies = []
    while not cookies or not (over(world) and request in getattr(world, name).answers and len(cookies) > 40):
        offset = rng.randrange(0, world.a.volume.size_bytes - 8192, 512)
        cookies.append(client.write(offset, rng.randbytes(512 * rng.randrange(1, 16))))
        world.run(rng.choice([0.0, 0.001, 0.004]))
    assert set(wait(client, *cookies)) == {0}
    world.run(1)
    assert not marked(world.a) and not marked(world.b) and world.copies_equal()
    assert lines(world.a, "Online verify done") and lines(world.b, "Online verify done")
    assert not world.protocol_errors


@pytest.mark.parametrize("starter", ["a", "b"])
@pytest.mark.parametrize("seed", range(3))
def test_roles_may_change_during_a_verify(seed: int, starter: str) -> None:
    """The Primary goes, the other one comes and writes: no difference is found, and nobody waits for ever."""
    world, client = verifying(seed)
    world.link_latency_s = 0.004
    assert order(world, getattr(world, starter), "verify") == 1
    cookies = [client.write(n * 40960, b"1" * BLOCK) for n in range(100)]
    world.run(0.02)
    assert order(world, world.a, "secondary", force=True) == 1
    world.run_until(lambda: world.b.volume.state.peer.name == "Secondary")
    assert order(world, world.b, "primary") == 1
    other = Client(world, world.b)
    cookies = [other.write(n * 12288 + 512, b"2" * 2048) for n in range(300)]
    assert set(wait(other, *cookies)) == {0}
    world.run_until(lambda: over(world))
    world.run(1)
    assert not marked(world.a) and not marked(world.b) and world.copies_equal() and not world.protocol_errors


def test_a_part_of_the_device_is_verified(unit: str) -> None:
    """--start and --stop in sectors, rounded to blocks; what is outside is not looked at."""
    world, _ = verifying()
    damage(world.b, 99, 100, 199, 200)
    verify(world, world.a, start_sector=803, stop_sector=1593)
    assert marked(world.a) == marked(world.b) == [100, 199]
    asked = [100] if unit == "blocks" else [28, 64, 8, 28, 8]  # those with a block that differs twice, and in blocks
    assert sum(sent(world.a, Packet.P_OV_REQUEST)) == sum(asked) * BLOCK
    assert lines(world.a, "Starting Online Verify from sector 800")
    assert lines(world.b, "Online Verify start sector: 800")
    verify(world, world.a)  # goes on where the last one stopped
    assert marked(world.a) == [100, 199, 200]
    verify(world, world.a)  # and then from the beginning again
    assert marked(world.a) == [99, 100, 199, 200]


def test_a_start_behind_the_end_looks_at_the_last_block() -> None:
    """As the kernel does; and a stop before the start at one block."""
    world, _ = verifying()
    last = (world.a.volume.size_bytes - 1) // BLOCK
    damage(world.b, 7, last)
    verify(world, world.a, start_sector=1 << 40)
    assert marked(world.b) == [last]
    verify(world, world.a, start_sector=56, stop_sector=8)
    assert marked(world.b) == [7, last]


@pytest.mark.parametrize("how", ["cut", "crash", "disconnect"])
def test_a_verify_that_is_cut_off_keeps_what_it_found_and_goes_on_there(how: str) -> None:
    """The marks survive; nobody is left waiting; the next verify begins where this one was."""
    world, client = verifying(size_bytes=24 * MIB)
    world.link_latency_s = 0.05
    damage(world.b, 1, 5000)
    assert order(world, world.a, "verify") == 1
    world.run_until(lambda: world.a.node.verify.progress(world.a.volume).next_bit > 300)  # type: ignore[union-attr]
    cookie = client.write(300 * BLOCK, b"w" * MIB)
    if how == "crash":
        world.b.lose_power(world.rng)
        world.b.start()
    elif how == "cut":
        world.cut()
    else:
        assert order(world, world.a, "disconnect", force=True) == 1
        world.run(1)
        assert order(world, world.a, "connect") == 1
    assert wait(client, cookie) == [0]
    assert lines(world.a, "Online Verify reached sector")
    world.run_until(world.is_in_sync)
    assert not marked(world.a)  # the block that was found first has been repaired on the way
    start = world.a.node.verify._next_start[0]  # type: ignore[union-attr]
    assert 300 <= start < 5000
    verify(world, world.a)
    assert marked(world.a) == marked(world.b) == [5000]
    assert not world.protocol_errors


@pytest.mark.parametrize("seed", range(3))
def test_one_that_is_cut_off_leaves_nothing_out(seed: int) -> None:
    """Results come in any order: the next verify begins at the first block that has none."""
    world, _ = verifying(seed, size_bytes=24 * MIB)
    world.link_latency_s = 0.05
    assert order(world, world.a, "verify") == 1
    world.run_until(lambda: world.a.node.verify.progress(world.a.volume).settled_bits > 300)  # type: ignore[union-attr]
    running = world.a.node.verify.running(world.a.volume)  # type: ignore[union-attr]
    first = min(running.blocks) // BLOCK  # type: ignore[union-attr]
    assert first < running.progress.settled_bits  # type: ignore[union-attr]
    world.cut()
    world.run_until(world.is_in_sync)
    assert lines(world.a, f"Online Verify reached sector {first * 8}")
    damage(world.b, first)
    verify(world, world.a)
    assert marked(world.a) == marked(world.b) == [first]


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("block", [0, 70])
def test_a_block_that_can_not_be_read_counts_as_different(name: str, block: int) -> None:
    """With pass_on the disk stays; what is in memory then is not the block, though it may look like it."""
    world, _ = verifying(disk={"on_io_error": "pass_on"})
    machine = getattr(world, name)
    feed = machine.feed

    def failing(event: Any) -> None:
        if isinstance(event, Done) and isinstance(event.effect, DiskRead):
            for index in native.indices(event.effect.mask):
                record = event.effect.batch.records[index]
                if record.offset <= block * BLOCK < record.offset + record.length:
                    event = Done(event.effect, 1 << index, EIO)
        feed(event)

    machine.feed = failing  # type: ignore[method-assign]
    verify(world, world.a)
    assert marked(world.a) == marked(world.b) == [block]
    assert machine.volume.state.disk.name == "UpToDate" and not world.protocol_errors


def test_a_piece_that_is_asked_for_again_must_be_smaller(unit: str) -> None:
    """What has no answer yet can't be asked for in parts, nor what has one for the whole."""
    world, _ = verifying()
    world.link_latency_s = 0.02
    assert order(world, world.a, "verify") == 1
    world.run_until(lambda: bool(sent(world.b, Packet.P_OV_REPLY)))
    running = world.a.node.verify.running(world.a.volume)  # type: ignore[union-attr]
    world.a.node.verify._request(world.a.volume, *running.blocks[0])  # type: ignore[union-attr]
    world.run_until(lambda: bool(world.protocol_errors))
    assert "a verify request for 0, again" in world.protocol_errors[0]


def test_what_was_found_is_kept_over_a_restart() -> None:
    """The marks are on disk when the verify is over: after a power loss of both they are still there."""
    world, _ = verifying()
    damage(world.b, 10, 20)
    verify(world, world.a)
    world.run(1)
    for machine in (world.a, world.b):
        machine.disks[0].flush(machine.disks[0].sequence)
        machine.lose_power(world.rng)
        machine.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_a_difference_that_is_overwritten_is_none_any_more() -> None:
    """A write during the verify makes both copies the same, and takes back the mark."""
    world, client = verifying()
    world.link_latency_s = 0.05
    damage(world.b, 3)
    assert order(world, world.a, "verify") == 1
    world.run_until(lambda: marked(world.a) == [3])
    assert write(client, 3 * BLOCK, b"n" * BLOCK) == 0
    world.run_until(lambda: over(world))
    assert not marked(world.a) and not marked(world.b) and world.copies_equal()


def test_the_number_of_blocks_under_way_is_bounded() -> None:
    """A slow link: VerifyS never has more requests open than the limit says."""
    world, _ = verifying()
    world.link_latency_s = 0.2
    assert order(world, world.a, "verify") == 1
    most = 0
    while not over(world):
        world.run(0.01)
        running = world.a.node.verify.running(world.a.volume)  # type: ignore[union-attr]
        most = max(most, len(running.blocks) if running else 0)
    assert 0 < most <= VERIFY_IN_FLIGHT_BLOCKS_MAX


def test_the_status_shows_how_far_it_is() -> None:
    """On both sides, with what is left and what was found."""
    world, _ = verifying()
    world.link_latency_s = 0.05
    damage(world.b, 0)
    assert order(world, world.a, "verify") == 1
    world.run_until(lambda: bool(marked(world.b)))
    for machine in (world.a, world.b):
        assert machine.node is not None
        shown = snapshot(machine.node)["volumes"][0]
        assert shown["resync"] is None and shown["verify"]["found_bits"] == 1
        assert 0 < shown["verify"]["percent_done"] < 100
        assert shown["verify"]["left_bits"] < shown["verify"]["total_bits"] == -(-machine.volume.size_bytes // BLOCK)
    world.run_until(lambda: over(world))
    assert world.a.node is not None and snapshot(world.a.node)["volumes"][0]["verify"] is None


def test_a_verify_is_refused_where_there_is_nothing_to_compare() -> None:
    """No verify-alg (-14), no link (-15), a resync or a verify that runs (-8), no disk (-4, -5), no good data (-2)."""
    world, _ = pair()
    assert order(world, world.a, "verify") == -14
    world, _ = verifying()
    world.link_latency_s = 0.05
    assert order(world, world.a, "verify") == 1
    assert order(world, world.a, "verify") == -8 and order(world, world.b, "verify") == -8
    assert order(world, world.b, "invalidate") == -8
    world.run_until(lambda: over(world))
    assert order(world, world.b, "detach") == 1
    assert order(world, world.b, "verify") == -4
    world.run(1)
    assert order(world, world.a, "verify") == -5
    assert order(world, world.b, "attach") == 1
    world.run_until(world.is_in_sync)
    assert order(world, world.b, "disconnect") == 1
    assert order(world, world.b, "verify") == -15
    world = World(1, net=NET)
    world.start()
    assert order(world, world.a, "verify") == -2
    assert state(world.a) == "Connected Secondary/Secondary Inconsistent/Inconsistent"


@pytest.mark.parametrize("places", [{"start_sector": "0"}, {"stop_sector": -8}, {"start_sector": None}])
def test_places_that_are_no_sectors_are_refused(places: dict[str, Any]) -> None:
    """Whoever writes to the control socket may write anything."""
    world, _ = verifying()
    assert order(world, world.a, "verify", **places) == 0
    assert over(world) and not sent(world.a, Packet.P_OV_REQUEST)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_disk_that_fails_ends_the_verify(name: str) -> None:
    """Detached, as for any read error; the clients go on."""
    world, client = verifying()
    world.link_latency_s = 0.02
    assert order(world, world.a, "verify") == 1
    getattr(world, name).disks[0].fail_once.add("read")
    world.run_until(lambda: getattr(world, name).volume.state.disk.name == "Diskless")
    assert write(client, 0, b"x" * MIB) == 0
    world.run(2)
    assert over(world) and not world.protocol_errors
    assert write(client, MIB, b"x" * MIB) == 0


def test_every_volume_is_verified() -> None:
    """One after the other agreed on, then at the same time."""
    world = World(1, volumes=2, net=NET)
    world.start_in_sync()
    world.b.disks[1].write(5 * BLOCK, b"bad")
    assert order(world, world.b, "verify") == 1
    world.run_until(world.is_in_sync)
    assert world.a.node is not None
    assert [volume.out_of_sync_bits for volume in world.a.node.volumes.values()] == [0, 1]


@pytest.mark.parametrize("command", [Packet.P_OV_REPLY, Packet.P_OV_REQUEST, Packet.P_OV_RESULT])
@pytest.mark.parametrize("lie", ["twice", "elsewhere", "length"])
def test_a_peer_that_lies_in_a_verify_loses_the_link(command: Packet, lie: str) -> None:
    """Packets for what was not asked for, or twice, or of another length: ProtocolError, and nobody hangs."""
    world, client = verifying()
    world.link_latency_s = 0.02
    machine = world.b if command in (Packet.P_OV_REQUEST, Packet.P_OV_RESULT) else world.a
    damage(world.b, 1000)  # its piece is looked at block by block
    feed, lies = machine.feed, []

    def lying(event: Any) -> None:
        if isinstance(event, Received) and not lies:
            batch = event.batch
            places = [index for index in range(batch.count) if batch.records[index].command == command]
            if len(places) > 1:
                lies.append(lie)
                first, second = batch.records[places[0]], batch.records[places[1]]
                if lie == "twice":
                    second.offset = first.offset
                elif lie == "elsewhere":
                    second.offset = machine.volume.size_bytes - 512 if command != Packet.P_OV_REQUEST else 1 << 40
                else:
                    second.length = 512 if command == Packet.P_OV_REPLY else 1 << 20
        feed(event)

    machine.feed = lying  # type: ignore[method-assign]
    assert order(world, world.a, "verify") == 1
    cookies = [client.write(n * BLOCK, b"x" * BLOCK) for n in range(100)]
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    assert lies
    harmless = command == Packet.P_OV_RESULT and lie == "length"  # the length is known without it
    assert bool(world.protocol_errors) != harmless


@pytest.mark.parametrize("name", ["a", "b"])
def test_there_is_no_verify_while_both_are_primary(name: str) -> None:
    """Each would hold what the other's clients write to: refused before, cut off by a promotion, and nobody waits."""
    world, one = pair(size_bytes=SIZE, net=replace(NET, allow_two_primaries=True))
    world.link_latency_s = 0.004
    starter = getattr(world, name)
    assert order(world, starter, "verify") == 1
    world.run(0.02)
    assert order(world, world.b, "primary") == 1
    two, rng = Client(world, world.b), random.Random(1)
    cookies = []
    for n in range(100):
        client = rng.choice((one, two))
        cookies.append((client, client.write(rng.randrange(SIZE // BLOCK - 8) * BLOCK, bytes([n + 1]) * 8 * BLOCK)))
        world.run(0.0005)
    world.run_until(lambda: over(world))
    assert all(wait(client, cookie) == [0] for client, cookie in cookies)
    world.run(1)
    assert lines(starter, "Online Verify reached sector") and state(world.a) == state(world.b)
    assert not marked(world.a) and not marked(world.b)
    request = starter.command("verify")
    world.run(1)
    assert starter.answers[request][0] == -1 and "to be Secondary" in starter.answers[request][1]
    assert order(world, world.b, "secondary", force=True) == 1
    world.run(1)
    verify(world, starter)
    assert world.copies_equal() and not marked(world.a) and not world.protocol_errors


@pytest.mark.parametrize("seed", range(6))
def test_a_verify_and_a_promotion_at_the_same_time(seed: int) -> None:
    """Whichever comes first, the connection stands, and no verify goes on."""
    world, _client = pair(seed, size_bytes=SIZE, net=replace(NET, allow_two_primaries=True))
    world.link_latency_s = 0.01
    asked = getattr(world, "ab"[seed % 2])
    before = len(world.a.log)
    verify_request = asked.command("verify")
    world.run(seed // 2 * 0.008)
    promotion = world.b.command("primary")
    world.run(2)
    assert verify_request in asked.answers and promotion in world.b.answers
    if world.b.answers[promotion][0] != 1:
        assert order(world, world.b, "primary") == 1
    world.run(1)
    assert state(world.a) == state(world.b) == "Connected Primary/Primary UpToDate/UpToDate"
    assert "WFConnection" not in "".join(world.a.log[before:]) and not world.protocol_errors
