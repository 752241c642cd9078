"""How a link ends: the reason, and the last bytes that nobody needs."""

from __future__ import annotations

import socket

import trio

from pydrbd.core.states import ConnState
from pydrbd.limits import RECEIVE_BUFFER_BYTES

__all__ = ["LinkEnd", "discard"]


class LinkEnd(Exception):
    """The link is over: the connection state that says why, and words."""

    def __init__(self, reason: ConnState, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


async def discard(sock: socket.socket) -> bool:
    """Read what nobody needs; False at the end of the stream. Raises OSError."""
    await trio.lowlevel.wait_readable(sock)
    try:
        return bool(sock.recv(RECEIVE_BUFFER_BYTES))
    except BlockingIOError:
        return True
