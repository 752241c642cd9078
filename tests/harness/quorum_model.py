"""Two nodes, their disks and a witness in their nearest states: every order in which links, disks and words fail.

The deciding parts are ours as they are: core/quorum, core/lease, core/promotion, core/fencing, core/changes and its
tables, core/peer_state, core/disk_events, and how a resync begins and ends. What carries (sockets, disks, clients,
clocks) is made simple: a packet that can arrive does at once; a question to the witness arrives when it likes, late, or
never; a timer may end at any time, so that no clock and no jump of one matters. Breadth first, so that the first state
that breaks a promise is reached on a shortest way, which is printed in the words of tests/harness/scene.py.

    C1   whose writes are answered has all that was ever answered; two Secondaries that meet have not parted ways
    C2   no two Primaries answer writes
    B1   both UpToDate and connected: the copies are equal
    Q1   who believes to have the lease has it; so there are never two
    Q2   a lease that is given back is needed no more: both disks have all that was answered
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from pydrbd.core import uuids as generations
from pydrbd.core.changes import Changes, superblock_now
from pydrbd.core.disk_events import DiskEvents
from pydrbd.core.effects import AskWitness
from pydrbd.core.events import Command
from pydrbd.core.fencing import Fence
from pydrbd.core.handshake import NetOptions
from pydrbd.core.lease import Lease, decide
from pydrbd.core.node import Node, NodeOptions
from pydrbd.core.peer_state import PeerStates
from pydrbd.core.promotion import Promotion
from pydrbd.core.quorum import Quorum
from pydrbd.core.quorum_options import QuorumOptions
from pydrbd.core.refusals import StateCode
from pydrbd.core.resync_source import ResyncSource
from pydrbd.core.resync_start import ResyncStart
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.core.transitions import check_change, sanitize
from pydrbd.core.uuids import PeerUuids, UuidSet
from pydrbd.core.volume import PeerVolume, Volume, VolumeOptions
from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.wire.packets import Packet, SyncUuid
from pydrbd.wire.witness import Verb, WitnessAnswer, WitnessRequest
from tests.harness.small_model import Found

__all__ = ["QuorumBounds", "explore_quorum", "walk"]

_UP_TO_DATE = DiskState.UpToDate
_NUMBER = (1 << 48) - 1
_GENERATION = 0x1000
_SECTORS = 8192
_LATER = 1e9
_STRAYS_MAX = 1
_EMPTY = UuidSet(0, 0, 0, 0)
_START = replace(
    Superblock.fresh(Layout.internal(_SECTORS)), la_size_sectors=_SECTORS, current_uuid=_GENERATION,
    flags=MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE | MdFlag.AL_CLEAN,
)  # fmt: skip
_FLAGS = MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE | MdFlag.PRIMARY_IND | MdFlag.CRASHED_PRIMARY | MdFlag.PEER_OUT_DATED
_LINE = SimpleNamespace(count=0, set_all=lambda: None)
_LOG = SimpleNamespace(slot_count=67)


@dataclass(frozen=True)
class QuorumBounds:
    """Of one way through the world. `losses`: words to or from the witness that are lost or late."""

    writes: int = 1
    cuts: int = 1
    crashes: int = 1
    disks: int = 1
    losses: int = 1
    states: int = 1 << 62
    """Stop, with what was found until then, when there are that many."""


class Asked(NamedTuple):
    """A question under way. `fresh`: both copies were not equal since; `waits`: whose promotion ("own", "peer")."""

    fresh: bool
    waits: tuple[str, ...]
    answer: WitnessAnswer | None
    term: int = 0


class Side(NamedTuple):
    """A node between two events: what it keeps in memory, and what its disk keeps. `data`: a bit for each write."""

    state: State
    uuids: UuidSet
    exposed: UuidSet
    peer: PeerUuids | None
    flags: tuple[bool, ...]
    disk: tuple[bool, DiskState] | None
    stored: Superblock
    quorum: tuple[bool, ...]
    asked: Asked | None
    looked: Asked | None
    data: int
    waiting: int
    tentative: UuidSet | None = None
    """A source that has not heard of its target yet."""


class World(NamedTuple):
    """`linked`: what one node says reaches the other one; a node that has not noticed yet believes to be connected."""

    sides: tuple[Side, Side]
    linked: bool
    lease: Lease
    strays: tuple[WitnessRequest, ...]
    answered: int
    writes: int
    draws: int
    cuts: int
    crashes: int
    disks: int
    losses: int


class _Broken(AssertionError):
    pass


class _Nothing:
    """A part of a node that has nothing to do here: it takes every call, and says no."""

    def __init__(self, **but: Any) -> None:
        self.__dict__.update(but)

    def __getattr__(self, name: str) -> _Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_words: Any, **_more: Any) -> _Nothing:
        return self

    def __bool__(self) -> bool:
        return False


class _Changes(Changes):
    def bitmap_stage(self, volume: Volume, *, flush_data: bool) -> tuple[Any, ...]:
        return ()

    def flush_stage(self, volume: Volume) -> tuple[Any, ...]:
        return ()


class _Peers(PeerStates):
    def set_size(self, volume: Volume, size_sectors: int, *, mark_new: bool = True) -> None: ...
    def send_sizes(self, volume: Volume, dds_flags: int = 0, *, asks: bool = False) -> None: ...
    def _set_all_bits(self, volume: Volume) -> None: ...


class _Disks(DiskEvents):
    def _local_disk(self, volume: Volume, event: Any, planned: DiskState) -> Any:
        return _disk(event.superblock, event.superblock.attach_state().crashed_primary, planned)

    def _check_size(self, volume: Volume, event: Any) -> str:
        return ""

    def _close_as_bad(self, volume: Volume, disk: Any) -> None:
        if self._node.marks:
            self._node.stored = replace(
                superblock_now(volume),
                flags=superblock_now(volume).flags | (disk.superblock.flags & MdFlag.PRIMARY_IND),
            )


def _disk(superblock: Superblock, crashed: bool, planned: DiskState) -> Any:
    return SimpleNamespace(
        superblock=superblock, crashed_primary=crashed, planned=planned, log_counts=False, bitmap=_LINE, log=_LOG,
        held_back=False, layout=SimpleNamespace(superblock_offset_bytes=0), capacity_sectors=_SECTORS, degraded=False,
    )  # fmt: skip


class _Out:
    """Only questions to the witness leave; what is persisted is durable at once."""

    fenced = False

    def __init__(self) -> None:
        self.asked: list[AskWitness] = []

    def put(self, effect: Any) -> None:
        if isinstance(effect, AskWitness):
            self.asked.append(effect)

    def put_urgent(self, effect: Any) -> None: ...
    def persist(self, volume: int, stages: Any) -> None: ...


class _Node(Node):
    """A node whose deciding parts are real."""

    def __init__(self, name: str, io_error: bool, draw: Callable[[], int], wire: Any) -> None:
        quorum = QuorumOptions(enabled=True, by_witness=True, io_error=io_error, node=name)
        self.options = NodeOptions("r0", NetOptions(), (VolumeOptions(0),), quorum=quorum)
        self.name, self.net, self.draw_u64, self._wire = name, self.options.net, draw, wire
        self.now, self.apv, self.long_sizes, self.wants_discard = 0.0, 101, True, False
        self.resolve_conflicts = name == "a"
        nothing = _Nothing()
        self.helpers = SimpleNamespace(run=self._run)
        for part in (
            "no_data", "writes", "flushes", "reads", "gate", "clients", "links", "new_uuids", "bitmaps", "congestion",
            "verify", "csums", "digests", "packets", "operator", "peer_writes", "log",
        ):  # fmt: skip
            setattr(self, part, nothing)
        self.running = progress = SimpleNamespace(failed_bits=0, notified=False, csums=False, tentative=None)
        self.operator = _Nothing(ask_peer=self._ask_peer)
        self.writes = _Nothing(fail_waiting=self.drop_waiting)
        self.resync = _Nothing(progress=lambda _volume: progress, begin=lambda _volume: progress)
        self.changes, self.peers, self.disks = _Changes(self), _Peers(self), _Disks(self)
        self.promotion, self.resync_start, self.resync_source = Promotion(self), ResyncStart(self), ResyncSource(self)
        self.link_generation = 0
        self.stored, self.marks, self.gave_up, self.waiting = _START, True, "", 0
        self.fresh()

    def fresh(self) -> None:
        """As after a start of the process."""
        self.volumes = {0: Volume(self.options.volumes[0], State(), size_sectors=_SECTORS)}
        self.out = _Out()
        self.fence, self.quorum = Fence(self), Quorum(self)
        self.cstate = ConnState.WFConnection

    @property
    def volume(self) -> Volume:
        return self.volumes[0]

    def _run(self, _name: str, _volume: Any, then: Callable[[int], None] | None = None) -> None:
        if then is not None:
            then(0)

    def drop_waiting(self) -> None:
        self.waiting = 0

    def log_line(self, level: Any, text: str) -> None: ...
    def thaw(self, volume: Volume) -> None: ...

    def send_data(self, packet: Packet, payload: bytes, vnr: int) -> None:
        self._wire.send(self, packet, payload)

    def give_up_connection(self, reason: str, **_level: Any) -> None:
        self.gave_up = self.gave_up or reason

    def _ask_peer(self, _vnr: int, _change: Any, granted: Callable[[StateCode], None]) -> None:
        self._wire.ask_for_promotion(self, granted)

    def win(self, kind: str, then: Callable[[bool], None]) -> None:
        then.kind = kind
        self.quorum.win(then)


class _Model:
    """What may happen in a world, and which world that makes. Raises _Broken."""

    def __init__(self, io_error: bool, bounds: QuorumBounds) -> None:
        self.bounds = bounds
        self.checks: Counter[str] = Counter()
        self.nodes = tuple(_Node(name, io_error, self._draw, self) for name in "ab")
        self.linked, self.draws = False, 0
        self.lease, self.strays = Lease(), ()
        self.queue: deque[tuple[_Node, Packet, bytes]] = deque()

    def _draw(self) -> int:
        self.draws += 1
        return _GENERATION * (self.draws + 1)

    # --- the link ---

    def send(self, sender: _Node, packet: Packet, payload: bytes) -> None:
        if self.linked:
            self.queue.append((self.other(sender), packet, payload))

    def other(self, node: _Node) -> _Node:
        return self.nodes[node is self.nodes[0]]

    def deliver(self) -> None:
        while self.queue:
            node, packet, payload = self.queue.popleft()
            if packet is Packet.P_UUIDS:
                node.peers.on_uuids(node.volume, payload)
            elif packet is Packet.P_STATE:
                node.peers.on_state(node.volume, payload)
            elif packet is Packet.P_SYNC_UUID:
                node.resync_start.start_target(node.volume, SyncUuid.decode(payload).uuid)
                source = self.other(node)  # that is asked for data at once
                source.resync_source.on_target_heard(source.volume)
            if any(each.gave_up for each in self.nodes):
                self.part()

    def part(self) -> None:
        """One of them has refused the other one: both know, and may be told to connect again."""
        reason = next(each.gave_up for each in self.nodes if each.gave_up)
        primary = any(each.volume.state.role is Role.Primary for each in self.nodes)
        if "Split-Brain" in reason or "split" in reason.lower():
            self.checks["C1"] += 1
            if not primary:
                raise _Broken(f"C1: the copies have parted ways: {reason}")
        self.queue.clear()
        self.linked = False
        for node in self.nodes:
            node.gave_up = ""
            self.notice(node)

    def notice(self, node: _Node) -> None:
        """As LinkEvents does it."""
        node.link_generation += 1
        node.set_cstate(ConnState.NetworkFailure)
        node.volume.peer = PeerVolume()
        node.fence.on_peer_lost()
        node.set_cstate(ConnState.Unconnected)
        node.set_cstate(ConnState.WFConnection)
        for then in node.quorum._waiting:
            then.kind = "void" if getattr(then, "kind", "own") == "peer" else getattr(then, "kind", "own")

    def connect(self) -> None:
        self.linked = True
        for node in self.nodes:
            node.enter_report_params()
        for node in self.nodes:
            node.peers.send_uuids(node.volume)
            node.peers.send_state(node.volume)

    def ask_for_promotion(self, node: _Node, granted: Callable[[StateCode], None]) -> None:
        """The peer is asked: it agrees when it has quorum, its states allow it, and its word gets through."""
        peer = self.other(node)
        if not self.linked:
            return
        if not peer.quorum.has:
            peer.win("peer", self._voted(node, peer))
            return
        old = peer.volume.state
        new = sanitize(old, replace(old, peer=Role.Primary), peer.rules(peer.volume))
        code = check_change(old, new, peer.rules(peer.volume, for_peer=True))
        if code.granted and code is not StateCode.SS_NOTHING_TO_DO:
            peer.change(peer.volume, peer=Role.Primary)
        self.deliver()
        granted(code)

    def _voted(self, node: _Node, peer: _Node) -> Callable[[bool], None]:
        def voted(good: bool) -> None:
            if good and voted.kind == "peer" and self.linked:
                self.promote(node)

        return voted

    # --- what may happen ---

    def events(self, world: World) -> Iterator[tuple[str, Callable[[], None]]]:
        bounds = self.bounds
        both_wait = True
        for me, node in enumerate(self.nodes):
            side, name = world.sides[me], "ab"[me]
            state = side.state
            noticed = state.conn < ConnState.Connected
            both_wait &= noticed
            if state.role is Role.Primary:
                if world.writes < bounds.writes:
                    yield f"write {name}", partial(self.write, me)
                yield f"demote {name}", partial(self.demote, node)
            elif side.asked is None or not side.asked.waits:
                yield f"promote {name}", partial(self.promote, node)
            if not noticed and not world.linked:
                yield f"notice {name}", partial(self.notice, node)
            if world.crashes < bounds.crashes:
                yield f"crash {name}", partial(self.crash, me)
            if side.disk is not None and state.disk > DiskState.Negotiating and world.disks < bounds.disks:
                yield f"detach {name}", partial(self.detach, node)
                yield f"error {name}", partial(self.error, node, True)
                yield f"unmarked {name}", partial(self.error, node, False)
            if state.disk is DiskState.Diskless and (noticed or world.linked):
                yield f"attach {name}", partial(self.attach, node)
            yield from self._words(world, me, node)
        for number in range(len(world.strays)):
            yield f"late {number}", partial(self.late, number)
        conn = world.sides[0].state.conn, world.sides[1].state.conn
        if world.linked:
            if world.cuts < bounds.cuts:
                yield "cut", self.cut
            if {ConnState.WFBitMapS, ConnState.SyncSource} & set(conn):
                yield "step", self.step
        elif both_wait:
            yield "connect", self.connect

    def _words(self, world: World, me: int, node: _Node) -> Iterator[tuple[str, Callable[[], None]]]:
        """What becomes of the questions of one node, and when it asks the next one."""
        side, name = world.sides[me], "ab"[me]
        for kind, question in (("ask", side.asked), ("look", side.looked)):
            if question is None:
                continue
            if question.answer is None:
                yield f"witness-{kind} {name}", partial(self.decided, me, kind)
            else:
                yield f"answer-{kind} {name}", partial(self.ended, me, kind, question.answer)
            if world.losses < self.bounds.losses:
                yield f"lose-{kind} {name}", partial(self.lose, me, kind, question, False)
                if kind == "ask" and question.answer is None and len(world.strays) < _STRAYS_MAX:
                    yield f"delay-{kind} {name}", partial(self.lose, me, kind, question, True)
        if side.quorum[2]:
            yield f"retry {name}", partial(self.tick, node, "_ask_again_at")
        if side.quorum[3] and side.looked is None:
            yield f"timer {name}", partial(self.tick, node, "_look_at")

    # --- nodes ---

    def promote(self, node: _Node) -> None:
        node.promotion.on_command(Command(None, "primary"))

    def demote(self, node: _Node) -> None:
        if node.fence.frozen:
            node.fence.give_up()
        if not node.waiting:
            node.change(node.volume, role=Role.Secondary)

    def write(self, me: int) -> None:
        node, peer = self.nodes[me], self.nodes[1 - me]
        volume, state = node.volume, node.volume.state
        if volume.frozen or volume.fails or volume.awaits_generation:
            return
        if state.connected and state.conn not in (ConnState.Connected, ConnState.SyncSource):
            return
        bit, self.writes = 1 << self.writes, self.writes + 1
        mine = state.disk is _UP_TO_DATE
        theirs = state.connected and state.pdsk >= DiskState.Inconsistent
        if mine:
            self.data[me] |= bit
        if theirs and self.linked and peer.volume.has_disk:
            self.data[1 - me] |= bit
            if peer.quorum.holds_peer:
                return
        if not mine and not theirs:
            return
        if theirs and not self.linked:
            node.waiting |= bit  # answered when it is known what became of the peer
            return
        self.answered |= bit

    def crash(self, me: int) -> None:
        """And back at once, as what its meta-data says."""
        self.crashes += 1
        node = self.nodes[me]
        if node.volume.disk is not None:
            node.stored = node.volume.disk.superblock
        self.linked, node.waiting = False, 0
        question = self.questions[me]["ask"]
        if question is not None and question.answer is None:
            self.stray(WitnessRequest(Verb.ACQUIRE, "r0", node.name))
        self.questions[me] = {"ask": None, "look": None}
        node.fresh()
        node.volume.state = State(conn=ConnState.WFConnection)
        self.attach(node)

    def attach(self, node: _Node) -> None:
        node.change(node.volume, disk=DiskState.Attaching)
        node.disks.on_opened(SimpleNamespace(
            volume=0, superblock=node.stored, layout=None, bitmap=_LINE, capacity_sectors=_SECTORS, applied_extents=0,
        ))  # fmt: skip

    def detach(self, node: _Node) -> None:
        volume, peer = node.volume, self.other(node).volume
        new = sanitize(volume.state, replace(volume.state, disk=DiskState.Diskless), node.rules(volume))
        if not check_change(volume.state, new, node.rules(volume)).granted:
            return
        is_counted_on = peer.state.disk < _UP_TO_DATE and peer.state.peer is Role.Primary
        if volume.state.connected and (is_counted_on or not self.linked):
            return
        self.disks += 1
        self._let_go(node)
        node.change(volume, disk=DiskState.Failed)
        node.disks.finish_detach(volume)

    def error(self, node: _Node, marks: bool) -> None:
        self.disks += 1
        self._let_go(node)
        node.marks = marks
        node.disks.on_error(node.volume, "an error")

    def _let_go(self, node: _Node) -> None:
        assert node.volume.disk is not None
        node.stored = node.volume.disk.superblock

    def cut(self) -> None:
        self.cuts += 1
        self.linked = False

    def step(self) -> None:
        """A resync begins, or ends: the source first."""
        source = next(n for n in self.nodes if n.volume.state.conn in (ConnState.WFBitMapS, ConnState.SyncSource))
        target = self.other(source)
        if source.volume.state.conn is ConnState.WFBitMapS:
            target.change(target.volume, conn=ConnState.WFSyncUUID)
            source.resync_source.start(source.volume)
            return
        source.resync_source.lets_target_end()
        here, there = self.nodes.index(source), self.nodes.index(target)
        self.data[there] = self.data[here]
        volume = target.volume
        assert volume.peer.uuids is not None
        primary = volume.state.role is Role.Primary
        volume.uuids = generations.finish_sync_target(volume.uuids, volume.peer.uuids.set, primary)
        target.change(volume, conn=ConnState.Connected, disk=_UP_TO_DATE)
        target.send_state(volume)

    # --- the witness ---

    def stray(self, request: WitnessRequest) -> None:
        if len(self.strays) < _STRAYS_MAX:
            self.strays = tuple(sorted((*self.strays, request), key=repr))

    def _decide(self, request: WitnessRequest) -> WitnessAnswer:
        before = self.lease
        self.lease, answer = decide(before, replace(request, generation=0))
        if before.holder and self.lease.holder != before.holder:
            self.checks["Q2"] += 1
            if request.verb is not Verb.RELEASE or any(self.answered & ~data for data in self.data):
                raise _Broken(f"Q2: {before.holder} gives the lease back, and a disk lacks what was answered")
        return answer

    def decided(self, me: int, kind: str) -> None:
        question = self.questions[me][kind]
        verb = Verb.ACQUIRE if kind == "ask" else Verb.LOOK
        answer = self._decide(WitnessRequest(verb, "r0", "ab"[me]))
        self.questions[me][kind] = question._replace(answer=answer)

    def late(self, number: int) -> None:
        request = self.strays[number]
        self.strays = self.strays[:number] + self.strays[number + 1 :]
        self._decide(request)

    def ended(self, me: int, kind: str, answer: WitnessAnswer | None) -> None:
        effect, self.questions[me][kind] = self.effects[me][kind], None
        effect.answer, effect.error = answer, "" if answer else "no answer"
        effect.then(0, 0)

    def lose(self, me: int, kind: str, question: Asked, late: bool) -> None:
        self.losses += 1
        if late:
            self.stray(WitnessRequest(Verb.ACQUIRE, "r0", "ab"[me]))
        self.ended(me, kind, None)

    def tick(self, node: _Node, timer: str) -> None:
        setattr(node.quorum, timer, 0.0)
        node.quorum.on_tick()

    # --- worlds as values ---

    def load(self, world: World) -> None:
        self.linked, self.lease, self.strays, self.answered = world.linked, world.lease, world.strays, world.answered
        self.writes, self.draws, self.cuts, self.crashes = world.writes, world.draws, world.cuts, world.crashes
        self.disks, self.losses = world.disks, world.losses
        self.data = [side.data for side in world.sides]
        self.questions = [{"ask": side.asked, "look": side.looked} for side in world.sides]
        self.effects: list[dict[str, AskWitness]] = [{}, {}]
        self.queue.clear()
        for me, (node, side) in enumerate(zip(self.nodes, world.sides, strict=True)):
            self._load_side(me, node, side)

    def _load_side(self, me: int, node: _Node, side: Side) -> None:
        node.fresh()
        volume, quorum = node.volume, node.quorum
        volume.state, volume.uuids, volume.exposed, volume.peer.uuids = side.state, side.uuids, side.exposed, side.peer
        (
            volume.exposed_moves, volume.awaits_generation, volume.owes_generation, volume.fails,
            volume.consider_resync, node.marks,
        ) = side.flags  # fmt: skip
        node.cstate, node.stored, node.waiting, node.gave_up = side.state.conn, side.stored, side.waiting, ""
        node.running.tentative = side.tentative
        if side.disk is not None:
            volume.disk = _disk(side.stored, *side.disk)
        quorum._equal, quorum._lease, again, look = side.quorum
        quorum._times_equal = 1
        if side.asked is not None:
            self._ask_anew(me, node, side.asked)
        if side.looked is not None:
            quorum._look()
            self.effects[me]["look"] = node.out.asked.pop()
        quorum._ask_again_at, quorum._look_at = _LATER if again else None, _LATER if look else None

    def _ask_anew(self, me: int, node: _Node, asked: Asked) -> None:
        quorum = node.quorum
        quorum._times_equal = 1 if asked.fresh else 0
        quorum._ask()
        quorum._times_equal = 1
        self.effects[me]["ask"] = node.out.asked.pop()
        for kind in asked.waits:
            if kind == "own":
                command, promotion = Command(None, "primary"), node.promotion
                then: Any = lambda good, p=promotion, c=command: p._on_quorum(c, None, good)  # noqa: E731
            else:
                then = self._voted(self.other(node), node)
            then.kind = kind
            quorum._waiting.append(then)

    def save(self) -> World:
        return World(
            (self._save_side(0), self._save_side(1)), self.linked, self.lease, self.strays, self.answered, self.writes,
            self.draws, self.cuts, self.crashes, self.disks, self.losses,
        )  # fmt: skip

    def _save_side(self, me: int) -> Side:
        node = self.nodes[me]
        volume, quorum = node.volume, node.quorum
        for effect in node.out.asked:
            if effect.verb is Verb.RELEASE:
                self.stray(WitnessRequest(Verb.RELEASE, "r0", node.name, 0, effect.term))
            else:
                kind, answer = "ask", None
                if effect.verb is Verb.LOOK:
                    # The answer may be late; the question need not: a timer that ends later asks as well.
                    kind, answer = "look", self._decide(WitnessRequest(Verb.LOOK, "r0", node.name))
                self.questions[me][kind] = Asked(True, (), answer)
                if kind == "ask":
                    self.asked_at[me] = quorum._times_equal
        asked, looked = self.questions[me]["ask"], self.questions[me]["look"]
        if asked is not None:
            fresh = asked.fresh and quorum._times_equal == self.asked_at[me]
            asked = asked._replace(fresh=fresh, waits=tuple(getattr(then, "kind", "own") for then in quorum._waiting))
        assert (asked is not None) == quorum._asking and (looked is not None) == quorum._looking
        flags = (
            volume.exposed_moves, volume.awaits_generation, volume.owes_generation, volume.fails,
            volume.consider_resync, node.marks,
        )  # fmt: skip
        disk = volume.disk
        kept = None if disk is None else (disk.crashed_primary, disk.planned)
        timers = quorum._ask_again_at is not None, quorum._look_at is not None
        return Side(
            volume.state, volume.uuids, volume.exposed, volume.peer.uuids, flags, kept,
            node.stored if disk is None else disk.superblock,
            (quorum._equal, quorum._lease, *timers), asked, looked, self.data[me],
            node.waiting, node.running.tentative if volume.state.conn == ConnState.SyncSource else None,
        )  # fmt: skip

    def after(self, world: World, act: Callable[[], None]) -> World:
        self.load(world)
        self.asked_at = [1, 1]
        act()
        self.deliver()
        for node in self.nodes:
            if node.waiting and node.cstate < ConnState.Connected and self._can_answer(node):
                self.answered |= node.waiting
                node.waiting = 0
            elif node.volume.state.role is not Role.Primary or (node.cstate >= ConnState.Connected and self.linked):
                node.waiting = 0
        return self.save()

    # --- what must hold ---

    def _can_answer(self, node: _Node) -> bool:
        volume, state = node.volume, node.volume.state
        if state.role is not Role.Primary or volume.frozen or volume.fails or volume.awaits_generation:
            return False
        if not state.connected:
            return state.disk is _UP_TO_DATE
        if not self.linked and state.pdsk >= DiskState.Inconsistent:
            return False
        if state.disk is not _UP_TO_DATE and (not self.linked or self.other(node).quorum.holds_peer):
            return False
        return _UP_TO_DATE in (state.disk, state.pdsk)

    def check(self) -> None:
        a, b = self.nodes
        can = [self._can_answer(node) for node in self.nodes]
        self.checks["C2"] += 1
        if all(can):
            raise _Broken("C2: both nodes are Primary and answer writes")
        for me, node in enumerate(self.nodes):
            if can[me]:
                self.checks["C1"] += 1
                serves = me if node.volume.state.disk is _UP_TO_DATE else 1 - me
                if self.answered & ~self.data[serves]:
                    raise _Broken(f"C1: {node.name} answers writes, and its data lacks what was answered before")
            self.checks["Q1"] += 1
            if node.quorum._lease and self.lease.holder != node.name:
                raise _Broken(f"Q1: {node.name} believes to have the lease, and {self.lease.holder or 'nobody'} has it")
        states = a.volume.state, b.volume.state
        if self.linked and all(s.conn is ConnState.Connected and s.disk is s.pdsk is _UP_TO_DATE for s in states):
            self.checks["B1"] += 1
            if self.data[0] != self.data[1]:
                raise _Broken("B1: both are UpToDate, and the copies differ")


def _start() -> World:
    uuids_now = UuidSet(_GENERATION, 0, 0, 0)
    side = Side(
        State(conn=ConnState.WFConnection, disk=_UP_TO_DATE, pdsk=DiskState.DUnknown), uuids_now, _EMPTY, None,
        (False,) * 5 + (True,), (False, _UP_TO_DATE), _START, (False,) * 4, None, None, 0, 0,
    )  # fmt: skip
    return World((side, side), False, Lease(), (), 0, 0, 1, 0, 0, 0, 0)


def _canonical(world: World) -> tuple[Any, ...]:
    """What makes a world another: not the numbers of its generations and terms, but which are the same."""
    known: dict[int, int] = {}

    def number(word: int) -> int:
        base = word & _NUMBER & ~1
        if not base:
            return word
        return (word & ~_NUMBER) | known.setdefault(base, len(known) + 1) << 1 | (word & 1)

    def generation(found: UuidSet) -> tuple[int, ...]:
        return number(found.current), number(found.bitmap), number(found.history0), number(found.history1)

    now = world.lease.term  # an older term is as good as any other older one
    sides = []
    for name, side in zip("ab", world.sides, strict=True):
        sb = side.stored
        asked = side.asked and (side.asked.fresh, side.asked.waits, side.asked.answer and side.asked.answer.verdict)
        found = side.looked and side.looked.answer
        looked = found and (found.holder == name, found.holder == name and found.term == now)
        peer = side.peer and (generation(side.peer.set), side.peer.flags)
        stored = generation(UuidSet(sb.current_uuid, sb.bitmap_uuid, *sb.history_uuids))
        sides.append((
            side.state, generation(side.uuids), generation(side.exposed), peer, side.flags, side.disk,
            sb.flags & _FLAGS, stored, side.quorum, asked, looked, side.data, side.waiting,
            side.tentative and generation(side.tentative),
        ))  # fmt: skip
    strays = tuple((stray.node, stray.verb, stray.verb is Verb.RELEASE and stray.term == now) for stray in world.strays)
    return (
        *sides, world.linked, world.lease.holder, strays, world.answered, world.writes,
        world.cuts, world.crashes, world.disks, world.losses,
    )  # fmt: skip


_WORDS = {
    "promote": 'world.{0}.command("primary")', "demote": 'order(world, world.{0}, "secondary", force=True)',
    "write": "Client(world, world.{0}).write(0, bytes(4096))", "crash": "world.{0}.stop(); world.{0}.start()",
    "cut": "part(world)", "notice": "# {0} notices it", "connect": "world.link_allowed = True; world.try_link()",
    "detach": 'order(world, world.{0}, "detach")', "attach": 'order(world, world.{0}, "attach")',
    "error": 'world.{0}.disks[0].fail_once.add("write")',
    "unmarked": "world.{0}.disks[0].fail_writes = True  # nor does it take a mark that it is bad",
    "step": "world.step()  # the resync goes on",
    "witness-ask": "# the witness decides on what {0} has asked for", "answer-ask": "# and {0} hears of it",
    "witness-look": "# the witness is looked at by {0}", "answer-look": "# and {0} hears of it",
    "lose-ask": "witness.cut_off ^= {{'{0}'}}  # what {0} has asked, or the answer, is lost",
    "lose-look": "witness.cut_off ^= {{'{0}'}}  # what {0} looks for, or the answer, is lost",
    "delay-ask": "witness.latency_s = 10.0  # {0} waits no longer, and what it has asked is still under way",
    "late": "# what was under way to the witness arrives", "retry": "world.run(WITNESS_RETRY_S)  # {0} asks again",
    "timer": "world.run(WITNESS_LOOK_S)  # {0} looks",
}  # fmt: skip


def _scenario(way: list[str]) -> str:
    lines = ["def test_the_shortest_way() -> None:", "    world, client, witness = trio()"]
    lines.append('    order(world, world.a, "secondary")')
    for event in way:
        verb, _, name = event.partition(" ")
        lines.append("    " + _WORDS[verb].format(name))
    return "\n".join(lines)


def walk(seed: int, steps: int, *, io_error: bool = False) -> list[str]:
    """A random way into the world, to explore what is around its end."""
    rng, way = random.Random(f"walk/{seed}"), []
    model = _Model(io_error, QuorumBounds(3, 3, 3, 3, 3))
    world = model.after(_start(), model.connect)
    for _ in range(steps):
        event, act = rng.choice(list(model.events(world)))
        way.append(event)
        world = model.after(world, act)
        model.check()
    return way


def explore_quorum(*, io_error: bool = False, bounds: QuorumBounds | None = None, first: Sequence[str] = ()) -> Found:
    """The states that can be reached, up to bounds.states, or the shortest way to the first one that breaks a promise.

    `first`: what has happened before; the bounds count from there on.
    """
    bounds = bounds or QuorumBounds()
    model = _Model(io_error, QuorumBounds(3, 3, 3, 3, 3))
    start = model.after(_start(), model.connect)
    for event in first:
        start = model.after(start, dict(model.events(start))[event])
    start = start._replace(cuts=0, crashes=0, disks=0, losses=0)
    model.bounds = replace(bounds, writes=bounds.writes + start.writes)
    came: dict[tuple[Any, ...], tuple[tuple[Any, ...], str] | None] = {_canonical(start): None}
    queue, transitions = deque([(_canonical(start), start)]), 0
    while queue and len(came) < bounds.states:
        key, world = queue.popleft()
        for event, act in list(model.events(world)):
            transitions += 1
            try:
                after = model.after(world, act)
                known = _canonical(after)
                if known in came:
                    continue
                model.check()
            except AssertionError as broken:
                if not isinstance(broken, _Broken):
                    broken.add_note(_scenario([*first, *_way(came, key), event]))
                    raise
                words = f"{broken}\n{_scenario([*first, *_way(came, key), event])}"
                return Found(len(came), transitions, model.checks, words)
            came[known] = key, event
            queue.append((known, after))
    return Found(len(came), transitions, model.checks)


def _way(came: dict[Any, Any], key: Any) -> list[str]:
    way: list[str] = []
    while (step := came[key]) is not None:
        key, event = step
        way.append(event)
    return way[::-1]
