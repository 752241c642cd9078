"""NBD URIs of the servers of an export, and connections to them that a kernel's device can be made of.

    nbd+unix:///r0?socket=/run/pydrbd/r0.nbd.sock        nbd://10.0.0.1:10809/r0        nbd://[fd00::1]/r0
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from pydrbd.admin.nbd_handshake import ConnectionLost, NbdClientError, OpenExport, open_export
from pydrbd.errors import UsageError
from pydrbd.wire.nbd import TransmissionFlag

__all__ = ["ServerAddress", "open_first", "open_several", "parse_uri"]

_DEFAULT_PORT: Final = 10809
_CONNECT_TIMEOUT_S: Final = 5.0
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
_UNACKNOWLEDGED_MS: Final = 20_000
"""A machine that lost its power says nothing: after this long without its TCP's answer the connection is dead."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server listens: a Unix socket's path, or a host and a port."""

    path: Path | None
    host: str = ""
    port: int = _DEFAULT_PORT

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def place(self) -> Path | tuple[str, int]:
        """As nbd_client has it."""
        return self.path if self.path is not None else (self.host, self.port)

    def open(self, export: str) -> tuple[socket.socket, OpenExport]:
        """A connection past its handshake. Raises ConnectionLost, ExportRefused, ServerProtocolError."""
        sock = self._connect()
        try:
            opened = open_export(sock, export)
            sock.settimeout(None)
        except BaseException:
            sock.close()
            raise
        return sock, opened

    def _connect(self) -> socket.socket:
        try:
            if self.path is None:
                sock = socket.create_connection((self.host, self.port), _CONNECT_TIMEOUT_S)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
                return sock
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(_CONNECT_TIMEOUT_S)
            try:
                sock.connect(str(self.path))
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise ConnectionLost(f"can't connect to the NBD server at {self}: {error.strerror or error}") from error
        return sock


def parse_uri(text: str) -> ServerAddress:
    """The server that an NBD URI names; which of its exports is said elsewhere. Raises UsageError."""
    try:
        uri = urlsplit(text)
        host, port = uri.hostname, uri.port
    except ValueError as error:
        raise UsageError(f"'{text}' is no NBD URI: {error}") from error
    if uri.scheme == "nbd+unix":
        paths = parse_qs(uri.query).get("socket", [])
        if len(paths) == 1 and not host:
            return ServerAddress(Path(paths[0]))
    elif uri.scheme == "nbd" and host:
        return ServerAddress(None, unquote(host), port or _DEFAULT_PORT)
    forms = "nbd://HOST[:PORT]/... or nbd+unix:///...?socket=PATH"
    raise UsageError(f"'{text}' is no NBD URI that a device can be made of: {forms}")


def open_first(addresses: list[ServerAddress], export: str) -> tuple[socket.socket, OpenExport]:
    """A connection to the first server that opens the export. Raises what the last one has met."""
    assert addresses, "there is somebody to ask"
    for address in addresses[:-1]:
        try:
            return address.open(export)
        except NbdClientError:
            continue
    return addresses[-1].open(export)


@contextlib.contextmanager
def open_several(
    addresses: list[ServerAddress], export: str, count: int
) -> Iterator[tuple[list[socket.socket], OpenExport]]:
    """`count` connections to the first server that opens the export, for as long as the block lasts.

    Raises ExportRefused if it doesn't allow several, else as `open_first`.
    """
    assert addresses and count >= 1
    with contextlib.ExitStack() as stack:
        for address in addresses:
            try:
                sock, opened = address.open(export)
            except NbdClientError:
                if address is addresses[-1]:
                    raise
                continue
            break
        socks = [stack.enter_context(sock)]
        if count > 1 and not opened.flags & TransmissionFlag.CAN_MULTI_CONN:
            raise NbdClientError(f"{address} allows one connection to '{export}', and not {count}")
        socks += [stack.enter_context(address.open(export)[0]) for _ in range(count - 1)]
        yield socks, opened
