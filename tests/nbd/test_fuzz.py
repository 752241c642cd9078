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
from tests.nbd.hostile import corpus, mutate_session, talk
from tests.nbd.memory_engine import MemoryEngine
from tests.nbd.raw_client import RawClient, until

SESSIONS_PER_ROUND = 20
INPUTS_PER_ROUND = 500
GROWTH_BYTES_MAX = 8 << 20


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
        data = mutate_session(rng, sessions)
        outcome = parse_handshake(engine, data)
        rest = getattr(outcome, "unread", None)
        opened += rest is not None
        parse_requests(rest if rest is not None else data[rng.randrange(len(data) + 1) :])
    assert opened, "no mutation got as far as requests: they prove little"


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
                    nursery.start_soon(talk, path, random.Random(rng.random()), mutate_session(rng, sessions))
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
