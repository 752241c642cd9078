"""Requests and replies past the handshake: raw clients, good and bad, against a server with a disk of memory."""

from __future__ import annotations

import struct

import pytest
import trio

from pydrbd.limits import NBD_REQUEST_BYTES_MAX
from pydrbd.runtime import nbd_connection
from pydrbd.wire.nbd import ChunkFlag, ChunkType, Command, CommandFlag, NbdError, Option, encode_request
from tests.nbd.conftest import DISK_SIZE_BYTES
from tests.nbd.memory_engine import MemorySession
from tests.nbd.raw_client import FIXED, info_request, option, until

MIB = 1 << 20


async def test_every_command_is_answered(connect, engine):
    """WRITE, READ, FLUSH, TRIM, WRITE_ZEROES and FUA reach the engine and their answers come back."""
    client = await connect("disk")
    assert await client.request(Command.WRITE, 4096, data=b"a" * 8192, flags=CommandFlag.FUA) == (0, b"")
    assert await client.request(Command.READ, 4094, 4) == (0, b"\0\0aa")
    assert await client.request(Command.FLUSH) == (0, b"")
    assert await client.request(Command.TRIM, 4096, 512) == (0, b"")
    assert await client.request(Command.WRITE_ZEROES, 4608, 512, CommandFlag.NO_HOLE) == (0, b"")
    assert await client.request(Command.READ, 5119, 3) == (0, b"\0aa")
    assert (engine.flush_count, engine.fua_count) == (1, 1)


@pytest.mark.parametrize(
    ("export", "command", "offset", "flags", "error"),
    [
        ("disk", Command.READ, DISK_SIZE_BYTES - 1, 0, NbdError.EINVAL),
        ("disk", Command.WRITE, DISK_SIZE_BYTES - 1, 0, NbdError.ENOSPC),
        ("disk", Command.TRIM, DISK_SIZE_BYTES - 1, 0, NbdError.ENOSPC),
        ("disk", Command.READ, 2**64 - 1, 0, NbdError.EINVAL),
        ("disk", Command.CACHE, 0, 0, NbdError.EINVAL),
        ("disk", 4711, 0, 0, NbdError.EINVAL),
        ("disk", Command.WRITE, 0, CommandFlag.DF, NbdError.EINVAL),
        ("disk", Command.WRITE_ZEROES, 0, CommandFlag.FAST_ZERO, NbdError.EINVAL),
        ("ro", Command.WRITE, 0, 0, NbdError.EPERM),
    ],
)
async def test_a_refused_request_leaves_the_stream_in_step(connect, export, command, offset, flags, error):
    """Errors are the engine's, with the payload of a refused WRITE taken off the stream."""
    client = await connect(export)
    data = b"xy" if command == Command.WRITE else b""
    assert await client.request(command, offset, 2, flags, data=data) == (error, b"")
    assert await client.request(Command.READ, 0, 2) == (0, b"\0\0")


async def test_with_structured_replies_a_read_is_one_chunk_and_so_is_its_error(connect, engine):
    """Also when DF asks for that; other commands get the answers that they always got."""
    client = await connect()
    await client.go("disk", structured=True)
    assert await client.request(Command.WRITE, 4096, data=b"a" * 8192) == (0, b"")
    await client.send(encode_request(Command.READ, 7, 4095, 2))
    assert await client.chunk() == (ChunkFlag.DONE, ChunkType.OFFSET_DATA, 7, struct.pack(">Q", 4095) + b"\0a")
    await client.send(encode_request(Command.READ, 8, 4096, 1, CommandFlag.DF))
    assert await client.chunk() == (ChunkFlag.DONE, ChunkType.OFFSET_DATA, 8, struct.pack(">Q", 4096) + b"a")
    await client.send(encode_request(Command.READ, 9, DISK_SIZE_BYTES, 1))
    assert await client.chunk() == (ChunkFlag.DONE, ChunkType.ERROR, 9, struct.pack(">IH", NbdError.EINVAL, 0))
    assert await client.request(Command.TRIM, DISK_SIZE_BYTES, 1) == (NbdError.ENOSPC, b"")


async def test_a_read_that_is_too_long_is_refused_and_a_write_drops_the_connection(connect, server, caplog):
    """READs of any length are cheap to refuse; a WRITE's payload would have to be taken, so it ends the connection."""
    client = await connect("disk")
    for length in (NBD_REQUEST_BYTES_MAX + 1, 2**32 - 1):
        assert await client.request(Command.READ, 0, length) == (NbdError.EINVAL, b"")
    await client.send(encode_request(Command.WRITE, 1, 0, NBD_REQUEST_BYTES_MAX + 1))
    assert await client.at_end()
    assert server.statistics().failed == 1
    assert sum("33554432 bytes" in record.message for record in caplog.records) == 1


