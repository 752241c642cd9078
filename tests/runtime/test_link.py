"""The link on real loopback sockets, with a node behind it that only takes notes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from pydrbd.core.effects import Socket
from pydrbd.core.events import LinkDown, LinkUp, Received
from pydrbd.core.states import ConnState
from pydrbd.errors import BusyError
from pydrbd.limits import LINK_SEND_BYTES
from pydrbd.runtime.link import Link
from pydrbd.runtime.rendezvous import Endpoints, SocketPair
from pydrbd.wire.framing import HeaderFormat, encode_packet
from pydrbd.wire.packets import Packet
from tests.runtime.test_rendezvous import LIMIT_S, TIMES, endpoints

QUIET_S = 0.1


async def no_lane(_who: object) -> bool:
    return False


class Notes:
    """The owner of a link whose handshake is over; `behind_after` packets the local disk is behind."""

    def __init__(self, behind_after: int) -> None:
        self.behind_after = behind_after
        self.received = {Socket.DATA: 0, Socket.META: 0}
        self.events: list[Any] = []
        self.changed = trio.Event()
        self.lane: Any = SimpleNamespace(engaged=False, reads=lambda _which: False, run=no_lane, end=lambda: None)
        self.node: Any = SimpleNamespace(
            links=SimpleNamespace(handshaking=False),
            holds_data=False,
            header_format=HeaderFormat.H100,
            digest_bytes=0,
            established=True,
            apv=101,
        )

    def feed(self, event: object) -> None:
        if isinstance(event, Received):
            self.received[event.socket] += event.batch.count
            if self.received[Socket.DATA] >= self.behind_after:
                self.node.holds_data = True
        else:
            self.events.append(event)
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    async def until(self, which: Socket, count: int) -> None:
        while self.received[which] < count:
            await self.changed.wait()


async def dial(address: tuple[str, int]) -> SocketPair:
    """The peer's side: a node that only connects."""
    sockets = []
    for packet in (Packet.P_INITIAL_DATA, Packet.P_INITIAL_META):
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(encode_packet(packet, apv=80))
        sockets.append(stream.socket)
    return SocketPair(*sockets, resolve_conflicts=False)


@asynccontextmanager
async def met(owner: Notes) -> AsyncIterator[tuple[Link, SocketPair]]:
    """A link that runs, and the peer that has met it."""
    ours, _nobody = endpoints()
    link = Link(owner, ours, TIMES, lambda count: bytes(count))
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            link.open(1)
            await trio.testing.wait_all_tasks_blocked(QUIET_S)  # it listens by now
            peer = await dial(ours.local)
            yield link, peer
            peer.close()
            nursery.cancel_scope.cancel()


async def test_a_disk_that_is_behind_stops_the_peers_data_but_not_its_pings() -> None:
    """Memory is bounded by what waits for the disk; the peer is not taken for dead meanwhile, and nothing is lost."""
    owner = Notes(behind_after=1)
    write = encode_packet(Packet.P_UNPLUG_REMOTE, b"", apv=101)
    ping = encode_packet(Packet.P_PING, b"", apv=101)
    async with met(owner) as (link, peer):
        await peer.data.send(write)
        await owner.until(Socket.DATA, 1)
        for count in range(1, 4):
            await peer.data.send(write)
            await peer.meta.send(ping)
            await owner.until(Socket.META, count)
        await trio.testing.wait_all_tasks_blocked(QUIET_S)
        assert owner.received[Socket.DATA] == 1
        owner.behind_after = 100
        owner.node.holds_data = False
        link.resume_reading()
        await owner.until(Socket.DATA, 4)
        assert [type(event) for event in owner.events] == [LinkUp]
        peer.close()
        while not any(isinstance(event, LinkDown) for event in owner.events):
            await owner.changed.wait()


