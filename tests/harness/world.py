"""Two nodes, their disks, the link and the clock in one deterministic process: `World(seed)`.

Every effect takes a drawn time; every draw comes from the seed. Nothing here knows the rules: the nodes decide, the
world only carries out, loses, delays and kills. An `observer` is shown every event and effect (checkers.py).
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from pydrbd import native
from pydrbd.core import effects as fx
from pydrbd.core.events import (
    ClientBatch,
    Command,
    DiskNotOpened,
    DiskOpened,
    Done,
    Event,
    LinkUp,
    Received,
    SessionOpened,
    Tick,
)
from pydrbd.core.handshake import NetOptions
from pydrbd.core.node import Node, NodeOptions
from pydrbd.core.quorum_options import QuorumOptions
from pydrbd.core.states import ConnState, DiskState
from pydrbd.core.transitions import Fencing
from pydrbd.core.volume import Volume, VolumeOptions
from pydrbd.errors import MetaDataError, PeerProtocolError
from pydrbd.limits import DRBD_IO_BYTES_MAX, DRBD_PAYLOAD_BYTES_MAX
from pydrbd.metadata.superblock import Superblock
from tests.harness.disk import MemoryDisk
from tests.harness.lane import SimulatedLane
from tests.harness.link import Link
from tests.harness.witness import Witness

__all__ = ["Client", "Machine", "Observer", "Observers", "World"]

_EIO, _EAGAIN = 5, 11
_ALL = (1 << 64) - 1
_TRACE_LINES = 120


class Observer(Protocol):
    """Sees everything that a machine is told and asks for."""

    def on_effect(self, machine: Machine, effect: Any) -> None: ...

    def on_event(self, machine: Machine, event: Event) -> None: ...


class Observers:
    """Several, one after the other."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on_effect(self, machine: Machine, effect: Any) -> None:
        for observer in self._observers:
            observer.on_effect(machine, effect)

    def on_event(self, machine: Machine, event: Event) -> None:
        for observer in self._observers:
            observer.on_event(machine, event)


class _Pending:
    """An effect that a disk is working on."""

    __slots__ = ("attachment", "begun_at", "effect")

    def __init__(self, effect: Any, attachment: int, begun_at: int) -> None:
        self.effect = effect
        self.attachment = attachment
        self.begun_at = begun_at


