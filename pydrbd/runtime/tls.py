"""TLS in front of code that knows nothing of it; with certificates here, with keys shared beforehand in tls_keys.

`accept_tls` and `connect_tls` shake hands on a connected socket and give one end of a socket pair back: what is written
there goes out encrypted, what comes in is read there in the clear. A task between the two ends does the work, so that
the reader keeps plain sockets, and native code can read them.

Who may come in: with an authority, whoever has a certificate of it that is valid now; with names, only who has one of
these in its certificate (common name, or a DNS name among the alternative ones). Errors and logs tell what is wrong
with a certificate, never what is in a key.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trio

from pydrbd.errors import ConfigError
from pydrbd.limits import TLS_CLOSE_TIMEOUT_S, TLS_PIECE_BYTES, TLS_SHOWN_NAMES_MAX

__all__ = ["Identity", "TlsFailed", "TlsFiles", "TlsIdentity", "Visit", "accept_tls", "connect_tls"]

_log = logging.getLogger(__name__)


class TlsFailed(Exception):
    """The other side is not let in, or does not let us in: why, for humans. Its socket is closed."""


@dataclass(frozen=True, slots=True)
class Visit:
    """What one handshake goes by."""

    context: ssl.SSLContext
    check: Callable[[dict[str, Any] | None], list[str]]
    """The other side's names, by the certificate that it showed. Raises TlsFailed if none of them is allowed."""
    blame: Callable[[], str] = str
    """What is known of the other side when the handshake has failed, to follow the reason."""


class Identity(Protocol):
    """Who we are, and whom we believe: by certificates or by keys."""

    def visit(self, *, server_side: bool) -> Visit:
        """For the next handshake."""
        ...


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where our certificate chain, its key and the authority's certificates are (PEM); "": no authority."""

    certificate: str
    key: str
    authority: str = ""

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """What changes when a file is renewed. Raises OSError."""
        files = [file for file in (self.certificate, self.key, self.authority) if file]
        return tuple((status.st_mtime_ns, status.st_ino) for status in map(os.stat, files))


class TlsIdentity:
    """Who we are, and whom we believe. Files that were renewed are read again; while they are wrong, the old count."""

    def __init__(self, files: TlsFiles, allowed_names: tuple[str, ...] = ()) -> None:
        """Raises ConfigError if a file can't be read or used."""
        assert files.authority or not allowed_names, "names of nobody's authority prove nothing"
        self._files = files
        self._allowed_names = frozenset(allowed_names)
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._stamp = self._read()

    def visit(self, *, server_side: bool) -> Visit:
        """See Identity."""
        return Visit(self.context(server_side=server_side), self.check)

    def context(self, *, server_side: bool) -> ssl.SSLContext:
        """What a connection begins with."""
        try:
            if self._files.stamp() != self._stamp:
                self._stamp = self._read()
        except (ConfigError, OSError) as error:
            _log.error("the renewed TLS files can't be used, those from before still count: %s", error)
        return self._contexts[server_side]

    def check(self, certificate: dict[str, Any] | None) -> list[str]:
        """The other side's names. Raises TlsFailed if none of them is allowed."""
        names = _names(certificate or {})
        if self._allowed_names and self._allowed_names.isdisjoint(names):
            shown = ", ".join(names[:TLS_SHOWN_NAMES_MAX]) or "nobody"
            raise TlsFailed(f"its certificate names {shown}: not allowed here")
        return names[:TLS_SHOWN_NAMES_MAX]

    def _read(self) -> tuple[tuple[int, int], ...]:
        try:
            stamp = self._files.stamp()
            self._contexts = {side: _context(self._files, server_side=side) for side in (True, False)}
        except ssl.SSLError as error:
            files = ", ".join(filter(None, (self._files.certificate, self._files.key, self._files.authority)))
            raise ConfigError(f"TLS can't use {files}: {_reason(error)}") from None
        except OSError as error:
            raise ConfigError(f"TLS can't read {_unreadable(self._files)}: {error.strerror}") from None
        return stamp


