"""A client that says exactly what a test wants said."""

from __future__ import annotations

import struct
from collections.abc import Callable

import trio

from pydrbd.wire.nbd import Command, Option, encode_request

__all__ = ["FIXED", "GREETING", "RawClient", "info_request", "option", "replies", "until"]

FIXED = struct.pack(">I", 3)
GREETING = b"NBDMAGICIHAVEOPT\x00\x03"


def option(number: int, data: bytes = b"") -> bytes:
    """An option as a client sends it."""
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def info_request(name: bytes, *wanted: int) -> bytes:
    """The data of INFO and GO."""
    return struct.pack(">I", len(name)) + name + struct.pack(f">H{len(wanted)}H", len(wanted), *wanted)


def replies(outgoing: bytes) -> list[tuple[int, int, bytes]]:
    """The option replies behind the greeting as (option, reply type, data)."""
    assert outgoing.startswith(GREETING)
    found, at = [], len(GREETING)
    while at < len(outgoing):
        magic, number, reply, length = struct.unpack_from(">QIII", outgoing, at)
        assert magic == 0x3E889045565A9
        found.append((number, reply, outgoing[at + 20 : at + 20 + length]))
        assert len(found[-1][2]) == length
        at += 20 + length
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in this thread; fails the test after 10 s."""
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


class RawClient:
    """One connection; every read fails after 10 s (of Trio's clock)."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def receive(self, size_bytes: int) -> bytes:
        """Exactly so many bytes; fewer only at the end of the stream."""
        received = bytearray()
        with trio.fail_after(10):
            while len(received) < size_bytes:
                data = await self.stream.receive_some(size_bytes - len(received))
                if not data:
                    break
                received += data
        return bytes(received)

    async def at_end(self) -> bool:
        """Whether the server has closed: nothing more comes. Both ways of closing count."""
        try:
            return await self.receive(1) == b""
        except trio.BrokenResourceError:
            return True

    async def option_reply(self) -> tuple[int, int, bytes]:
        _, number, reply, length = struct.unpack(">QIII", await self.receive(20))
        return number, reply, await self.receive(length)

    async def go(self, name: str, *, structured: bool = False) -> None:
        """The whole handshake."""
        assert await self.receive(18) == GREETING
        await self.send(FIXED)
        if structured:
            await self.send(option(Option.STRUCTURED_REPLY))
            assert await self.option_reply() == (Option.STRUCTURED_REPLY, 1, b"")
        await self.send(option(Option.GO, info_request(name.encode())))
        while True:
            _, reply, _ = await self.option_reply()
            assert reply in (1, 3)
            if reply == 1:
                return

    async def request(
        self, command: int, offset: int = 0, length: int = 0, flags: int = 0, cookie: int = 7, data: bytes = b""
    ) -> tuple[int, bytes]:
        """One request and its answer: (error, data)."""
        await self.send(encode_request(command, cookie, offset, length or len(data), flags) + data)
        error, echoed = await self.reply()
        assert echoed == cookie
        return error, await self.receive(length) if command == Command.READ and not error else b""

    async def reply(self) -> tuple[int, int]:
        """A reply's header: (error, cookie)."""
        magic, error, cookie = struct.unpack(">IIQ", await self.receive(16))
        assert magic == 0x67446698
        return error, cookie

    async def chunk(self) -> tuple[int, int, int, bytes]:
        """A chunk of a structured reply: (flags, type, cookie, payload)."""
        magic, flags, kind, cookie, length = struct.unpack(">IHHQI", await self.receive(20))
        assert magic == 0x668E33EF
        return flags, kind, cookie, await self.receive(length)

    async def close(self) -> None:
        await self.stream.aclose()
