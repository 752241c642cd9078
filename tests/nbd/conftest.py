"""A memory engine behind an NBD server on a Unix socket, and raw clients for it."""

from __future__ import annotations

import pytest
import trio

from pydrbd.runtime.nbd_server import NbdServer
from tests.nbd.memory_engine import MemoryEngine
from tests.nbd.raw_client import RawClient

DISK_SIZE_BYTES = 64 << 20


@pytest.fixture
def engine():
    """64 MiB of memory under the names "disk" and "ro"."""
    engine = MemoryEngine(DISK_SIZE_BYTES)
    yield engine
    engine.close()


@pytest.fixture
def socket_path(short_tmp):
    return short_tmp / "nbd.sock"


@pytest.fixture
async def server(engine, socket_path, nursery):
    """A server that listens and serves."""
    server = NbdServer(engine, connections_max=8)
    server.listen_unix(socket_path)
    await nursery.start(server.serve)
    return server


@pytest.fixture
async def connect(server, socket_path):
    """`await connect()` is a new raw connection, `await connect("disk")` one with an open export."""
    clients = []

    async def connect(export=None):
        client = RawClient(await trio.open_unix_socket(str(socket_path)))
        clients.append(client)
        if export is not None:
            await client.go(export)
        return client

    yield connect
    for client in clients:
        await client.close()
