"""Other threads' requests: a channel for each at a time, each gets its own answer, and none waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import trio
import trio.testing

from pydrbd.limits import BATCH_RECORDS_MAX
from pydrbd.runtime.nbd_connection import NbdStatistics
from pydrbd.runtime.threads_client import ThreadsClient, open_channel
from pydrbd.wire.nbd import Command, CommandFlag, ExportUnavailable, NbdError, ReplyType
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
    client = await open_client(engine, nursery)
    yield client
    client.close()


async def open_client(engine, nursery):
    """Its channels are made in Trio's thread, on behalf of whichever thread needs one."""
    statistics = NbdStatistics()

    async def open_disk(client):
        return engine.open("disk", client)

    def connect():
        return trio.from_thread.run(open_channel, engine, open_disk, statistics, nursery, trio_token=token)

    token = trio.lowlevel.current_trio_token()
    return await trio.to_thread.run_sync(ThreadsClient, connect)


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


def held_count(engine):
    """Requests that have arrived and are not answered."""
    return sum(batch.count for _session, batch in engine.held)


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


async def test_many_are_under_way_at_a_time_but_not_all(client, engine):
    """As many as a batch has members; the rest waits in its threads, and has its turn. One channel is enough."""
    many = 2 * BATCH_RECORDS_MAX
    engine.held = []
    with ThreadPoolExecutor(many) as pool:
        waiting = [pool.submit(client.call, Command.FLUSH, 0, 0) for _ in range(many)]
        while held_count(engine) < BATCH_RECORDS_MAX:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert held_count(engine) == BATCH_RECORDS_MAX
        engine.carry_out_held()
        assert await trio.to_thread.run_sync(lambda: [future.result(30) for future in waiting]) == [0] * many


async def test_answers_in_another_order_find_their_threads(client, engine):
    """Reads of different lengths, held back and answered last come first: nobody gets another one's bytes."""
    data = bytes(number % 251 for number in range(1 << 20))
    assert await trio.to_thread.run_sync(client.call, Command.WRITE, 0, len(data), 0, memoryview(data)) == 0
    engine.held = []
    places = [(512 * number, 512 * (1 + 7 * number % 40)) for number in range(THREADS)]
    found = [memoryview(bytearray(length)) for _offset, length in places]
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [
            pool.submit(client.call, Command.READ, offset, length, 0, buffer)
            for (offset, length), buffer in zip(places, found, strict=True)
        ]
        while held_count(engine) < THREADS:
            await trio.lowlevel.checkpoint()
        engine.held.reverse()
        engine.carry_out_held()
        assert await trio.to_thread.run_sync(lambda: [future.result(30) for future in waiting]) == [0] * THREADS
    for (offset, length), buffer in zip(places, found, strict=True):
        assert buffer == data[offset : offset + length]


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


async def test_a_read_of_any_bytes_is_one_of_whole_sectors(client, engine):
    """Filters of nbdkit ask for such: at the beginning, within a sector, over borders, to the end; and its error."""
    data = bytes(number % 251 for number in range(4 * 512))
    last = SIZE_BYTES - len(data)
    for offset in (0, last):
        assert await trio.to_thread.run_sync(client.call, Command.WRITE, offset, len(data), 0, memoryview(data)) == 0
    for offset, length in ((0, 592), (700, 3), (511, 1026), (last + 1, len(data) - 1), (last + 512, 512)):
        found = bytearray(length)
        assert await trio.to_thread.run_sync(client.read, offset, memoryview(found)) == 0
        assert found == data[offset % last : offset % last + length], (offset, length)
    found = bytearray(100)
    assert await trio.to_thread.run_sync(client.read, SIZE_BYTES + 1, memoryview(found)) == NbdError.EINVAL
    assert found == bytes(100)


async def test_nobody_waits_for_a_node_that_has_ended(engine):
    """What is under way when Trio ends fails with ESHUTDOWN, and so does what comes later."""
    engine.held = []
    with ThreadPoolExecutor(1) as pool:
        async with trio.open_nursery() as nursery:
            client = await open_client(engine, nursery)
            waiting = pool.submit(client.call, Command.FLUSH, 0, 0)
            while not engine.held:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert await trio.to_thread.run_sync(waiting.result, 30) == NbdError.ESHUTDOWN
    assert await trio.to_thread.run_sync(client.call, Command.FLUSH, 0, 0) == NbdError.ESHUTDOWN
    assert engine.closed_count == 1
    client.close()


async def test_what_cannot_be_opened_any_more_is_an_error_of_the_request(engine, nursery):
    """BLOCK_STATUS has a channel of its own: an export that has closed meanwhile says ESHUTDOWN."""
    client = await open_client(engine, nursery)

    def connect():
        raise ExportUnavailable("Secondary now", ReplyType.ERR_POLICY)

    client._connect = connect
    assert await trio.to_thread.run_sync(client.extents, 0, BLOCK, 0) == (NbdError.ESHUTDOWN, [])
    assert await trio.to_thread.run_sync(client.call, Command.FLUSH, 0, 0) == 0
    client.close()
