"""Scenarios: the device grows while it is in use."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pydrbd.core import reads
from pydrbd.core.effects import Persist
from pydrbd.core.states import ConnState
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, order, pair, read, sent, state, wait, write
from tests.harness.world import Client, World

SEEDS = range(4)
SMALL, LARGE = 16 * MIB, 24 * MIB


def answer(world, machine, verb="resize", **arguments):
    """(code, words) of a command."""
    request = machine.command(verb, **arguments)
    world.run_until(lambda: request in machine.answers)
    return machine.answers[request]


def grow(*machines, size=LARGE):
    for machine in machines:
        machine.disks[0].grow(size)


def dirty_new_end(world, rng):
    """The new ends hold different things, as those of real disks do."""
    for machine in (world.a, world.b):
        disk = machine.disks[0]
        start = disk.known[0].md_sectors * 512
        for _ in range(20):
            disk.write(rng.randrange(start, disk.data_bytes, BLOCK), rng.randbytes(BLOCK))
        disk.flush()


def is_large(world):
    return all(machine.volume.size_bytes == machine.disks[0].data_bytes for machine in (world.a, world.b))


@pytest.mark.parametrize("who", ["primary", "secondary"])
@pytest.mark.parametrize("seed", SEEDS)
def test_both_disks_have_grown(seed: int, who: str) -> None:
    """Asked for on either side: both are large, the new end is resynced from the Primary, clients go on."""
    world, client = pair(seed)
    write(client, 0, b"a" * BLOCK)
    grow(world.a, world.b)
    dirty_new_end(world, random.Random(seed))
    busy = [client.write(offset * 5 * BLOCK, b"b" * BLOCK) for offset in range(200)]
    machine = world.a if who == "primary" else world.b
    assert answer(world, machine) == (1, "")
    assert wait(client, *busy) == [0] * 200
    world.run_until(lambda: is_large(world) and world.is_in_sync())
    world.settle()
    assert world.copies_equal() and not world.protocol_errors
    assert world.a.volume.uuids.masked() == world.b.volume.uuids.masked() and world.a.volume.uuids.bitmap == 0
    assert len(sent(world.a, Packet.P_SYNC_UUID)) == 1 and not sent(world.b, Packet.P_SYNC_UUID)
    end = world.a.volume.size_bytes - BLOCK
    newcomer = Client(world, world.a)
    assert write(newcomer, end, b"c" * BLOCK) == 0 and read(newcomer, end, BLOCK) == b"c" * BLOCK
    assert write(newcomer, end + BLOCK, b"c" * BLOCK) == 28
    world.settle()
    assert world.copies_equal()


@pytest.mark.parametrize("seed", SEEDS)
def test_assume_clean_sends_nothing(seed: int) -> None:
    """--assume-clean: both are large, nothing is out of sync, no resync."""
    world, _client = pair(seed)
    grow(world.a, world.b)
    assert order(world, world.a, "resize", assume_clean=True) == 1
    world.run_until(lambda: is_large(world))
    world.settle()
    assert world.is_in_sync() and not sent(world.a, Packet.P_SYNC_UUID)
    assert world.a.volume.out_of_sync_bits == world.b.volume.out_of_sync_bits == 0


def test_one_disk_is_not_enough() -> None:
    """The other one has not grown: the size stays, meta-data has moved; when it has, another resize is all."""
    world, client = pair()
    before = world.a.volume.size_bytes
    grow(world.a)
    assert order(world, world.a, "resize") == 1
    world.settle()
    assert world.a.volume.size_bytes == world.b.volume.size_bytes == before and world.is_in_sync()
    assert world.a.disks[0].superblock().current_uuid == world.a.volume.uuids.current
    assert write(client, 0, b"x" * BLOCK) == 0
    grow(world.b)
    assert order(world, world.b, "resize") == 1
    world.run_until(lambda: is_large(world) and world.is_in_sync())
    assert world.copies_equal()


def test_a_size_may_be_asked_for() -> None:
    """--size: both take it over; a larger one later; a smaller one is refused and changes nothing."""
    world, _client = pair()
    grow(world.a, world.b)
    first = 20 * MIB // 512
    assert order(world, world.a, "resize", size_sectors=first) == 1
    world.run_until(lambda: world.a.volume.size_sectors == world.b.volume.size_sectors == first)
    world.run_until(world.is_in_sync)
    assert world.b.volume.options.size_sectors == first
    code, words = answer(world, world.a, size_sectors=first - 8)
    assert code == 0 and words.startswith("Failure: (170) Implicit device shrinking not allowed.")
    assert world.a.volume.size_sectors == first and world.a.volume.options.size_sectors == first
    assert order(world, world.a, "resize") == 1
    world.run(1)
    assert world.a.volume.size_sectors == first, "the size that was asked for last stays in force"
    assert order(world, world.a, "resize", size_sectors=0) == 1
    world.run_until(lambda: is_large(world) and world.is_in_sync())


def test_a_size_that_no_disk_has_room_for_is_told() -> None:
    """Granted, as with a kernel, which only logs it; the answer says whose disk is too small, and what to do."""
    world, _client = pair()
    before = world.a.volume.size_sectors
    wanted = before + 8
    more = "make it larger and resize again"
    assert answer(world, world.a, size_sectors=wanted) == (
        1, f"volume 0: {wanted} sectors are wanted, this disk has room for {before}: {more}"
    )  # fmt: skip
    assert any("this disk has room for" in line for line in world.a.log)
    grow(world.a)
    assert answer(world, world.a, size_sectors=wanted) == (
        1,
        f"volume 0: {wanted} sectors are wanted, the peer's disk has room for {before}: unless it has grown meanwhile, "
        + more,
    )
    world.settle()
    assert world.a.volume.size_sectors == before
    grow(world.b)
    assert answer(world, world.a, size_sectors=wanted)[0] == 1
    world.run_until(lambda: world.a.volume.size_sectors == world.b.volume.size_sectors == wanted)
    world.run_until(world.is_in_sync)
    assert answer(world, world.a, size_sectors=wanted) == (1, "")


def test_refusals_are_the_kernels() -> None:
    """No disk, two Secondaries, a resync that is running."""
    world, client = pair()
    assert order(world, world.b, "detach") == 1
    assert answer(world, world.b)[1] == "Failure: (138) Device does not have a disk-config"
    assert order(world, world.b, "attach") == 1
    world.run_until(world.is_in_sync)
    assert order(world, world.b, "invalidate") == 1
    assert world.a.volume.state.conn > ConnState.Connected
    assert answer(world, world.a)[1] == "Failure: (130) Resize not allowed during resync."
    world.run_until(world.is_in_sync)
    assert order(world, world.a, "secondary", force=True) == 1
    world.run(1)
    for machine in (world.a, world.b):
        assert answer(world, machine)[1] == "Failure: (131) Need one Primary node to resize."
    assert client


def test_alone_it_needs_to_be_said_that_the_peer_has_space() -> None:
    """--assume-peer-has-space grows a Primary without its peer; when that returns, as large, what is new is sent."""
    world, client = pair()
    world.b.stop()
    world.run(1)
    grow(world.a, world.b)
    before = world.a.volume.size_sectors
    assert order(world, world.a, "resize") == 1
    assert world.a.volume.size_sectors == before
    assert order(world, world.a, "resize", assume_peer_has_space=True) == 1
    assert world.a.volume.size_bytes == world.a.disks[0].data_bytes
    assert write(client, world.a.volume.size_bytes - BLOCK, b"x" * BLOCK) == 0
    world.b.start()
    world.run_until(lambda: world.is_in_sync() and is_large(world))
    world.settle()
    assert world.copies_equal()


def test_a_peer_that_is_too_small_after_that_is_refused() -> None:
    """It was said that it has space, and it has not: the larger one, with good data, does not shrink."""
    world, _client = pair()
    world.b.stop()
    world.run(1)
    grow(world.a)
    assert order(world, world.a, "resize", assume_peer_has_space=True) == 1
    world.b.start()
    world.run_until(lambda: world.a.volume.state.conn == ConnState.StandAlone)
    assert world.a.volume.size_bytes == world.a.disks[0].data_bytes


@pytest.mark.parametrize("diskless", ["primary", "secondary"])
def test_a_node_without_its_disk_holds_the_size(diskless: str) -> None:
    """One disk is detached: the other one has grown, the device has not."""
    world, client = pair()
    bare, other = (world.a, world.b) if diskless == "primary" else (world.b, world.a)
    assert order(world, bare, "detach") == 1
    before = world.a.volume.size_bytes
    grow(other)
    assert order(world, other, "resize") == 1
    world.settle()
    assert world.a.volume.size_bytes == world.b.volume.size_bytes == before
    assert write(client, 0, b"x" * BLOCK) == 0
    grow(bare)
    assert order(world, bare, "attach") == 1
    world.run_until(lambda: is_large(world) and world.is_in_sync())
    world.settle()
    assert world.copies_equal()


def test_hot_extents_move_with_the_log() -> None:
    """The Primary dies after its log has moved: what was hot before is marked, and the copies become equal."""
    world, client = pair()
    grow(world.a, world.b)
    assert wait(client, *(client.write(extent * 4 * MIB, b"x" * BLOCK) for extent in range(3))) == [0] * 3
    assert order(world, world.a, "resize") == 1
    world.run_until(lambda: is_large(world) and world.is_in_sync())
    world.a.lose_power(world.rng)
    world.a.start()
    world.run_until(world.is_in_sync)
    assert any("3 activity log extents" in line for line in world.a.log)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", range(40))
def test_power_failure_at_any_moment_of_a_resize(seed: int) -> None:
    """One node or both: the disks can be attached again, the copies become equal, nothing acknowledged is lost."""
    rng = random.Random(seed)
    world, client = pair(seed)
    size = SMALL + rng.choice([BLOCK, 5 * BLOCK, 9 * BLOCK, 10 * BLOCK, 11 * BLOCK, MIB, 8 * MIB])
    offsets = [extent * 4 * MIB + rng.randrange(0, 64, 4) * BLOCK for extent in range(4)]
    cookies = [client.write(offset, bytes([seed + 1]) * BLOCK, fua=True) for offset in offsets]
    grow(world.a, world.b, size=size)
    (world.a if rng.random() < 0.5 else world.b).command("resize")
    world.run(rng.uniform(0, 0.03))
    victims = rng.choice([(world.a,), (world.b,), (world.a, world.b)])
    for machine in victims:
        machine.lose_power(world.rng)
    done = [offset for offset, cookie in zip(offsets, cookies, strict=True) if client.replies.get(cookie) == (0, b"")]
    for machine in victims:
        machine.start()
    world.run_until(world.is_in_sync)
    assert not world.protocol_errors
    if world.a.volume.state.role.name == "Secondary":
        assert order(world, world.a, "primary") == 1
    assert order(world, world.a, "resize") == 1
    world.run_until(lambda: is_large(world) and world.is_in_sync())
    world.settle()
    assert all(machine.disks[0].image[offset] == seed + 1 for machine in (world.a, world.b) for offset in done)


def test_two_volumes_grow_each_by_itself() -> None:
    """RES/VNR names one; without it, all."""
    world = World(1, volumes=2)
    world.start_in_sync()
    for machine in (world.a, world.b):
        for disk in machine.disks.values():
            disk.grow(LARGE)
    assert order(world, world.a, "resize", volume=1) == 1
    world.run_until(lambda: world.b.node.volumes[1].size_bytes == world.b.disks[1].data_bytes)
    assert not is_large(world)
    world.run_until(world.is_in_sync)
    assert order(world, world.a, "resize") == 1
    world.run_until(lambda: is_large(world) and world.is_in_sync())
    assert state(world.b, 1).startswith("Connected")


def shrink(world: World, machine: Any, sectors: int) -> tuple[int, str]:
    return answer(world, machine, size_sectors=sectors, assume_peer_has_space=True)


@pytest.mark.parametrize("seed", range(4))
def test_a_device_shrinks_when_it_is_asked_to(seed: int) -> None:
    """Both are smaller at once; what was beyond is refused; the rest stays, also over a crash."""
    world, client = pair(seed)
    assert write(client, 0, b"a" * BLOCK) == 0 and write(client, 12 * MIB, b"b" * BLOCK) == 0
    assert wait(client, client.flush()) == [0]
    world.run(2)
    sectors = 8 * MIB // 512
    assert shrink(world, world.a, sectors)[0] == 1
    world.run_until(lambda: world.a.volume.size_sectors == world.b.volume.size_sectors == sectors)
    assert world.is_in_sync()
    assert write(client, 12 * MIB, b"c" * BLOCK) == 28 and wait(client, client.read(12 * MIB, BLOCK)) == [22]
    assert write(client, 8 * MIB - BLOCK, b"d" * BLOCK) == 0
    world.a.lose_power(world.rng)
    world.run(1)
    world.disk_options["size_sectors"] = sectors  # as `size` in the configuration, without which it grows again
    world.a.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_a_shrunk_device_stays_so_while_its_size_is_configured() -> None:
    """A reconnect with the same words does not grow it; resize to 0 does, and the new end is synced."""
    world, _client = pair()
    world.run(2)
    sectors = 8 * MIB // 512
    assert shrink(world, world.a, sectors)[0] == 1
    world.run(1)
    world.cut()
    world.run_until(world.is_in_sync)
    assert world.a.volume.size_sectors == world.b.volume.size_sectors == sectors
    assert order(world, world.a, "resize", size_sectors=0) == 1
    world.run_until(lambda: world.a.volume.size_sectors > sectors and world.is_in_sync())
    assert world.copies_equal()


def test_a_shrink_is_refused_without_the_words_elsewhere_and_in_use() -> None:
    """Without --assume-peer-has-space, on a Secondary, and while a write beyond the new end is on record."""
    world, client = pair()
    world.run(2)
    before, sectors = world.a.volume.size_sectors, 8 * MIB // 512
    code, words = answer(world, world.a, size_sectors=sectors)
    assert code == 0 and "(170)" in words and "--size and --assume-peer-has-space" in words
    code, words = answer(world, world.a, assume_peer_has_space=True)
    assert code == 1 and world.a.volume.size_sectors == before
    code, words = shrink(world, world.b, sectors)
    assert code == 0 and "where it is Primary" in words
    assert write(client, 12 * MIB, b"b" * BLOCK) == 0
    code, words = shrink(world, world.a, sectors)
    assert code == 0 and "try again" in words
    world.run(2)
    assert shrink(world, world.a, sectors)[0] == 1
    assert before != world.a.volume.size_sectors == sectors


def test_alone_a_device_shrinks_and_its_peer_follows() -> None:
    """The peer meets a smaller device that has good data: it takes that size over."""
    world, client = pair()
    world.run(2)
    world.b.stop()
    world.run(1)
    sectors = 8 * MIB // 512
    assert shrink(world, world.a, sectors)[0] == 1
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.start()
    world.run(5)
    assert world.a.volume.size_sectors == sectors


def test_a_shrink_is_refused_between_the_pieces_of_long_zeroes() -> None:
    """What is still to be zeroed lies beyond the new end, though no piece does that is under way."""
    world, client = pair(size_bytes=128 * MIB)
    world.run(2)
    world.link_latency_s = 0.05
    cookie = client.zero(0, 100 * MIB)
    world.run(0.01)
    code, words = shrink(world, world.a, 64 * MIB // 512)
    assert code == 0 and "try again" in words and cookie not in client.replies
    assert wait(client, cookie) == [0]
    world.run(2)
    assert shrink(world, world.a, 64 * MIB // 512)[0] == 1
    world.run(2)
    assert world.is_in_sync() and not world.protocol_errors


def test_reads_that_wait_while_the_device_shrinks_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one is under way to the peer when the end moves: the others are refused, as those that come later."""
    world, client = pair(disk={"read_balancing": "prefer-remote"})
    world.run(2)
    world.link_latency_s = 0.02
    monkeypatch.setattr(reads, "READ_BYTES_IN_FLIGHT_MAX", BLOCK)
    cookies = [client.read(12 * MIB + n * BLOCK, BLOCK) for n in range(4)]
    assert shrink(world, world.a, 8 * MIB // 512)[0] == 1
    assert wait(client, *cookies)[1:] == [22] * 3
    world.run(2)
    assert world.is_in_sync() and not world.protocol_errors


# --- other stripes of the activity log ---


def stripes_of(machine):
    superblock = machine.disks[0].superblock()
    return superblock.al_stripes, superblock.al_stripe_size_4k


def equal(world):
    size = world.a.volume.size_bytes
    assert world.b.volume.size_bytes == size
    return world.a.disks[0].image[:size] == world.b.disks[0].image[:size]


@pytest.mark.parametrize("seed", SEEDS)
def test_other_stripes_while_clients_write(seed: int) -> None:
    """On one node, with room for them: the log goes on in them, after a crash too; clients notice nothing."""
    world, client = pair(seed)
    grow(world.a)  # the peer's disk has not: the device stays as it is
    busy = [client.write(offset * 5 * BLOCK, b"b" * BLOCK) for offset in range(100)]
    assert answer(world, world.a, al_stripes=4, al_stripe_size_kib=64) == (1, "")
    busy += [client.write(offset * 7 * BLOCK, b"c" * BLOCK) for offset in range(100)]
    assert stripes_of(world.a) == (4, 16) and stripes_of(world.b) == (1, 8)
    assert wait(client, *busy) == [0] * 200
    client.write(3 * MIB, b"d" * BLOCK)
    world.run(0.001)
    world.a.lose_power(world.rng)
    world.a.start()
    world.run_until(world.is_in_sync)
    world.settle()
    assert equal(world) and stripes_of(world.a) == (4, 16) and not world.protocol_errors


def test_back_to_fewer_gives_the_room_to_the_device() -> None:
    """One number alone leaves the other as it is; on both, the device grows by what the log gave up."""
    world, client = pair()
    grow(world.a, world.b)
    for machine in (world.a, world.b):
        assert answer(world, machine, al_stripes=8) == (1, "")
        assert stripes_of(machine) == (8, 8)
        world.settle()
        world.run_until(world.is_in_sync)
    large = world.a.volume.size_sectors
    for machine in (world.a, world.b):
        assert answer(world, machine, al_stripes=1) == (1, "")
        world.settle()
        world.run_until(world.is_in_sync)
    world.run_until(lambda: world.is_in_sync() and world.b.volume.size_sectors > large)
    world.settle()
    assert world.a.volume.size_sectors == large + 7 * 8 * 8
    assert write(client, large * 512, b"x" * BLOCK) == 0
    world.settle()
    assert equal(world) and not world.protocol_errors


def test_the_same_stripes_change_nothing() -> None:
    world, _client = pair()
    before = bytes(world.a.disks[0].image)
    assert answer(world, world.a, al_stripes=1, al_stripe_size_kib=32) == (1, "")
    assert bytes(world.a.disks[0].image) == before


def test_refusals_of_stripes() -> None:
    """No room, too long a log, too short a one for itself or for al-extents, no peer to hear of it."""
    world, _client = pair()
    before = bytes(world.a.disks[0].image)
    for arguments, words in (
        ({"al_stripes": 4}, "Failure: (169) Resulting layout does not fit into the device: it leaves "),
        ({"al_stripes": 900}, "Failure: (169) Resulting layout does not fit into the device: "),
        ({"al_stripes": 1024, "al_stripe_size_kib": 1 << 24}, "Failure: (167) Resulting AL area too big"),
        ({"al_stripe_size_kib": 4}, "Failure: (168) Resulting AL are too small"),
    ):
        code, text = answer(world, world.a, **arguments)
        assert code == 0 and text.startswith(words), text
    world.b.stop()
    world.run(1)
    code, text = answer(world, world.a, al_stripes=2)
    assert (code, text) == (0, "Failure: (166) DRBD need to be connected for online MD layout change")
    assert bytes(world.a.disks[0].image)[-BLOCK:] != b"" and stripes_of(world.a) == (1, 8)
    assert len(before) == len(world.a.disks[0].image)
    grow(world.a)
    assert answer(world, world.a, al_stripes=2, assume_peer_has_space=True) == (1, "")
    assert stripes_of(world.a) == (2, 8)


def test_a_log_too_short_for_al_extents_is_refused() -> None:
    """The slots that are in force must have room in it."""
    world, _client = pair()
    grow(world.a)
    assert answer(world, world.a, al_stripes=8) == (1, "")
    log = world.a.volume.disk.log
    log._slot_count = 7000  # as if al-extents were that large
    code, text = answer(world, world.a, al_stripes=1)
    log._slot_count = 1237
    assert code == 0 and text.startswith("Failure: (168) Resulting AL are too small (it has room for al-extents 6433")


def test_a_clean_bit_that_a_new_size_writes_rests_on_durable_data() -> None:
    """A peer that grows in the middle of a resync: what is clean by then is on the disk before the bitmap says so."""
    world, _client = pair()
    node, volume = world.b.node, world.b.volume
    assert node is not None and volume.disk is not None
    volume.disk.bitmap.set_range(0, BLOCK)
    volume.disk.bitmap.clear_range(0, BLOCK)
    node.peers.set_size(volume, volume.size_sectors + 8)
    (persist,) = [effect for effect in node.out.take() if isinstance(effect, Persist)]
    pages, superblock = persist.stages
    assert pages.flush_data and pages.writes and superblock.writes
