"""The witness: a small process on a third machine that says which of two nodes may go on alone (core/lease).

It keeps no data, and whom it serves needs no configuration here: a lease begins to exist when it is first asked for.
One request after the other is decided; an answer leaves when its lease is durable.
"""

from __future__ import annotations

import logging
import secrets
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from pydrbd.config.settings import Listen
from pydrbd.core.lease import Lease, decide
from pydrbd.errors import BusyError, PeerProtocolError, UsageError
from pydrbd.limits import (
    WITNESS_LEASES_MAX,
    WITNESS_REQUESTS_MAX,
    WITNESS_SESSION_S,
    WITNESS_SESSIONS_MAX,
)
from pydrbd.runtime.accepting import accept
from pydrbd.runtime.lease_files import LeaseFiles
from pydrbd.runtime.systemd import notify
from pydrbd.runtime.witness_client import read_frame
from pydrbd.wire.witness import (
    CHALLENGE_BYTES,
    Kind,
    Verdict,
    WitnessAnswer,
    WitnessRequest,
    decode_request,
    encode_answer,
    encode_frame,
)

__all__ = ["WitnessServer", "run_witness"]

_log = logging.getLogger(__name__)


class WitnessServer:
    """Answers nodes at one place, out of one directory."""

    def __init__(self, place: Listen, directory: Path, key: bytes) -> None:
        """Raises BusyError, UsageError, MetaDataError, OSError."""
        self._key = key
        self._files = LeaseFiles(directory)
        try:
            self._listener, self.place = _listen(place)
        except BaseException:
            self._files.close()
            raise
        self._deciding = trio.Lock()
        self._limit = trio.CapacityLimiter(WITNESS_SESSIONS_MAX)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then everything is closed."""
        listener = trio.socket.from_stdlib_socket(self._listener)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    await self._limit.acquire_on_behalf_of(token := object())
                    sock, address = await accept(listener, "a node")
                    nursery.start_soon(self._serve_one, sock, _shown(address), token)
        finally:
            listener.close()
            self._close()

    def _close(self) -> None:
        if self.place.path:
            Path(self.place.path).unlink(missing_ok=True)
        self._files.close()

    async def _serve_one(self, sock: trio.socket.SocketType, who: str, token: object) -> None:
        """One connection. Whatever comes over it ends that connection at most."""
        try:
            with trio.move_on_after(WITNESS_SESSION_S):
                async with trio.SocketStream(sock) as stream:
                    await self._session(stream)
        except PeerProtocolError as error:
            _log.warning("%s is left: %s", who, error)
        except (trio.BrokenResourceError, OSError) as error:
            _log.info("%s is gone: %s", who, error)
        except EOFError:
            pass
        finally:
            self._limit.release_on_behalf_of(token)

    async def _session(self, stream: trio.SocketStream) -> None:
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        await stream.send_all(encode_frame(Kind.CHALLENGE, challenge))
        for count in range(WITNESS_REQUESTS_MAX):
            payload = await read_frame(stream, Kind.REQUEST)
            request = decode_request(payload, self._key, challenge, count)
            answer = WitnessAnswer(Verdict.WRONG_KEY) if request is None else await self._decide(request)
            await stream.send_all(encode_frame(Kind.ANSWER, encode_answer(answer, self._key, payload)))
            if request is None:
                raise PeerProtocolError("a request that is signed with another key")

    async def _decide(self, request: WitnessRequest) -> WitnessAnswer:
        """What is durable is said, and what was said stays: not even the end of the connection comes between."""
        leases = self._files.leases
        async with self._deciding:
            before = leases.get(request.lease, Lease())
            after, answer = decide(before, request)
            if after != before:
                if request.lease not in leases and len(leases) >= WITNESS_LEASES_MAX:
                    _log.error("%s gets no lease: there are %d already", request.lease, WITNESS_LEASES_MAX)
                    return WitnessAnswer(Verdict.FULL)
                try:
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(self._files.write, request.lease, after)
                except OSError as error:
                    _log.error("the lease of %s can't be written: %s", request.lease, error)
                    return WitnessAnswer(Verdict.FULL)
                leases[request.lease] = after
                _log.info(
                    "%s: %s %s: %s holds it, term %d",
                    request.lease, request.node, request.verb.name.lower(), after.holder or "nobody", after.term,
                )  # fmt: skip
            elif answer.verdict is Verdict.HELD:
                _log.info("%s: refused to %s, %s holds it", request.lease, request.node, answer.holder)
        return answer


def run_witness(place: Listen, directory: Path, key: bytes, on_ready: Callable[[Listen], None]) -> None:
    """Serve until SIGTERM or SIGINT. Raises what WitnessServer does."""
    server = WitnessServer(place, directory, key)

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve)
                on_ready(server.place)
                notify("READY=1")
                await received.__anext__()
                notify("STOPPING=1")
                nursery.cancel_scope.cancel()

    trio.run(main)


def _listen(place: Listen) -> tuple[socket.socket, Listen]:
    """A socket that listens there. Raises BusyError, UsageError."""
    try:
        if place.path:
            _remove_dead_socket(Path(place.path))
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            address: Any = place.path
        else:
            found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            sock, address = socket.socket(*found[:3]), found[4]
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except socket.gaierror as error:
        raise UsageError(f"can't listen at {place}: {error.strerror}") from error
    try:
        sock.bind(address)
        sock.listen()
    except OSError as error:
        sock.close()
        raise BusyError(f"can't listen at {place}: {error.strerror}") from error
    return sock, place


def _remove_dead_socket(path: Path) -> None:
    """What a witness that is gone has left: its directory is ours, so nobody of ours listens there any more."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise BusyError(f"can't listen at unix:{path}: somebody does already")
    path.unlink(missing_ok=True)


def _shown(address: Any) -> str:
    return f"the node at {address[0]}" if isinstance(address, tuple) and address else "a node of this machine"
