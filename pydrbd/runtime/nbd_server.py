"""The NBD server: listening sockets, one task per connection, and a bound on how many.

Sockets are bound at once by `listen_unix` and `listen_tcp`, so that a busy port is an error before anything else has
begun; `serve` then accepts until it is cancelled. What one client does ends one connection at most.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import socket
import stat
from pathlib import Path
from typing import Any, Final

import trio

from pydrbd.errors import BusyError, UsageError
from pydrbd.limits import NBD_CONNECTIONS_MAX, TLS_CLOSE_TIMEOUT_S
from pydrbd.runtime.accepting import accept_again
from pydrbd.runtime.engine import Engine
from pydrbd.runtime.nbd_connection import NbdConnection, NbdStatistics
from pydrbd.runtime.nbd_handshake import Admission
from pydrbd.wire.nbd_negotiation import TlsMode

__all__ = ["NbdServer"]

_UNIX_PATH_BYTES_MAX: Final = 107  # sun_path without its closing NUL
_BACKLOG: Final = 128
_USUAL: Final = Admission()

_log = logging.getLogger(__name__)


class NbdServer:
    """Serves an engine's exports. `listen_*` first, then `serve`; `close` if it never serves."""

    def __init__(
        self,
        engine: Engine,
        *,
        connections_max: int = NBD_CONNECTIONS_MAX,
        admission: Admission = _USUAL,
    ) -> None:
        self._engine = engine
        self._connections_max = connections_max
        self._admission = admission
        self._listeners: list[tuple[socket.socket, Admission]] = []
        self._unix_paths: list[tuple[Path, int]] = []  # with their inode numbers
        self._statistics = NbdStatistics()
        self._clients: dict[NbdConnection, trio.CancelScope] = {}  # the oldest first

    def listen_unix(self, path: Path) -> None:
        """Listen on a Unix socket that only this user may connect to.

        A socket file whose process is gone is replaced. Raises BusyError if a process listens there or
        it is no socket, UsageError if the path is too long, or can't be created.
        """
        if len(os.fsencode(path)) > _UNIX_PATH_BYTES_MAX:
            raise UsageError(
                f"the NBD socket path {path} is longer than {_UNIX_PATH_BYTES_MAX} bytes: use a shorter --run-dir"
            )
        _remove_stale_socket(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(os.fspath(path))
            path.chmod(0o600)  # nobody can connect yet: it does not listen
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRINUSE:
                raise BusyError(f"another process has just taken the NBD socket {path}") from error
            raise UsageError(f"can't listen on the NBD socket {path}: {error.strerror}") from error
        self._unix_paths.append((path, path.stat().st_ino))
        self._add_listener(sock, _for_our_unix_socket(self._admission))

    def listen_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen on a TCP address (port 0: any free one); where it listens now.

        Raises BusyError if the port is taken, or the address none of this machine's; UsageError if it is no address.
        """
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except socket.gaierror as error:
            raise UsageError(f"can't find the address {host!r} to serve NBD on: {error.strerror}") from error
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _listen(sock, address, f"{host}:{port}")
        bound: tuple[str, int] = sock.getsockname()[:2]
        self._add_listener(sock, self._admission)
        return bound

    def listen_vsock(self, port: int) -> None:
        """Listen for the guests of this machine, or as a guest for its host. Raises BusyError, UsageError."""
        try:
            sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        except OSError as error:
            raise UsageError(f"can't serve NBD on vsock:{port}: this kernel has no vsock: {error.strerror}") from error
        _listen(sock, (socket.VMADDR_CID_ANY, port), f"vsock:{port}")
        self._add_listener(sock, self._admission)

    def take_over(self, sock: socket.socket) -> None:
        """Serve a socket that listens already: systemd's, which may be open to all, a Unix socket, too."""
        self._add_listener(sock, self._admission)

    def _add_listener(self, sock: socket.socket, admission: Admission) -> None:
        sock.setblocking(False)
        self._listeners.append((sock, admission))

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and serve until cancelled; then every connection and listening socket is closed."""
        try:
            async with trio.open_nursery() as nursery:
                for listener, admission in self._listeners:
                    nursery.start_soon(self._accept, listener, admission, nursery)
                task_status.started()
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening, and remove the Unix sockets that are still ours."""
        for listener, _admission in self._listeners:
            listener.close()
        self._listeners.clear()
        for path, inode in self._unix_paths:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()
        self._unix_paths.clear()

    def statistics(self) -> NbdStatistics:
        """A copy of the counters."""
        return dataclasses.replace(self._statistics)

    async def _accept(self, listener: socket.socket, admission: Admission, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                await accept_again(error, "an NBD client")
                continue
            self._statistics.accepted += 1
            named = isinstance(address, tuple)
            peer = f"{address[0]}:{address[1]}" if named else f"#{self._statistics.accepted}"
            if self._statistics.connections >= self._connections_max and not self._make_room():
                self._statistics.refused += 1
                sock.close()
                _log.warning("NBD client %s refused: %d are connected already", peer, self._connections_max)
                continue
            self._statistics.connections += 1
            nursery.start_soon(self._serve_one, sock, peer, admission)

    def _make_room(self) -> bool:
        """Drop whoever has been shaking hands the longest: who is silent must not keep others out."""
        for connection, scope in self._clients.items():
            if connection.shakes_hands:
                del self._clients[connection]
                connection.abort("others want its place, and it has opened nothing yet")
                scope.cancel()
                return True
        return False

    async def _serve_one(self, sock: socket.socket, peer: str, admission: Admission) -> None:
        try:
            async with trio.open_nursery() as nursery:
                sock.setblocking(False)
                _set_tcp_options(sock)
                connection = NbdConnection(sock, peer, self._engine, self._statistics, admission)
                self._clients[connection] = nursery.cancel_scope
                try:
                    await connection.run(nursery)
                finally:
                    self._clients.pop(connection, None)
                # A client that does not read what is left is not waited for.
                nursery.cancel_scope.deadline = trio.current_time() + TLS_CLOSE_TIMEOUT_S
        finally:
            self._statistics.connections -= 1


def _for_our_unix_socket(admission: Admission) -> Admission:
    """Nobody can listen in on it, and only its user can open it: there TLS is never a must."""
    if admission.policy.tls is not TlsMode.REQUIRE:
        return admission
    return dataclasses.replace(admission, policy=dataclasses.replace(admission.policy, tls=TlsMode.ALLOW))


def _set_tcp_options(sock: socket.socket) -> None:
    """Without NODELAY, small replies wait for the client's delayed acknowledgement: 40 ms each."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):  # it is dead already: the first read says so
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _listen(sock: socket.socket, address: Any, place: str) -> None:
    """Raises BusyError, UsageError; the socket is closed then."""
    try:
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(f"can't serve NBD on {place}: another process listens there") from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise BusyError(f"can't serve NBD on {place}: this address is none of this machine's, now") from error
        raise UsageError(f"can't serve NBD on {place}: {error.strerror}") from error


def _remove_stale_socket(path: Path) -> None:
    """Make way for a new socket. Raises BusyError if somebody listens on the old one, or if it is none."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # nothing there, or no way to it: bind says what is wrong
    if not stat.S_ISSOCK(mode):
        raise BusyError(f"{path} is in the way of the NBD socket and is not a socket: move it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            return
        except OSError as error:  # BlockingIOError: its backlog is full, so it is alive
            raise BusyError(f"the NBD socket {path} can't be taken over: {error.strerror}") from error
        else:
            raise BusyError(f"another process serves NBD on {path}: stop it, or use another --run-dir")
