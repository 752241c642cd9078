"""The control socket: one JSON object a line in, one a line out; what `pydrbd VERB` talks to.

    {"verb": "primary", "arguments": {"force": true}}  ->  {"code": 1, "text": "", "data": null}

`code` is DRBD's: 1 and more is granted, negative a refusal (SS_...), 0 an unknown error or a time-out.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from pydrbd.config.model import Host
from pydrbd.config.show import show_resource
from pydrbd.core.events import Command
from pydrbd.core.snapshot import snapshot
from pydrbd.core.states import ConnState, DiskState, State
from pydrbd.core.verify_report import verify_report
from pydrbd.errors import BusyError, UsageError
from pydrbd.limits import CONTROL_CONNECTIONS_MAX, CONTROL_REQUEST_BYTES_MAX, NBD_GOODBYE_S
from pydrbd.runtime.accepting import accept
from pydrbd.runtime.adjust import adjust, set_options
from pydrbd.runtime.control_arguments import decode_request, wrong_arguments
from pydrbd.runtime.watchers import TooManyWatchers

if TYPE_CHECKING:
    from pydrbd.runtime.service import Service

__all__ = ["ControlServer"]

_log = logging.getLogger(__name__)
_TIMED_OUT = 0
_NODE_VERBS = frozenset(
    {
        "primary",
        "secondary",
        "connect",
        "disconnect",
        "attach",
        "detach",
        "invalidate",
        "invalidate-remote",
        "outdate",
        "suspend-io",
        "resume-io",
        "pause-sync",
        "resume-sync",
        "verify",
        "new-current-uuid",
        "resize",
    }
)
_MAY_BEGIN_RESYNC = frozenset({"connect", "attach", "invalidate", "invalidate-remote", "resume-sync"})

Response = dict[str, Any]


class ControlServer:
    """Serves one resource's control socket."""

    def __init__(self, service: Service, path: Path) -> None:
        self._service = service
        self._path = path
        self._listener: trio.socket.SocketType | None = None
        self._room = trio.Semaphore(CONTROL_CONNECTIONS_MAX)

    def listen(self) -> None:
        """Bind the socket, mode 0600; replaces one whose process is gone. Raises BusyError, UsageError."""
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        raw.setblocking(False)
        try:
            self._take_over()
            old = os.umask(0o177)
            try:
                raw.bind(str(self._path))
            finally:
                os.umask(old)
            raw.listen()
        except OSError as error:
            raw.close()
            if error.errno == errno.EADDRINUSE:
                raise BusyError(f"{self._path} exists already") from error
            if error.errno in (errno.EACCES, errno.EPERM):
                raise PermissionError(error.errno, error.strerror, str(self._path)) from error
            raise UsageError(f"can't make the control socket {self._path}: {error.strerror or error}") from error
        except BaseException:
            raw.close()
            raise
        self._listener = trio.socket.from_stdlib_socket(raw)

    def _take_over(self) -> None:
        """Remove the socket of a process that is gone; refuse if somebody answers."""
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise BusyError(f"{self._path} is in the way and is no socket: remove it")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink()
                return
        raise BusyError(f"{self._service.plan.resource.name} is running here already (it answers on {self._path})")

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)
            self._listener = None

    async def serve(self) -> None:
        """Accept until cancelled."""
        assert self._listener is not None
        async with trio.open_nursery() as nursery:
            while True:
                await self._room.acquire()  # first: who is not served has no descriptor of ours
                sock, _ = await accept(self._listener, "a command")
                nursery.start_soon(self._serve_one, sock)

    async def _serve_one(self, sock: trio.socket.SocketType) -> None:
        try:
            with sock:
                await self._requests(sock)
        except (OSError, trio.BrokenResourceError) as error:
            _log.debug("control connection: %s", error)
        finally:
            self._room.release()

    async def _requests(self, sock: trio.socket.SocketType) -> None:
        pending = b""
        while True:
            line, newline, rest = pending.partition(b"\n")
            if not newline:
                if len(pending) > CONTROL_REQUEST_BYTES_MAX:
                    return
                received = await sock.recv(4096)
                if not received:
                    return
                pending += received
                continue
            pending = rest
            if _verb_of(line) == "events":
                await self._events(sock)
                return
            response = await self._answer(line)
            await trio.SocketStream(sock).send_all(json.dumps(response).encode() + b"\n")

    async def _events(self, sock: trio.socket.SocketType) -> None:
        """Send each change of state from now on."""
        try:
            await self._service.watchers.serve(sock)
        except TooManyWatchers as error:
            response = {"code": _TIMED_OUT, "text": str(error), "data": None}
            await trio.SocketStream(sock).send_all(json.dumps(response).encode() + b"\n")

    async def _answer(self, line: bytes) -> Response:
        request = decode_request(line)
        if isinstance(request, str):
            return {"code": _TIMED_OUT, "text": request, "data": None}
        return await self.command(*request)

    async def command(self, verb: str, arguments: Mapping[str, Any]) -> Response:
        """Carry out one verb."""
        service = self._service
        if wrong := wrong_arguments(verb, arguments, service.node.volumes):
            return {"code": _TIMED_OUT, "text": wrong, "data": None}
        if verb in _NODE_VERBS:
            return await self.command_node(verb, dict(arguments))
        if verb == "status":
            return {"code": 1, "text": "", "data": self._status()}
        if verb == "verify-report":
            return {"code": 1, "text": "", "data": verify_report(service.node, int(arguments.get("cells", 1)))}
        if verb in ("wait-connect", "wait-sync"):
            return await self._wait(verb, arguments.get("timeout_s"))
        if verb == "adjust":
            return await adjust(service, str(arguments["config"]), dry_run=bool(arguments.get("dry_run")))
        if verb == "options":
            return await set_options(service, arguments)
        if verb == "show":
            plan, defaults = service.plan, bool(arguments.get("defaults"))
            text = show_resource(plan.resource, plan.me, plan.peer, defaults=defaults)
            return {"code": 1, "text": "", "data": {"text": text}}
        if verb == "stop":
            service.stopping.set()
            return {"code": 1, "text": "", "data": None}
        return {"code": -17, "text": f"unknown verb {verb!r}", "data": None}

    async def command_node(self, verb: str, arguments: dict[str, Any]) -> Response:
        """Have the node carry out a command, and wait for its answer."""
        answered = trio.Event()
        response: Response = {}

        def answer(code: int, text: str) -> None:
            response.update(code=code, text=text, data=None)
            answered.set()

        failures = self._service.attach_failures
        if verb == "attach":
            failures.clear()
        if verb == "secondary" and not arguments.get("force"):
            await self._service.exports.goodbyes(NBD_GOODBYE_S)
        if verb in _MAY_BEGIN_RESYNC:
            await self._service.resync_after.look()
        self._service.feed(Command(answer, verb, arguments))
        await answered.wait()
        if failures and verb == "attach" and response["code"] < 1:
            response["data"] = {"exit_code": failures[min(failures)]}
        return response

    def _status(self) -> dict[str, Any]:
        self._service.lane.end()
        return self.look()

    def look(self) -> dict[str, Any]:
        """The state as it is; what a lane has done since it began is not in it."""
        service = self._service
        nbd = service.nbd.statistics()
        return {
            **snapshot(service.node),
            "node": service.plan.me.name,
            "peer": service.plan.peer.name,
            "peer_node_id": service.plan.resource.hosts.index(service.plan.peer),
            "pid": os.getpid(),
            "nbd": service.nbd_uris,
            "local_address": _place(service.plan.me),
            "peer_address": _place(service.plan.peer),
            "backing_devices": {str(vnr): place.path for vnr, place in service.plan.disks.items()},
            "nbd_statistics": {
                "wakeups": nbd.wakeups,
                "batches": nbd.batches,
                "requests": nbd.requests,
                "requests_per_wakeup": nbd.requests_per_wakeup,
            },
            "latencies": service.latencies.as_dict(),
            "link_statistics": {"wakeups": service.link.wakeups, "packets": service.link.packets},
        }

    async def _wait(self, verb: str, timeout_s: float | None) -> Response:
        service = self._service
        volumes = service.node.volumes.values()

        def connected() -> bool:
            return all(volume.state.conn >= ConnState.Connected for volume in volumes)

        def in_sync() -> bool:
            return all(_is_in_sync(volume.state) for volume in volumes)

        condition = connected if verb == "wait-connect" else in_sync
        with trio.move_on_after(float("inf") if timeout_s is None else float(timeout_s)):
            await service.wait_for(condition)
            return {"code": 1, "text": "", "data": None}
        return {"code": _TIMED_OUT, "text": f"{verb}: timed out after {timeout_s} s", "data": None}


def _verb_of(line: bytes) -> object:
    """The verb of a request, whatever else it holds."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return request.get("verb") if isinstance(request, dict) else None


def _place(host: Host) -> str:
    """As in drbdsetup's lines about paths."""
    return f"{host.address.family}:{host.address}"


def _is_in_sync(state: State) -> bool:
    """Connected, and two good copies: not while one of them is yet to be made, or there is no disk to make it on."""
    return state.conn is ConnState.Connected and state.disk is state.pdsk is DiskState.UpToDate
