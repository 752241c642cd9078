"""The volumes as NBD exports: what the NBD server asks, answered by the node.

Export names are RES (volume 0) and RES/N. Only a Primary lets clients in, or with `auto-promote` a node that can become
one; a client that is in when the node stops being Primary gets errors for what it asks, never stale data.

With `nbd-read-only` there are RES@ro and RES/N@ro, too: they open in either role, and can only be read (core/readers).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from pydrbd.core.block_status import CONTEXTS
from pydrbd.core.effects import Reply
from pydrbd.core.events import ClientBatch, SessionClosed, SessionOpened
from pydrbd.core.states import DiskState, Role
from pydrbd.core.volume import Volume
from pydrbd.native import Batch, LaneStream
from pydrbd.runtime.auto_promote import promoted
from pydrbd.runtime.engine import Client, ExportInfo, ExportNotReady, ExportUnavailable, LaneDoor
from pydrbd.runtime.latency import Stopwatch
from pydrbd.wire.nbd import ReplyType

if TYPE_CHECKING:
    from pydrbd.runtime.service import Service

__all__ = ["Exports"]

_BLOCK_BYTES = 512
_READ_ONLY = "@ro"


class Exports:
    """engine.Engine for the volumes of one resource."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._gone = trio.Event()

    def names(self) -> dict[str, int]:
        """Export name -> volume number."""
        usual = self._usual_names()
        wanted = self._service.plan.settings.nbd_read_only
        return usual | {name + _READ_ONLY: vnr for name, vnr in usual.items() if wanted}

    def _usual_names(self) -> dict[str, int]:
        resource = self._service.plan.resource.name
        return {resource if vnr == 0 else f"{resource}/{vnr}": vnr for vnr in self._service.node.volumes}

    def _is_read_only(self, full: str) -> bool:
        return full not in self._usual_names()

    def exports(self) -> Sequence[ExportInfo]:
        volumes = self._service.node.volumes
        return [self._info(name, volumes[vnr]) for name, vnr in self.names().items()]

    def _info(self, name: str, volume: Volume) -> ExportInfo:
        read_only = self._is_read_only(name)
        more = ", read-only" if read_only else ""
        return ExportInfo(
            name=name,
            size_bytes=volume.size_bytes,
            description=f"pydrbd resource {self._service.plan.resource.name} volume {volume.vnr}{more}",
            read_only=read_only,
            block_minimum=_BLOCK_BYTES,
            can_cache=True,
            can_fast_zero=True,
            can_multi_conn=True,
            contexts=CONTEXTS,
        )

    def describe(self, name: str) -> ExportInfo:
        full, volume = self._find(name)
        if not self._promotes(full, volume):
            self._check(full, volume)
        return self._info(full, volume)

    def _find(self, name: str) -> tuple[str, Volume]:
        names = self.names()
        full = name or next(iter(names))
        if full not in names:
            raise ExportUnavailable(f"no export '{name}' here; there is {', '.join(names)}", ReplyType.ERR_UNKNOWN)
        return full, self._service.node.volumes[names[full]]

    def _promotes(self, full: str, volume: Volume) -> bool:
        """Whether the role is given to whoever opens this now."""
        if self._is_read_only(full):
            return False
        leaving = volume.state.role != Role.Primary or self._service.node.operator.demoting
        return leaving and self._service.plan.me.options.auto_promote

    def _check(self, full: str, volume: Volume) -> None:
        """Raises ExportUnavailable."""
        plan = self._service.plan
        if self._is_read_only(full) and volume.state.role != Role.Primary:
            if volume.state.disk != DiskState.UpToDate:
                raise ExportUnavailable(f"{full}: the disk of {plan.me.name} is not UpToDate", ReplyType.ERR_SHUTDOWN)
            return
        if volume.state.role != Role.Primary:
            raise ExportUnavailable(
                f"{full} is {volume.state.role.name} on {plan.me.name}: promote it here "
                f"(pydrbd primary {plan.resource.name}) or connect to {plan.peer.name}",
                ReplyType.ERR_POLICY,
            )
        if not volume.serves:
            raise ExportUnavailable(f"{full} has no UpToDate disk in reach", ReplyType.ERR_SHUTDOWN)

    @asynccontextmanager
    async def make_ready(self, name: str) -> AsyncIterator[ExportUnavailable | None]:
        full, _volume = self._find(name)
        async with promoted(self._service) as refusal:
            words = f"{full} is not Primary on {self._service.plan.me.name}, and can't be: {refusal}"
            yield ExportUnavailable(words, ReplyType.ERR_POLICY) if refusal else None

    def on_gone(self) -> None:
        """A client is gone, and the node has heard of it."""
        gone, self._gone = self._gone, trio.Event()
        gone.set()

    async def goodbyes(self, limit_s: float) -> None:
        """Wait until no client keeps a Primary from being demoted, or for as long as the limit says."""
        volumes = self._service.node.volumes.values()
        with trio.move_on_after(limit_s):
            while any(volume.sessions and volume.state.role == Role.Primary for volume in volumes):
                await self._gone.wait()

    async def open_when_ready(self, name: str, client: Client) -> ClientSession:
        """`open`, after `make_ready` where that is needed. Raises ExportUnavailable."""
        while True:
            with suppress(ExportNotReady):
                return self.open(name, client)
            async with self.make_ready(name) as refusal:
                if refusal is not None:
                    raise refusal
                with suppress(ExportNotReady):
                    return self.open(name, client)

    def open(self, name: str, client: Client) -> ClientSession:
        full, volume = self._find(name)
        if self._promotes(full, volume):
            raise ExportNotReady(name)
        self._check(full, volume)
        session = ClientSession(self._service, volume.vnr, self._info(full, volume), client)
        self._service.feed(SessionOpened(session, volume.vnr, session.info.read_only))
        return session


