"""Requests of other threads for an export: how nbdkit's threads reach the engine, which lives in Trio's.

    a thread   call(...)  ->  a channel (native/channel.c): a socket pair whose other end is an NBD connection
    Trio       runtime/nbd_connection, or the lane (runtime/lane), which reads it in native code

A hand-over between threads costs far more than a request. A channel needs none: while there is nothing to decide, a
lane answers without Python, and the threads wait in native code meanwhile. What several of them ask at the same time
is sent by one of them, arrives as one batch, and is answered as one.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from struct import Struct
from typing import Final

import trio

from pydrbd import native
from pydrbd.limits import NBD_REQUEST_BYTES_MAX
from pydrbd.runtime.engine import Client, Engine, ExportInfo, ExportUnavailable, Session
from pydrbd.runtime.nbd_connection import NbdConnection, NbdStatistics
from pydrbd.runtime.nbd_handshake import Admission
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire.nbd import REPLY_SIZE_BYTES, ChunkType, Command, NbdError, NbdMagic

__all__ = ["Extents", "ThreadsClient", "keep_thread", "open_channel"]

Extents = list[tuple[int, int]]
"""(length in bytes, flags of base:allocation), one behind the other."""

_REQUEST: Final = Struct(">IHHQQI")
_SIMPLE: Final = Struct(">IIQ")
_CHUNK: Final = Struct(">IHHQI")
_CONTEXT: Final = (1, "base:allocation")
_CONTEXT_BYTES: Final = 4
_EXTENT: Final = Struct(">II")

# Plain numbers: an enum's members are slow to reach for what is done for every request.
_MAGIC: Final = int(NbdMagic.REQUEST)
_READ: Final = int(Command.READ)
_ESHUTDOWN: Final = int(NbdError.ESHUTDOWN)

_thread = threading.local()


def keep_thread() -> None:
    """For a thread that Python has not made: what it knows of such a one goes with each call, and is costly to make.

    Keep it until the thread ends, which pays if it asks often. What is kept says so itself: it is the thread's.
    """
    if not hasattr(_thread, "is_kept"):
        native.keep_thread()
        _thread.is_kept = True


async def open_channel(
    engine: Engine,
    open_session: Callable[[Client], Awaitable[Session]],
    statistics: NbdStatistics,
    nursery: trio.Nursery,
) -> tuple[socket.socket, ExportInfo]:
    """In Trio's thread: a blocking socket on which the export answers requests, from its first byte on.

    Raises what `open_session` does.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    try:
        connection = NbdConnection(theirs, "of a thread", engine, statistics, Admission())
        session = await open_session(connection)
        connection.adopt(session, _CONTEXT)
        nursery.start_soon(connection.run, nursery)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return ours, session.info


class ThreadsClient:
    """One client with many threads: all their requests go by one channel, but for BLOCK_STATUS, which has its own."""

    def __init__(self, connect: Callable[[], tuple[socket.socket, ExportInfo]]) -> None:
        """`connect` gives a socket for a channel. Raises what it does."""
        self._connect = connect
        self._socket, self.info = connect()
        self._channel = native.Channel(self._socket.fileno())
        self._for_status: socket.socket | None = None
        self._asks_status = threading.Lock()

    def close(self) -> None:
        """No thread calls any more."""
        goodbye = _REQUEST.pack(_MAGIC, 0, Command.DISC, 0, 0, 0)
        for channel in filter(None, (self._socket, self._for_status)):
            with contextlib.suppress(OSError):  # the node has ended
                channel.sendall(goodbye)
            channel.close()
        self._channel.close()

    def call(self, command: int, offset: int, length: int, flags: int = 0, buffer: memoryview | None = None) -> int:
        """Carry out a request and wait for it: 0 or the protocol's error number; ESHUTDOWN if the node has ended.

        `buffer` is where a READ's data goes, and where a WRITE's comes from. What is longer than a request may be goes
        in pieces.
        """
        if buffer is not None and length > NBD_REQUEST_BYTES_MAX:
            for position in range(0, length, NBD_REQUEST_BYTES_MAX):
                piece = buffer[position : position + NBD_REQUEST_BYTES_MAX]
                if error := self.call(command, offset + position, len(piece), flags, piece):
                    return error
            return 0
        try:
            return self._channel.call(command, flags, offset, length, b"" if buffer is None else buffer)
        except ConnectionError:
            return _ESHUTDOWN

    def read(self, offset: int, buffer: memoryview) -> int:
        """READ of any bytes, whatever the export's least block is: 0 or the error number, as `call`."""
        length = len(buffer)
        if not (offset | length) % SECTOR_SIZE_BYTES:
            return self.call(_READ, offset, length, 0, buffer)
        before, behind = offset % SECTOR_SIZE_BYTES, -(offset + length) % SECTOR_SIZE_BYTES
        whole = memoryview(bytearray(before + length + behind))
        error = self.call(_READ, offset - before, len(whole), 0, whole)
        if not error:
            buffer[:] = whole[before : before + length]
        return error

    def extents(self, offset: int, length: int, flags: int) -> tuple[int, Extents]:
        """BLOCK_STATUS of base:allocation: 0 or the error number, and the extents from `offset` on."""
        with self._asks_status:
            try:
                if self._for_status is None:
                    self._for_status, _info = self._connect()
                self._for_status.sendall(_REQUEST.pack(_MAGIC, flags, Command.BLOCK_STATUS, 0, offset, length))
                return _receive_status(self._for_status)
            except (ExportUnavailable, OSError):
                return _ESHUTDOWN, []


def _receive_status(channel: socket.socket) -> tuple[int, Extents]:
    """The one reply to BLOCK_STATUS that is due. Raises OSError, also when the stream ends."""
    head = bytearray(REPLY_SIZE_BYTES)
    _receive_all(channel, memoryview(head))
    magic, error, _cookie = _SIMPLE.unpack(head)
    if magic == NbdMagic.CHUNK:
        return 0, _receive_extents(channel, head)
    assert magic == NbdMagic.SIMPLE_REPLY, f"a reply begins with {magic:#x}"
    return error, []


def _receive_extents(channel: socket.socket, head: bytearray) -> Extents:
    """The answer to BLOCK_STATUS: one context, one chunk."""
    rest = bytearray(_CHUNK.size - len(head))
    _receive_all(channel, memoryview(rest))
    _magic, _flags, kind, _cookie, length = _CHUNK.unpack(head + rest)
    assert kind == ChunkType.BLOCK_STATUS, f"a chunk of type {kind}"
    payload = bytearray(length)
    _receive_all(channel, memoryview(payload))
    return list(_EXTENT.iter_unpack(payload[_CONTEXT_BYTES:]))


def _receive_all(channel: socket.socket, into: memoryview) -> None:
    while len(into):
        count = channel.recv_into(into)
        if not count:
            raise ConnectionError("the node has ended")
        into = into[count:]
