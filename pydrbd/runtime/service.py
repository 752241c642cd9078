"""One resource on one node, with everything around it.

    events   from the link, the NBD server, the disks, the control socket and the clock
      -> Node.handle -> effects -> carried out at once, in order -> their ends are events again

`feed` is the only way in. It runs in the Trio thread and never waits: what one event brings together for a socket
leaves in one system call when the event, and all that followed from it at once, has been worked in.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import trio

from pydrbd.core import effects as fx
from pydrbd.core.events import Command, DiskNotOpened, DiskOpened, Done, Event, Tick
from pydrbd.core.node import Node
from pydrbd.core.states import State
from pydrbd.errors import ConfigError, PeerProtocolError, PydrbdError, exit_code_of
from pydrbd.limits import STOP_TIMEOUT_S
from pydrbd.metadata.opening import KnownSize
from pydrbd.runtime.affinity import use_processors
from pydrbd.runtime.block_open import IoMode
from pydrbd.runtime.build import Blueprint, DiskPlace, admission
from pydrbd.runtime.control import ControlServer
from pydrbd.runtime.exports import ClientSession, Exports
from pydrbd.runtime.fence_priority import FencePriority
from pydrbd.runtime.from_disk import send_from_disk
from pydrbd.runtime.helper import HelperRunner
from pydrbd.runtime.known_sizes import KnownSizes, state_dir
from pydrbd.runtime.lane import Lane
from pydrbd.runtime.latency import Latencies
from pydrbd.runtime.link import Link
from pydrbd.runtime.nbd_places import listen_for_clients
from pydrbd.runtime.nbd_server import NbdServer
from pydrbd.runtime.rendezvous import try_address
from pydrbd.runtime.resync_after import ResyncAfter, dependencies
from pydrbd.runtime.systemd import notify
from pydrbd.runtime.volume_disk import VolumeDisk, open_volume_disk, unheeded
from pydrbd.runtime.watchers import Watchers
from pydrbd.runtime.witness_client import WitnessClient

__all__ = ["Service"]

_log = logging.getLogger(__name__)
_ALL = (1 << 64) - 1
_EIO = 5


class Service:
    """A node with everything around it."""

    def __init__(
        self,
        plan: Blueprint,
        run_dir: Path,
        node_name: str = "",
        *,
        owns_process: bool = True,
        serves_nbd: bool = True,
    ) -> None:
        """`owns_process`: signals end it, and `cpu-mask` holds; a guest in another program leaves both alone."""
        self.plan = plan
        self.owns_process = owns_process
        self._serves_nbd = serves_nbd
        self.node_name = node_name or plan.me.name
        """What this node is called by `--node`."""
        self.usual_processors = frozenset(os.sched_getaffinity(0))
        self.run_dir = run_dir
        self.node = Node(plan.node, lambda: secrets.randbits(64))
        self.link = Link(self, plan.endpoints, plan.times, secrets.token_bytes)
        self.helpers = HelperRunner(plan, self.node, str(run_dir), self._ended)
        self.witness = WitnessClient(plan, self._ended)
        self.lane: Lane = Lane(self)
        self.latencies = Latencies()
        self.exports = Exports(self)
        self.nbd = NbdServer(self.exports, admission=admission(plan.settings))
        self.control = ControlServer(self, run_dir / f"{plan.resource.name}.ctl.sock")
        self.watchers = Watchers(self.control.look)
        self.disks: dict[int, VolumeDisk] = {}
        self.attach_failures: dict[int, int] = {}
        """Why a volume has no disk, as exit codes: those of the last attempts."""
        self._places: dict[int, DiskPlace] = {}
        self._known_sizes = KnownSizes(state_dir(run_dir))
        self.fence_priority = FencePriority(plan.resource.name, run_dir)
        self.resync_after = ResyncAfter(run_dir, lambda: dependencies(self.plan.me), self._hold_resyncs)
        self.nbd_uris: list[str] = []
        self.stopping = trio.Event()
        self._clients, self._clients_gone = trio.CancelScope(), trio.Event()
        self._nursery: trio.Nursery
        self._closing: dict[int, trio.Event] = {}
        self._events: deque[Event] = deque()
        self._working = self._is_over = False
        self._touched: dict[ClientSession, None] = {}
        self._changed = trio.Event()
        self._rearm = trio.Event()
        self._armed = math.inf  # when the clock's task wakes up at the latest
        self._starters: dict[type[Any], Callable[[Any], None]] = {
            fx.Send: lambda effect: self.link.send(effect.socket, effect.parts, answer=effect.answer),
            fx.DiskSend: self._send_from_disk,
            fx.Reply: self._reply,
            fx.Answer: lambda effect: effect.request(effect.code, effect.text),
            fx.OpenLink: lambda effect: self.link.open(effect.number),
            fx.CloseLink: lambda effect: self.link.close(effect.number, effect.reason, linger=effect.linger),
            fx.Attach: lambda effect: self._nursery.start_soon(self._attach, effect.volume),
            fx.DetachDisk: self._detach,
            fx.MeasureDisk: lambda effect: self._nursery.start_soon(self._measure, effect),
            fx.AskWitness: lambda effect: self._nursery.start_soon(self.witness.ask, effect),
            fx.RunHelper: lambda effect: self.helpers.start(self._nursery, effect),
            fx.Log: lambda effect: _log.log(int(effect.level), "%s: %s", plan.resource.name, effect.text),
            fx.StateChanged: lambda _effect: self._wake_watchers(),
        }

    # --- events in, effects out ---

    def feed(self, event: Any) -> None:
        """Work in an event and all that follows from it at once. Raises PeerProtocolError for a peer that lies."""
        self.lane.end()
        self._events.append(event)
        if self._working:
            return
        self._working = True
        lie: PeerProtocolError | None = None
        try:
            while self._events:
                try:
                    todo = self.node.handle(self._events.popleft(), trio.current_time())
                except PeerProtocolError as error:
                    lie = lie or error
                    todo = self.node.out.take()
                for effect in todo:
                    starter = self._starters.get(type(effect))
                    if starter is not None:
                        starter(effect)
                    else:
                        self._start_on_disk(effect)
        finally:
            self._working = False
        self.link.flush()
        self.link.resume_reading()
        if self._touched:
            touched, self._touched = self._touched, {}
            for session in touched:
                session.flush()
        deadline = self.node.next_deadline()
        if deadline is not None:
            self.wake_clock(deadline)
        if lie is not None:
            raise lie

    def wake_clock(self, deadline: float) -> None:
        """See to it that the node is called with a Tick when this time has come."""
        if deadline < self._armed:
            self._armed = deadline
            self._rearm.set()

    def _reply(self, effect: fx.Reply) -> None:
        effect.session.on_reply(effect)
        self._touched[effect.session] = None

    def _start_on_disk(self, effect: Any) -> None:
        disk = self.disks.get(effect.volume)
        if disk is None:
            self._events.append(Done(effect, _ALL, _EIO))
        else:
            disk.start(effect)

    def _send_from_disk(self, effect: fx.DiskSend) -> None:
        disk = self.disks.get(effect.volume)
        failed, errno = (_ALL, _EIO) if disk is None else send_from_disk(self.link, disk, effect)
        self._events.append(Done(effect, failed, errno))

    def _ended(self, effect: Any, failed: int, errno: int) -> None:
        if self._is_over:
            return  # what comes to nothing because we stop is no fault of the disk's
        self.feed(Done(effect, failed, errno))

    def _hold_resyncs(self, waits: dict[int, bool]) -> None:
        self.feed(Command(lambda _code, _text: None, "resync-after", {"volumes": waits}))

    def _wake_watchers(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        self.watchers.tell()

    @property
    def changed(self) -> trio.Event:
        """Set when something that `status` shows has changed; then there is a new one."""
        return self._changed

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the node's state holds."""
        while not condition():
            await self._changed.wait()

    def _states(self) -> list[State]:
        return [volume.state for volume in self.node.volumes.values()]

    # --- disks ---

    async def _attach(self, vnr: int) -> None:
        self.attach_failures.pop(vnr, None)
        place = self.plan.disks.get(vnr)
        if place is None:
            self.attach_failures[vnr] = ConfigError.exit_code
            self.feed(DiskNotOpened(vnr, "no disk is configured on this node"))
            return
        if vnr in self._closing:
            await self._closing[vnr].wait()  # what we have only just let go of is in nobody else's use
        try:
            io = cast(IoMode, self.plan.settings.io)
            known = self._known_sizes.read(place)
            flushes = self.node.volumes[vnr].options.disk_flushes
            opener = partial(open_volume_disk, place, io, known, disk_flushes=flushes)
            data, meta, opened = await trio.to_thread.run_sync(opener)
        except (PydrbdError, OSError) as error:
            self.attach_failures[vnr] = exit_code_of(error)
            words = str(error)
            named = place.path in words or place.md_path in words
            self.feed(DiskNotOpened(vnr, words if named else f"{place.md_path}: {words}"))
            return
        if data.buffered_reason:
            _log.info("%s is used through the page cache: %s", place.path, data.buffered_reason)
        if words := unheeded(place, data, meta, disk_flushes=flushes):
            _log.warning("%s: volume %d: %s", self.plan.resource.name, vnr, words)
        for note in opened.applied.notes:
            _log.info("%s: volume %d: %s", self.plan.resource.name, vnr, note)
        disk = VolumeDisk(data, meta, self._ended, md_flushes=place.md_flushes)
        try:
            now = KnownSize(opened.layout.md_device_sectors, opened.superblock.device_uuid)
            await self._remember_sizes(place, now)
        except BaseException:
            await disk.stop()
            raise
        self.disks[vnr], self._places[vnr] = disk, place
        self._nursery.start_soon(disk.run)
        self.feed(
            DiskOpened(
                vnr,
                opened.layout,
                opened.superblock,
                opened.bitmap,
                opened.capacity_sectors,
                len(opened.applied.marked_extents),
                data.zeroes_fast,
                bool(data.held_back_reason),
            )
        )

    async def _remember_sizes(self, place: DiskPlace, *sizes: KnownSize) -> None:
        try:
            await trio.to_thread.run_sync(self._known_sizes.write, place, sizes)
        except OSError as error:
            _log.warning("%s must not grow while it is not in use: its size can't be noted: %s", place.path, error)

    async def _measure(self, effect: fx.MeasureDisk) -> None:
        """How large the disks are now. A new size is noted before meta-data moves by it; the old one still counts."""
        disk, failed = self.disks.get(effect.volume), _ALL
        if disk is not None:
            try:
                effect.backing_sectors, effect.md_sectors = await trio.to_thread.run_sync(disk.measure)
                failed = 0
            except (PydrbdError, OSError) as error:
                _log.error("%s: %s", self.plan.resource.name, error)
        attached = self.node.volumes[effect.volume].disk
        if not failed and attached is not None and effect.md_sectors > attached.layout.md_device_sectors:
            uuid = attached.superblock.device_uuid
            sizes = (attached.layout.md_device_sectors, effect.md_sectors)
            await self._remember_sizes(self._places[effect.volume], *(KnownSize(sectors, uuid) for sectors in sizes))
        self._ended(effect, failed, _EIO if failed else 0)

    def _detach(self, effect: fx.DetachDisk) -> None:
        disk = self.disks.pop(effect.volume, None)
        if disk is not None:
            disk.fail()
            self._closing[effect.volume] = closed = trio.Event()
            self._nursery.start_soon(self._close, disk, closed)

    async def _close(self, disk: VolumeDisk, closed: trio.Event) -> None:
        await disk.stop()
        closed.set()

    # --- the process ---

    async def _clock(self) -> None:
        """Send a Tick when a deadline of the node has passed.

        Deadlines move with every write, mostly to later times: only an earlier one than the armed one wakes this task,
        and a wake-up that comes too early just arms the clock again.
        """
        while True:
            self._rearm = trio.Event()
            with trio.move_on_at(self._armed):
                await self._rearm.wait()
                continue
            deadlines = (self.node.next_deadline(), self.lane.deadline)
            self._armed = min((deadline for deadline in deadlines if deadline is not None), default=math.inf)
            if self._armed <= trio.current_time():
                self._armed = math.inf
                self.feed(Tick())

    async def _signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for _signal in received:
                self.stopping.set()
                return

    def listen(self) -> None:
        """Open every socket that we are asked at. Raises BusyError, UsageError.

        The peer's port is tried before any disk is touched: a node that can't listen is not to apply activity logs.
        """
        self.control.listen()
        must_be_ours = not self.plan.config.global_.disable_ip_verification
        try_address(self.plan.endpoints, must_be_ours=must_be_ours)
        if self._serves_nbd:
            self.nbd_uris += listen_for_clients(self.nbd, self.plan.settings, self.run_dir, self.plan.resource.name)

    async def serve(self, on_ready: Callable[[], None] = lambda: None, *, bare: bool = False) -> None:
        """Run until a signal or a `stop` command; everything is closed in good order then.

        `bare`: nothing is attached nor connected before somebody asks for it.
        """
        if self.owns_process:
            use_processors(self.plan.me.options.cpu_mask, self.usual_processors)
        try:
            self.listen()
            async with trio.open_nursery() as keeper:
                try:
                    await self._serve(on_ready, bare=bare)
                finally:
                    # Also when we are cancelled: whoever starts this node again finds its disks free.
                    self._nursery, self._is_over = keeper, True
                    with trio.CancelScope(shield=True):
                        for disk in list(self.disks.values()):
                            await disk.stop()
        finally:
            self.nbd.close()
            self.control.close()

    async def _serve(self, on_ready: Callable[[], None], *, bare: bool) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.link.run)
            nursery.start_soon(self._clock)
            if self.owns_process:
                nursery.start_soon(self._signals)
            nursery.start_soon(self._serve_clients)
            await nursery.start(self.resync_after.follow)
            nursery.start_soon(self.control.serve)
            nursery.start_soon(self.fence_priority.follow, self._states, self.wait_for)
            for verb in () if bare else ("attach", "connect"):
                await self.control.command(verb, {})
            on_ready()
            await self.stopping.wait()
            if self.owns_process:
                notify("STOPPING=1")
            with trio.move_on_after(STOP_TIMEOUT_S):
                await self._stop()
            nursery.cancel_scope.cancel()

    async def _serve_clients(self) -> None:
        with self._clients:
            await self.nbd.serve()
        self._clients_gone.set()

    async def _stop(self) -> None:
        """As `down`: no more clients, the peer told, the bitmap written, the disk closed.

        Clients lose their connection rather than get errors from a node that is demoted: those that can wait for
        another server (a kernel's device, QEMU) then do.
        """
        self._clients.cancel()
        await self._clients_gone.wait()
        for verb in ("secondary", "disconnect", "detach"):
            await self.control.command(verb, {"force": verb == "secondary"})
        for disk in list(self.disks.values()):
            await disk.stop()
