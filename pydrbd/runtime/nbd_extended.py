"""Extended headers on a socket: as with TLS, a task translates at one end of a socket pair, and the rest knows nothing.

A client that does not read its replies is not read from either: what waits here is at most one piece in each direction.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import Any

import trio

from pydrbd.errors import ClientProtocolError
from pydrbd.limits import NBD_EXTENDED_PIECE_BYTES
from pydrbd.wire.nbd_extended import ExtendedTranslator

__all__ = ["speak_extended"]

_log = logging.getLogger(__name__)


def speak_extended(
    sock: socket.socket, translator: ExtendedTranslator, unread: bytes, nursery: trio.Nursery
) -> socket.socket:
    """The socket to go on with, for compact requests; `sock` is taken over. A task in `nursery` translates.

    `unread`: what the client has said already. Raises OSError.
    """
    inside, given = socket.socketpair()
    given.setblocking(False)
    outside = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=sock.detach())))
    far = trio.SocketStream(trio.socket.from_stdlib_socket(inside))
    nursery.start_soon(_pump, outside, far, translator, unread)
    return given


async def _pump(
    outside: trio.SocketStream, inside: trio.SocketStream, translator: ExtendedTranslator, unread: bytes
) -> None:
    """Both directions, until the socket that was given away is closed, and what it had said is sent."""
    sending = trio.Lock()  # replies come from both directions
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_understood, outside, inside, translator, unread, sending)
            with contextlib.suppress(trio.BrokenResourceError):
                while data := await inside.receive_some(NBD_EXTENDED_PIECE_BYTES):
                    async with sending:
                        await outside.send_all(translator.replies(data))
            nursery.cancel_scope.cancel()
    finally:
        outside.socket.close()
        inside.socket.close()


async def _understood(outside: trio.SocketStream, inside: trio.SocketStream, *more: Any) -> None:
    try:
        await _requests(outside, inside, *more)
    except ClientProtocolError as error:
        _log.warning("an NBD client with extended headers: %s; its connection is dropped", error)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await inside.send_eof()


async def _requests(
    outside: trio.SocketStream,
    inside: trio.SocketStream,
    translator: ExtendedTranslator,
    data: bytes,
    sending: trio.Lock,
) -> None:
    """Until the client has no more to say, or says what can't be understood."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                while compact := translator.requests(data):
                    await inside.send_all(compact)
                    data = b""
                async with sending:
                    await outside.send_all(translator.refusals())
                data = await outside.receive_some(NBD_EXTENDED_PIECE_BYTES)
                if not data:
                    break
        await inside.send_eof()
