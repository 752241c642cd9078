"""Handlers: the administrator's programs, run as DRBD runs them (`handlers { }` in the configuration).

    sh -c COMMAND      environment as from the kernel and drbdadm, output to our log, exit code to the core

Each runs in a session of its own. Nothing here waits in the way of I/O; whoever needs the exit code is told when it is
there. A handler that takes longer than HELPER_TIMEOUT_S is ended with all that it started, and counts as broken.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from pydrbd.core.effects import RunHelper
from pydrbd.core.node import Node
from pydrbd.core.states import ConnState, DiskState
from pydrbd.limits import (
    HELPER_GRACE_S,
    HELPER_LINE_BYTES_MAX,
    HELPER_LINES_MAX,
    HELPER_TIMEOUT_S,
    HELPERS_AT_A_TIME_MAX,
    HELPERS_WAITING_MAX,
)
from pydrbd.runtime.build import Blueprint, handler_commands

__all__ = ["HelperRunner", "helper_environment", "run_command"]

_log = logging.getLogger(__name__)

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_PATH: Final = f"{_PACKAGE / 'handler_bin'}:/sbin:/usr/sbin:/bin:/usr/bin:/lib/drbd"
"""DRBD's, behind a place whose commands speak of our resource where those of the same name would of the kernel's."""

_FENCE: Final = "fence-peer"
_FENCING: Final = (_FENCE, "unfence-peer")


def helper_environment(plan: Blueprint, node: Node, name: str, vnr: int | None, run_dir: str) -> dict[str, str]:
    """What a handler finds in its environment: the words of DRBD 8.4, and those of DRBD 9 that can be told.

    A list (DRBD_MINOR, DRBD_VOLUME, DRBD_LL_DISK) has one word for each volume, in order; a handler that is about one
    volume sees only that one. Node ids are the places of the hosts in the configuration.
    """
    me, peer, hosts = plan.me, plan.peer, plan.resource.hosts
    mine, theirs = hosts.index(me), hosts.index(peer)
    volumes = [volume for number, volume in me.volumes.items() if vnr in (None, number)]
    states = [node.volumes[volume.vnr].state for volume in volumes]
    environment = {
        "HOME": "/",
        "TERM": "linux",
        "PATH": _PATH,
        "DRBD_RESOURCE": plan.resource.name,
        "DRBD_CONF": str(Path(plan.config.file).absolute()),
        "DRBD_MINOR": " ".join(str(volume.minor) for volume in volumes),
        "DRBD_VOLUME": " ".join(str(volume.vnr) for volume in volumes),
        "DRBD_LL_DISK": " ".join(volume.disk for volume in volumes),
        "DRBD_PEER": peer.name,
        "DRBD_PEERS": peer.name,
        "DRBD_PEER_AF": peer.address.family,
        "DRBD_PEER_ADDRESS": peer.address.host,
        "DRBD_MY_AF": me.address.family,
        "DRBD_MY_ADDRESS": me.address.host,
        "DRBD_MY_NODE_ID": str(mine),
        "DRBD_PEER_NODE_ID": str(theirs),
        f"DRBD_NODE_ID_{mine}": me.name,
        f"DRBD_NODE_ID_{theirs}": peer.name,
        "DRBD_CSTATE": (node.cstate if node.cstate < ConnState.WFReportParams else ConnState.Connected).name,
        "PYDRBD_PYTHON": sys.executable,
        "PYDRBD_PACKAGE": str(_PACKAGE.parent),
        "PYDRBD_NODE": me.name,
        "PYDRBD_RUN_DIR": run_dir,
    }
    for volume in volumes:
        environment[f"DRBD_MINOR_{volume.vnr}"] = str(volume.minor)
        environment[f"DRBD_BACKING_DEV_{volume.vnr}"] = volume.disk
    if name in _FENCING:
        good = 1 << mine | (1 << theirs if all(state.pdsk is DiskState.UpToDate for state in states) else 0)
        environment["UP_TO_DATE_NODES"] = f"0x{good:08X}"
    return environment


class HelperRunner:
    """Runs the handlers of one resource."""

    def __init__(self, plan: Blueprint, node: Node, run_dir: str, ended: Callable[[RunHelper, int, int], None]) -> None:
        self._plan = plan
        self._node = node
        self._run_dir = run_dir
        self._ended = ended
        self._commands = handler_commands(plan.resource)
        self._limit = trio.CapacityLimiter(HELPERS_AT_A_TIME_MAX)

    def configure(self, plan: Blueprint) -> None:
        """Run the handlers of a changed configuration from now on."""
        self._plan = plan
        self._commands = handler_commands(plan.resource)

    def start(self, nursery: trio.Nursery, effect: RunHelper) -> None:
        """Run one, in the background; the effect ends when it has."""
        nursery.start_soon(self._run, effect)

    async def _run(self, effect: RunHelper) -> None:
        # I/O may be frozen until there is a verdict: that one never waits for others.
        if effect.name == _FENCE:
            await self._run_now(effect)
        elif self._limit.statistics().tasks_waiting >= HELPERS_WAITING_MAX:
            _log.error("%s: %s is not run: too many handlers wait", self._plan.resource.name, effect.name)
        else:
            async with self._limit:
                await self._run_now(effect)
        self._ended(effect, 0, 0)

    async def _run_now(self, effect: RunHelper) -> None:
        who = f"{self._plan.resource.name}: {effect.name}"
        environment = helper_environment(self._plan, self._node, effect.name, effect.volume, self._run_dir)
        try:
            effect.exit_code = await run_command(self._commands[effect.name], environment, who)
        except OSError as error:
            _log.error("%s can't be run: %s", who, error)


async def run_command(command: str, environment: Mapping[str, str], who: str) -> int | None:
    """Run a shell command; its exit code (128 and more: a signal), None if it had to be ended. Raises OSError."""
    process = await trio.lowlevel.open_process(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        cwd="/",
        start_new_session=True,
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_log_output, process, who)
            with trio.move_on_after(HELPER_TIMEOUT_S):
                code = await process.wait()
                # What it has left running may keep its output open for ever.
                nursery.cancel_scope.deadline = trio.current_time() + HELPER_GRACE_S
                return code if code >= 0 else 128 - code
            _log.error("%s did not end within %g s: it is ended by force", who, HELPER_TIMEOUT_S)
            nursery.cancel_scope.cancel()
        return None
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)


async def _log_output(process: trio.Process, who: str) -> None:
    """Each line to the log; what is too long, or too much, is cut."""
    assert process.stdout is not None
    pending, lines = b"", 0
    async for piece in process.stdout:
        *whole, pending = (pending + piece).split(b"\n")
        if len(pending) > HELPER_LINE_BYTES_MAX:
            whole, pending = [*whole, pending], b""
        for line in whole:
            lines += 1
            if lines <= HELPER_LINES_MAX:
                _log.info("%s: %s", who, line[:HELPER_LINE_BYTES_MAX].decode(errors="replace").rstrip())
    if pending and lines < HELPER_LINES_MAX:
        _log.info("%s: %s", who, pending.decode(errors="replace").rstrip())


async def _end(process: trio.Process) -> None:
    """End whatever is left of a process that is not wanted any more, politely at first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with trio.move_on_after(HELPER_GRACE_S):
            await process.wait()
    await process.wait()
    if process.stdout is not None:
        await process.stdout.aclose()