def _context(files: TlsFiles, *, server_side: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False  # names are compared here, for both directions alike
    # An empty password: a key that wants one is an error, not a prompt on somebody's terminal.
    context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    context.verify_mode = ssl.CERT_REQUIRED if files.authority else ssl.CERT_NONE
    if files.authority:
        context.load_verify_locations(files.authority)
    if server_side:
        context.num_tickets = 0  # connections live long, and a client that only looks in does not read them
    return context


def _unreadable(files: TlsFiles) -> str:
    """The first file that is in the way."""
    for file in filter(None, (files.certificate, files.key, files.authority)):
        try:
            with Path(file).open("rb"):
                pass
        except OSError:
            return file
    return files.certificate


def _names(certificate: dict[str, Any]) -> list[str]:
    subject = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    others = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    return list(dict.fromkeys((*subject, *others)))


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no reason given").replace("_", " ").lower()
    return str(error) or "the connection was closed"


async def accept_tls(
    sock: socket.socket, identity: Identity, nursery: trio.Nursery, *, half_close: bool = False
) -> tuple[socket.socket, list[str]]:
    """Shake hands as the server: the socket to go on with, and the client's names. Raises TlsFailed.

    `sock` is taken over, whatever comes of it. A task in `nursery` encrypts until the new socket is closed. With
    `half_close`, the end of what we say is no end of what we hear; the other side must know this, too.
    """
    return await _begin(sock, identity, nursery, server_side=True, half_close=half_close)


async def connect_tls(
    sock: socket.socket, identity: Identity, nursery: trio.Nursery, *, half_close: bool = False
) -> tuple[socket.socket, list[str]]:
    """Likewise as the client."""
    return await _begin(sock, identity, nursery, server_side=False, half_close=half_close)


async def _begin(
    sock: socket.socket, identity: Identity, nursery: trio.Nursery, *, server_side: bool, half_close: bool
) -> tuple[socket.socket, list[str]]:
    plain = trio.socket.from_stdlib_socket(socket.socket(fileno=sock.detach()))
    visit = identity.visit(server_side=server_side)
    outside = trio.SSLStream(trio.SocketStream(plain), visit.context, server_side=server_side)
    try:
        await outside.do_handshake()
        names = visit.check(outside.getpeercert())
        inside, given = socket.socketpair()
    except trio.BrokenResourceError as broken:
        plain.close()
        raise TlsFailed(f"the TLS handshake failed: {_reason(broken.__cause__ or broken)}{visit.blame()}") from None
    except OSError as error:
        plain.close()
        raise TlsFailed(f"it can't be served: {_reason(error)}") from None
    except BaseException:
        plain.close()
        raise
    given.setblocking(False)
    nursery.start_soon(_pump, outside, trio.SocketStream(trio.socket.from_stdlib_socket(inside)), half_close)
    return given, names


async def _pump(outside: trio.SSLStream[trio.SocketStream], inside: trio.SocketStream, half_close: bool) -> None:
    """Both directions, until the socket that was given away is closed, and what it had said is sent."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_decrypt, outside, inside)
            with contextlib.suppress(trio.BrokenResourceError):
                while data := await inside.receive_some(TLS_PIECE_BYTES):
                    await outside.send_all(data)
                if half_close:
                    await outside.transport_stream.send_eof()
                    nursery.cancel_scope.deadline = trio.current_time() + TLS_CLOSE_TIMEOUT_S
                    return  # when the other side has ended, too
                with trio.move_on_after(TLS_CLOSE_TIMEOUT_S):
                    await outside.aclose()  # says goodbye
            nursery.cancel_scope.cancel()
    finally:
        outside.transport_stream.socket.close()
        inside.socket.close()


async def _decrypt(outside: trio.SSLStream[trio.SocketStream], inside: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        with contextlib.suppress(trio.BrokenResourceError):  # many close without a goodbye: the end, all the same
            while data := await outside.receive_some(TLS_PIECE_BYTES):
                await inside.send_all(data)
        await inside.send_eof()
