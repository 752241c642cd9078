"""Two nodes and one block in all their states: roles, disks, generations, fencing, by the core's tables.

Not drawn but enumerated: from two disks in sync, every order of promotions, writes, cuts, crashes, meetings, steps of a
resync and verdicts, breadth first, so that the first state that breaks a promise is reached on a shortest way. That way
is printed in the words that tests use (tests/harness/scene.py). Bounds on all that could go on for ever keep it finite.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from pydrbd.core import uuids
from pydrbd.core.refusals import StateCode
from pydrbd.core.split_brain import Abort, NoSync, Situation, SyncSource, decide
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.core.transitions import Fencing, Rules, check_change, sanitize
from pydrbd.core.uuids import UuidSet
from tests.harness.generations import RULE_PAIRS

__all__ = ["Bounds", "Found", "explore", "scenario"]

_GENERATION = 0x1000
_CONNECTIONS = {
    "up": (ConnState.Connected, ConnState.Connected), "bitmap": (ConnState.WFBitMapS, ConnState.WFBitMapT),
    "sent": (ConnState.SyncSource, ConnState.WFSyncUUID),
}  # fmt: skip
_UP_TO_DATE, _NUMBER = DiskState.UpToDate, (1 << 48) - 1


class Node(NamedTuple):
    primary: bool
    disk: DiskState
    pdsk: DiskState  # what it knows of a peer that is not there
    frozen: bool
    crashed: bool
    uuids: UuidSet
    data: int


class World(NamedTuple):
    """`link`: "" or "up", or how far a resync is; `parted`: nodes with a generation that the other one lacks."""

    nodes: tuple[Node, Node]
    link: str
    source: int
    sync_uuid: int
    parted: tuple[bool, bool]
    latest: int
    banned: int  # the node that fencing keeps from being promoted, or -1
    draws: int
    cuts: int
    crashes: int


@dataclass(frozen=True)
class Bounds:
    """Of one way through the world."""

    generations: int = 3
    writes: int = 2
    cuts: int = 2
    crashes: int = 1


@dataclass
class Found:
    """`broken`: the promise, what is wrong, and the way there as a scenario; empty if all states keep all promises."""

    states: int
    transitions: int
    checks: Counter[str]
    broken: str = ""


class _Broken(AssertionError):
    pass


def _start() -> World:
    uuids_now = UuidSet(_GENERATION, 0, 0, 0)
    node = Node(False, _UP_TO_DATE, DiskState.DUnknown, False, False, uuids_now, 0)
    return World((node, node), "up", -1, 0, (False, False), 0, -1, 1, 0, 0)


class _Model:
    """What may happen in a world, and which world that makes. Raises _Broken."""

    def __init__(self, fencing: Fencing, bounds: Bounds) -> None:
        self.fencing, self.bounds = fencing, bounds
        self.checks: Counter[str] = Counter()

    def events(self, world: World) -> Iterator[tuple[str, Callable[[], World]]]:
        for me in (0, 1):
            node, name = world.nodes[me], "ab"[me]
            if node.primary:
                yield f"write {name}", partial(self.write, world, me)
                yield f"demote {name}", partial(self.demote, world, me)
            else:
                yield f"promote {name}", partial(self.promote, world, me)
            if node.frozen and not world.link:
                yield f"fence {name}", partial(self.fence, world, me)
            if world.crashes < self.bounds.crashes:
                yield f"crash {name}", partial(self.crash, world, me)
                if node.primary and world.link == "up" and world.latest < self.bounds.writes:
                    yield f"half {name}", partial(self.crash, self._half(world, me), me)
                    yield f"other-half {name}", partial(self.crash, self._half(world, 1 - me), me)
            if not world.link and all(world.parted) and not node.primary:
                yield f"discard {name}", partial(self.connect, world, discards=me)
        if not world.link:
            yield "connect", partial(self.connect, world)
        elif world.cuts < self.bounds.cuts:
            yield "cut", partial(self.cut, world)
        if world.link not in ("", "up"):
            yield "step", partial(self.resync, world)

    # --- what a node does ---

    def set(self, world: World, me: int, **what: object) -> World:
        nodes = list(world.nodes)
        nodes[me] = nodes[me]._replace(**what)
        return world._replace(nodes=(nodes[0], nodes[1]))

    def new_generation(self, world: World, me: int) -> World:
        node = world.nodes[me]
        fresh = uuids.new_current(node.uuids, _GENERATION * (world.draws + 1), node.primary)
        parted = (world.parted[0] or me == 0, world.parted[1] or me == 1)
        return self.set(world, me, uuids=fresh)._replace(draws=world.draws + 1, parted=parted)

    def _may_draw(self, world: World) -> bool:
        return world.draws <= self.bounds.generations

    def write(self, world: World, me: int) -> World:
        node, alone = world.nodes[me], not world.link
        if node.frozen or world.latest >= self.bounds.writes or (alone and node.disk != _UP_TO_DATE):
            return world
        if world.link in ("bitmap", "sent") and me != world.source:
            return world  # clients wait
        if alone:
            self.checks["C6"] += 1
            if not node.uuids.bitmap:
                raise _Broken(f"C6: {'ab'[me]} writes alone and has no generation of its own")
        world = world._replace(latest=world.latest + 1)
        world = self.set(world, me, data=world.latest)
        both = not alone and world.link not in ("bitmap", "sent")
        return self.set(world, 1 - me, data=world.latest) if both else world

    def _half(self, world: World, where: int) -> World:
        """A write that nobody was told of is on one disk only."""
        world = world._replace(latest=world.latest + 1)
        return self.set(world, where, data=world.latest)

    def promote(self, world: World, me: int) -> World:
        node, peer = world.nodes[me], world.nodes[1 - me]
        disk, pdsk = node.disk, node.pdsk
        if world.link:
            states = self._linked_states(world, me)
        else:
            if self.fencing and (world.banned == me or peer.primary) and pdsk == DiskState.DUnknown:
                return world  # fence-peer says that it can't be, or that the peer is active
            if self.fencing and pdsk == DiskState.DUnknown:
                world, pdsk = world._replace(banned=1 - me), DiskState.Outdated  # it says 4
                disk = _UP_TO_DATE if disk == DiskState.Consistent else disk
            states = State(Role.Secondary, Role.Unknown, ConnState.WFConnection, disk, pdsk)
        rules = Rules(fencing=self.fencing)
        wish = sanitize(states, State(**{**_fields(states), "role": Role.Primary}), rules)
        self.checks["C1"] += 1
        if check_change(states, wish, rules) is not StateCode.SS_SUCCESS:
            return world if not world.link and pdsk == node.pdsk else self.set(world, me, pdsk=pdsk)
        begins = not world.link and not node.uuids.bitmap
        if begins and not self._may_draw(world):
            return world
        world = self.set(world, me, primary=True, disk=wish.disk, pdsk=wish.pdsk if not world.link else pdsk)
        if not world.link and self.fencing and world.parted[1 - me] and not world.parted[me]:
            raise _Broken(f"C1: {'ab'[me]} is promoted, and the other one went on without it")
        world = self.new_generation(world, me) if begins else world
        return self.set(world, me, uuids=uuids.set_primary_bit(world.nodes[me].uuids, True))

    def _linked_states(self, world: World, me: int) -> State:
        source, target = _CONNECTIONS.get(world.link, (ConnState.SyncSource, ConnState.SyncTarget))
        node, peer = world.nodes[me], world.nodes[1 - me]
        conn = source if me == world.source else target
        return State(_role(node), _role(peer), conn, node.disk, peer.disk)

    def demote(self, world: World, me: int) -> World:
        if world.nodes[me].frozen:
            return world
        return self.set(world, me, primary=False, uuids=uuids.set_primary_bit(world.nodes[me].uuids, False))

    def fence(self, world: World, me: int) -> World:
        """The verdict on the peer: active (6), else fenced (4)."""
        if world.nodes[1 - me].primary and not world.nodes[1 - me].frozen:
            return self.set(world, me, disk=DiskState.Outdated, frozen=False)
        if world.banned == me or world.nodes[1 - me].primary or not self._may_draw(world):
            return world
        world = self.set(world, me, pdsk=DiskState.Outdated, frozen=False)._replace(banned=1 - me)
        return world if world.nodes[me].uuids.bitmap else self.new_generation(world, me)

    def crash(self, world: World, me: int) -> World:
        """And back at once, as what its meta-data says."""
        was_primary = world.nodes[me].primary
        world = self.set(world, me, primary=False, frozen=False)
        world = self.lose_link(world) if world.link else world
        node = world.nodes[me]
        back = DiskState.Consistent if self.fencing else _UP_TO_DATE
        disk = back if node.disk in (DiskState.Consistent, _UP_TO_DATE) else node.disk
        kept = uuids.set_primary_bit(node.uuids, False)
        world = self.set(world, me, disk=disk, uuids=kept, crashed=node.crashed or was_primary)
        return world._replace(crashes=world.crashes + 1)

    def cut(self, world: World) -> World:
        return self.lose_link(world)._replace(cuts=world.cuts + 1)

    def lose_link(self, world: World) -> World:
        linked = [self._linked_states(world, me) for me in (0, 1)]
        world = world._replace(link="", source=-1, sync_uuid=0)
        for me, old in enumerate(linked):
            alone = State(**{**_fields(old), "conn": ConnState.WFConnection, "pdsk": DiskState.DUnknown})
            new = sanitize(old, alone, Rules(fencing=self.fencing))
            world = self.set(world, me, pdsk=new.pdsk)
            node = world.nodes[me]
            if not node.primary or node.disk != _UP_TO_DATE:
                continue
            if new.susp_fen:
                world = self.set(world, me, frozen=True, crashed=True)
            elif not node.uuids.bitmap:
                world = self.new_generation(world, me)
        return world

    # --- meeting ---

    def connect(self, world: World, discards: int = -1) -> World:
        a, b = world.nodes
        here, there = self._compare(a, b, holds=True), self._compare(b, a, holds=False)
        self.checks["C4"] += 1
        opposite = -here.result if abs(here.result) <= 2 else here.result
        if there.result != opposite or there.rule != RULE_PAIRS.get(here.rule, here.rule):
            raise _Broken(f"C4: one end says {here.result} (rule {here.rule}), the other {there.result} ({there.rule})")
        outcome = self._decide(here, a, b, True, (discards == 0, discards == 1))
        mirrored = self._decide(there, b, a, False, (discards == 1, discards == 0))
        if isinstance(outcome, Abort) or isinstance(mirrored, Abort) or (a.primary and b.primary):
            return world
        world = self.set(self.set(world, 0, uuids=here.mine, frozen=False), 1, uuids=there.mine, frozen=False)
        if isinstance(outcome, NoSync):
            self.checks["B1"] += 1
            if a.data != b.data:
                raise _Broken(f"B1: no resync by rule {here.rule}, and the copies differ")
            for me in (0, 1):
                good = world.nodes[me].disk > DiskState.Inconsistent
                world = self.set(world, me, disk=_UP_TO_DATE if good else world.nodes[me].disk, crashed=False)
            return world._replace(link="up", parted=(False, False), banned=-1)
        source = 0 if isinstance(outcome, SyncSource) else 1
        self.checks["C3"] += 1
        if all(world.parted) and discards != 1 - source:
            raise _Broken(f"C3: both went on, and rule {here.rule} merges them")
        if world.parted[1 - source] and discards != 1 - source:
            raise _Broken(f"C5: rule {here.rule} syncs from the node that did not go on")
        parted = (world.parted[0] and source == 0, world.parted[1] and source == 1)  # what the other has is given up
        return self._clamped(world._replace(link="bitmap", source=source, parted=parted))

    def _clamped(self, world: World) -> World:
        """What the connection states make of both disks."""
        rules = Rules(fencing=self.fencing)
        states = [self._linked_states(world, me) for me in (0, 1)]
        for me, state in enumerate(states):
            world = self.set(world, me, disk=sanitize(state, state, rules).disk)
        return world

    def _compare(self, mine: Node, peer: Node, *, holds: bool) -> uuids.Verdict:
        return uuids.compare(
            mine.uuids, peer.uuids, i_crashed=mine.crashed, peer_crashed=peer.crashed, my_role=_role(mine),
            peer_role=_role(peer), resolve_conflicts=holds, apv=101, features_wsame=True,
        )  # fmt: skip

    def _decide(
        self, verdict: uuids.Verdict, mine: Node, peer: Node, holds: bool, discard: tuple[bool, bool]
    ) -> object:
        situation = Situation(
            _role(mine), _role(peer), mine.disk, peer.disk, resolve_conflicts=holds,
            discard_my_data=discard[0], peer_discards_its_data=discard[1],
        )  # fmt: skip
        return decide(verdict, situation).outcome

    def resync(self, world: World) -> World:
        """One step: the source's generation, the target's, the data, and the ends, the source's first."""
        source, target = world.source, 1 - world.source
        mine, theirs = world.nodes[source], world.nodes[target]
        match world.link:
            case "bitmap":
                if (mine.uuids.current ^ theirs.uuids.current) & ~1 == 0:
                    if not self._may_draw(world):
                        return world
                    world = self.set(world, source, uuids=uuids.clear_bitmap_uuid(mine.uuids))
                    world = self.new_generation(world, source)
                draw = _GENERATION * (world.draws + 1)
                started, sync_uuid = uuids.start_sync_source(world.nodes[source].uuids, draw)
                world = self.set(world, source, uuids=started)
                return world._replace(link="sent", sync_uuid=sync_uuid, draws=world.draws + (sync_uuid == draw))
            case "sent":
                begun = uuids.start_sync_target(theirs.uuids, world.sync_uuid, theirs.primary)
                world = self.set(world, target, uuids=begun, disk=DiskState.Inconsistent)
                return self._clamped(world._replace(link="copying", parted=(source == 0, source == 1)))
            case "copying":
                return self.set(world, target, data=mine.data)._replace(link="ending")
            case "ending":
                return self.set(world, source, uuids=uuids.finish_sync_source(mine.uuids))._replace(link="finishing")
            case _:
                # What the target was told before the resync is what the source has now, but for the sync UUID.
                ended = uuids.set_primary_bit(mine.uuids, theirs.primary)
                world = self.set(world, target, uuids=ended, disk=_UP_TO_DATE, crashed=False)
                world = self.set(world, source, crashed=False)
                return world._replace(link="up", source=-1, sync_uuid=0, parted=(False, False), banned=-1)

    # --- what must hold ---

    def check(self, world: World) -> None:
        a, b = world.nodes
        self.checks["C2"] += 1
        if world.link and a.primary and b.primary:
            raise _Broken("C2: both are Primary, and connected")
        if world.link == "up" and a.disk == b.disk == _UP_TO_DATE:
            self.checks["B1"] += 1
            if a.data != b.data:
                raise _Broken("B1: both are UpToDate, and the copies differ")
        if self.fencing is Fencing.RESOURCE_AND_STONITH:
            self.checks["C8"] += 1
            if all(world.parted) or (a.primary and b.primary and not a.frozen and not b.frozen):
                raise _Broken("C8: both have gone on")


