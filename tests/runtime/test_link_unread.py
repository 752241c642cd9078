"""A peer that asks and asks, and never reads what it is told: it costs a bounded amount of memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from pydrbd.core.effects import Socket
from pydrbd.core.events import LinkDown, LinkUp
from pydrbd.core.states import ConnState
from pydrbd.runtime import link_unread
from pydrbd.runtime.link_unread import Unread
from pydrbd.units import MIB
from pydrbd.wire.framing import encode_packet
from pydrbd.wire.packets import Packet
from tests.runtime.test_link import QUIET_S, Notes, met

ANSWER = bytes(16 * MIB)  # more than a socket takes
ASK = encode_packet(Packet.P_UNPLUG_REMOTE, b"", apv=101)


async def test_a_peer_that_does_not_read_its_answers_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost by it: when it has read, its next question is heard."""
    monkeypatch.setattr(link_unread, "LINK_UNREAD_ANSWERS_BYTES_MAX", MIB)
    owner = Notes(behind_after=100)
    async with met(owner) as (link, peer):
        await peer.data.send(ASK)
        await owner.until(Socket.DATA, 1)
        link.send(Socket.DATA, [ANSWER], answer=True)
        link.flush()
        await peer.data.send(ASK)  # its reader waits already: this one is still heard
        await owner.until(Socket.DATA, 2)
        await peer.data.send(ASK)
        await trio.testing.wait_all_tasks_blocked(QUIET_S)
        assert owner.received[Socket.DATA] == 2
        left = len(ANSWER)
        while left:
            left -= len(await peer.data.recv(left))
        await owner.until(Socket.DATA, 3)


async def test_a_peer_that_does_not_read_its_acknowledgements_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on writing and never looks at the meta socket."""
    monkeypatch.setattr(link_unread, "LINK_UNREAD_ACKS_BYTES_MAX", MIB)
    owner = Notes(behind_after=100)
    async with met(owner) as (link, peer):
        await peer.data.send(ASK)
        await owner.until(Socket.DATA, 1)
        link.send(Socket.META, [ANSWER])
        link.flush()
        while not any(isinstance(event, LinkDown) for event in owner.events):
            await owner.changed.wait()
    assert [type(event) for event in owner.events] == [LinkUp, LinkDown]
    assert owner.events[1].reason is ConnState.Timeout


def test_our_own_writes_are_not_taken_for_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Primaries with full queues must not wait for each other; an answer counts until the socket has all of it."""
    monkeypatch.setattr(link_unread, "LINK_UNREAD_ANSWERS_BYTES_MAX", 100)
    unread = Unread()
    unread.say(10_000, answer=False)
    assert not unread.too_many_answers(10_000)
    unread.say(101, answer=True)
    unread.say(10_000, answer=False)
    assert unread.too_many_answers(20_101) and unread.too_many_answers(10_001)
    assert not unread.too_many_answers(10_000)
