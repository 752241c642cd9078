"""A node inside of another program, in a thread of its own that runs Trio; that program's threads call its methods."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from pydrbd.errors import BusyError, InternalError, StateRefused
from pydrbd.limits import STOP_TIMEOUT_S
from pydrbd.runtime.build import Blueprint
from pydrbd.runtime.control import Response
from pydrbd.runtime.nbd_connection import NbdStatistics
from pydrbd.runtime.process import first_of
from pydrbd.runtime.run_directory import make_run_directory
from pydrbd.runtime.service import Service
from pydrbd.runtime.threads_client import ThreadsClient, open_channel
from pydrbd.wire.nbd import ExportInfo, ExportUnavailable, ReplyType

__all__ = ["EmbeddedNode"]

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    """What there is only while the node runs."""

    service: Service
    nursery: trio.Nursery
    statistics: NbdStatistics
    token: trio.lowlevel.TrioToken


class EmbeddedNode:
    """`start`, then `open` exports and `close` them, then `stop`. Its control socket answers `pydrbd VERB` as ever."""

    def __init__(self, plan: Blueprint, run_dir: Path, node_name: str = "") -> None:
        if not __debug__:
            raise InternalError("pydrbd needs its assertions: run Python without -O")
        self._plan = plan
        self._run_dir = run_dir
        self._node_name = node_name
        self._thread = threading.Thread(target=self._run, name="pydrbd", daemon=True)
        self._started = threading.Event()
        self._running: _Running | None = None
        self._failure: BaseException | None = None
        self._on_death: Callable[[], None] = lambda: None

    def start(self, on_death: Callable[[], None] = lambda: None) -> None:
        """Begin, and return when it answers. Raises BusyError, UsageError and what else it meets.

        `on_death` is called, from its thread, when it ends later without having been told to.
        """
        make_run_directory(self._run_dir)
        self._on_death = on_death
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """In good order: clients are cut off, the peer is told, the bitmap written, the disk closed."""
        self._on_death = lambda: None
        running = self._running
        if running is not None:
            with contextlib.suppress(trio.RunFinishedError):  # it has ended already, and said why
                running.token.run_sync_soon(running.service.stopping.set)
        if self._thread.ident is not None:
            self._thread.join(2 * STOP_TIMEOUT_S)

    def exports(self) -> list[ExportInfo]:
        """What it has, in order; also what can't be opened right now."""
        running = self._alive()
        return list(self._in_trio(running, running.service.exports.exports))

    def open(self, name: str, *, promote: bool = False) -> ThreadsClient:
        """Open an export; the empty name is volume 0. With `promote`, a Secondary is made Primary first.

        Raises ExportUnavailable, StateRefused.
        """
        running = self._alive()

        def connect() -> tuple[socket.socket, ExportInfo]:
            return self._wait_in_trio(running, lambda: self._connect(running, name))

        try:
            return ThreadsClient(connect)
        except ExportUnavailable as error:
            if not promote or error.code is not ReplyType.ERR_POLICY:
                raise
        answer = self._command("primary")
        if answer["code"] < 1:
            raise StateRefused(answer["code"], answer["text"])
        return ThreadsClient(connect)

    async def _connect(self, running: _Running, name: str) -> tuple[socket.socket, ExportInfo]:
        if self._running is not running:
            raise _ended()
        exports = running.service.exports
        opener = partial(exports.open_when_ready, name)
        return await open_channel(exports, opener, running.statistics, running.nursery)

    def _command(self, verb: str) -> Response:
        running = self._alive()
        try:
            return trio.from_thread.run(running.service.control.command, verb, {}, trio_token=running.token)
        except (trio.RunFinishedError, trio.Cancelled) as error:
            raise _ended() from error

    def _alive(self) -> _Running:
        if self._running is None:
            raise _ended()
        return self._running

    def _in_trio(self, running: _Running, what: Callable[[], ResultT]) -> ResultT:
        try:
            return trio.from_thread.run_sync(what, trio_token=running.token)
        except trio.RunFinishedError as error:
            raise _ended() from error

    def _wait_in_trio(self, running: _Running, what: Callable[[], Awaitable[ResultT]]) -> ResultT:
        try:
            return trio.from_thread.run(what, trio_token=running.token)
        except (trio.RunFinishedError, trio.Cancelled) as error:
            raise _ended() from error

    # --- its own thread ---

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            self._failure = _first(error)
            if self._started.is_set():
                _log.exception("%s: the node has ended by an error", self._plan.resource.name)
        finally:
            self._running = None
            was_started = self._started.is_set()
            self._started.set()
            if was_started:
                self._on_death()

    async def _main(self) -> None:
        service = Service(self._plan, self._run_dir, self._node_name, owns_process=False, serves_nbd=False)

        async with trio.open_nursery() as nursery:

            def ready() -> None:
                token = trio.lowlevel.current_trio_token()
                self._running = _Running(service, nursery, NbdStatistics(), token)
                self._started.set()

            try:
                await service.serve(ready)
            finally:
                self._running = None  # before the nursery closes: who comes now hears that it has ended
            nursery.cancel_scope.cancel()


def _ended() -> ExportUnavailable:
    return ExportUnavailable("the node has ended", ReplyType.ERR_SHUTDOWN)


def _first(error: BaseException) -> BaseException:
    """What went wrong, of all that Trio has gathered: a port or a disk in use before anything else."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    busy, _rest = error.split(BusyError)
    return first_of(busy or error)