async def test_the_longest_write_and_read_pass(connect, engine):
    """32 MiB, longer than the receive buffer, with a small request in front and one behind in the same stream."""
    client = await connect("disk")
    data = bytes(range(256)) * (NBD_REQUEST_BYTES_MAX // 256)
    small = encode_request(Command.WRITE, 1, 0, 3) + b"abc"
    await client.send(small + encode_request(Command.WRITE, 2, MIB, len(data)) + data + small)
    assert {await client.reply() for _ in range(3)} == {(0, 1), (0, 2)}
    assert engine.contents(MIB, len(data)) == data
    error, read = await client.request(Command.READ, MIB, len(data))
    assert (error, read == data) == (0, True)


async def test_a_stream_in_small_pieces_is_the_same_stream(connect, engine):
    """Requests that arrive in pieces of 7 bytes, pipelined behind the handshake's last byte."""
    client = await connect()
    await client.receive(18)
    stream = FIXED + option(Option.GO, info_request(b"disk"))
    for number in range(20):
        stream += encode_request(Command.WRITE, number, number * 100, 50) + bytes([number]) * 50
    for at in range(0, len(stream), 7):
        await client.send(stream[at : at + 7])
        await trio.lowlevel.checkpoint()
    while (await client.option_reply())[1] != 1:
        pass
    assert [await client.reply() for _ in range(20)] == [(0, number) for number in range(20)]
    assert engine.contents(1900, 100) == bytes([19]) * 50 + bytes(50)


async def test_requests_in_one_piece_become_batches(connect, server):
    """200 requests that arrive together: at most 64 a batch, and few wake-ups."""
    client = await connect("disk")
    await client.send(b"".join(encode_request(Command.FLUSH, cookie) for cookie in range(200)))
    assert sorted([(await client.reply())[1] for _ in range(200)]) == list(range(200))
    statistics = server.statistics()
    assert statistics.requests == 200
    assert statistics.batches >= 4
    assert statistics.requests_per_wakeup > 20


async def test_disconnect_waits_for_the_replies_and_ignores_what_follows(connect, engine):
    """DISC with requests in flight: they are answered, later requests are not looked at, then the server closes."""
    client = await connect("disk")
    engine.held = []
    write = encode_request(Command.WRITE, 1, 0, 3) + b"abc"
    late = encode_request(Command.WRITE, 2, 0, 3) + b"xyz"
    await client.send(write + encode_request(Command.FLUSH, 3) + encode_request(Command.DISC, 4) + late)
    await until(lambda: sum(batch.count for _, batch in engine.held) == 2)
    engine.carry_out_held()
    assert {await client.reply(), await client.reply()} == {(0, 1), (0, 3)}
    assert await client.at_end()
    assert engine.contents(0, 3) == b"abc"
    assert engine.closed_count == 1


async def test_disconnect_does_not_wait_for_ever(connect, engine, autojump_clock):
    """An engine that never answers holds a client that said DISC for a bounded time."""
    client = await connect("disk")
    engine.held = []
    await client.send(encode_request(Command.FLUSH, 1) + encode_request(Command.DISC, 2))
    with trio.fail_after(40):
        assert await client.stream.receive_some() == b""
    assert trio.current_time() >= 30
    engine.carry_out_held()  # too late: nobody minds


async def test_disc_as_the_first_word_closes(connect, engine):
    """A client that opens and goes, the polite way."""
    client = await connect("disk")
    await client.send(encode_request(Command.DISC, 1))
    assert await client.at_end()
    assert engine.closed_count == 1


@pytest.mark.parametrize("cut", [3, 28, 1000])
async def test_a_client_that_vanishes_in_the_middle_of_a_write_hurts_nobody(connect, engine, cut):
    """Half a header, no payload, half a payload: nothing is written, the session ends, another client works."""
    client, other = await connect("disk"), await connect("disk")
    await client.send((encode_request(Command.WRITE, 1, 0, 4096) + b"x" * 4096)[:cut])
    await client.close()
    await until(lambda: engine.closed_count == 1)
    assert await other.request(Command.READ, 0, 4096) == (0, bytes(4096))


async def test_a_client_that_vanishes_with_requests_in_flight_hurts_nobody(connect, engine):
    """The engine answers into the void, and the server goes on."""
    client, other = await connect("disk"), await connect("disk")
    engine.held = []
    await client.send(encode_request(Command.READ, 1, 0, 1000) * 100)
    await until(lambda: sum(batch.count for _, batch in engine.held) == 100)
    await client.close()
    await until(lambda: engine.closed_count == 1)
    engine.carry_out_held()
    assert await other.request(Command.FLUSH) == (0, b"")


async def test_garbage_instead_of_a_request_drops_only_this_client(connect, server, caplog):
    """One log line, requests before the garbage answered, other connections untouched."""
    client, other = await connect("disk"), await connect("disk")
    await client.send(encode_request(Command.FLUSH, 5) + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert await client.receive(16) == struct.pack(">IIQ", 0x67446698, 0, 5)
    assert await client.at_end()
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert server.statistics().failed == 1
    assert await other.request(Command.FLUSH) == (0, b"")


async def test_a_client_that_does_not_read_is_not_read_from_and_delays_nobody(connect, server, monkeypatch):
    """Its replies are bounded by the limit, another client is served meanwhile, and it gets them all in the end."""
    monkeypatch.setattr(nbd_connection, "NBD_IN_FLIGHT_BYTES_MAX", 4 * MIB)
    lazy, other = await connect("disk"), await connect("disk")
    await lazy.send(b"".join(encode_request(Command.READ, cookie, 0, MIB) for cookie in range(32)))
    await until(lambda: server.statistics().stops > 0)
    for _ in range(10):
        assert await other.request(Command.WRITE, 0, data=b"z" * 4096) == (0, b"")
    assert server.statistics().requests < 32 + 10
    for cookie in range(32):
        assert await lazy.reply() == (0, cookie)
        assert len(await lazy.receive(MIB)) == MIB


async def test_requests_in_flight_are_bounded_and_held_ones_come_later(connect, engine, server, monkeypatch):
    """Beyond the limit requests stay in the socket; they are submitted in order as earlier ones are done."""
    monkeypatch.setattr(nbd_connection, "NBD_IN_FLIGHT_BYTES_MAX", 64 << 10)
    client = await connect("disk")
    engine.held = held = []
    await client.send(b"".join(encode_request(Command.FLUSH, cookie) for cookie in range(40)))
    await until(lambda: server.statistics().stops > 0)
    assert sum(batch.count for _, batch in held) == 16
    engine.carry_out_held()
    assert [(await client.reply())[1] for _ in range(40)] == list(range(40))


async def test_a_lone_request_above_the_limit_passes(connect, monkeypatch):
    """The limit holds back, it never blocks for good."""
    monkeypatch.setattr(nbd_connection, "NBD_IN_FLIGHT_BYTES_MAX", 64 << 10)
    client = await connect("disk")
    data = b"q" * MIB
    for _ in range(3):
        assert await client.request(Command.WRITE, 0, data=data) == (0, b"")
        assert await client.request(Command.READ, 0, MIB) == (0, data)


async def test_the_session_can_drop_its_client(connect, engine, caplog):
    """abort closes the connection at once, whatever is in flight, and says why in the log; replies after it vanish."""
    caplog.set_level("INFO")
    client = await connect("disk")
    engine.held = []
    await client.send(encode_request(Command.FLUSH, 1))
    await until(lambda: len(engine.held) == 1)
    engine.sessions[0].client.abort("r0 is no longer Primary")
    assert await client.at_end()
    assert engine.closed_count == 1
    assert any("r0 is no longer Primary" in record.message for record in caplog.records)
    engine.carry_out_held()


async def test_nothing_is_submitted_after_an_abort(connect, engine, monkeypatch):
    """A session that drops its client in the middle of a wake-up's batches gets no more of them."""
    submitted = []

    def abort_at_once(session, batch):
        submitted.append(batch.count)
        session.client.abort("enough")

    monkeypatch.setattr(MemorySession, "submit", abort_at_once)
    client = await connect("disk")
    await client.send(b"".join(encode_request(Command.FLUSH, cookie) for cookie in range(200)))
    assert await client.at_end()
    assert submitted == [64]


async def test_payload_is_untouched_while_its_batch_is_held(connect, engine):
    """Receive buffers are not written again while somebody may still look: 8 MiB in flight, carried out at the end."""
    client = await connect("disk")
    engine.held = []
    block = 128 << 10
    stream = b"".join(
        encode_request(Command.WRITE, number, number * block, block) + bytes([number]) * block for number in range(64)
    )
    await client.send(stream)
    await until(lambda: sum(batch.count for _, batch in engine.held) == 64)
    engine.carry_out_held()
    for number in range(64):
        assert await client.reply() == (0, number)
        assert engine.contents(number * block, block) == bytes([number]) * block
