"""Two nodes find each other on real loopback sockets, whoever comes first and whatever else connects."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from dataclasses import replace

import pytest
import trio

from pydrbd.errors import BusyError
from pydrbd.runtime.link_tls import LinkTls
from pydrbd.runtime.rendezvous import Endpoints, LinkTimes, SocketPair, bind, meet

TIMES = LinkTimes(connect_int_s=0.5, ping_timeout_s=0.2, socket_check_timeout_s=0.05)
LIMIT_S = 60.0
SILENCE_S = 2.0


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def endpoints() -> tuple[Endpoints, Endpoints]:
    first, second = free_ports(2)
    a, b = ("127.0.0.1", first), ("127.0.0.1", second)
    return Endpoints(socket.AF_INET, a, b), Endpoints(socket.AF_INET, b, a)


async def stand(where: Endpoints, rng: random.Random, pumps: trio.Nursery) -> SocketPair:
    """A pair that carries bytes. As the link does it: one that the other side has dropped is tried again."""
    while True:
        pair = await meet(where, TIMES, rng, pumps)
        with suppress(OSError), trio.move_on_after(SILENCE_S):
            for sock in (pair.data, pair.meta):
                await sock.send(b"!")
            if [await sock.recv(1) for sock in (pair.data, pair.meta)] == [b"!", b"!"]:
                return pair
        pair.close()


@pytest.fixture
def pumps(nursery: trio.Nursery) -> trio.Nursery:
    """Where the tasks run that encrypt."""
    return nursery


async def meet_both(
    seed: int, pumps: trio.Nursery, head_start_s: float = 0.0, tls: tuple[LinkTls | None, LinkTls | None] = (None, None)
) -> tuple[SocketPair, SocketPair]:
    """Both nodes run the loop until each has its pair."""
    ours, theirs = (replace(where, tls=own) for where, own in zip(endpoints(), tls, strict=True))
    found: dict[str, SocketPair] = {}

    async def run(name: str, where: Endpoints) -> None:
        found[name] = await stand(where, random.Random(f"{seed}/{name}"), pumps)

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "a", ours)
            await trio.sleep(head_start_s)
            nursery.start_soon(run, "b", theirs)
    return found["a"], found["b"]


async def carries(sender: trio.socket.SocketType, receiver: trio.socket.SocketType) -> bool:
    await sender.send(b"x" * 10)
    with trio.fail_after(LIMIT_S):
        return await receiver.recv(10) == b"x" * 10


@pytest.mark.parametrize("head_start_s", [0.0, 0.2])
async def test_two_nodes_agree_on_their_sockets_and_on_who_resolves(
    seed: int, head_start_s: float, nursery: trio.Nursery
) -> None:
    """Data meets data, meta meets meta, and exactly one side accepted the meta socket."""
    a, b = await meet_both(seed, nursery, head_start_s)
    try:
        assert a.resolve_conflicts is not b.resolve_conflicts
        assert await carries(a.data, b.data)
        assert await carries(b.meta, a.meta)
    finally:
        a.close()
        b.close()


async def test_strangers_at_the_port_do_not_keep_the_nodes_apart(seed: int, pumps: trio.Nursery) -> None:
    """Garbage, an immediate close and a silent connection are dropped; the peer still gets in."""
    ours, theirs = endpoints()
    found: list[SocketPair] = []

    async def run(where: Endpoints) -> None:
        found.append(await stand(where, random.Random(f"{seed}/{where is ours}"), pumps))

    async def stranger(address: tuple[str, int], payload: bytes) -> None:
        async with await trio.open_tcp_stream(*address) as stream:
            if payload:
                await stream.send_all(payload)
                with suppress(trio.BrokenResourceError):
                    await stream.receive_some(1)

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, ours)
            for payload in (b"GET / HTTP/1.0\r\n\r\n", b"", b"\x83\x74\x02\x67"):
                nursery.start_soon(stranger, ours.local, payload)
            nursery.start_soon(run, theirs)
    assert len(found) == 2
    for pair in found:
        pair.close()


async def test_a_busy_port_is_a_clear_error(nursery: trio.Nursery) -> None:
    """The message names the address and what to look for."""
    ours, _ = endpoints()
    first = bind(ours)
    try:
        with pytest.raises(BusyError, match=rf"127\.0\.0\.1 port {ours.local[1]}.*in use"):
            await meet(ours, TIMES, random.Random(0), nursery)
    finally:
        first.close()


async def test_an_address_of_another_machine_is_a_clear_error(nursery: trio.Nursery) -> None:
    """An address that is not ours can't be bound: said so, not retried for ever."""
    where = Endpoints(socket.AF_INET, ("192.0.2.1", 7788), ("127.0.0.1", 7789))
    with pytest.raises(BusyError, match="none of this machine's"):
        await meet(where, TIMES, random.Random(0), nursery)


def test_the_buffers_of_sockets_are_as_configured() -> None:
    """sndbuf-size and rcvbuf-size, where the kernel grants them (it counts twice as much); 0 is the kernel's choice."""
    ours, _theirs = endpoints()
    usual = bind(ours)
    sized = replace(ours, local=("127.0.0.1", 0), send_buffer_bytes=8192, receive_buffer_bytes=16384)
    small = bind(sized)
    try:
        assert small.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 8192
        assert small.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 16384
        assert usual.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) != 2 * 16384
    finally:
        usual.close()
        small.close()
