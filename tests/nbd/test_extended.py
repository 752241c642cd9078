"""Extended headers on a socket: a client that speaks them, against the memory engine and against a node of 6 GiB."""

from __future__ import annotations

import struct

import pytest
import trio

from pydrbd.metadata.create import plan_create
from pydrbd.metadata.layout import Layout
from pydrbd.runtime.nbd_handshake import Admission
from pydrbd.runtime.nbd_server import NbdServer
from pydrbd.units import GIB, MIB
from pydrbd.wire.nbd import ChunkType, Command, CommandFlag, NbdError, Option, ReplyType, TransmissionFlag
from pydrbd.wire.nbd_negotiation import Policy
from tests.nbd.raw_client import FIXED, GREETING, RawClient, info_request, option, until
from tests.runtime.test_service import make_pair, running

PAYLOAD = int(CommandFlag.PAYLOAD_LEN)


class ExtendedClient(RawClient):
    """A client that has agreed on extended headers."""

    async def go_extended(self, name: str, *contexts: str) -> int:
        """The whole handshake; the export's transmission flags."""
        assert await self.receive(18) == GREETING
        await self.send(FIXED + option(Option.EXTENDED_HEADERS))
        assert await self.option_reply() == (Option.EXTENDED_HEADERS, ReplyType.ACK, b"")
        if contexts:
            wanted = b"".join(struct.pack(">I", len(one)) + one.encode() for one in contexts)
            words = struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(contexts)) + wanted
            await self.send(option(Option.SET_META_CONTEXT, words))
            for _ in contexts:
                assert (await self.option_reply())[1] == ReplyType.META_CONTEXT
            assert (await self.option_reply())[1] == ReplyType.ACK
        await self.send(option(Option.GO, info_request(name.encode())))
        flags = 0
        while (answer := await self.option_reply())[1] == ReplyType.INFO:
            if answer[2][:2] == b"\0\0":
                (flags,) = struct.unpack(">H", answer[2][10:])
        assert answer[1] == ReplyType.ACK
        return flags

    async def say(self, command: int, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b"") -> None:
        await self.send(struct.pack(">IHHQQQ", 0x21E41C71, flags, command, 7, offset, length or len(data)) + data)

    async def hear(self) -> tuple[int, int, int, bytes]:
        """(flags, type, offset, payload) of a reply."""
        magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQQ", await self.receive(32))
        assert (magic, cookie) == (0x6E8A278C, 7)
        return flags, kind, offset, await self.receive(length)

    async def ask(self, *request: int, data: bytes = b"", flags: int = 0) -> tuple[int, int, int, bytes]:
        await self.say(*request, data=data, flags=flags)
        return await self.hear()


def error(number: int) -> bytes:
    return struct.pack(">IH", number, 0)


@pytest.fixture
async def connect_extended(engine, socket_path, nursery):
    """`await connect_extended()` is a client of a server that offers extended headers."""
    server = NbdServer(engine, admission=Admission(Policy(extended=True)))
    server.listen_unix(socket_path)
    await nursery.start(server.serve)
    clients = []

    async def connect():
        clients.append(ExtendedClient(await trio.open_unix_socket(str(socket_path))))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