def _role(node: Node) -> Role:
    return Role.Primary if node.primary else Role.Secondary


def _fields(state: State) -> dict[str, object]:
    return {name: getattr(state, name) for name in State.__dataclass_fields__}


def _canonical(world: World) -> World:
    """The same with generations numbered in the order in which they are met."""
    known: dict[int, int] = {}

    def renamed(number: int) -> int:
        base = number & _NUMBER & ~1
        if not base:
            return number
        return (number & ~_NUMBER) | known.setdefault(base, _GENERATION * (len(known) + 1)) | (number & 1)

    nodes = []
    for node in world.nodes:
        u = node.uuids
        numbers = UuidSet(renamed(u.current), renamed(u.bitmap), renamed(u.history0), renamed(u.history1))
        nodes.append(node._replace(uuids=numbers))
    return world._replace(nodes=(nodes[0], nodes[1]), sync_uuid=renamed(world.sync_uuid))


_WORDS = {
    "promote": 'order(world, world.{0}, "primary")', "demote": 'order(world, world.{0}, "secondary")',
    "write": "write(Client(world, world.{0}), 0, bytes(4096))",
    "fence": "# the handler fence-peer of {0} says 4, or 6 if the other one is Primary",
    "crash": "world.{0}.stop(); world.{0}.start()",
    "half": "# {0} writes, and dies when only its own disk has it\n    world.{0}.stop(); world.{0}.start()",
    "other-half": "# {0} writes, and dies when only the other disk has it\n    world.{0}.stop(); world.{0}.start()",
    "cut": "world.link_allowed = False; world.cut()", "connect": "world.link_allowed = True; world.try_link()",
    "discard": 'order(world, world.{0}, "connect", discard_my_data=True)',
    "step": "world.step()  # the resync goes on",
}  # fmt: skip