class Machine:
    """One node with its disks; `node` is None while it is down."""

    def __init__(self, world: World, name: str, disks: dict[int, MemoryDisk]) -> None:
        self.world = world
        self.name = name
        self.disks = disks
        self.node: Node | None = None
        self.life = 0
        self.wants_link = 0  # the number of the link that is looked for
        self.inbox = [bytearray(), bytearray()]
        self.answers: dict[Any, tuple[int, str]] = {}
        self.log: list[str] = []
        self.attached: set[int] = set()
        self.sent_packets: list[tuple[int, int]] = []
        self.helpers: list[tuple[str, int | None]] = []
        """The handlers that were started: event and volume."""
        self.handler: Callable[[str], tuple[int | Callable[[], int | None] | None, float]] = lambda _name: (0, 0.01)
        """What the handler of an event says (or who will say it then), and after how many seconds."""
        self.slow_s = 0.0
        """Each of its disk's operations takes so much longer."""
        self._attachments = dict.fromkeys(disks, 0)
        self._pending: dict[_Pending, None] = {}
        self._persist_ends: dict[int, float] = {}
        self._sent_from_disk = 0
        self._tick_at: float | None = None
        self.lane = SimulatedLane(self) if world.lanes else None

    @property
    def volume(self) -> Volume:
        assert self.node is not None
        return self.node.volumes[0]

    def is_working_on(self, kind: type) -> bool:
        """Whether a disk of this machine is carrying out an effect of this kind."""
        return any(isinstance(pending.effect, kind) for pending in self._pending)

    def hold_back(self, kind: type) -> Callable[[], None]:
        """What a disk is carrying out of this kind does not end until the result is called."""
        held = [pending for pending in self._pending if isinstance(pending.effect, kind)]
        ended = self._end

        def end(pending: _Pending) -> None:
            if pending not in held:
                ended(pending)

        self._end = end  # type: ignore[method-assign]

        def go_on() -> None:
            self._end = ended  # type: ignore[method-assign]
            for pending in held:
                if pending in self._pending:
                    self._end(pending)

        return go_on

    # --- power ---

    def start(self) -> None:
        """Power on: attach and connect."""
        assert self.node is None
        self.life += 1
        rng = random.Random(f"{self.world.seed}/{self.name}/{self.life}")
        world = self.world
        volumes = tuple(
            VolumeOptions(
                vnr, al_extents=world.al_extents, fencing=world.fencing, max_bio_bytes=world.max_bio_bytes,
                **world.disk_options,
            )
            for vnr in self.disks
        )  # fmt: skip
        quorum = dataclasses.replace(world.quorum, node=self.name)
        options = NodeOptions(
            "r0", world.net, volumes, world.handlers, on_no_data_suspend=world.suspends, quorum=quorum
        )  # fmt: skip
        self.node = Node(options, lambda: rng.getrandbits(64))
        self._tick_at = None
        self.world.trace(self, "starts")
        self.command("attach")
        self.command("connect")

    def stop(self, *, late_s: float = 0.0) -> None:
        """The process is killed: what it had begun to write may still arrive, what the disks cache stays."""
        if self.node is None:
            return
        self.world.trace(self, "is killed")
        self.node = None
        if self.lane is not None:
            self.lane.forget()
        self.life += 1
        self.wants_link = 0
        self._tear_pending()
        self.attached.clear()
        self._persist_ends.clear()
        if self.world.link is not None:
            self.world.link.lose(self, late_s)

    def lose_power(self, rng: random.Random, *, late_s: float = 0.0) -> None:
        """The machine stops at once, and what its disks had not flushed is lost, kept or torn."""
        self.stop(late_s=late_s)
        unflushed = sum(disk.unflushed for disk in self.disks.values())
        self.world.trace(self, f"has no power ({unflushed} sectors unflushed)")
        for disk in self.disks.values():
            disk.lose_power(rng)

    def _tear_pending(self) -> None:
        """Each write that is under way has reached the disk whole, in part, or not."""
        rng = self.world.rng
        for pending in self._pending:
            effect = pending.effect
            if effect.volume in self.attached and pending.attachment == self._attachments[effect.volume]:
                self._tear(effect, rng)
        self._pending.clear()

    def _tear(self, effect: Any, rng: random.Random) -> None:
        disk = self.disks[effect.volume]
        if rng.random() < 0.4:
            return
        match effect:
            case fx.DiskWrite():
                for index in native.indices(effect.mask):
                    disk.tear(effect.batch.records[index].offset, effect.batch.data(index), rng)
            case fx.DiskZero() | fx.DiskDiscard():
                disk.tear(effect.offset_bytes, bytes(effect.length_bytes), rng)
            case fx.Persist():
                whole = rng.randrange(len(effect.stages) + 1)
                for stage in effect.stages[:whole]:
                    disk.run_stage(stage)
                for stage in effect.stages[whole : whole + 1]:
                    for offset, data in stage.writes:
                        disk.tear(offset, data, rng)

    # --- events in, effects out ---

    def command(self, verb: str, **arguments: Any) -> object:
        self.world.commands += 1
        request = f"{verb}#{self.world.commands}"
        self.world.trace(self, f"{verb} {arguments or ''}")
        self.feed(Command(request, verb, arguments))
        return request

    def feed(self, event: Event) -> None:
        """Let the node work in an event and begin what it asks for."""
        if self.node is None or (self.lane is not None and self.lane.takes(event)):
            return
        try:
            todo = self.node.handle(event, self.world.now)
        except PeerProtocolError as error:
            self.log.append(f"protocol error: {error}")
            self.world.trace(self, f"protocol error: {error}")
            self.world.protocol_errors.append(f"{self.name}: {error}")
            self.world.close_link(self, ConnState.ProtocolError)
            return
        observer = self.world.observer
        if observer is not None:
            observer.on_event(self, event)
        for effect in todo:
            if observer is not None:
                observer.on_effect(self, effect)
            self._begin(effect)
            if self.node is None:
                return
        self._arm()

    def _arm(self) -> None:
        assert self.node is not None
        deadline = self.node.next_deadline()
        if deadline is not None and (self._tick_at is None or deadline < self._tick_at):
            self._tick_at = deadline
            self.world.at(max(deadline, self.world.now) + 0.001, self, self._tick)

    def _tick(self) -> None:
        self._tick_at = None
        self.feed(Tick())

    def _begin(self, effect: fx.Effect) -> None:
        world = self.world
        match effect:
            case fx.Send():
                world.send(self, effect)
            case fx.DiskSend():
                self._send_from_disk(effect)
            case fx.Reply():
                world.later(self, lambda: effect.session.on_reply(effect), fast=True)
            case fx.Answer():
                self.answers[effect.request] = (effect.code, effect.text)
                world.trace(self, f"answers {effect.request}: {effect.code} {effect.text}")
            case fx.Log():
                self.log.append(effect.text)
                world.trace(self, effect.text)
            case fx.OpenLink():
                assert not self.wants_link, "a link is asked for twice"
                self.wants_link = effect.number
                world.later(self, world.try_link)
            case fx.CloseLink():
                if self.wants_link == effect.number:
                    self.wants_link = 0
                elif world.link is not None and world.link.numbers[self] == effect.number:
                    world.close_link(self, ConnState.NetworkFailure, linger=effect.linger)
            case fx.Attach():
                world.later(self, lambda: self._attach(effect.volume))
            case fx.DetachDisk():
                self._detach(effect.volume)
            case fx.StateChanged():
                pass
            case fx.RunHelper():
                self._run_helper(effect)
            case fx.AskWitness():
                assert world.witness is not None, "there is no witness to be asked"
                world.witness.ask(self, effect)
            case _:
                self._begin_disk(effect)

    def _send_from_disk(self, effect: fx.DiskSend) -> None:
        """As the shell does it: at once, or not at all. What is written there before it arrives, arrives instead."""
        disk, node, link, batch = self.disks[effect.volume], self.node, self.world.link, effect.batch
        self._sent_from_disk += 1
        errno = 0 if link is not None and effect.volume in self.attached and self._sent_from_disk % 4 else _EAGAIN

        def now() -> bytes:
            if self.node is node:
                disk.read_batch(batch, effect.mask, effect.buffer)
            members = (batch.records[index] for index in native.indices(effect.mask))
            return b"".join(batch.view[one.data - effect.head_bytes : one.data + one.length] for one in members)

        if link is not None and not errno:
            link.send(self, fx.Socket.DATA, now(), now)
        self.world.at(self.world.now, self, lambda: self.feed(Done(effect, effect.mask if errno else 0, errno)))

    def _run_helper(self, effect: fx.RunHelper) -> None:
        self.helpers.append((effect.name, effect.volume))
        code, seconds = self.handler(effect.name)

        def ended() -> None:
            effect.exit_code = code() if callable(code) else code
            self.world.trace(self, f"{effect.name} says {effect.exit_code}")
            self.feed(Done(effect, 0, 0))

        self.world.at(self.world.now + seconds, self, ended)

    def _begin_disk(self, effect: Any) -> None:
        world, vnr = self.world, effect.volume
        pending = _Pending(effect, self._attachments[vnr], self.disks[vnr].sequence)
        self._pending[pending] = None
        when = world.now + self.slow_s + world.disk_latency()
        if isinstance(effect, fx.Persist):  # one after the other, as the shell does it
            when = max(when, self._persist_ends.get(vnr, 0.0) + 0.00001)
            self._persist_ends[vnr] = when
        world.at(when, self, lambda: self._end(pending))

    def _attach(self, vnr: int) -> None:
        try:
            opened = self.disks[vnr].open()
        except MetaDataError as error:
            self.feed(DiskNotOpened(vnr, str(error)))
            return
        self.disks[vnr].flush()  # runtime/volume_disk: what a process before it has left in the cache
        self.attached.add(vnr)
        self._attachments[vnr] += 1
        self.feed(
            DiskOpened(
                vnr, opened.layout, opened.superblock, opened.bitmap, opened.capacity_sectors,
                len(opened.applied.marked_extents), held_back=self.world.held_back,
            )
        )  # fmt: skip

    def _detach(self, vnr: int) -> None:
        self.attached.discard(vnr)
        self._attachments[vnr] += 1

    def _end(self, pending: _Pending) -> None:
        effect, disk, rng = pending.effect, self.disks[pending.effect.volume], self.world.rng
        del self._pending[pending]
        failed = 0
        if effect.volume not in self.attached or pending.attachment != self._attachments[effect.volume]:
            failed = _ALL
            if isinstance(effect, fx.DiskWrite | fx.DiskZero | fx.DiskDiscard) and effect.volume not in self.attached:
                self._tear(effect, rng)
        else:
            failed = self._run(pending, disk, rng)
        self.feed(Done(effect, failed, _EIO if failed else 0))

    def _run(self, pending: _Pending, disk: MemoryDisk, rng: random.Random) -> int:
        """Carry out one disk effect; the mask of what failed."""
        effect = pending.effect
        match effect:
            case fx.DiskWrite():
                if disk.fails("write"):
                    self._tear(effect, rng)
                    return int(effect.mask)
                disk.write_batch(effect.batch, effect.mask)
                if effect.fua:
                    for index in native.indices(effect.mask):
                        disk.settle(effect.batch.records[index].offset, effect.batch.records[index].length)
            case fx.DiskRead():
                if disk.fails("read"):
                    return int(effect.mask)
                disk.read_batch(effect.batch, effect.mask, effect.buffer)
            case fx.DiskFlush():
                if disk.fails("flush"):
                    return _ALL
                disk.flush(pending.begun_at)
            case fx.DiskZero() | fx.DiskDiscard():
                if disk.fails("write"):
                    self._tear(effect, rng)
                    return _ALL
                disk.write(effect.offset_bytes, bytes(effect.length_bytes))
                if isinstance(effect, fx.DiskZero) and effect.fua:
                    disk.settle(effect.offset_bytes, effect.length_bytes)
            case fx.MapDisk() if disk.has_holes:
                effect.extents = disk.extents(effect.offset_bytes, effect.length_bytes, effect.extents_max)
            case fx.MeasureDisk():
                effect.backing_sectors = effect.md_sectors = disk.sectors
            case fx.Persist():
                if disk.fails("meta") or disk.fails("write"):
                    self._tear(effect, rng)
                    return _ALL
                for stage in effect.stages:
                    disk.run_stage(stage)
        return 0