async def test_every_command_is_answered_with_an_extended_header(connect_extended, engine):
    """Also the errors; payload of 4 MiB in both directions, with requests behind it."""
    client = await connect_extended()
    await client.go_extended("disk")
    data = bytes(range(256)) * (4 * MIB // 256)
    assert await client.ask(Command.WRITE, 4096, data=data, flags=PAYLOAD) == (1, ChunkType.NONE, 4096, b"")
    assert await client.ask(Command.READ, 4096, len(data)) == (1, 1, 4096, struct.pack(">Q", 4096) + data)
    assert await client.ask(Command.FLUSH) == (1, ChunkType.NONE, 0, b"")
    assert await client.ask(Command.TRIM, 4096, 512) == (1, ChunkType.NONE, 4096, b"")
    assert await client.ask(Command.WRITE, 8192, data=data) == (1, ChunkType.NONE, 8192, b"")  # as QEMU 10.0 says it
    assert await client.ask(Command.WRITE, 4096, data=data, flags=PAYLOAD) == (1, ChunkType.NONE, 4096, b"")
    assert await client.ask(Command.TRIM, 4096, 512) == (1, ChunkType.NONE, 4096, b"")
    assert await client.ask(Command.TRIM, 0, 2**40) == (1, ChunkType.ERROR, 0, error(NbdError.ENOSPC))
    assert await client.ask(4711, 0, data=b"what?", flags=PAYLOAD) == (1, ChunkType.ERROR, 0, error(NbdError.EINVAL))
    assert engine.contents(4096, 513) == bytes(512) + data[512:513]
    await client.say(Command.DISC)
    assert await client.at_end()
    await until(lambda: engine.closed_count == 1)


async def test_garbage_ends_that_connection_only(connect_extended, caplog):
    """One line in the log; what was asked before is answered, and another client goes on."""
    client, other = await connect_extended(), await connect_extended()
    await client.go_extended("disk")
    await other.go_extended("disk")
    assert await client.ask(Command.FLUSH) == (1, ChunkType.NONE, 0, b"")
    await client.send(b"\xff" * 64)
    assert await client.at_end()
    assert "begins with 0xffffffff" in caplog.text
    assert await other.ask(Command.FLUSH) == (1, ChunkType.NONE, 0, b"")


async def test_the_handshake_knows_what_goes_together(connect_extended):
    """No data with the option, no way back to structured replies, and GO instead of EXPORT_NAME."""
    client = await connect_extended()
    assert await client.receive(18) == GREETING
    await client.send(FIXED + option(Option.EXTENDED_HEADERS, b"x") + option(Option.EXTENDED_HEADERS))
    assert (await client.option_reply())[:2] == (Option.EXTENDED_HEADERS, ReplyType.ERR_INVALID)
    assert (await client.option_reply())[:2] == (Option.EXTENDED_HEADERS, ReplyType.ACK)
    await client.send(option(Option.STRUCTURED_REPLY))
    assert (await client.option_reply())[:2] == (Option.STRUCTURED_REPLY, ReplyType.ERR_EXT_HEADER_REQD)
    await client.send(option(Option.EXPORT_NAME, b"disk"))
    assert await client.at_end()


async def test_it_is_not_offered_unless_asked_for(connect):
    """ERR_UNSUP: the client goes on with compact headers."""
    client = await connect()
    assert await client.receive(18) == GREETING
    await client.send(FIXED + option(Option.EXTENDED_HEADERS))
    assert (await client.option_reply())[:2] == (Option.EXTENDED_HEADERS, ReplyType.ERR_UNSUP)


async def test_more_than_4_gib_at_once_on_a_node(short_tmp):
    """One TRIM and one WRITE_ZEROES of 5 GiB, and the map of all of it, by both contexts or by one."""
    config = make_pair(short_tmp)
    (short_tmp / "pydrbd.toml").write_text("[resource.r0]\nnbd-extended-headers = true\n")
    size_bytes = 6 * GIB
    with (short_tmp / "a.img").open("r+b") as file:
        file.truncate(size_bytes)
        for offset, data in plan_create(Layout.internal(size_bytes // 512)):
            file.seek(offset)
            file.write(data)
    async with running(config, short_tmp) as service:
        assert (await service.control.command("primary", {"force": True}))["code"] == 1
        client = ExtendedClient(await trio.open_unix_socket(str(short_tmp / "r0.nbd.sock")))
        flags = await client.go_extended("r0", "base:allocation", "pydrbd:out-of-sync")
        assert flags & TransmissionFlag.BLOCK_STATUS_PAYLOAD
        ok = (1, ChunkType.NONE, 0, b"")
        assert await client.ask(Command.WRITE, 0, data=b"x" * MIB, flags=PAYLOAD) == ok
        assert await client.ask(Command.TRIM, 0, 5 * GIB) == ok
        assert await client.ask(Command.CACHE, 0, 5 * GIB) == ok
        there = 4 * GIB + 4096
        assert await client.ask(Command.WRITE, there, data=b"y" * 4096, flags=PAYLOAD) == (*ok[:2], there, b"")
        assert await client.ask(Command.WRITE_ZEROES, 0, 5 * GIB) == ok
        assert (await client.ask(Command.READ, there, 4096))[3][8:] == bytes(4096)
        assert await client.ask(Command.READ, 0, 512) == (1, ChunkType.OFFSET_DATA, 0, bytes(8 + 512))
        await client.say(Command.BLOCK_STATUS, 0, 5 * GIB)
        found = [await client.hear() for _ in range(2)]
        assert [(flags, kind) for flags, kind, *_ in found] == [(0, ChunkType.BLOCK_STATUS_EXT), (1, 6)]
        context, count, length, status = struct.unpack_from(">IIQQ", found[1][3])
        assert (context, count) == (2, (len(found[1][3]) - 8) // 16) and 0 < length <= 5 * GIB and status == 1
        choice = struct.pack(">QI", 5 * GIB, 1)
        flags, kind, _offset, payload = await client.ask(Command.BLOCK_STATUS, 0, data=choice, flags=PAYLOAD)
        assert (flags, kind, payload[:4]) == (1, 6, struct.pack(">I", 1)) and payload == found[0][3]
        await client.close()
