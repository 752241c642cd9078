"""`resync-after`: a volume's resync waits while that of another resource's volume goes on, or is paused itself.

Each resource is a process of its own; what the other one does is asked at its control socket, once a second. A resource
that does not run holds nobody up. One that runs and gives no answer in time is taken to be as it was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from pydrbd.config.model import Host
from pydrbd.limits import CONTROL_RESPONSE_BYTES_MAX, RESYNC_AFTER_LOOK_S

__all__ = ["Dependency", "ResyncAfter", "dependencies", "is_busy"]

Dependency = tuple[str, int]
"""A resource, and one of its volumes."""

_log = logging.getLogger(__name__)
_SYNCS = frozenset({"SyncSource", "SyncTarget", "PausedSyncS", "PausedSyncT"})
_PIECE_BYTES = 1 << 16


def dependencies(host: Host) -> dict[int, Dependency]:
    """Which volume waits for which one of another resource."""
    found: dict[int, Dependency] = {}
    for vnr, volume in host.volumes.items():
        if volume.disk_options.resync_after:
            name, _slash, number = volume.disk_options.resync_after.partition("/")
            found[vnr] = name, int(number or 0)
    return found


def is_busy(status: Mapping[str, Any], vnr: int) -> bool:
    """By a process's answer to `status`: whether its volume syncs, or would if nobody held it."""
    return any(
        volume["vnr"] == vnr and (volume["cstate"] in _SYNCS or volume["resync_suspended"] != "no")
        for volume in status["volumes"]
    )


class ResyncAfter:
    """Looks at the others and tells the node: `tell` is called with volume numbers and whether each has to wait."""

    def __init__(
        self, run_dir: Path, wanted: Callable[[], Mapping[int, Dependency]], tell: Callable[[dict[int, bool]], None]
    ) -> None:
        self._run_dir = run_dir
        self._wanted = wanted
        self._tell = tell
        self._waits: dict[int, bool] = {}

    async def follow(self) -> None:
        """For ever."""
        while True:
            await trio.sleep(RESYNC_AFTER_LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Look once, and tell the node of what has changed."""
        wanted = self._wanted()
        answers = {name: await self._status(name) for name in {name for name, _vnr in wanted.values()}}
        waits = dict.fromkeys(self._waits, False)
        for vnr, (name, other) in wanted.items():
            status = answers[name]
            waits[vnr] = self._waits.get(vnr, False) if status is None else is_busy(status, other)
        changed = {vnr: value for vnr, value in waits.items() if value != self._waits.get(vnr, False)}
        self._waits = waits
        if changed:
            self._tell(changed)

    async def _status(self, name: str) -> Mapping[str, Any] | None:
        """What a process says; no volumes at all if it does not run, None if it does not say anything in time."""
        answer = bytearray()
        with trio.move_on_after(RESYNC_AFTER_LOOK_S):
            try:
                async with await trio.open_unix_socket(self._run_dir / f"{name}.ctl.sock") as stream:
                    await stream.send_all(b'{"verb": "status", "arguments": {}}\n')
                    while not answer.endswith(b"\n") and len(answer) <= CONTROL_RESPONSE_BYTES_MAX:
                        piece = await stream.receive_some(_PIECE_BYTES)
                        if not piece:
                            break
                        answer += piece
                data = json.loads(answer)["data"]
                return data if isinstance(data, dict) and "volumes" in data else None
            except (OSError, trio.BrokenResourceError):
                return {"volumes": []}
            except (ValueError, KeyError, TypeError) as error:
                _log.warning("resync-after %s: no answer that can be understood: %r", name, error)
        return None
