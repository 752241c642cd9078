"""Scenarios: requests that are not whole sectors, of clients that did not ask for our block sizes (core/unaligned)."""

from __future__ import annotations

import itertools
import random

import pytest

from pydrbd.core.handshake import NetOptions
from pydrbd.core.states import DiskState
from pydrbd.wire.nbd import Command, CommandFlag, NbdError
from pydrbd.wire.packets import Packet
from tests.core.test_scenarios_readers import reader
from tests.harness.scene import BLOCK, MIB, AtReply, order, pair, read, sent, wait, write
from tests.harness.world import Client, World

SEEDS = range(4)
AREA_BYTES = 6 * BLOCK


class Careless(Client):
    """It did not ask."""

    any_alignment = True


def careless(seed: int = 1) -> tuple[World, Careless]:
    world, _client = pair(seed, lanes=bool(seed % 2))
    return world, Careless(world, world.a)


def draw_range(rng: random.Random) -> tuple[int, int]:
    offset = rng.randrange(AREA_BYTES - 1)
    return offset, rng.randint(1, min(rng.choice((3, 600, 2 * BLOCK)), AREA_BYTES - offset))


@pytest.mark.parametrize("number", range(8))
def test_a_careless_client_finds_what_it_would_find_in_a_plain_file(number: int, seed: int) -> None:
    """Every command at any offset, one after the other, beside bytes in memory; both copies are the same."""
    rng = random.Random(seed + number)
    world, client = careless(number)
    model = bytearray(rng.randbytes(AREA_BYTES))
    assert write(client, 0, bytes(model)) == 0
    for _ in range(60):
        offset, length = draw_range(rng)
        end = offset + length
        match rng.choice(("read", "write", "zero", "trim", "cache")):
            case "read":
                assert read(client, offset, length) == model[offset:end]
            case "write":
                model[offset:end] = data = rng.randbytes(length)
                assert write(client, offset, data, fua=rng.random() < 0.3) == 0
            case "zero":
                model[offset:end] = bytes(length)
                assert wait(client, client.zero(offset, length)) == [0]
            case "trim":
                inside, inside_end = offset + -offset % 512, end - end % 512
                model[inside:inside_end] = bytes(max(0, inside_end - inside))
                assert wait(client, client.trim(offset, length)) == [0]
            case "cache":
                assert wait(client, *client.submit((Command.CACHE, 0, offset, bytes(length)))) == [0]
    assert read(client, 0, AREA_BYTES) == model
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("number", range(8))
def test_every_byte_belongs_to_who_wrote_it(number: int, seed: int) -> None:
    """Two clients, all at once: neighbours within a sector, a careful client's sectors, zeroes; nothing gets lost."""
    rng = random.Random(seed + number)
    world, client = careless(number)
    clients = [client, Careless(world, world.a)]
    borders = sorted({0, AREA_BYTES, *(rng.randrange(1, AREA_BYTES) for _ in range(80))})
    expected = bytearray(AREA_BYTES)
    pieces = list(itertools.pairwise(borders))
    rng.shuffle(pieces)
    cookies: dict[Client, list[int]] = {one: [] for one in clients}
    for start, end in pieces:
        one = rng.choice(clients)
        if rng.random() < 0.2:
            cookies[one].append(one.zero(start, end - start))
        else:
            expected[start:end] = data = rng.randbytes(end - start)
            cookies[one].append(one.write(start, data))
        if rng.random() < 0.3:
            world.run(rng.random() / 1000)
    assert all(set(wait(one, *some)) <= {0} for one, some in cookies.items())
    assert read(client, 0, AREA_BYTES) == expected and world.copies_equal()


@pytest.mark.parametrize("number", range(8))
def test_overlapping_writes_are_atomic_to_each_other(number: int, seed: int) -> None:
    """What two clients write to one place is in the end wholly the one's or wholly the other's, on both nodes."""
    rng = random.Random(seed + number)
    world, client = careless(number)
    other, careful = Careless(world, world.a), Client(world, world.a)
    first = other.write(100, b"a" * 3000)
    second = client.write(700, b"b" * 3000)
    third = careful.write(1024, b"c" * 512)
    world.run(rng.random() / 1000)
    fourth = other.write(1030, b"d" * 3)
    assert wait(other, first, fourth) == [0, 0] and wait(client, second) == [0] and wait(careful, third) == [0]
    found = read(client, 0, BLOCK)
    assert found == (
        bytes(100) + b"a" * 600 + b"b" * 324 + b"c" * 6 + b"ddd" + b"c" * 503 + b"b" * 2164 + bytes(BLOCK - 3700)
    )  # in the order they came: the range is held from the beginning
    assert world.copies_equal()


def test_it_is_answered_when_both_nodes_have_it_and_its_neighbours() -> None:
    """A2: at the moment of the reply both data areas hold whole sectors."""
    world, client = careless()
    assert write(client, 0, b"x" * BLOCK) == 0
    a, b = world.a.disks[0].data, world.b.disks[0].data
    wanted = b"x" * 500 + b"y" * 100 + b"x" * 424
    moment = AtReply(world, lambda: (a[:1024] == wanted, b[:1024] == wanted))
    assert write(client, 500, b"y" * 100) == 0
    assert moment.seen == [(True, True)]
    assert sent(world.a, Packet.P_DATA) == [BLOCK, 1024]


def test_a_long_write_is_rewritten_at_its_edges_only() -> None:
    """More than one P_DATA may carry: a sector at each end, and what lies inside as it is; one reply."""
    world, client = careless()
    assert write(client, 0, b"x" * 4 * MIB) == 0
    before = len(sent(world.a, Packet.P_DATA))
    data = random.Random(1).randbytes(2 * MIB + 300)
    assert write(client, 1000, data) == 0
    assert sorted(sent(world.a, Packet.P_DATA)[before:])[:2] == [512, 512]
    assert read(client, 0, 4 * MIB) == b"x" * 1000 + data + b"x" * (4 * MIB - 1000 - len(data))
    assert world.copies_equal()


