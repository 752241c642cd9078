"""Real sessions, mutated, thousands of them: on the parsers, and as whole sessions on a live node.

A round is 20 sessions and 500 inputs of the parsers; `--rounds 5000` is the long run, `--seed draw` explores.
"""

from __future__ import annotations

import gc
import logging
import random
import tracemalloc
from pathlib import Path

import pytest
import trio

from pydrbd import native
from pydrbd.errors import ClientProtocolError
from pydrbd.limits import NBD_REQUEST_BYTES_MAX
from pydrbd.wire.nbd import Command
from pydrbd.wire.nbd_negotiation import Negotiation, Outcome
from tests.nbd.fuzz_node import primary_node
from tests.nbd.memory_engine import MemoryEngine
from tests.nbd.raw_client import RawClient, until
from tests.nbd.record import CORPUS

SESSIONS_PER_ROUND = 20
INPUTS_PER_ROUND = 500
SESSION_LIMIT_S = 20.0
GROWTH_BYTES_MAX = 8 << 20
MAGIC = (b"IHAVEOPT", b"\x25\x60\x95\x13", b"\x67\x44\x66\x98", b"\xff" * 8, b"\0" * 8, b"\x7f\xff\xff\xff")


def corpus() -> list[bytes]:
    sessions = [path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))]
    assert len(sessions) >= 7, "record them: python -m tests.nbd.record"
    return sessions


def mutate(rng: random.Random, sessions: list[bytes]) -> bytes:
    """One of them, changed in one to four places; the first bytes less often, or none would get far."""
    data = bytearray(rng.choice(sessions))
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        at = rng.randrange(len(data)) if rng.random() < 0.3 else rng.randrange(min(len(data), 4), len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at : at + 4] = rng.randrange(1 << 32).to_bytes(4, "big")
        elif kind == 2:
            data[at : at + len(MAGIC[0])] = rng.choice(MAGIC)
        elif kind == 3:
            del data[at : at + rng.randint(1, 64)]
        elif kind == 4:
            other = rng.choice(sessions)
            start = rng.randrange(len(other))
            data[at:at] = other[start : start + rng.randint(1, 200)]
        elif kind == 5:
            data[at:at] = data[max(0, at - rng.randint(1, 100)) : at] * rng.randint(1, 8)
        else:
            del data[at:]
    return bytes(data)


def parse_handshake(engine: MemoryEngine, data: bytes) -> Outcome | None:
    class Exports:
        exports = staticmethod(engine.exports)
        describe = staticmethod(lambda _name: engine.describe("disk"))
        open = staticmethod(lambda _name: engine.describe("disk"))

    negotiation = Negotiation(Exports())
    try:
        return negotiation.receive(data)
    except ClientProtocolError:
        return None


def parse_requests(data: bytes) -> None:
    memory, start = bytearray(data), 0
    while start < len(memory):
        try:
            batch, consumed, need = native.nbd_split(memory, start, len(memory), NBD_REQUEST_BYTES_MAX)
        except ClientProtocolError:
            return
        if not batch.count:
            assert need > len(memory) - start, "a whole request was not seen"
            return
        assert 0 < consumed <= len(memory) - start
        start += consumed


def test_the_parsers_take_any_mutation_of_real_sessions(seed, rounds, engine):
    """The handshake, and what is left of it as requests: an error, more to come, or an outcome."""
    rng, sessions = random.Random(seed), corpus()
    opened = 0
    for _ in range(rounds * INPUTS_PER_ROUND):
        data = mutate(rng, sessions)
        outcome = parse_handshake(engine, data)
        rest = getattr(outcome, "unread", None)
        opened += rest is not None
        parse_requests(rest if rest is not None else data[rng.randrange(len(data) + 1) :])
    assert opened, "no mutation got as far as requests: they prove little"


async def talk(path: str, rng: random.Random, data: bytes) -> None:
    """One session: said in pieces, the answers read or not, ended in one way or another."""
    with trio.fail_after(SESSION_LIMIT_S):
        async with await trio.open_unix_socket(path) as stream:
            deaf, abrupt = rng.random() < 0.2, rng.random() < 0.3
            async with trio.open_nursery() as nursery:

                async def hear() -> None:
                    try:
                        while await stream.receive_some(1 << 16):
                            pass
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass

                if not deaf:
                    nursery.start_soon(hear)
                try:
                    while data:
                        size = rng.choice((1, 7, 28, 500, 1 << 16))
                        await stream.send_all(data[:size])
                        data = data[size:]
                    if not abrupt:
                        await stream.send_eof()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                if deaf or abrupt:
                    nursery.cancel_scope.cancel()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.timeout(0)
async def test_a_live_node_outlives_mutated_sessions_and_serves_on(seed, rounds, short_tmp, caplog):
    """No crash, no hang, nothing left over; and a good client beside them is answered all the time."""
    caplog.set_level(logging.CRITICAL, "pydrbd")  # what is kept of a log would be taken for growth
    rng, sessions = random.Random(seed), corpus()
    async with primary_node(short_tmp) as service:
        path = str(service.run_dir / "r0.nbd.sock")
        good = RawClient(await trio.open_unix_socket(path))
        await good.go("r0")
        before, grown = None, 0
        for number in range(rounds):
            pattern = bytes([number & 255]) * 4096
            assert await good.request(Command.WRITE, 4 << 20, data=pattern) == (0, b"")
            async with trio.open_nursery() as nursery:
                for _ in range(SESSIONS_PER_ROUND):
                    nursery.start_soon(talk, path, random.Random(rng.random()), mutate(rng, sessions))
                error, _read = await good.request(Command.READ, 4 << 20, 4096)
                assert error == 0
            await until(lambda: service.nbd.statistics().connections == 1)
            if before is None and number >= min(2, rounds - 1):
                before = trio.lowlevel.current_statistics().tasks_living, descriptors()
                gc.collect()
                tracemalloc.start()
                grown = tracemalloc.get_traced_memory()[0]
        assert (trio.lowlevel.current_statistics().tasks_living, descriptors()) == before
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - grown < GROWTH_BYTES_MAX
        tracemalloc.stop()
        assert await good.request(Command.FLUSH) == (0, b"")
        await good.close()
        assert service.nbd.statistics().accepted == rounds * SESSIONS_PER_ROUND + 1
