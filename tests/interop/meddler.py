"""A wire that changes data: relays TCP between two nodes, and alters the first of some patterns that comes by.

    python3 meddler.py ADDRESS PORT FIRST SECOND PATTERN...      patterns as hexadecimal digits

It listens on ADDRESS; who comes from FIRST is relayed to SECOND, and the other way round. When a pattern has been
altered (once), everything that begins after that is turned away, so that the nodes stay apart, until a line comes on
stdin. Standard library only, in a process of its own: it lives in the lab's network.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

CHUNK_BYTES = 1 << 20
COMPLEMENT = bytes(255 - value for value in range(256))


class Meddler:
    """The relay. `altered` becomes true once; while `closed`, nobody gets through."""

    def __init__(self, address: str, port: int, ends: tuple[str, str], patterns: list[bytes]) -> None:
        self.address = address
        self.port = port
        self.ends = ends
        self.patterns = patterns
        self.altered = False
        self.closed = False

    def work_on(self, chunk: bytes) -> bytes:
        """The chunk as it is passed on."""
        for pattern in self.patterns:
            if not self.altered and pattern in chunk:
                self.altered = self.closed = True
                print("altered", flush=True)
                return chunk.replace(pattern, pattern.translate(COMPLEMENT), 1)
        return chunk

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until one side ends it; then both ends are gone."""
        source = writer.get_extra_info("peername")[0]
        target = self.ends[1] if source == self.ends[0] else self.ends[0]
        outward = None
        with contextlib.suppress(OSError):
            if not self.closed:
                there, outward = await asyncio.open_connection(
                    target, self.port, local_addr=(self.address, 0), limit=CHUNK_BYTES
                )
                ways = [asyncio.create_task(self.copy(*way)) for way in ((reader, outward), (there, writer))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        for end in (writer, outward):
            if end is not None:
                end.close()

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                writer.write(self.work_on(chunk))
                await writer.drain()

    async def run(self) -> None:
        """Until stdin ends."""
        server = await asyncio.start_server(self.relay, self.address, self.port, limit=CHUNK_BYTES)
        print("listens", flush=True)
        async with server:
            while await asyncio.to_thread(sys.stdin.readline):
                self.closed = False


if __name__ == "__main__":
    own, port, first, second, *patterns = sys.argv[1:]
    asyncio.run(Meddler(own, int(port), (first, second), [bytes.fromhex(text) for text in patterns]).run())
