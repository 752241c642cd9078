"""events2 and events: what is, and from then on what changes, a line each.

It follows whatever runs here: processes that start later are seen within a second, those that end leave their
`destroy` lines.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, TypeAlias

from pydrbd.admin.context import Context
from pydrbd.admin.control_client import ControlClient
from pydrbd.admin.events import Detail, Event, changes, objects
from pydrbd.admin.exit_codes import CommandFailed
from pydrbd.admin.output import say
from pydrbd.admin.running import names_here
from pydrbd.errors import NotRunningError
from pydrbd.limits import CONTROL_RESPONSE_BYTES_MAX

__all__ = ["Format", "OldFormat", "events", "events2"]

Snapshot: TypeAlias = dict[str, Any]

_LOOK_FOR_NEW_S: Final = 1.0
_DONE: Final = Event("exists", "-", {})


class Format:
    """How a line looks, and how much it says."""

    def __init__(
        self,
        detail: Detail,
        *,
        timestamps: bool = False,
        as_json: bool = False,
        diff: bool = False,
        colours: bool = False,
    ) -> None:
        self._detail = detail
        self._diff = diff
        self._colours = colours
        self._timestamps = timestamps
        self._as_json = as_json

    def tell(
        self, before: Snapshot | None, after: Snapshot | None, *, first: bool = False, figures: bool = False
    ) -> None:
        """What has changed of a resource; None: it is not there. Raises OutputError."""
        was, now = (objects([snapshot] if snapshot else []) for snapshot in (before, after))
        self._say(changes(was, now, self._detail, first=first, figures=figures, diff=self._diff))

    def done(self) -> None:
        """All that is has been told."""
        self._say([_DONE])

    def _say(self, events: Iterable[Event]) -> None:
        for event in events:
            now = datetime.now().astimezone().isoformat(timespec="microseconds")
            if self._as_json:
                say(json.dumps(event.as_dict() | ({"timestamp": now} if self._timestamps else {})))
            else:
                text = event.text(colours=self._colours)
                say(f"{now} {text}" if self._timestamps else text)


class OldFormat:
    """A line for each volume whose state has changed, as drbdsetup events of DRBD 8.4 prints it."""

    def __init__(self) -> None:
        self._number = 0

    def tell(
        self, before: Snapshot | None, after: Snapshot | None, *, first: bool = False, figures: bool = False
    ) -> None:
        """A resource that has gone is told as unconfigured. Raises OutputError."""
        was, now = (_old_lines(snapshot) for snapshot in (before, after))
        for place in {**was, **now}:
            line = now.get(place, "{ cs:Unconfigured }")
            if line != was.get(place):
                say(f"{self._number} ST {place} {line}")
                self._number += 1

    def done(self) -> None:
        """Nothing marks it."""


def _old_lines(snapshot: Snapshot | None) -> dict[str, str]:
    """The states of each volume, by `minor,resource[volume]`."""
    if snapshot is None:
        return {}
    lines = {}
    for volume in snapshot["volumes"]:
        held = volume["resync_suspended"].split(",")
        flags = "s" if snapshot["suspended"] else "r"
        for letter, reason in (("a", "dependency"), ("p", "peer"), ("u", "user")):
            flags += letter if reason in held else "-"
        lines[f"{volume['minor']},{snapshot['name']}[{volume['vnr']}]"] = (
            f"{{ cs:{volume['cstate']} ro:{volume['role']}/{volume['peer_role']} "
            f"ds:{volume['disk']}/{volume['peer_disk']} {flags} }}"
        )
    return lines


def events(context: Context, names: list[str], *, now: bool) -> int:
    """As drbdsetup of DRBD 8.4: the state of each volume, and each change of it; `now` ends after what is."""
    return _follow(context, names, OldFormat(), now=now, poll=False)


def events2(context: Context, names: list[str], form: Format, *, now: bool, poll: bool) -> int:
    """As drbdsetup: `now` ends after what is; `poll` tells again of all that is new at each `n` on standard input."""
    return _follow(context, names, form, now=now, poll=poll)


def _follow(context: Context, names: list[str], form: Format | OldFormat, *, now: bool, poll: bool) -> int:
    wanted = None if names in ([], ["all"]) else [target.resource for target in context.targets(names)]
    for name in wanted or ():
        context.ask_running(name)
    return _Follower(context, wanted, form).run(now=now, poll=poll)


class _Source:
    """The stream of one process."""

    def __init__(self, client: ControlClient) -> None:
        self.name = client.resource
        self.sock = client.subscribe("events")
        self.snapshot: dict[str, Any] = {}
        self._pending = b""

    def read_first(self) -> dict[str, Any]:
        """The state as it is; raises as `read`."""
        while True:
            snapshots = self.read()
            if snapshots:
                return snapshots[-1]

    def read(self) -> list[dict[str, Any]]:
        """The snapshots that have come; raises NotRunningError at the end of the stream, CommandFailed for nonsense."""
        try:
            received = self.sock.recv(1 << 20)
        except ConnectionResetError:
            received = b""
        if not received:
            raise NotRunningError(f"{self.name} has stopped")
        *lines, self._pending = (self._pending + received).split(b"\n")
        if len(self._pending) > CONTROL_RESPONSE_BYTES_MAX:
            raise CommandFailed(f"{self.name}: sends a longer line than an event may be")
        return [self._decode(line) for line in lines]

    def _decode(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
            data: dict[str, Any] | None = answer["data"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CommandFailed(f"{self.name}: sends what no pydrbd process sends: {line[:60]!r}") from error
        if data is None:
            raise CommandFailed(f"{self.name}: {answer.get('text')}")
        return data


class _Follower:
    """All streams together, and what was told of them."""

    def __init__(self, context: Context, wanted: list[str] | None, form: Format | OldFormat) -> None:
        self._context = context
        self._wanted = wanted
        self._form = form
        self._selector = selectors.DefaultSelector()
        self._sources: dict[str, _Source] = {}
        self._listening = True

    def run(self, *, now: bool, poll: bool) -> int:
        try:
            self._look_for_new(first=True)
            self._form.done()
            if poll:
                self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
            self._listening = poll or not now
            while self._listening:
                self._turn(now=now)
        finally:
            self._selector.close()
            for source in self._sources.values():
                source.sock.close()
        return 0

    def _turn(self, *, now: bool) -> None:
        """Wait for what comes next, and tell of it."""
        for key, _mask in self._selector.select(_LOOK_FOR_NEW_S):
            if key.data is None:
                self._on_input(now=now)
            elif not now:
                self._on_source(key.data)
        if not now:
            self._look_for_new(first=False)

    def _look_for_new(self, *, first: bool) -> None:
        for name in self._wanted if self._wanted is not None else names_here(self._context.run_dir):
            if name in self._sources:
                continue
            try:
                self._sources[name] = source = _Source(self._context.client(name))
                source.snapshot = source.read_first()
            except NotRunningError:  # it may be about to end
                if (ended := self._sources.pop(name, None)) is not None:
                    ended.sock.close()
                continue
            self._selector.register(source.sock, selectors.EVENT_READ, source)
            self._form.tell(None, source.snapshot, first=first)

    def _on_source(self, source: _Source) -> None:
        try:
            for snapshot in source.read():
                self._tell(source, snapshot)
        except NotRunningError:
            self._selector.unregister(source.sock)
            source.sock.close()
            del self._sources[source.name]
            self._form.tell(source.snapshot, None)

    def _tell(self, source: _Source, snapshot: dict[str, Any], *, figures: bool = False) -> None:
        before, source.snapshot = source.snapshot, snapshot
        self._form.tell(before, snapshot, figures=figures)

    def _on_input(self, *, now: bool) -> None:
        """`n` asks for the figures; newlines mean nothing, all else ends it."""
        typed = os.read(sys.stdin.fileno(), 4096)
        if not typed or set(typed) - set(b"n\n"):
            self._listening = False
            return
        for _ in range(typed.count(b"n")):
            for source in list(self._sources.values()):
                snapshot = self._context.running(source.name)
                if snapshot is None:
                    continue
                if now:
                    source.snapshot = snapshot
                    self._form.tell(None, snapshot, first=True)
                else:
                    self._tell(source, snapshot, figures=True)
            if now:
                self._form.done()
