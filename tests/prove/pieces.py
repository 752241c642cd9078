"""Short plays with one point each: planted differences (B9), strangers (C7), a disk set back to the past (C11), and
requests that are not whole sectors (A1)."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Callable

from pydrbd.core.handshake import NetOptions
from pydrbd.core.states import ConnState
from tests.harness.checkers import Violation
from tests.harness.disk import MemoryDisk
from tests.harness.scene import BLOCK, order, pair, wait, write
from tests.harness.simulation import fresh_pair_superblock
from tests.harness.world import Client, Machine, World
from tests.prove.run import Broken, Rung

__all__ = ["RUNGS"]

_SIZE_BYTES = 4 << 20
_BLOCKS = 900
_READ, _WRITE, _TRIM, _ZEROES = 0, 1, 4, 6
_BYTES = 6 * BLOCK


def _marked(machine: Machine) -> list[int]:
    disk = machine.volume.disk
    assert disk is not None
    return [bit for first, count in disk.bitmap.runs() for bit in range(first, first + count)]


def _require(promise: str, holds: bool, text: str) -> None:
    if not holds:
        raise Violation(promise, text)


def planted(draw: random.Random) -> None:
    """B9: a verify marks what differs, nothing else; a resync that compares checksums repairs just that."""
    net = NetOptions(verify_alg="crc32c", csums_alg=draw.choice(("", "crc32c")))
    world, client = pair(draw.getrandbits(32), size_bytes=_SIZE_BYTES, net=net)
    for block in draw.sample(range(_BLOCKS), 8):
        write(client, block * BLOCK, draw.randbytes(BLOCK))
    wait(client, client.flush())
    damaged = sorted(draw.sample(range(_BLOCKS), draw.randint(0, 12)))
    disk = draw.choice((world.a, world.b)).disks[0]
    for block in damaged:
        disk.write(block * BLOCK, draw.randbytes(BLOCK))
    disk.flush()
    _require("B9", order(world, draw.choice((world.a, world.b)), "verify") == 1, "a verify is refused")
    world.run_until(world.is_linked)
    for machine in (world.a, world.b):
        _require("B9", _marked(machine) == damaged, f"{machine.name} marks {_marked(machine)}, planted: {damaged}")
    order(world, world.b, "disconnect")
    world.run(1.0)
    order(world, world.b, "connect")
    world.run_until(world.is_in_sync)
    _require("B9", world.copies_equal(), f"blocks {world.differing_blocks()} differ after verify and resync")


def strangers(draw: random.Random) -> None:
    """C7: two disks without a common generation: no connection, no byte changed, however often they try."""
    world = World(draw.getrandbits(32), size_bytes=_SIZE_BYTES, superblock=fresh_pair_superblock(_SIZE_BYTES))
    past = (draw.getrandbits(63) << 1 | 1 << 32, draw.getrandbits(63) << 1 | 1 << 33)
    mine = dataclasses.replace(fresh_pair_superblock(_SIZE_BYTES), history_uuids=past[::-1])
    other = dataclasses.replace(
        mine, current_uuid=draw.getrandbits(63) << 1 | 1 << 34, history_uuids=(past[0] ^ 0x10, past[1] ^ 0x10)
    )
    for machine, superblock in ((world.a, mine), (world.b, other)):
        machine.disks[0] = MemoryDisk(_SIZE_BYTES, superblock)
        machine.disks[0].write(draw.randrange(_BLOCKS) * BLOCK, draw.randbytes(BLOCK))
        machine.disks[0].flush()
    before = [bytes(machine.disks[0].data) for machine in (world.a, world.b)]
    world.a.start()
    world.b.start()
    for _ in range(draw.randint(1, 3)):
        world.run(5.0)
        _require("C7", not world.is_linked(), "strangers are connected")
        for machine in (world.a, world.b):
            if machine.volume.state.conn == ConnState.StandAlone:
                machine.command("connect")
    after = [bytes(machine.disks[0].data) for machine in (world.a, world.b)]
    _require("C7", before == after, "a stranger's disk was written to")
    _require("C7", any("not related" in line for line in world.a.log + world.b.log), "nobody has said why")


def set_back(draw: random.Random) -> None:
    """C11: a disk of some generations ago takes everything from the newer one, or is refused."""
    world, client = pair(draw.getrandbits(32), size_bytes=_SIZE_BYTES)
    disk = world.b.disks[0]
    _write_some(draw, client)
    old = bytes(disk.image)
    for _ in range(draw.randint(1, 4)):
        order(world, world.b, "disconnect")
        _write_some(draw, client)
        order(world, world.b, "connect")
        world.run_until(world.is_in_sync)
        _write_some(draw, client)
    expected = bytes(world.a.disks[0].data)
    world.b.stop()
    disk.set_back(old)
    world.run(1.0)
    world.b.start()
    world.run(30.0)
    _require("C11", bytes(world.a.disks[0].data) == expected, "the newer copy has changed")
    if world.is_in_sync():
        _require("C11", world.copies_equal(), f"in sync, and blocks {world.differing_blocks()[:8]} differ")
    else:
        alone = ConnState.StandAlone in (world.a.volume.state.conn, world.b.volume.state.conn)
        _require("C11", alone, "neither in sync nor refused")


def _write_some(draw: random.Random, client: Client) -> None:
    for _ in range(draw.randint(1, 4)):
        write(client, draw.randrange(_BLOCKS) * BLOCK, draw.randbytes(BLOCK))
    wait(client, client.flush())


def bytewise(draw: random.Random) -> None:
    """A1, B1, A4: requests of any bytes, many in one sector at once, while links break: each changes its own alone.

    Those that are under way together touch different bytes, so one image says what every read returns.
    """
    world, client = pair(draw.getrandbits(32), size_bytes=_SIZE_BYTES, lanes=draw.random() < 0.5, al_extents=4)
    client.any_alignment = True
    world.link_latency_s = draw.choice((0.0002, 0.005))
    expected = bytearray(_BYTES)
    for _ in range(draw.randint(5, 30)):
        _request_bytes(draw, client, expected)
    if draw.random() < 0.5:
        _require("A8", wait(client, client.flush()) == [0], "a flush fails")
        for machine in (world.a, world.b):
            machine.lose_power(world.rng)
        world.start()
    world.run_until(world.is_in_sync)
    for machine in (world.a, world.b):
        holds = machine.disks[0].image[:_BYTES] == expected
        _require("B1", holds, f"{machine.name} holds other bytes than were written")
    _require("B1", world.copies_equal(), "the copies differ")


def _request_bytes(draw: random.Random, client: Client, expected: bytearray) -> None:
    """A few requests, one next to the other; the link may break meanwhile."""
    borders = sorted(draw.sample(range(_BYTES + 1), draw.randint(2, 8)))
    if draw.random() < 0.5:  # all in few sectors
        first = draw.randrange(_BYTES - 1600)
        borders = sorted(first + one for one in draw.sample(range(1600), draw.randint(2, 8)))
    before, requests = bytes(expected), []
    for start, end in itertools.pairwise(borders):
        command, length = draw.choice((_READ, _READ, _WRITE, _WRITE, _WRITE, _ZEROES, _TRIM)), end - start
        payload = draw.randbytes(length) if command == _WRITE else bytes(length)
        requests.append((command, int(command in (_WRITE, _ZEROES) and draw.random() < 0.2), start, payload))
        if command == _TRIM:
            start, end = start + -start % 512, end - end % 512
        if command != _READ and start < end:
            expected[start:end] = payload[: end - start]
    cookies = client.submit(*requests)
    if draw.random() < 0.3:
        client.world.run(draw.uniform(0.0, 0.01))
        client.world.cut()
    _require("A8", not any(wait(client, *cookies)), "a request fails, and all disks are well")
    for cookie, (command, _, start, payload) in zip(cookies, requests, strict=True):
        if command == _READ and client.replies[cookie][1] != before[start : start + len(payload)]:
            raise Violation("A1", f"the bytes at {start} are not what was written there last")


PLAYS: dict[str, tuple[str, Callable[[random.Random], None]]] = {
    "planted differences": ("B9", planted), "strangers": ("C7", strangers), "a disk set back": ("C11", set_back),
    "bytes": ("A1", bytewise),
}  # fmt: skip


def play(seed: int, figures: Counter[str]) -> None:
    """One play. Raises Broken."""
    name = sorted(PLAYS)[seed % len(PLAYS)]
    promise, tell = PLAYS[name]
    try:
        tell(random.Random(f"{name}/{seed}"))
    except Exception as error:
        replay = f"python -m tests.prove --only 'plays' --seed {seed} --once"
        broken = error.promise if isinstance(error, Violation) else promise
        raise Broken(broken, f"{name}: {type(error).__name__}: {error}", replay) from error
    figures[f"checked {promise}"] += 1


RUNGS = (Rung("plays", 1, play),)
