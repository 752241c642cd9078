"""Whoever looks on at a resource's changes may go away in any manner: the disk's process lives on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from pydrbd.limits import EVENTS_WATCHERS_MAX
from tests.runtime.test_service import make_pair, running

LIMIT_S = 60.0
WATCH = b'{"verb": "events", "arguments": {}}\n'


def hang_up_unread(sock: socket.socket) -> None:
    """What it was sent is still there: the other side gets ECONNRESET."""
    sock.close()


def hang_up_read(sock: socket.socket) -> None:
    """In good order."""
    sock.recv(1 << 20)
    sock.close()


def read_no_more(sock: socket.socket) -> None:
    """The next state is a broken pipe, while it still seems to be there."""
    sock.shutdown(socket.SHUT_RD)


@pytest.mark.parametrize("leave", [hang_up_unread, hang_up_read, read_no_more])
async def test_a_watcher_that_goes_away_takes_nobody_with_it(leave, tmp_path: Path, short_tmp: Path) -> None:
    """All places are taken and left; the changes go on, and there is room for the next ones."""
    async with running(make_pair(tmp_path), short_tmp) as service:
        path = short_tmp / "r0.ctl.sock"
        for _ in range(2):
            watchers = []
            for _ in range(EVENTS_WATCHERS_MAX):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(path))
                sock.sendall(WATCH)
                watchers.append(sock)
                await trio.to_thread.run_sync(sock.recv, 1)
            for sock in watchers:
                leave(sock)
            with trio.fail_after(LIMIT_S):
                while service.watchers.count:
                    service.watchers.tell()
                    await trio.sleep(0.01)
            for sock in watchers:
                sock.close()


async def test_one_too_many_is_told_so(tmp_path: Path, short_tmp: Path) -> None:
    """And hears nothing more."""
    async with running(make_pair(tmp_path), short_tmp):
        path, socks = short_tmp / "r0.ctl.sock", []
        for number in range(EVENTS_WATCHERS_MAX + 1):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            sock.sendall(WATCH)
            said = await trio.to_thread.run_sync(sock.recv, 65536)
            assert (b"look on already" in said) == (number == EVENTS_WATCHERS_MAX)
            socks.append(sock)
        for sock in socks:
            sock.close()
