"""The promises of pydrbd as checks, each under its id, by somebody who sees both disks and everything that is said.

    A1 A5      every read, against a register per block (register.py)      B1  copies equal at quiet points
    A2 A4+     the same registers: what loss may take is decided here      B2  a crash now would lose no difference
    B3         extent in the durable activity log before the data write    B7  sync target durably Inconsistent
    C1 C5      who serves, and who is sync source, has all that counts     C2  one Primary
    C8         nothing is answered, and no peer taken for outdated, without a verdict that counts
    C6         the new generation is durable before a solo write's reply   D7  nothing is left when all is quiet
    B4 B5      power failure now, too, would lose no difference            C4  both ends find the same verdict

What needs only a look at one disk and its node (A3, A9, B6, B8, B10) is in disk_checks.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydrbd import native
from pydrbd.core import effects as fx
from pydrbd.core import uuids
from pydrbd.core.events import Done
from pydrbd.core.split_brain import Abort, NoSync, Situation, decide
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.core.transitions import Fencing
from pydrbd.metadata.apply_al import split_blocks
from pydrbd.metadata.opening import OpenedMetaData
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.units import BIT_SIZE_BYTES, EXTENT_SIZE_BYTES, SECTOR_SIZE_BYTES, ceil_div
from pydrbd.wire.packet_numbers import WireProtocol
from tests.harness.disk import MemoryDisk, replay
from tests.harness.generations import RULE_PAIRS
from tests.harness.register import History, NotLinearizable
from tests.harness.world import Machine, World

__all__ = ["Oracle", "Violation", "fill", "leftovers", "tags"]

_TAG = struct.Struct(">QQ")
_REPEAT = SECTOR_SIZE_BYTES // _TAG.size
_ZERO_SECTOR = bytes(SECTOR_SIZE_BYTES)
_SOURCES = (ConnState.StartingSyncS, ConnState.WFBitMapS, ConnState.SyncSource, ConnState.PausedSyncS)
_NBD_WRITE = 1
_RS_DATA_REPLY = 2
_GOOD_VERDICTS, _UNREACHABLE = (3, 4, 5, 7), 5
_GOOD = MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE
_DIRECTED = 2
"""Verdicts up to here are a direction, the others (split brain, unrelated) the same for both."""
_VOLATILE_SECTORS_MAX = 4096


class Violation(AssertionError):
    """A promise was broken; `promise` is its id."""

    def __init__(self, promise: str, text: str) -> None:
        super().__init__(f"{promise}: {text}")
        self.promise = promise


def fill(op: int, sector: int, count: int) -> bytes:
    """What write number `op` puts into each of its sectors: its number and the sector's, over and over."""
    return b"".join(_TAG.pack(op, sector + index) * _REPEAT for index in range(count))


def tags(sector: int, data: bytes | memoryview) -> list[int]:
    """The number of the write that each sector comes from, 0 for zeros. A sector that nobody wrote so breaks A5."""
    found = []
    for position in range(0, len(data), SECTOR_SIZE_BYTES):
        piece = bytes(data[position : position + SECTOR_SIZE_BYTES])
        if piece == _ZERO_SECTOR:
            found.append(0)
            continue
        op, where = _TAG.unpack_from(piece)
        if piece != piece[: _TAG.size] * _REPEAT or where != sector + position // SECTOR_SIZE_BYTES:
            raise Violation("A5", f"sector {sector + position // SECTOR_SIZE_BYTES} holds what was never written there")
        found.append(op)
    return found


@dataclass(frozen=True)
class _Range:
    offset: int
    length: int