class ClientSession:
    """One client's open export (engine.Session)."""

    def __init__(self, service: Service, vnr: int, info: ExportInfo, client: Client) -> None:
        self.info = info
        self.contexts: Sequence[tuple[int, str]] = ()
        self.any_alignment = False
        self._service = service
        self._vnr = vnr
        self._client = client
        self._unanswered: dict[Batch, int] = {}
        self._parts: list[bytes | bytearray | memoryview] = []
        self._done: list[Batch] = []
        self._open = True
        self._stopwatch = Stopwatch(service.latencies, vnr)
        self.lane: LaneDoor | None = None if info.read_only else service.lane

    def submit(self, batch: Batch) -> None:
        """A wake-up's requests."""
        self._unanswered[batch] = batch.all
        self._stopwatch.begin(batch)
        self._service.feed(ClientBatch(self, self._vnr, batch))

    def on_reply(self, effect: Reply) -> None:
        """Answers to members of a batch: sent with all others of this event by `flush`."""
        if not self._open:
            return
        self._parts.extend(effect.parts)
        self._stopwatch.answered(effect.batch, effect.mask)
        left = self._unanswered[effect.batch] & ~effect.mask
        assert self._unanswered[effect.batch] & effect.mask == effect.mask, "a request was answered twice"
        if left:
            self._unanswered[effect.batch] = left
        else:
            del self._unanswered[effect.batch]
            self._stopwatch.forget(effect.batch)
            self._done.append(effect.batch)

    def flush(self) -> None:
        """Send what was answered."""
        if self._open and self._parts:
            parts, self._parts = self._parts, []
            self._client.send(parts)
            done, self._done = self._done, []
            for batch in done:
                self._client.done(batch)

    # --- lanes (runtime/lane.py) ---

    @property
    def may_lend(self) -> bool:
        """Whether a lane may carry on with what is under way for this client (core/lane.py)."""
        return self._open

    @property
    def fits_lane(self) -> bool:
        """Whether a lane may serve this client."""
        return self._open and self._client.fits_lane

    def lend(self, batch: Batch, mask: int) -> None:
        """A lane carries on with these requests of a batch; others of it may be lent by themselves."""
        left = self._unanswered[batch] & ~mask
        assert self._unanswered[batch] & mask == mask, "a request was lent that is answered already"
        if left:
            self._unanswered[batch] = left
        else:
            del self._unanswered[batch]
            self._stopwatch.forget(batch)
            self._client.lend(batch)

    def take_back(self, batch: Batch, mask: int) -> None:
        """A lane leaves these requests under way."""
        if self._open:
            self._unanswered[batch] = mask
            self._client.take_back(batch)

    def lane_enter(self) -> tuple[LaneStream, bytearray]:
        """The client's socket, and room for replies."""
        return self._client.lane_enter()

    def lane_leave(self, stream: LaneStream) -> None:
        """A lane has ended: how far it has come with the client's socket."""
        self._client.lane_leave(stream)

    def lane_left(self) -> None:
        """Take on what a lane has left in the client's buffer."""
        self._client.lane_left()

    def close(self) -> None:
        """The client is gone."""
        if self._open:
            self._open = False
            self._unanswered.clear()
            self._service.feed(SessionClosed(self, self._vnr))
            self._service.exports.on_gone()
