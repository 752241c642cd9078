"""Replies on their way out: order, gathering, queueing, and a peer that is gone."""

from __future__ import annotations

import socket

import pytest
import trio

from pydrbd.runtime.nbd_sender import ReplySender


@pytest.fixture
def ends():
    """Two ends of a stream, ours non-blocking."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


class Calls:
    """Counts what the sender reports."""

    def __init__(self):
        self.progress_count = 0
        self.lost = []

    def on_progress(self):
        self.progress_count += 1


async def read_all(sock, size_bytes):
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    received = bytearray()
    with trio.fail_after(10):
        while len(received) < size_bytes:
            received += await stream.receive_some(size_bytes - len(received))
    return bytes(received)


async def test_more_parts_than_one_system_call_takes_arrive_in_order(ends, nursery):
    """5000 parts, some empty, in two calls: above Linux's limit of 1024 a sendmsg, and above what the socket holds."""
    ours, theirs = ends
    calls = Calls()
    sender = ReplySender(ours, calls.on_progress, calls.lost.append)
    parts = [bytes([number % 251]) * (number % 300) for number in range(5000)]
    sender.send(parts[:3000])
    sender.send(parts[3000:])
    assert sender.queued_bytes > 0
    nursery.start_soon(sender.run)
    assert await read_all(theirs, sum(map(len, parts))) == b"".join(parts)
    assert sender.queued_bytes == 0
    assert calls.progress_count > 0
    assert calls.lost == []


async def test_what_the_socket_takes_is_not_queued(ends):
    """The usual case needs no writer task."""
    ours, theirs = ends
    sender = ReplySender(ours, Calls().on_progress, Calls().lost.append)
    sender.send([b"abc", bytearray(b"def"), memoryview(b"ghi")])
    assert sender.queued_bytes == 0
    assert theirs.recv(100) == b"abcdefghi"


async def test_a_lost_peer_is_reported_once_and_later_replies_vanish(ends):
    """Nothing is raised into the session, and nothing piles up."""
    ours, theirs = ends
    calls = Calls()
    sender = ReplySender(ours, calls.on_progress, calls.lost.append)
    theirs.close()
    for _ in range(3):
        sender.send([b"x" * 100])
    assert [type(error) for error in calls.lost] == [BrokenPipeError]
    assert sender.queued_bytes == 0