class Oracle:
    """Watches a world of two nodes; whoever drives it tells of client requests, power losses and disk errors."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.history = History()
        self.clock = 0
        self.fresh: set[Machine] = {world.a, world.b}
        self.whole: set[Machine] = {world.a, world.b}
        self.tainted: set[Machine] = set()
        self.split_brain = False
        self.ending: set[Machine] = set()
        """Sync targets that are UpToDate in memory only: nobody has been told, and with the process it is gone."""
        self.in_doubt: set[Machine] = set()
        """Primaries that have lost their peer, and with it the only good disk: one FLUSH of theirs may, and must if the
        peer has lost answered writes with its power, fail, though all may be well again by then."""
        self.given_up: set[Machine] = set()
        """Primaries that have let go of their disk beside a good peer, until both are in sync: clients have read there
        since what no write of theirs was answered for, so the node rightly counts its disk as old. That peer is the
        last good disk; to lose it, too, is to lose both."""
        self._author: Machine | None = None
        """The last Primary, until the other node has everything: only then may protocol A lose nothing with it."""
        self._parted = False
        """That Primary has lost its link since: what was on its way may never have arrived."""
        self._bereft = False
        """A node takes over that has not got all of the last Primary's writes for sure."""
        self._forgetful: set[Machine] = set()
        """Killed since both were in sync: in protocol B, what they had in memory only had been answered."""
        self.dead_below = 0
        self.checks: dict[str, int] = {}
        self._states: dict[Machine, State] = {}
        self._generations: dict[Machine, int] = {}
        self._claims: dict[Machine, int] = {}
        """A new generation of this node that is not durable: nobody has been told, and with the process it is gone."""
        self._decided: dict[Machine, dict[fx.Reply, bool]] = {world.a: {}, world.b: {}}
        """Replies that were held behind a fence: whether they were decided while the peer counted."""
        self.answered_for: set[Machine] = set()
        """Nodes that an operator has told to go on (resume-io)."""
        self._meetings: dict[Machine, int] = {}
        self._asked: dict[Any, int] = {}
        """Handlers that run: how often the peer had been met when they were started."""
        self._peeked: dict[MemoryDisk, tuple[int, OpenedMetaData]] = {}
        self._met: tuple[OpenedMetaData | None, OpenedMetaData | None, Any] = None, None, None
        """The meta-data of both that was compared last, and how that ended."""
        self._hot: dict[Machine, tuple[int, frozenset[int]]] = {}
        self._zeroed: set[int] = set()
        """Blocks in which a TRIM or WRITE_ZEROES was answered, and nothing written since (A10)."""
        self._died_whole: set[Machine] = set()
        """They have lost power, and not been back: whoever has everything that they have sent has everything."""
        self._stirred: set[int] = set()
        """Blocks that clients have used since both copies were looked at in rest, or in which something is open."""
        self.retired = 0
        """How often an extent has left an activity log."""
        self.flushed: Machine | None = None
        """Its cache is taken for empty: a flush is the first part of what is looked at."""
        self.overlapped = False
        """Requests have overlapped since the copies were compared (A7)."""
        self.after_power_loss = False
        """What is read now comes from a disk whose cache was lost (A6)."""
        self._resynced: dict[Machine, set[int]] = {world.a: set(), world.b: set()}
        """Blocks that a resync has written there and that may not be durable (B5)."""
        world.observer = self

    def _count(self, promise: str) -> None:
        self.checks[promise] = self.checks.get(promise, 0) + 1

    def _fail(self, promise: str, text: str) -> None:
        raise Violation(promise, text)

    # --- the client's view ---

    def begin_write(self, op: int, sector: int, count: int, value: int) -> None:
        self.clock += 1
        self._stirred.update(range(sector // 8, (sector + count + 7) // 8))
        if self._zeroed and value:
            self._zeroed.difference_update(range(sector // 8, (sector + count + 7) // 8))
        for register, _ in self.history.cells(sector, count):
            register.begin_write(op, value, self.clock)

    def end_zeroes(self, sector: int, count: int) -> None:
        """A TRIM or WRITE_ZEROES was answered."""
        self._zeroed.update(range(sector // 8, (sector + count + 7) // 8))

    def end_write(self, op: int, sector: int, count: int, *, durable: bool) -> None:
        self.clock += 1
        self.history.end_write(op, sector, count, self.clock, durable=durable)

    def begin_read(self, op: int, sector: int, count: int) -> None:
        self._stirred.update(range(sector // 8, (sector + count + 7) // 8))
        for register, _ in self.history.cells(sector, count):
            register.begin_read(op)

    def abandon_read(self, op: int, sector: int, count: int) -> None:
        for register, _ in self.history.cells(sector, count):
            register.abandon_read(op)

    def end_read(self, op: int, sector: int, data: bytes) -> None:
        """A read was answered: what it returned must be explicable (A1, A3, A5)."""
        self._count("A1")
        for index, value, register in self._values(sector, data):
            if not value and (sector + index) // 8 in self._zeroed:
                self._count("A10")
            if self.after_power_loss:
                self._count("A6")
            try:
                register.end_read(op, value)
            except NotLinearizable as error:
                raise Violation("A1", f"sector {sector + index} (block {(sector + index) // 8}): {error}") from None

    def begin_flush(self) -> int:
        self.clock += 1
        return self.clock

    def end_flush(self, begun: int) -> None:
        self.history.flushed(begun)

    def _values(self, sector: int, data: bytes) -> Iterable[tuple[int, int, Any]]:
        values = tags(sector, data)
        count = len(values)
        if count == History.SECTORS and len(set(values)) == 1:  # a whole block of one write, as a rule
            for register, index in self.history.cells(sector, count):
                yield index, values[index], register
            return
        for _, index in self.history.cells(sector, count):
            if len(set(values[index : index + 8])) > 1:
                self.history.split((sector + index) // 8)
        for register, index in self.history.cells(sector, count):
            yield index, values[index], register

    def settle(self) -> None:
        """Nothing is under way and both copies are equal: from here on they are what every read returns."""
        disk = self.world.a.disks[0]
        stirred, self._stirred = self._stirred | disk.stirred, set()
        disk.stirred.clear()
        for block in stirred & self.history.blocks.keys():
            data = disk.image[block * 4096 : (block + 1) * 4096]
            for index, value, register in self._values(block * 8, data):
                if register.has_open_write(lambda op: op < self.dead_below):
                    self._count("A11")
                try:
                    register.settle(value, lambda op: op < self.dead_below)
                except NotLinearizable as error:
                    raise Violation("A1", f"sector {block * 8 + index} on both disks: {error}") from None
                if not register.is_settled:
                    self._stirred.add(block)

    # --- who has the data ---

    def power_lost(self, machine: Machine) -> None:
        """What it had not flushed may be gone there; what it has sent before is not."""
        if machine in self.whole:
            self._died_whole.add(machine)
        self.whole.discard(machine)

    def disk_failed(self, machine: Machine) -> None:
        """Until it is in sync again, nothing can be asked of this disk."""
        self.tainted.add(machine)

    def may_serve(self, machine: Machine) -> bool:
        """Whether a node has all that counts: it was there for every acknowledged write (C1, C5)."""
        other = self.world.other(machine)
        if machine in self._claims:
            return True  # it was found good when it made the claim, and nobody else has been since
        if machine in self.fresh:
            return other not in self._claims
        if other not in self.fresh or other.node is not None or machine in self.tainted:
            return False  # a new generation may exist in memory only, and that counts while the process lives
        mine, theirs = machine.disks[0].superblock(), other.disks[0].superblock()
        return mine.flags & _GOOD == _GOOD and (mine.current_uuid ^ theirs.current_uuid) & ~1 == 0

    def _takes_over(self, machine: Machine, promise: str, what: str, claims: int = 0) -> None:
        """The data of this node is what counts from now on, or when the generation that it claims is durable."""
        if self.split_brain:
            return
        self._count(promise)
        if not self.may_serve(machine):
            names = "/".join(sorted(other.name for other in self.fresh))
            self._fail(promise, f"{machine.name} {what}, but only {names} has all acknowledged writes")
        if self._author not in (None, machine) and not self._follows(machine):
            self._bereft, self._author = True, None
        if claims:
            self._claims[machine] = claims
        if machine not in self._claims:  # else when the generation is durable: before, nobody is told of what is in it
            self._adopt(machine)

    def _follows(self, machine: Machine) -> bool:
        """It hears the Primary: what that one has sent comes first, whatever it says of its disk afterwards."""
        other = self.world.other(machine)
        if self._parted or machine.node is None or other.node is None or other.volume.state.role != Role.Primary:
            return False
        return machine.volume.state.connected and other.volume.state.connected

    def _adopt(self, machine: Machine) -> None:
        """From here on its data counts. What power took from it is gone, unless a flush covered it; so is, where the
        Primary's own disk does not hold it, what was only on its way in protocol A, and in B what was only in the
        memory of a process that was killed: that much a write's answer promises there (README)."""
        protocol = self.world.net.protocol
        in_memory = protocol is WireProtocol.B and machine in self._forgetful
        late = self._bereft and (protocol is WireProtocol.A or in_memory)
        if machine not in self.whole or late:
            self._lose_volatile()
            self.whole = {machine}
        self.fresh = {machine}
        self._bereft = False

    def _lose_volatile(self) -> None:
        for register in self.history.all():
            register.lose_volatile()
        self._stirred.update(self.history.blocks)

    def _on_state(self, machine: Machine, old: State, new: State) -> None:
        other = self.world.other(machine)
        broken = new.disk <= DiskState.Failed < old.disk and machine in self.tainted
        if broken and other in self.fresh and other.node is not None:
            self.fresh.discard(machine)
        if new.disk <= DiskState.Failed < old.disk and new.role == Role.Primary and new.pdsk == DiskState.UpToDate:
            self.given_up.add(machine)
        fell = old.disk == DiskState.UpToDate != new.disk and new.disk >= DiskState.Inconsistent
        if fell and other in self.fresh - self.given_up:  # else it is still the only one with all that counts
            self.fresh.discard(machine)
        ended = old.conn == ConnState.SyncTarget and new.disk == DiskState.UpToDate
        if ended and self._same_generation(machine, other):  # its source learns it a little later, or never
            self.fresh.add(machine)
            self.whole.add(machine)
            self.ending.add(machine)
        if old.role == Role.Primary != new.role and self._author is machine and new.conn == ConnState.Connected:
            self._author = None  # demoted in good order, beside its peer
        if new.conn in _SOURCES and old.conn not in _SOURCES and not self._left_behind(machine):
            self._takes_over(machine, "C5", "became sync source")
        if new.role == Role.Primary and not new.susp_fen:
            alone = new.conn < ConnState.Connected or new.pdsk != DiskState.UpToDate
            # While its disk is being compared with the peer's, clients wait (WIRE 5.5): nobody is served by either.
            waits = new.disk in (DiskState.Attaching, DiskState.Negotiating)
            if new.disk == DiskState.UpToDate and alone:
                self._takes_over(machine, "C1", "serves alone")
            elif new.disk != DiskState.UpToDate and not (alone or waits or self._shares_generation(machine, other)):
                self._takes_over(other, "C1", "serves its diskless or inconsistent peer")
            if new.conn < ConnState.Connected <= old.conn and old.disk != DiskState.UpToDate:
                self.in_doubt.add(machine)
            self._parted = self._author is machine and (self._parted or new.conn < ConnState.Connected <= old.conn)
            self._author = machine
        if other.node is None:
            return
        theirs = other.volume.state
        if self.world.fencing is Fencing.RESOURCE_AND_STONITH and _answers(new) and _answers(theirs):
            self._fail("C8", "two Primaries, and none of them is frozen")
        if new.role == theirs.role == Role.Primary:
            self._count("C2")
            if min(new.conn, theirs.conn) >= ConnState.Connected:
                self._fail("C2", "two connected Primaries")
        if new.conn == theirs.conn == ConnState.Connected and {new.disk, new.pdsk, theirs.disk, theirs.pdsk} == {
            DiskState.UpToDate
        }:
            self._in_sync()

    def _left_behind(self, machine: Machine) -> bool:
        """Its peer has left this link already, and nothing will be copied over it. What it says when it learns that is
        another matter: C3 and D5, at the next meeting."""
        link = self.world.link
        return link is None or not link.up[self.world.other(machine)]

    def _shares_generation(self, machine: Machine, other: Machine) -> bool:
        """A Primary that has just let go of its disk: until the peer begins a generation, both have the same."""
        known = machine in self.fresh and machine.volume.disk is None and other.node is not None
        return known and (machine.volume.uuids.current ^ other.volume.uuids.current) & ~1 == 0

    def _same_generation(self, machine: Machine, other: Machine) -> bool:
        theirs = other.volume.uuids if other.node is not None else other.disks[0].superblock()
        current = theirs.current if isinstance(theirs, uuids.UuidSet) else theirs.current_uuid
        return (
            other in self.fresh & (self.whole | self._died_whole) and (machine.volume.uuids.current ^ current) & ~1 == 0
        )

    def _in_sync(self) -> None:
        both = {self.world.a, self.world.b}
        if not self.whole & both:
            self._lose_volatile()
        self.fresh, self.whole = set(both), set(both)
        self.tainted.clear()
        self._forgetful.clear()
        self.ending.clear()  # both speak of it: from here on it must outlive everything
        self._parted = False
        self.given_up.clear()
        if self._author is not None and self._author.volume.state.role != Role.Primary:
            self._author = None

    # --- every event and effect ---

    def on_event(self, machine: Machine, event: Any) -> None:
        new = machine.volume.state
        old = self._states.get(machine)
        if old is None:
            self._died_whole.discard(machine)
        self._on_generation(machine, new)
        if new is not old:
            self._states[machine] = new
            self._check_verdict(machine, event, old or State(), new)
            self._on_state(machine, old or State(), new)
        self._on_held_replies(machine)
        if isinstance(event, Done) and isinstance(event.effect, fx.Persist):
            self.check_coverage()  # what is on disk about the disks has just changed

    def _check_verdict(self, machine: Machine, event: Any, old: State, new: State) -> None:
        """C8: only a verdict tells that a peer which is not there is not ahead, and only one on this very loss."""
        if old.conn < ConnState.WFReportParams <= new.conn:
            self._meetings[machine] = self._meetings.get(machine, 0) + 1
        known = new.pdsk in (DiskState.Inconsistent, DiskState.Outdated)
        if new.connected or old.pdsk != DiskState.DUnknown or not known or old.disk <= DiskState.Negotiating:
            return
        if machine in self.answered_for:
            return
        self._count("C8")
        helper = event.effect if isinstance(event, Done) else None
        code = helper.exit_code if isinstance(helper, fx.RunHelper) and helper.name == "fence-peer" else None
        if code not in _GOOD_VERDICTS or (code == _UNREACHABLE and old.disk != DiskState.UpToDate):
            self._fail("C8", f"{machine.name} takes its peer for {new.pdsk.name}, fence-peer says {code}")
        if self._asked.pop(helper, None) != self._meetings.get(machine, 0):
            self._fail("C8", f"{machine.name} takes its peer for {new.pdsk.name} by a verdict on an earlier loss")

    def _check_freeze(self, machine: Machine, effect: fx.Reply) -> None:
        """C8: a Primary that has lost its peer and has no verdict yet answers nothing."""
        state = machine.volume.state
        unknown = state.role == Role.Primary and not state.connected and state.pdsk > DiskState.Outdated
        unknown = unknown and machine not in self.answered_for
        if self.world.fencing is Fencing.RESOURCE_AND_STONITH and unknown and effect not in self._decided[machine]:
            self._fail("C8", f"{machine.name} answers while its peer may go on")

    def _on_generation(self, machine: Machine, new: State) -> None:
        """A node that begins a generation alone has what counts as soon as that is on disk; until then it claims it."""
        generations = machine.volume.uuids
        current, before = generations.current & ~1, self._generations.get(machine)
        alone = new.conn < ConnState.Connected or new.pdsk < DiskState.Inconsistent  # a diskless peer's disk is old now
        if before and current != before == generations.bitmap & ~1 and alone:
            self._takes_over(machine, "C1", "began a generation of its own", claims=current)
        elif self._claims.get(machine, current) != current:
            del self._claims[machine]
        self._generations[machine] = current
        self._settle_claim(machine)

    def _settle_claim(self, machine: Machine) -> None:
        if machine in self.ending and machine.disks[0].superblock().flags & _GOOD == _GOOD:
            self.ending.discard(machine)
        if self._claims.get(machine) == machine.disks[0].superblock().current_uuid & ~1:
            del self._claims[machine]
            self._adopt(machine)

    def forget(self, machine: Machine) -> None:
        """It is down: it begins with no state at all.

        A sync target that dies between the end of its resync and the superblock that says so returns Inconsistent, as
        it must (B7): its peer had not been told, still counts it as Inconsistent, and has everything.
        """
        self._settle_claim(machine)
        self._forgetful.add(machine)
        if machine in self.ending:
            self.ending.discard(machine)
            self.fresh.discard(machine)
            self.whole.discard(machine)
        self._claims.pop(machine, None)
        self._states.pop(machine, None)
        self._generations.pop(machine, None)
        self.in_doubt.discard(machine)
        self._decided[machine].clear()

    def on_effect(self, machine: Machine, effect: Any) -> None:
        match effect:
            case fx.DiskWrite():
                record = effect.batch.records[next(iter(native.indices(effect.mask)))]
                if record.command == _NBD_WRITE:
                    self._check_logged(machine, [effect.batch.records[i] for i in native.indices(effect.mask)])
                elif record.command == _RS_DATA_REPLY:
                    records = (effect.batch.records[i] for i in native.indices(effect.mask))
                    self._check_target(machine, [_Range(record.offset, record.length) for record in records])
            case fx.DiskDiscard(resync=True):
                self._check_target(machine, [_Range(effect.offset_bytes, effect.length_bytes)])
            case fx.DiskZero() | fx.DiskDiscard() if machine.volume.state.role == Role.Primary:
                self._check_logged(machine, [_Range(effect.offset_bytes, effect.length_bytes)])
            case fx.Reply() if effect.speaks:
                self._check_freeze(machine, effect)
                self._check_generation(machine, effect)
            case fx.RunHelper():
                self._asked[effect] = self._meetings.get(machine, 0)

    def _check_target(self, machine: Machine, pieces: list[_Range]) -> None:
        for piece in pieces:
            first = piece.offset // BIT_SIZE_BYTES
            self._resynced[machine].update(range(first, first + ceil_div(piece.length, BIT_SIZE_BYTES)))
        self._count("B7")
        if MdFlag.CONSISTENT in machine.disks[0].superblock().flags:
            self._fail("B7", f"{machine.name} writes resync data and is not Inconsistent on disk")

    def _check_logged(self, machine: Machine, records: list[Any]) -> None:
        self._count("B3")
        hot = self._hot_on_disk(machine)
        for record in records:
            first, last = record.offset // EXTENT_SIZE_BYTES, (record.offset + record.length - 1) // EXTENT_SIZE_BYTES
            for extent in range(first, last + 1):
                if extent not in hot:
                    self._fail("B3", f"{machine.name} writes to extent {extent}, on disk only {sorted(hot)} are hot")

    def _hot_on_disk(self, machine: Machine) -> frozenset[int]:
        disk = machine.disks[0]
        generation, hot = self._hot.get(machine, (-1, frozenset()))
        if generation != disk.meta_generation:
            layout = disk.layout
            area = disk.image[layout.al_offset_bytes : layout.al_offset_bytes + layout.al_size_bytes]
            before, hot = hot, frozenset(replay(split_blocks(area), True, layout.al_stripes).extents)
            self.retired += bool(before - hot)
            self._hot[machine] = disk.meta_generation, hot
        return hot

    def _on_held_replies(self, machine: Machine) -> None:
        """A reply that waits behind a fence says what was so when it was decided: the peer may be lost meanwhile."""
        assert machine.node is not None
        if machine.node.out.fenced:
            together = _counts_peer(machine.volume.state)
            for effect in machine.node.out._held:
                if isinstance(effect, fx.Reply):
                    self._decided[machine].setdefault(effect, together)

    def _check_generation(self, machine: Machine, effect: fx.Reply) -> None:
        """C6: a write that only this node has is acknowledged in a generation of its own, and that is on disk."""
        volume = machine.volume
        together = self._decided[machine].pop(effect, False)
        if volume.disk is None or together or _counts_peer(volume.state):
            return
        other = self.world.other(machine)
        mine, theirs = machine.disks[0].superblock(), other.disks[0].superblock()
        fresh_here = (mine.current_uuid ^ volume.uuids.current) & ~1 == 0
        differs = (mine.current_uuid ^ theirs.current_uuid) & ~1 != 0 or theirs.flags & _GOOD != _GOOD
        if fresh_here and differs:
            self._count("C6")
            return
        for index in native.indices(effect.mask):
            record = effect.batch.records[index]
            if record.command != _NBD_WRITE:
                continue
            start, end = record.offset, record.offset + record.length
            here = tags(start >> 9, machine.disks[0].image[start:end])
            there = tags(start >> 9, other.disks[0].image[start:end])
            if any(mine_op > theirs_op > 0 for mine_op, theirs_op in zip(here, there, strict=True)):
                self._fail("C6", f"{machine.name} acknowledges a write of its own without a durable new generation")

    # --- quiet points, and points of crash ---

    def check_copies(self) -> None:
        """B1: connected, in sync, nothing in flight."""
        self._count("B1")
        if self.overlapped:
            self._count("A7")
            self.overlapped = False
        differing = self.world.differing_blocks()
        if differing:
            self._fail("B1", f"in sync and quiet, but blocks {differing[:8]} differ")

    def check_coverage(self) -> None:
        """B2: if both processes were killed now, the next connection would know of every block that differs.

        B4, B5: if the power failed, of every block, too, that may differ then: what a disk holds in its cache only, a
        Primary's log or a bitmap must cover.
        """
        if self.tainted or self.split_brain:
            return
        self.check_known(self.world.differing_blocks(), self._volatile())

    def check_known(self, differing: list[int], volatile: set[int]) -> None:
        """The same of these blocks, with the meta-data as it is found on both disks now."""
        if not differing and not volatile:
            return
        self._count("B2")
        a, b = self._peek(self.world.a), self._peek(self.world.b)
        if self._met[0] is not a or self._met[1] is not b:
            verdict = verdict_of(a.superblock, b.superblock)
            self._check_mirror(verdict, verdict_of(b.superblock, a.superblock, resolves=False))
            self._met = a, b, decide(verdict, situation_of(a.superblock, b.superblock)).outcome
        outcome = self._met[2]
        if isinstance(outcome, Abort):
            self._fail("B2", f"after a crash the nodes could not connect: {outcome.reason}")
        full = MdFlag.FULL_SYNC in a.superblock.flags | b.superblock.flags or getattr(outcome, "full", False)
        if full:
            return
        if isinstance(outcome, NoSync):
            self._fail("B2", f"blocks {(differing or sorted(volatile))[:8]} differ, and there would be no resync")
        lost = [block for block in differing if not (a.bitmap.test(block) or b.bitmap.test(block))]
        if lost:
            self._fail("B2", f"blocks {lost[:8]} differ, and neither bitmaps nor activity logs on disk know of it")
        self._check_volatile(volatile, a, b)

    def check_survives(self, machine: Machine, sector: int, content: bytes) -> None:
        """A4, A6: power failure may leave this in a sector of a disk that has all that counts."""
        registers = self.history.blocks.get(sector // History.SECTORS)
        if registers is None:
            return
        self._count("A4")
        register = registers[sector % History.SECTORS if len(registers) > 1 else 0]
        value = tags(sector, content)[0]
        if value not in register.values_after_power_loss:
            known = sorted(map(repr, register.values_after_power_loss))
            self._fail("A4", f"{machine.name} could lose its cache, and {value} in sector {sector} is none of {known}")

    def _volatile(self) -> set[int]:
        """Blocks that power failure could change on either disk; nothing while there are very many."""
        found: set[int] = set()
        for machine in (self.world.a, self.world.b):
            disk = machine.disks[0]
            if disk.unflushed > _VOLATILE_SECTORS_MAX:
                return set()
            blocks = disk.unflushed_blocks()
            self._resynced[machine] &= blocks
            if machine is not self.flushed:
                found |= blocks
        return found

    def _check_volatile(self, volatile: set[int], a: OpenedMetaData, b: OpenedMetaData) -> None:
        resynced = self._resynced[self.world.a] | self._resynced[self.world.b]
        for promise, blocks in (("B5", volatile & resynced), ("B4", volatile - resynced)):
            if blocks:
                self._count(promise)
            lost = [block for block in blocks if not (a.bitmap.test(block) or b.bitmap.test(block))]
            if lost:
                self._fail(promise, f"blocks {sorted(lost)[:8]} may differ when power fails, and nothing would tell")

    def _check_mirror(self, here: uuids.Verdict, there: uuids.Verdict) -> None:
        """C4: both ends come to the same end."""
        self._count("C4")
        opposite = -here.result if abs(here.result) <= _DIRECTED else here.result
        if there.result != opposite or there.rule != RULE_PAIRS.get(here.rule, here.rule):
            self._fail("C4", f"rule {here.rule} says {here.result}, the peer's rule {there.rule} says {there.result}")

    def _peek(self, machine: Machine) -> OpenedMetaData:
        disk = machine.disks[0]
        known = self._peeked.get(disk)
        if known is None or known[0] != disk.meta_generation:
            known = self._peeked[disk] = disk.meta_generation, disk.peek()
        return known[1]


def verdict_of(mine: Superblock, theirs: Superblock, *, resolves: bool = True) -> uuids.Verdict:
    return uuids.compare(
        _set(mine), _set(theirs), i_crashed=mine.attach_state().crashed_primary,
        peer_crashed=theirs.attach_state().crashed_primary, my_role=Role.Secondary, peer_role=Role.Secondary,
        resolve_conflicts=resolves, apv=101, features_wsame=True,
    )  # fmt: skip


def _set(superblock: Superblock) -> uuids.UuidSet:
    return uuids.UuidSet(superblock.current_uuid, superblock.bitmap_uuid, *superblock.history_uuids)


def situation_of(mine: Superblock, theirs: Superblock) -> Situation:
    def disk(superblock: Superblock) -> DiskState:
        found = DiskState(int(superblock.attach_state().disk))
        return DiskState.UpToDate if found == DiskState.Consistent else found

    return Situation(Role.Secondary, Role.Secondary, disk(mine), disk(theirs), resolve_conflicts=True)


def _counts_peer(state: State) -> bool:
    """Whether a write is answered when the peer has acknowledged it, too."""
    return state.conn >= ConnState.Connected and state.pdsk > DiskState.Failed


def _answers(state: State) -> bool:
    return state.role == Role.Primary and not state.susp_fen and state.disk == DiskState.UpToDate


def leftovers(machine: Machine) -> list[str]:
    """D7: what a node still holds when nothing is under way."""
    node = machine.node
    assert node is not None
    volume = machine.volume
    facts = {
        "ranges": len(volume.ranges),
        "held batches": len(volume.held),
        "writes": int(node.writes.busy),
        "activity log waiters": len(node.gate._waiting) + len(node.gate._logging),
        "epochs": len(node.log) - 1,
        "reads": int(node.reads.busy),
        "flushes": len(node.flushes._waiting),
        "peer's writes": int(node.peer_writes.busy),
        "peer's epochs": len(node.peer_writes._epochs) - 1,
        "bytes read for the peer": node.peer_reads.bytes,
        "resyncs": len(node.resync._running),
        "fence": int(node.out.fenced),
        "requests to the peer": len(node.operator._queue) + int(node.operator._asked is not None),
        "bitmaps": len(node.bitmaps._receivers),
    }
    return [f"{machine.name}: {count} {what}" for what, count in facts.items() if count]