def test_a_client_that_asked_is_held_to_the_answer() -> None:
    """EINVAL as before, also in a batch with good ones."""
    world, _careless = careless()
    client = Client(world, world.a)
    assert wait(client, *client.submit((1, 0, 1, b"x"), (1, 0, 0, b"x" * 512), (6, 0, 3, b"x"))) == [22, 0, 22]


def test_what_can_not_be_done_is_refused_without_whole_sectors_too() -> None:
    """The device's end, READs that are too long, zeroes that must be fast, a reader's writes; no length is nothing."""
    world, client = careless()
    size = world.a.volume.size_bytes
    fast = int(CommandFlag.FAST_ZERO)
    cookies = [
        client.write(size - 1, b"xx"), client.read(size - 1, 2), client.read(1, (32 << 20) + 1),
        client.submit((Command.WRITE_ZEROES, fast, 1, b"x"))[0], client.read(1, 0), client.write(1, b""),
    ]  # fmt: skip
    assert wait(client, *cookies) == [28, 22, 22, NbdError.ENOTSUP, 0, 0]
    one = reader(world, world.b)
    one.any_alignment = True  # type: ignore[attr-defined]
    assert write(client, size - 3, b"xyz") == 0
    assert read(one, size - 4, 4) == b"\0xyz" and wait(one, one.write(1, b"x")) == [1]


@pytest.mark.parametrize("broken", ["no disk", "a bad sector"])
def test_the_peer_helps_out_where_our_disk_can_not_be_read(broken: str) -> None:
    """The neighbours of what is written come from the good copy."""
    world, client = careless()
    assert write(client, 0, b"x" * BLOCK) == 0
    if broken == "no disk":
        assert order(world, world.a, "detach") == 1
    else:
        world.a.disks[0].fail_once.add("read")
    assert write(client, 510, b"yyyy") == 0
    assert world.a.volume.state.disk is DiskState.Diskless
    wanted = b"x" * 510 + b"yyyy" + b"x" * 510
    assert read(client, 0, 1024) == wanted and world.b.disks[0].data[:1024] == wanted


def test_without_a_good_copy_it_fails_and_lets_others_go_on() -> None:
    """EIO, and its range is free; the node can be demoted."""
    world, client = careless()
    world.b.lose_power(world.rng)
    world.run_until(lambda: not world.a.volume.state.connected)
    world.a.disks[0].fail_once.add("read")
    cookie, behind = client.write(510, b"yyyy"), client.write(512, b"z" * 512)
    assert wait(client, cookie, behind) == [5, 5]
    assert order(world, world.a, "secondary", force=True) == 1


@pytest.mark.parametrize("seed_", SEEDS)
def test_a_node_that_is_demoted_ends_what_it_has_begun_and_refuses_the_rest(seed_: int) -> None:
    """A write that has read its edges is still written, to both; after the word ESHUTDOWN, and nothing is written."""
    world, client = careless(seed_)
    begun = [client.write(at, b"y" * 700) for at in (100, 300, 5000)]
    request = world.a.command("secondary", force=True)
    late = [client.write(9000, b"z"), client.read(1, 1)]
    assert wait(client, *begun) == [0, 0, 0] and wait(client, *late) == [NbdError.ESHUTDOWN] * 2
    world.run_until(lambda: request in world.a.answers)
    assert world.a.answers[request][0] == 1 and world.copies_equal()
    assert world.b.disks[0].data[:1100] == bytes(100) + b"y" * 900 + bytes(100)
    assert not any(world.b.disks[0].data[9000:9001])


@pytest.mark.parametrize("number", range(8))
def test_a_crash_in_the_middle_leaves_the_neighbours_alone(number: int, seed: int) -> None:
    """Either node loses power at any moment: what was answered (FUA) is there, and what nobody wrote is as it was."""
    rng = random.Random(seed + number)
    world, client = careless(number)
    assert write(client, 0, b"x" * AREA_BYTES) == 0 and wait(client, client.flush()) == [0]
    ranges = [(at + rng.randrange(400), rng.randrange(1, 600)) for at in range(0, AREA_BYTES - 1024, 1024)]
    cookies = [client.write(at, b"y" * length, fua=True) for at, length in ranges]
    world.run(rng.random() / 500)
    victim, other = (world.a, world.b) if number % 4 < 2 else (world.b, world.a)
    answered = [cookie in client.replies for cookie in cookies]
    victim.lose_power(world.rng)
    world.run(0.1)
    victim.start()
    world.run_until(world.is_in_sync)
    if victim is world.a:
        assert order(world, other, "primary") == 1
    found = read(Careless(world, other), 0, AREA_BYTES)
    assert isinstance(found, bytes)
    position = 0
    for (at, length), is_answered in zip(ranges, answered, strict=True):
        assert found[position:at] == b"x" * (at - position)
        assert set(found[at : at + length]) <= set(b"y" if is_answered else b"xy")
        position = at + length
    assert found[position:] == b"x" * (AREA_BYTES - position) and world.copies_equal()


def test_where_two_primaries_may_be_nothing_is_rewritten() -> None:
    """EINVAL: what the other node writes in between could get lost. Reads are served."""
    world, _client = pair(1, net=NetOptions(allow_two_primaries=True))
    client = Careless(world, world.a)
    assert wait(client, client.write(1, b"x"), client.zero(1, 1), client.trim(1, 1)) == [22, 22, 22]
    assert read(client, 1, 3) == bytes(3)


