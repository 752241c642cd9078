"""A small NBD client: blocking sockets, many requests in flight, every reply checked. For `demo` and for tests.

    with NbdClient.connect(Path("r0.nbd.sock"), "r0", depth=16) as client:
        client.submit(Command.WRITE, offset, payload=data, on_reply=acknowledged)
        client.drain()

`submit` waits only while `depth` requests are in flight. `on_reply(error, payload)` is called for each request when its
reply has come, from within `submit`, `wait_reply`, `drain` and `close`; without one an error is raised. Replies that
came before a connection broke are handed out before ConnectionLost is raised: no acknowledgement is forgotten.

Formats: the NBD project's doc/proto.md, fixed newstyle, NBD_OPT_GO, simple replies.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Final, Self

from pydrbd.admin.nbd_handshake import ConnectionLost, NbdClientError, ServerProtocolError, open_export
from pydrbd.wire.nbd import REPLY_SIZE_BYTES, Command, CommandFlag, NbdError, NbdMagic, encode_request

__all__ = ["NbdClient", "OnReply", "RequestFailed"]

OnReply = Callable[[int, bytes], None]
"""Called with (NBD error number, a READ's bytes)."""

_REPLY: Final = Struct(">IIQ")
_NO_FLAGS: Final = CommandFlag(0)
_RECEIVE_BYTES: Final = 256 * 1024

assert _REPLY.size == REPLY_SIZE_BYTES


class RequestFailed(NbdClientError):
    """The server answered a request with an error number (`error`)."""

    exit_code = 74

    def __init__(self, command: Command, offset_bytes: int, length_bytes: int, error: int) -> None:
        name = NbdError(error).name if error in NbdError.__members__.values() else str(error)
        super().__init__(f"{command.name} of {length_bytes} bytes at {offset_bytes} failed: {name}")
        self.error = error


@dataclass(frozen=True, slots=True)
class _InFlight:
    command: Command
    offset_bytes: int
    length_bytes: int
    on_reply: OnReply | None



class NbdClient:
    """One connection to one export. Not for several threads at once."""

    def __init__(self, sock: socket.socket, export: str, *, depth: int = 16) -> None:
        assert depth >= 1, "at least one request in flight"
        self.depth = depth
        self._sock = sock
        self._received = bytearray()
        self._in_flight: dict[int, _InFlight] = {}
        self._next_cookie = 1
        self.export = open_export(sock, export)

    @classmethod
    def connect(
        cls, address: Path | tuple[str, int], export: str = "", *, depth: int = 16, timeout_s: float = 60.0
    ) -> Self:
        """Open `export` at a Unix socket's path or at (host, port).

        No answer for `timeout_s` counts as a lost connection. Raises ConnectionLost, ExportRefused,
        ServerProtocolError.
        """
        try:
            if isinstance(address, Path):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(timeout_s)
                try:
                    sock.connect(str(address))
                except OSError:
                    sock.close()
                    raise
            else:
                sock = socket.create_connection(address, timeout_s)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise ConnectionLost(f"can't connect to the NBD server at {address}: {error.strerror or error}") from error
        try:
            return cls(sock, export, depth=depth)
        except BaseException:
            sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._sock.close()

    @property
    def size_bytes(self) -> int:
        """The size of the export."""
        return self.export.size_bytes

    @property
    def in_flight(self) -> int:
        """Requests that have no reply yet."""
        return len(self._in_flight)

    # --- requests ---

    def submit(
        self,
        command: Command,
        offset_bytes: int = 0,
        length_bytes: int = 0,
        *,
        payload: bytes | bytearray | memoryview = b"",
        flags: CommandFlag = _NO_FLAGS,
        on_reply: OnReply | None = None,
    ) -> None:
        """Send one request when there is room for it. A WRITE's length is its payload's.

        Raises ConnectionLost, and RequestFailed for an earlier or this request that has no `on_reply`.
        """
        while len(self._in_flight) >= self.depth:
            self.wait_reply()
        length = len(payload) if command is Command.WRITE else length_bytes
        assert length <= self.export.block_maximum_bytes or command is not Command.WRITE, "longer than the server takes"
        cookie = self._next_cookie
        self._next_cookie += 1
        self._in_flight[cookie] = _InFlight(command, offset_bytes, length, on_reply)
        header = encode_request(command, cookie, offset_bytes, length, flags)
        try:
            self._send(header, payload)
        except OSError as error:
            self._collect_the_rest()
            raise ConnectionLost(f"the NBD server is gone: {error.strerror or error}") from error

    def wait_reply(self) -> None:
        """Wait until at least one more reply has come, and hand out all that are here."""
        assert self._in_flight, "nothing is in flight"
        while not self._hand_out():
            self._receive()

    def drain(self) -> None:
        """Wait for the replies to all requests in flight."""
        while self._in_flight:
            self.wait_reply()

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Read and wait. Raises RequestFailed, ConnectionLost."""
        found: list[bytes] = []

        def take(error: int, payload: bytes) -> None:
            if error:
                raise RequestFailed(Command.READ, offset_bytes, length_bytes, error)
            found.append(payload)

        self.submit(Command.READ, offset_bytes, length_bytes, on_reply=take)
        while not found:
            self.wait_reply()
        return found[0]

    def write(self, offset_bytes: int, payload: bytes, *, fua: bool = False) -> None:
        """Write and wait until it and everything before it has been answered."""
        flags = CommandFlag.FUA if fua else _NO_FLAGS
        self.submit(Command.WRITE, offset_bytes, payload=payload, flags=flags)
        self.drain()

    def flush(self) -> None:
        """Wait for everything in flight, then make what was answered durable."""
        self.drain()
        self.submit(Command.FLUSH)
        self.drain()

    def close(self) -> None:
        """Take the replies that are still to come, say DISC, and close. After `abandon` there is nothing to do."""
        if self._sock.fileno() < 0:
            return
        try:
            self.drain()
            self._send(encode_request(Command.DISC, 0), b"")
        except OSError:
            pass  # the server has gone first: there is nobody to say goodbye to
        finally:
            self._sock.close()

    def abandon(self) -> None:
        """Close at once, as a client that is killed does; what is in flight is forgotten."""
        self._in_flight.clear()
        self._sock.close()

    # --- replies ---

    def _hand_out(self) -> int:
        """Work in every whole reply that has been received; how many."""
        count = 0
        while len(self._received) >= REPLY_SIZE_BYTES:
            magic, error, cookie = _REPLY.unpack_from(self._received)
            if magic != NbdMagic.SIMPLE_REPLY:
                raise ServerProtocolError(f"a reply begins with {magic:#x}")
            request = self._in_flight.get(cookie)
            if request is None:
                raise ServerProtocolError(f"a reply has cookie {cookie}, which is not in flight")
            wanted = request.length_bytes if request.command is Command.READ and not error else 0
            end = REPLY_SIZE_BYTES + wanted
            if len(self._received) < end:
                break
            payload = bytes(memoryview(self._received)[REPLY_SIZE_BYTES:end]) if wanted else b""
            del self._received[:end]
            del self._in_flight[cookie]
            count += 1
            if request.on_reply is not None:
                request.on_reply(error, payload)
            elif error:
                raise RequestFailed(request.command, request.offset_bytes, request.length_bytes, error)
        return count

    def _receive(self) -> None:
        try:
            received = self._sock.recv(_RECEIVE_BYTES)
        except TimeoutError as error:
            raise ConnectionLost(f"no answer in {self._sock.gettimeout()} s") from error
        except OSError as error:
            raise ConnectionLost(f"the NBD server is gone: {error.strerror or error}") from error
        if not received:
            raise ConnectionLost("the NBD server closed the connection")
        self._received += received

    def _collect_the_rest(self) -> None:
        """The connection has broken: hand out the replies that were under way to us."""
        try:
            while self._in_flight:
                self._hand_out()
                self._receive()
        except ConnectionLost:
            self._hand_out()

    def _send(self, header: bytes, payload: bytes | bytearray | memoryview) -> None:
        if not len(payload):
            self._sock.sendall(header)
            return
        sent = self._sock.sendmsg([header, payload])
        if sent < len(header):
            self._sock.sendall(header[sent:])
            sent = len(header)
        if sent < len(header) + len(payload):
            self._sock.sendall(memoryview(payload)[sent - len(header) :])