async def test_an_address_that_is_gone_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An interface that goes down must not end the process, and with it the disk; it is told once, not at each try."""
    ours, _nobody = endpoints()
    tries: list[Endpoints] = []
    again = trio.Event()

    async def meet(where: Endpoints, *_rest: object) -> SocketPair:
        tries.append(where)
        if len(tries) == 3:
            again.set()
            await trio.sleep_forever()
        raise BusyError("can't listen on 127.0.0.1: Cannot assign requested address")

    monkeypatch.setattr("pydrbd.runtime.link.meet", meet)
    link = Link(Notes(behind_after=1), ours, replace(TIMES, connect_int_s=0.001), lambda count: bytes(count))
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            link.open(1)
            await again.wait()
            nursery.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "can't listen on 127.0.0.1: Cannot assign requested address; it is tried again every 0.001 s"
    ]


async def test_a_peer_that_falls_silent_after_the_handshake_is_missed_by_its_pings() -> None:
    """The patience that a handshake is given ends with it, also for the silence that began in it."""
    ours, _nobody = endpoints()
    owner = Notes(behind_after=1)
    owner.node.established = False
    times = replace(TIMES, ping_int_s=0.05, ping_timeout_s=0.05, timeout_s=1000.0)
    link = Link(owner, ours, times, lambda count: bytes(count))
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            link.open(1)
            await trio.testing.wait_all_tasks_blocked(QUIET_S)  # it listens by now
            peer = await dial(ours.local)
            while not owner.events:
                await owner.changed.wait()
            await trio.testing.wait_all_tasks_blocked()
            owner.node.established = True
            while not isinstance(owner.events[-1], LinkDown):
                await owner.changed.wait()
            assert owner.events[-1].reason is ConnState.NetworkFailure
            peer.close()
            nursery.cancel_scope.cancel()


def test_a_lot_for_the_peer_is_sent_before_its_event_is_worked_in() -> None:
    """The peer works on it meanwhile; a little waits for the rest of the event, and leaves with it."""
    link = Link(Notes(behind_after=1), endpoints()[0], TIMES, lambda count: bytes(count))
    sent: list[int] = []
    sender: Any = SimpleNamespace(send=lambda parts: sent.append(sum(map(len, parts))), queued_bytes=0)
    link._senders = (sender, sender)
    link.send(Socket.DATA, [bytes(LINK_SEND_BYTES - 1)])
    assert not sent
    link.send(Socket.DATA, [b"x"])
    assert sent == [LINK_SEND_BYTES]
    link.send(Socket.META, [b"ack"])
    assert len(sent) == 1
    link.flush()
    assert sent == [LINK_SEND_BYTES, 3]


async def test_a_link_is_closed_by_its_own_number_only() -> None:
    """A close that was meant for the link before must not end this one."""
    owner = Notes(behind_after=100)
    async with met(owner) as (link, _peer):
        while not owner.events:
            await owner.changed.wait()
        link.close(7, "the operator's, of another link", linger=False)
        await trio.testing.wait_all_tasks_blocked(QUIET_S)
        assert [(type(event), event.number) for event in owner.events] == [(LinkUp, 1)]
        link.close(1, "the operator's", linger=False)
        while len(owner.events) < 2:
            await owner.changed.wait()
        assert [(type(event), event.number) for event in owner.events] == [(LinkUp, 1), (LinkDown, 1)]


async def test_a_link_that_is_closed_while_it_is_looked_for_comes_to_nothing() -> None:
    """The next one that is asked for, even in the same moment, is found under its own number."""
    ours, _nobody = endpoints()
    owner = Notes(behind_after=100)
    link = Link(owner, ours, TIMES, lambda count: bytes(count))
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            link.open(1)
            await trio.testing.wait_all_tasks_blocked(QUIET_S)
            link.close(1, "the operator's", linger=True)
            link.open(2)
            with pytest.raises(AssertionError, match="twice"):
                link.open(3)
            await trio.testing.wait_all_tasks_blocked(QUIET_S)
            peer = await dial(ours.local)
            while not owner.events:
                await owner.changed.wait()
            assert [(type(event), event.number) for event in owner.events] == [(LinkUp, 2)]
            peer.close()
            nursery.cancel_scope.cancel()