class Client:
    """An NBD client in few words: it writes and reads whole blocks and remembers what was answered."""

    may_lend = True
    any_alignment = False
    """Whether it was told nothing of block sizes, and may send any."""

    def __init__(self, world: World, machine: Machine, vnr: int = 0) -> None:
        self.world = world
        self.machine = machine
        self.vnr = vnr
        self.replies: dict[int, tuple[int, bytes]] = {}
        self._cookie = 0
        machine.feed(SessionOpened(self, vnr))

    def submit(self, *requests: tuple[int, int, int, bytes]) -> list[int]:
        """(command, flags, offset, payload or length as bytes count) each; the cookies."""
        stream = bytearray()
        cookies = []
        for command, flags, offset, payload in requests:
            self._cookie += 1
            cookies.append(self._cookie)
            length = len(payload)
            stream += (0x25609513).to_bytes(4, "big") + flags.to_bytes(2, "big") + command.to_bytes(2, "big")
            stream += self._cookie.to_bytes(8, "big") + offset.to_bytes(8, "big") + length.to_bytes(4, "big")
            if command == 1:
                stream += payload
        batch, consumed, _ = native.nbd_split(stream, 0, len(stream), 1 << 25)
        assert batch.count == len(requests) and consumed == len(stream)
        self.begin(cookies, requests)
        self.machine.feed(ClientBatch(self, self.vnr, batch))
        return cookies

    def begin(self, cookies: list[int], requests: tuple[tuple[int, int, int, bytes], ...]) -> None:
        """The requests are about to be submitted (for subclasses)."""

    def write(self, offset: int, data: bytes, fua: bool = False) -> int:
        return self.submit((1, int(fua), offset, data))[0]

    def read(self, offset: int, length: int) -> int:
        return self.submit((0, 0, offset, bytes(length)))[0]

    def flush(self) -> int:
        return self.submit((3, 0, 0, b""))[0]

    def trim(self, offset: int, length: int) -> int:
        return self.submit((4, 0, offset, bytes(length)))[0]

    def zero(self, offset: int, length: int) -> int:
        return self.submit((6, 0, offset, bytes(length)))[0]

    def on_reply(self, effect: fx.Reply) -> None:
        stream = b"".join(effect.parts)
        records = {effect.batch.records[i].id: effect.batch.records[i] for i in native.indices(effect.mask)}
        position = 0
        for _ in range(effect.mask.bit_count()):
            assert stream[position : position + 4] == (0x67446698).to_bytes(4, "big")
            error = int.from_bytes(stream[position + 4 : position + 8], "big")
            cookie = int.from_bytes(stream[position + 8 : position + 16], "big")
            position += 16
            data = b""
            record = records.pop(cookie)
            if record.command == 0 and not error:
                data = stream[position : position + record.length]
                position += record.length
            self.answered(cookie, error, data)
        assert position == len(stream)

    def answered(self, cookie: int, error: int, data: bytes) -> None:
        """One request has ended."""
        assert cookie not in self.replies, "a request was answered twice"
        self.replies[cookie] = (error, data)


