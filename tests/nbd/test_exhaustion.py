"""Clients that want all there is of connections or memory get their share, and nobody else does without."""

from __future__ import annotations

import logging

from pydrbd.runtime import nbd_connection
from pydrbd.units import MIB
from pydrbd.wire.nbd import Command, encode_request
from tests.nbd.raw_client import FIXED, until

CONNECTIONS_MAX = 8


async def test_handshakes_that_stand_still_do_not_keep_others_out(connect, server, caplog):
    """All places are taken by visitors that say nothing: the oldest of them goes. Who has opened a disk stays."""
    caplog.set_level(logging.INFO)
    inside = [await connect("disk"), await connect("disk")]
    silent = [await connect() for _ in range(CONNECTIONS_MAX - len(inside))]
    for client in silent[::2]:
        await client.send(FIXED)
    await until(lambda: server.statistics().connections == CONNECTIONS_MAX)
    for number in range(3):
        new = await connect("disk")
        inside.append(new)
        for client in inside:
            assert await client.request(Command.FLUSH) == (0, b"")
        assert await silent[number].receive(19) and await silent[number].at_end()
    assert server.statistics().refused == 0 and server.statistics().connections <= CONNECTIONS_MAX
    assert "others want its place" in caplog.text


async def test_what_one_client_may_hold_shrinks_with_the_number_of_clients(connect, server, monkeypatch):
    """Replies that nobody reads: all clients together hold what is allowed to all, not that much each."""
    monkeypatch.setattr(nbd_connection, "NBD_ALL_IN_FLIGHT_BYTES_MAX", 16 * MIB)
    greedy = [await connect("disk") for _ in range(4)]
    for client in greedy:
        await client.send(b"".join(encode_request(Command.READ, cookie, 0, MIB) for cookie in range(32)))
    await until(lambda: server.statistics().stops >= len(greedy))
    good = await connect("disk")
    assert await good.request(Command.READ, 0, MIB) == (0, bytes(MIB))
    in_sockets = len(greedy) * 2  # what the kernel has taken of each counts no more: far below 2 MiB on a Unix socket
    assert server.statistics().requests <= 16 + in_sockets + 1
    for client in greedy:
        for cookie in range(32):
            assert await client.reply() == (0, cookie)
            assert len(await client.receive(MIB)) == MIB
