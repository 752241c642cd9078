"""`resync-after`: a volume's resync waits while that of another resource's volume goes on, or is held itself.

Each resource is a process of its own. Whom this one waits for is listened to at its control socket, which tells of each
change (`events`), and is asked anew before a command is carried out that may begin a resync. Who does not run holds
nobody up, and is looked for again every RESYNC_AFTER_RETRY_S. Who gives no answer is taken to be as it was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from pydrbd.config.model import Host
from pydrbd.limits import CONTROL_RESPONSE_BYTES_MAX, RESYNC_AFTER_LOOK_S, RESYNC_AFTER_RETRY_S

__all__ = ["Dependency", "ResyncAfter", "dependencies", "is_busy"]

Dependency = tuple[str, int]
"""A resource, and one of its volumes."""

Status = Mapping[str, Any]

_log = logging.getLogger(__name__)
_BEGINS = frozenset({"StartingSyncS", "StartingSyncT", "WFBitMapS", "WFBitMapT", "WFSyncUUID"})
_GOES_ON = frozenset({"SyncSource", "SyncTarget", "VerifyS", "VerifyT", "PausedSyncS", "PausedSyncT"})
_NOT_RUNNING: Status = {"volumes": []}


def dependencies(host: Host) -> dict[int, Dependency]:
    """Which volume waits for which one of another resource."""
    found: dict[int, Dependency] = {}
    for vnr, volume in host.volumes.items():
        if volume.disk_options.resync_after:
            name, _slash, number = volume.disk_options.resync_after.partition("/")
            found[vnr] = name, int(number or 0)
    return found


def is_busy(status: Status, vnr: int) -> bool:
    """By a process's state: whether its volume syncs, is about to, or would if nobody held it; a verify counts, too."""
    return any(
        volume["vnr"] == vnr and (volume["cstate"] in _BEGINS | _GOES_ON or volume["resync_suspended"] != "no")
        for volume in status["volumes"]
    )


class _Other:
    """One of the others: `tell` is called with each state that it says it is in."""

    def __init__(self, path: Path, tell: Callable[[Status], None]) -> None:
        self._path = path
        self._tell = tell
        self._connection = trio.CancelScope()
        self._heard = trio.Event()
        self._is_understood = True
        self.life = trio.CancelScope()

    async def follow(self) -> None:
        """Until `life` is cancelled."""
        with self.life:
            while True:
                with trio.CancelScope() as self._connection:
                    await self._listen()
                    await trio.lowlevel.checkpoint_if_cancelled()
                    self._heard.set()
                    await trio.sleep(RESYNC_AFTER_RETRY_S)

    async def look(self) -> None:
        """Wait until it has said how it is now: on a new connection, where nothing older can still be under way."""
        if self._heard.is_set():
            self._heard = trio.Event()
        self._connection.cancel()
        await self._heard.wait()

    async def _listen(self) -> None:
        """Until it hangs up. One that has as many who look on as it takes is asked just once."""
        understood = await self._hear("events") or await self._hear("status")
        if self._is_understood and not understood:
            _log.warning("resync-after: no answer that can be understood on %s", self._path)
        self._is_understood = understood

    async def _hear(self, verb: str) -> bool:
        """Tell of each state that it answers with, and at its end that it does not run; False: no such answer."""
        pending = b""
        try:
            async with await trio.open_unix_socket(self._path) as stream:
                await stream.send_all(json.dumps({"verb": verb, "arguments": {}}).encode() + b"\n")
                async for piece in stream:
                    await trio.lowlevel.checkpoint_if_cancelled()  # by look(), which wants to hear nothing older
                    *lines, pending = (pending + piece).split(b"\n")
                    if len(pending) > CONTROL_RESPONSE_BYTES_MAX:
                        return False
                    if lines:
                        status = _decode(lines[-1])
                        if status is None:
                            return False
                        self._tell(status)
                        self._heard.set()
                        if verb == "status":
                            return True
        except (OSError, trio.BrokenResourceError):
            pass  # as below: nobody is there, or not any more
        await trio.lowlevel.checkpoint_if_cancelled()
        self._tell(_NOT_RUNNING)
        return True


class ResyncAfter:
    """Listens to the others and tells the node: `tell` is called with volume numbers and whether each has to wait."""

    def __init__(
        self, run_dir: Path, wanted: Callable[[], Mapping[int, Dependency]], tell: Callable[[dict[int, bool]], None]
    ) -> None:
        self._run_dir = run_dir
        self._wanted = wanted
        self._tell = tell
        self._waits: dict[int, bool] = {}
        self._others: dict[str, _Other] = {}
        self._states: dict[str, Status] = {}
        self._nursery: trio.Nursery

    async def follow(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever."""
        async with trio.open_nursery() as self._nursery:
            self.renew()
            task_status.started()
            await trio.sleep_forever()

    def renew(self) -> None:
        """The configuration may be another one: listen to whom it names."""
        names = {name for name, _vnr in self._wanted().values()}
        for name in self._others.keys() - names:
            self._others.pop(name).life.cancel()
            self._states.pop(name, None)
        for name in names - self._others.keys():
            self._others[name] = _Other(self._run_dir / f"{name}.ctl.sock", partial(self._on_state, name))
            self._nursery.start_soon(self._others[name].follow)
        self._judge()

    async def look(self) -> None:
        """Ask all of them how they are now, and tell the node of what has changed; who does not answer is as it was."""
        with trio.move_on_after(RESYNC_AFTER_LOOK_S):
            async with trio.open_nursery() as nursery:
                for other in self._others.values():
                    nursery.start_soon(other.look)

    def _on_state(self, name: str, status: Status) -> None:
        if name in self._others:
            self._states[name] = status
            self._judge()

    def _judge(self) -> None:
        """Tell the node of what has changed."""
        waits = dict.fromkeys(self._waits, False)
        for vnr, (name, other) in self._wanted().items():
            status = self._states.get(name)
            waits[vnr] = self._waits.get(vnr, False) if status is None else is_busy(status, other)
        changed = {vnr: value for vnr, value in waits.items() if value != self._waits.get(vnr, False)}
        self._waits = waits
        if changed:
            self._tell(changed)


def _decode(line: bytes) -> Status | None:
    """What a process answers of its volumes; None if that is something else."""
    try:
        data = json.loads(line)["data"]
        for volume in data["volumes"]:
            _ = volume["vnr"], volume["cstate"], volume["resync_suspended"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    assert isinstance(data, dict)
    return data
