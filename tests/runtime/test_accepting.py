"""Connections that fail before they are there, and descriptors that run out: no reason for a listener to end."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from pydrbd.runtime import link as link_module
from pydrbd.runtime.accepting import accept
from pydrbd.runtime.link import Link
from pydrbd.runtime.link_tls import PlainDoor, TlsDoor
from pydrbd.runtime.rendezvous import Endpoints, LinkTimes, SocketPair
from pydrbd.runtime.tls import TlsFailed, TlsFiles, TlsIdentity, accept_tls, connect_tls
from tests.certificates import Authority


class Listener:
    """Fails in these ways, one after the other; then nobody connects."""

    def __init__(self, *errnos: int) -> None:
        self.errnos = list(errnos)
        self.through = trio.Event()

    async def accept(self) -> Any:
        await trio.lowlevel.checkpoint()
        if self.errnos:
            number = self.errnos.pop(0)
            raise OSError(number, os.strerror(number))
        self.through.set()
        await trio.sleep_forever()

    def close(self) -> None:
        pass


PASSING = (errno.EMFILE, errno.ECONNABORTED, errno.ENFILE, errno.EPROTO, errno.ENOBUFS)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def identity(authority: Authority, directory: Path) -> TlsIdentity:
    place = authority.save(directory, "n", side="node")
    return TlsIdentity(TlsFiles(*(str(place / f"{file}.pem") for file in ("node-cert", "node-key", "ca-cert"))))


def plain(listener: Any, pumps: trio.Nursery, _identity: TlsIdentity) -> PlainDoor:
    door = PlainDoor(listener)
    pumps.start_soon(door.accept)
    return door


def tls(listener: Any, pumps: trio.Nursery, ours: TlsIdentity) -> PlainDoor:
    return TlsDoor(listener, ours, pumps, 1.0)


@pytest.mark.parametrize("make", [plain, tls])
async def test_a_door_outlives_what_passes(
    authority: Authority, short_tmp: Path, autojump_clock: trio.testing.MockClock, make: Callable[..., PlainDoor]
) -> None:
    """It listens again after each of them."""
    listener = Listener(*PASSING)
    async with trio.open_nursery() as pumps:
        door = make(listener, pumps, identity(authority, short_tmp / "n"))
        await listener.through.wait()
        pumps.cancel_scope.cancel()
        door.close()
    assert not listener.errnos


async def test_what_does_not_pass_is_raised() -> None:
    """A listener that is none is a bug, not a reason to try for ever."""
    with pytest.raises(OSError, match="Invalid argument"):
        await accept(cast(Any, Listener(errno.EINVAL)), "nobody")


async def test_tls_without_a_descriptor_for_its_other_end_fails_alone(
    authority: Authority, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides learn it as they do of a refused certificate; the sockets are closed."""
    ours = identity(authority, short_tmp / "n")
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.setblocking(False)

    def none_left() -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", none_left)
    failed: list[str] = []

    async def shake(begin: Any, sock: socket.socket, pumps: trio.Nursery) -> None:
        with pytest.raises(TlsFailed) as caught:
            await begin(sock, ours, pumps)
        failed.append(str(caught.value))

    async with trio.open_nursery() as pumps:
        pumps.start_soon(shake, accept_tls, near, pumps)
        pumps.start_soon(shake, connect_tls, far, pumps)
    assert len(failed) == 2 and all("Too many open files" in words for words in failed)


async def test_a_link_that_gets_no_socket_tries_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk and the clients of the node go on meanwhile."""
    tries: list[Endpoints] = []
    second = trio.Event()

    async def meet(where: Endpoints, _times: LinkTimes, _rng: random.Random, _pumps: trio.Nursery) -> SocketPair:
        tries.append(where)
        if len(tries) == 2:
            second.set()
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(link_module, "meet", meet)
    where = Endpoints(socket.AF_INET, ("127.0.0.1", 1), ("127.0.0.1", 2))
    link = Link(cast(Any, None), where, LinkTimes(), lambda count: bytes(count))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        link.open(1)
        await second.wait()
        nursery.cancel_scope.cancel()
    assert "Too many open files; it is tried again every 10 s" in caplog.text