class World:
    """Everything outside the two nodes."""

    def __init__(
        self, seed: object = 0, *, size_bytes: int = 16 << 20, net: NetOptions | None = None, al_extents: int = 67,
        volumes: int = 1, superblock: Superblock | None = None, fencing: Fencing = Fencing.DONT_CARE,
        handlers: Iterable[str] = (), lanes: bool = False, disk: Mapping[str, Any] = {}, suspends: bool = False,
        held_back: bool = False, quorum: QuorumOptions | None = None,
    ) -> None:  # fmt: skip
        self.seed = seed
        self.lanes = lanes
        self.rng = random.Random(f"world/{seed}")
        self.net = net or NetOptions()
        self.al_extents = al_extents
        self.fencing = fencing
        self.handlers = frozenset(handlers)
        self.disk_options = dict(disk)
        self.suspends = suspends
        self.held_back = held_back
        self.quorum = quorum or QuorumOptions()
        self.witness = Witness(self) if self.quorum.by_witness else None
        self.now = 0.0
        self.commands = 0
        self.observer: Observer | None = None
        self.lines: deque[tuple[Any, ...]] = deque(maxlen=_TRACE_LINES)
        self._heap: list[tuple[float, int, Machine | None, int, Callable[[], None]]] = []
        self._sequence = 0
        self.link: Link | None = None
        self.link_allowed = True
        self.link_latency_s = 0.001
        self.split_probability = 0.0
        self.disk_latency_s = 0.002
        self.disk_stall_probability = 0.0
        self.max_bio_bytes = DRBD_IO_BYTES_MAX
        self.protocol_errors: list[str] = []
        self._compared: dict[int, tuple[tuple[MemoryDisk | None, MemoryDisk | None], set[int]]] = {}
        """What was found when the disks of a volume were compared last, and which disks those were."""
        self.a = Machine(self, "a", {vnr: MemoryDisk(size_bytes, superblock) for vnr in range(volumes)})
        self.b = Machine(self, "b", {vnr: MemoryDisk(size_bytes, superblock) for vnr in range(volumes)})

    # --- time ---

    def at(self, when: float, machine: Machine, action: Callable[[], None]) -> None:
        """Do something then, unless that machine has died meanwhile."""
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, machine, machine.life, action))

    def at_any_rate(self, when: float, action: Callable[[], None]) -> None:
        """Do something then, whoever has died meanwhile."""
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, None, 0, action))

    def later(self, machine: Machine, action: Callable[[], None], *, fast: bool = False) -> None:
        self.at(self.now + self.rng.uniform(0.00001, 0.0001 if fast else 0.002), machine, action)

    def disk_latency(self) -> float:
        if self.disk_stall_probability and self.rng.random() < self.disk_stall_probability:
            return self.rng.uniform(0.0, 1.0)
        return self.rng.uniform(0.00001, self.disk_latency_s)

    def step(self) -> bool:
        if not self._heap:
            return False
        when, _, machine, life, action = heapq.heappop(self._heap)
        self.now = max(self.now, when)
        if machine is None or life == machine.life:
            action()
        return True

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.step()
        self.now = end

    def run_until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Let time pass until something holds; it must within the given time."""
        end = self.now + seconds
        while not condition():
            assert self._heap and self._heap[0][0] <= end, f"did not happen in {seconds} s:\n{self.report()}"
            self.step()

    def settle(self) -> None:
        """Let everything happen that is on its way."""
        self.run(30.0)

    # --- link ---

    @property
    def linked(self) -> bool:
        """Whether bytes flow."""
        return self.link is not None and not self.link.broken

    def other(self, machine: Machine) -> Machine:
        return self.b if machine is self.a else self.a

    def try_link(self) -> None:
        if self.link is not None and self.link.gone:
            self.link = None
        if self.link is not None or not self.link_allowed or not (self.a.wants_link and self.b.wants_link):
            return
        self.link = Link(self, self.a, self.b)
        conflicts = self.rng.random() < 0.5
        for machine, _resolves in ((self.a, conflicts), (self.b, not conflicts)):
            machine.wants_link = 0
            machine.inbox = [bytearray(), bytearray()]
        for machine, resolves in ((self.a, conflicts), (self.b, not conflicts)):
            machine.feed(LinkUp(self.link.numbers[machine], resolves, self.rng.randbytes(64)))

    def send(self, machine: Machine, effect: fx.Send) -> None:
        if self.link is not None:
            self.link.send(machine, effect.socket, b"".join(effect.parts))

    def receive(self, machine: Machine, socket: fx.Socket, data: bytes, link: Link) -> None:
        """Bytes have arrived: hand over the whole packets."""
        inbox = machine.inbox[socket]
        inbox += data
        while machine.node is not None and link.up[machine]:
            node = machine.node
            # A batch pins its buffer: give it its own, as the shell does.
            buffer = bytearray(inbox)
            if not buffer:
                return
            room = 1 if node.links.handshaking else 64
            try:
                batch, consumed, _ = native.drbd_split(
                    buffer, 0, len(buffer), node.header_format, node.digest_bytes, DRBD_PAYLOAD_BYTES_MAX, room
                )
            except PeerProtocolError as error:
                if node.links.handshake is not None:  # else it was given up: nobody knows in which format to read
                    self.protocol_errors.append(f"{machine.name}: {error}")
                    self.close_link(machine, ConnState.ProtocolError)
                return
            if not batch.count:
                return
            del inbox[:consumed]
            for record in batch.records[0 : batch.count]:
                self.other(machine).sent_packets.append((record.command, record.length))
            machine.feed(Received(socket, batch))
            if inbox is not machine.inbox[socket]:
                return

    def close_link(self, machine: Machine, reason: ConnState, *, linger: bool = False) -> None:
        """One side closes its sockets: both see it go."""
        if self.link is not None and self.link.up[machine]:
            self.link.close(machine, reason, linger=linger)

    def sever(self, late_s: float = 0.0) -> None:
        """The network fails; one side may see it late."""
        if self.linked:
            assert self.link is not None
            self.trace(None, f"the link breaks, one side sees it {late_s:.3f} s later")
            self.link.sever(late_s)

    def cut(self) -> None:
        """The link breaks, both sides see it at once; it may come back at once, too, if allowed."""
        link = self.link
        if link is not None:
            link.broken = True
            for machine in (self.a, self.b):
                link.drop(machine, ConnState.NetworkFailure)

    # --- scenarios ---

    def start(self) -> None:
        self.a.start()
        self.b.start()
        self.run_until(lambda: self.is_linked() and self.is_attached())

    def is_attached(self) -> bool:
        """Whether every disk is attached, and both nodes know it."""
        return all(
            min(volume.state.disk, volume.state.pdsk) > DiskState.Negotiating
            for machine in (self.a, self.b)
            for volume in (machine.node.volumes.values() if machine.node else ())
        )

    def is_linked(self) -> bool:
        return all(
            machine.node is not None and volume.state.conn == ConnState.Connected
            for machine in (self.a, self.b)
            for volume in (machine.node.volumes.values() if machine.node else ())
        ) and bool(self.a.node and self.b.node)

    def is_in_sync(self) -> bool:
        return self.is_linked() and all(
            int(volume.state.disk) == int(volume.state.pdsk) == 8
            for machine in (self.a, self.b)
            for volume in (machine.node.volumes.values() if machine.node else ())
        )

    def start_in_sync(self) -> None:
        """Both up, `a` Primary, first full sync over."""
        self.start()
        request = self.a.command("primary", force=True)
        self.run_until(lambda: request in self.a.answers)
        assert self.a.answers[request][0] >= 1, self.a.answers[request]
        self.run_until(self.is_in_sync)

    def differing_blocks(self, vnr: int = 0) -> list[int]:
        """The 4 KiB blocks of the data area that are not the same on both disks."""
        a, b = self.a.disks[vnr], self.b.disks[vnr]
        (old_a, old_b), differing = self._compared.get(vnr, ((None, None), set()))
        changed = a.changed | b.changed
        if old_a is not a or old_b is not b:
            differing = set()
            changed = a.touched | b.touched
            self._compared[vnr] = (a, b), differing
        for block in changed:
            start, end = block << 12, (block + 1) << 12
            if a.image[start : min(end, a.data_bytes)] != b.image[start : min(end, b.data_bytes)]:
                differing.add(block)
            else:
                differing.discard(block)
        a.changed.clear()
        b.changed.clear()
        return sorted(differing)

    def copies_equal(self) -> bool:
        return not any(self.differing_blocks(vnr) for vnr in self.a.disks)

    def trace(self, machine: Machine | None, text: str) -> None:
        """Remember a line for the report of a failure."""
        if machine is None or machine.node is None:
            self.lines.append((self.now, machine.name if machine else "-", None, 0, 0, 0, text))
            return
        volume = machine.node.volumes[0]
        in_flight = sum(1 for write in machine.node.writes.in_flight() if write.replied != write.mask)
        self.lines.append(
            (self.now, machine.name, volume.state, volume.uuids.current, volume.out_of_sync_bits, in_flight, text)
        )

    def report(self) -> str:
        """The last lines of the trace: time, node, role, connection, disks, UUID, out of sync, in flight, what."""
        lines = []
        for now, name, state, uuid, dirty, in_flight, text in self.lines:
            columns = "" if state is None else (
                f"{state.role.name[:3]} {state.conn.name:>14} {state.disk.name[:6]:>6}/{state.pdsk.name[:6]:<6} "
                f"{uuid >> 48:04X} {dirty:5} {in_flight:2}"
            )  # fmt: skip
            lines.append(f"{now:11.6f} {name} {columns:45} {text}")
        for machine in (self.a, self.b):
            lines.append(f"{machine.name}: {machine.volume.state if machine.node else 'down'}")
        lines += [f"  error: {error}" for error in self.protocol_errors]
        return "\n".join(lines)
