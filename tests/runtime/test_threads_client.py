"""Other threads' requests: many at a time become one batch, each gets its own answer, and none waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import trio

from pydrbd.runtime.threads_client import ThreadsClient, ThreadsWakeup
from pydrbd.wire.nbd import Command, CommandFlag, NbdError
from tests.nbd.memory_engine import MemoryEngine

SIZE_BYTES = 64 << 20
THREADS = 16
BLOCK = 4096


@pytest.fixture
def engine():
    engine = MemoryEngine(SIZE_BYTES)
    yield engine
    engine.close()


@pytest.fixture
async def client(engine, nursery):
    """A client of the engine's disk, and Trio at work for it until the test ends."""
    wakeup = ThreadsWakeup()
    client = ThreadsClient(wakeup)
    client.attach(engine.open("disk", client))
    nursery.start_soon(wakeup.run)
    yield client
    client.close()


async def in_threads(client, requests):
    """Each request in a thread of its own, all at the same time; their answers."""
    together = threading.Barrier(len(requests))

    def one(words):
        together.wait(30)
        return client.call(*words)

    def all_of_them():
        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(one, requests))

    return await trio.to_thread.run_sync(all_of_them)


async def test_each_thread_gets_its_own_answer(client, engine):
    """Sixteen writes, then sixteen reads of the same blocks, into the memory that the threads gave."""
    blocks = [memoryview(bytes([number]) * BLOCK) for number in range(THREADS)]
    writes = [(Command.WRITE, number * BLOCK, BLOCK, 0, block) for number, block in enumerate(blocks)]
    assert await in_threads(client, writes) == [0] * THREADS
    found = [memoryview(bytearray(BLOCK)) for _ in range(THREADS)]
    reads = [(Command.READ, number * BLOCK, BLOCK, 0, buffer) for number, buffer in enumerate(found)]
    assert await in_threads(client, reads) == [0] * THREADS
    assert found == blocks
    assert engine.contents(0, BLOCK) == bytes(BLOCK) and engine.contents(BLOCK, 1) == b"\1"


async def test_what_has_gathered_is_one_batch(client):
    """While Trio is busy, sixteen threads queue what they want: it then takes one batch."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(client.call, Command.FLUSH, 0, 0) for _ in range(THREADS)]
        while len(client._queue) < THREADS:  # Trio can't look meanwhile: this is its thread
            threading.Event().wait(0.001)
        assert await trio.to_thread.run_sync(lambda: [future.result(30) for future in waiting]) == [0] * THREADS
    assert client.batches == 1


async def test_errors_are_the_protocols(client, engine):
    """Outside of the disk; a FUA write is one; a write that is longer than a request may be goes in pieces."""
    call = partial(trio.to_thread.run_sync, client.call)
    assert await call(Command.WRITE, SIZE_BYTES, BLOCK, 0, memoryview(bytes(BLOCK))) == NbdError.ENOSPC
    assert await call(Command.READ, SIZE_BYTES, BLOCK, 0, memoryview(bytearray(BLOCK))) == NbdError.EINVAL
    assert await call(Command.WRITE, 0, BLOCK, int(CommandFlag.FUA), memoryview(bytes(BLOCK))) == 0
    assert engine.fua_count == 1
    long = memoryview(b"x" * (48 << 20))
    assert await call(Command.WRITE, 0, len(long), 0, long) == 0
    assert engine.contents((48 << 20) - 1, 2) == b"x\0"


async def test_nobody_waits_for_a_node_that_has_ended(engine):
    """What is under way when Trio ends fails with ESHUTDOWN, and so does what comes later."""
    engine.held = []
    wakeup = ThreadsWakeup()
    client = ThreadsClient(wakeup)
    client.attach(engine.open("disk", client))
    with ThreadPoolExecutor(1) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wakeup.run)
            waiting = pool.submit(client.call, Command.FLUSH, 0, 0)
            while not engine.held:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert await trio.to_thread.run_sync(waiting.result, 30) == NbdError.ESHUTDOWN
    assert await trio.to_thread.run_sync(client.call, Command.FLUSH, 0, 0) == NbdError.ESHUTDOWN
    assert engine.closed_count == 1