def scenario(way: list[str]) -> str:
    """A way as the body of a test, in the words of tests/harness/scene.py."""
    lines = ["def test_the_shortest_way() -> None:"]
    lines += ["    world, client = pair()", '    order(world, world.a, "secondary")']
    for event in way:
        verb, _, name = event.partition(" ")
        lines.append("    " + _WORDS[verb].format(name))
    return "\n".join(lines)


def explore(fencing: Fencing = Fencing.DONT_CARE, bounds: Bounds | None = None) -> Found:
    """All states that can be reached, or the shortest way to the first one that breaks a promise."""
    model, start = _Model(fencing, bounds or Bounds()), _start()
    first = _canonical(start)
    came: dict[World, tuple[World, str] | None] = {first: None}
    queue, transitions = deque([(first, start)]), 0
    while queue:
        key, world = queue.popleft()
        for event, act in model.events(world):
            transitions += 1
            try:
                after = act()
                known = _canonical(after)
                if known in came:
                    continue
                model.check(after)
            except _Broken as broken:
                way = [*_way(came, key), event]
                return Found(len(came), transitions, model.checks, f"{broken}\n{scenario(way)}")
            came[known] = key, event
            queue.append((known, after))
    return Found(len(came), transitions, model.checks)


def _way(came: dict[World, tuple[World, str] | None], key: World) -> list[str]:
    way: list[str] = []
    while (step := came[key]) is not None:
        key, event = step
        way.append(event)
    return way[::-1]
