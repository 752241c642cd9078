"""Situations that a long proof must have met: each has its name in one of these tables, and is counted when seen.

A simulator that never gets somewhere proves nothing about it, however many seeds it has told; `make prove` prints
"never" beside what nobody has seen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydrbd import native
from pydrbd.core import effects as fx
from pydrbd.core.events import Done, LaneEnded, Received
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.units import BIT_SIZE_BYTES, EXTENT_SIZE_BYTES
from pydrbd.wire.packet_numbers import Packet
from tests.harness.world import Machine, World

__all__ = ["RULES", "SITUATIONS", "SOMETIMES", "Sightings"]

SOMETIMES = "sometimes "
"""Before the names of situations, among a rung's figures."""

_SOURCES = (ConnState.SyncSource, ConnState.PausedSyncS)
_TARGETS = (ConnState.SyncTarget, ConnState.PausedSyncT)
_BITMAPS = (ConnState.WFBitMapS, ConnState.WFBitMapT)
_NBD_WRITE = 1
_RULE = re.compile(r"by rule (\d+)")


@dataclass(frozen=True)
class Step:
    """One node's state has changed; `other` is the state of the other node, None while it is down."""

    machine: Machine
    old: State
    new: State
    other: State | None

    @property
    def parted(self) -> bool:
        """The connection has gone."""
        return self.new.conn < ConnState.WFReportParams <= self.old.conn

    @property
    def primary(self) -> bool:
        return self.new.role == Role.Primary

    @property
    def busy(self) -> bool:
        """Client writes are under way here."""
        return self.machine.node is not None and self.machine.node.writes.busy

    def begins(self, *states: ConnState) -> bool:
        return self.new.conn in states and self.old.conn not in states


STEPS: dict[str, Callable[[Step], bool]] = {
    "a resync source loses its link": lambda s: s.parted and s.old.conn in _SOURCES,
    "a resync target loses its link": lambda s: s.parted and s.old.conn in _TARGETS,
    "the link breaks while bitmaps are exchanged": lambda s: s.parted and s.old.conn in _BITMAPS,
    "the link breaks before the sync UUID has come": lambda s: s.parted and s.old.conn == ConnState.WFSyncUUID,
    "the link breaks before the nodes have compared": lambda s: s.parted and s.old.conn == ConnState.WFReportParams,
    "the link breaks while a disk is compared": lambda s: s.parted and s.old.disk == DiskState.Negotiating,
    "a diskless Primary loses its peer": lambda s: s.parted and s.primary and s.new.disk <= DiskState.Failed,
    "a Primary loses its peer": lambda s: s.parted and s.primary,
    "a node parts in good order while a resync runs": lambda s: (
        s.new.conn == ConnState.Disconnecting and s.old.conn in _SOURCES + _TARGETS
    ),
    "a Primary is sync source": lambda s: s.begins(*_SOURCES) and s.primary,
    "a Primary is sync target": lambda s: s.begins(*_TARGETS) and s.primary,
    "a resync between two Secondaries": lambda s: s.begins(*_SOURCES) and Role.Primary not in (s.new.role, s.new.peer),
    "a full sync begins": lambda s: s.begins(*_SOURCES) and _is_full(s.machine),
    "a resync of a few blocks begins": lambda s: s.begins(*_SOURCES) and 0 < s.machine.volume.out_of_sync_bits < 64,
    "a resync begins with nothing to do": lambda s: s.begins(*_SOURCES) and not s.machine.volume.out_of_sync_bits,
    "a resync begins while writes are under way": lambda s: s.begins(*_SOURCES) and s.busy,
    "a resync ends while writes are under way": lambda s: (
        s.old.conn in _SOURCES and s.new.conn == ConnState.Connected and s.busy
    ),
    "a role changes during a resync": lambda s: s.new.conn in _SOURCES + _TARGETS and s.old.role != s.new.role,
    "a disk fails during a resync": lambda s: s.old.conn in _SOURCES + _TARGETS and _fails(s),
    "a Primary's disk fails beside a good peer": lambda s: (
        s.primary and _fails(s) and s.new.pdsk == DiskState.UpToDate
    ),
    "a Secondary's disk fails": lambda s: not s.primary and _fails(s),
    "a Primary detaches its disk": lambda s: s.primary and s.new.disk == DiskState.Diskless < s.old.disk,
    "a diskless Primary attaches": lambda s: (
        s.primary and s.old.disk == DiskState.Diskless and s.new.disk == DiskState.Attaching
    ),
    "a disk attaches while connected": lambda s: (
        s.new.disk == DiskState.Negotiating != s.old.disk and s.new.conn >= ConnState.Connected
    ),
    "a promotion makes a Consistent disk UpToDate": lambda s: (
        s.primary and s.old.disk == DiskState.Consistent and s.new.disk == DiskState.UpToDate
    ),
    "a node becomes Primary alone": lambda s: s.primary and s.old.role != s.new.role and not s.new.connected,
    "a Primary without its peer is demoted": lambda s: (
        s.old.role == Role.Primary != s.new.role and not s.new.connected
    ),
    "a disk becomes Outdated": lambda s: s.new.disk == DiskState.Outdated < s.old.disk <= DiskState.UpToDate,
    "an Outdated disk becomes good again": lambda s: (
        s.old.disk == DiskState.Outdated and s.new.disk in (DiskState.Inconsistent, DiskState.UpToDate)
    ),
    "a Primary is frozen": lambda s: s.new.susp_fen and not s.old.susp_fen,
    "a frozen Primary goes on by a verdict": lambda s: s.old.susp_fen and not s.new.susp_fen and not s.new.connected,
    "a frozen Primary goes on with its peer": lambda s: s.old.susp_fen and not s.new.susp_fen and s.new.connected,
    "two Primaries, one of them frozen": lambda s: (
        s.other is not None and s.new.role == s.other.role == Role.Primary and s.new.susp_fen != s.other.susp_fen
    ),
    "both disks attach at once": lambda s: (
        s.other is not None and s.new.disk == s.other.disk == DiskState.Negotiating
    ),
}  # fmt: skip


def _fails(step: Step) -> bool:
    return step.new.disk <= DiskState.Failed < step.old.disk and step.machine.disks[0].had_error


def _parts(machine: Machine) -> bool:
    """It waits for its peer's word on parting."""
    asked = machine.node.operator._asked if machine.node is not None else None
    return asked is not None and asked[0] == Packet.P_CONN_ST_CHG_REQ


def _is_full(machine: Machine) -> bool:
    disk = machine.volume.disk
    return disk is not None and disk.bitmap.count * BIT_SIZE_BYTES >= machine.volume.size_bytes


PACKETS: dict[int, str] = {
    Packet.P_DATA_REQUEST: "a client's read goes to the peer",
    Packet.P_NEG_ACK: "a write fails at the peer only",
    Packet.P_OUT_OF_SYNC: "a write is only marked at the peer",
    Packet.P_TRIM: "a discard is replicated",
    Packet.P_ZEROES: "zeroes are replicated",
    Packet.P_BITMAP: "a bitmap goes plain",
    Packet.P_COMPRESSED_BITMAP: "a bitmap goes compressed",
    Packet.P_RS_DATA_REPLY: "resync data arrives",
    Packet.P_STATE_CHG_REQ: "a change of a volume needs the peer's word",
    Packet.P_CONN_ST_CHG_REQ: "parting needs the peer's word",
    Packet.P_BARRIER_ACK: "a barrier is confirmed",
}

RULES = {
    "30": "generations: one disk is fresh", "20": "generations: the other disk is fresh",
    "36": "generations: this node kept a bitmap (36)", "37": "generations: the peer kept a bitmap (37)",
    "40": "generations: the same, perhaps a crash (40)", "41": "generations: a crash that only one knows of (41)",
    "50": "generations: the peer went on (50)", "70": "generations: this node went on (70)",
    "51": "generations: a new one was not told (51)", "71": "generations: a new one was not told (71)",
    "60": "generations: two or more behind (60)", "80": "generations: two or more ahead (80)",
    "90": "generations: both went on (90)", "100": "generations: both went on, from elsewhere (100)",
}  # fmt: skip

ERRORS = {
    fx.DiskWrite: "a disk has a write error", fx.DiskRead: "a disk has a read error",
    fx.DiskFlush: "a disk has a flush error", fx.Persist: "meta-data can't be written",
}  # fmt: skip

VERDICTS = {
    4: "a peer is fenced (4)", 5: "a peer is unreachable (5)", 6: "a peer is active (6)", 7: "a peer is shot (7)",
    1: "a fence handler fails", None: "a fence handler is killed",
}  # fmt: skip

DEATHS: dict[str, Callable[[Machine], bool]] = {
    "a Primary dies": lambda m: m.volume.state.role == Role.Primary,
    "a Secondary dies": lambda m: m.volume.state.role == Role.Secondary,
    "a Primary dies alone": lambda m: m.volume.state.role == Role.Primary and not m.volume.state.connected,
    "a frozen Primary dies": lambda m: m.volume.state.susp_fen,
    "a diskless Primary dies": lambda m: m.volume.state.role == Role.Primary and m.volume.disk is None,
    "a sync source dies": lambda m: m.volume.state.conn in _SOURCES,
    "a sync target dies": lambda m: m.volume.state.conn in _TARGETS,
    "a node dies while bitmaps are exchanged": lambda m: m.volume.state.conn in _BITMAPS,
    "a node dies while its disk is compared": lambda m: m.volume.state.disk == DiskState.Negotiating,
    "a node dies while it writes data": lambda m: m.is_working_on(fx.DiskWrite),
    "a node dies while it writes meta-data": lambda m: m.is_working_on(fx.Persist),
    "a node dies while it flushes": lambda m: m.is_working_on(fx.DiskFlush),
    "a node dies while writes wait for the activity log": lambda m: m.node is not None and m.node.gate.busy,
    "a node dies while its peer is down": lambda m: m.world.other(m).node is None,
    "power takes what was not flushed": lambda m: False,
}

TOLD = (
    "a write waits for the activity log", "the activity log waits for the peer", "an extent leaves the activity log",
    "a client writes what a resync has not reached", "a diskless Primary answers",
    "a flush is answered by one node alone", "a flush is answered by two nodes",
    "both part at once", "a resync is broken off twice before it ends", "a lane ends with writes under way",
    "a promotion is refused", "a verdict comes after the peer has returned", "a split brain is seen",
    "a link breaks while a flush waits", "one side sees late that the link has broken", "the network stalls",
    "requests overlap", "a request crosses two extents", "a request is not aligned to 4 KiB",
    "a durable write (FUA) is asked for", "a client goes while its requests are under way", "an error is answered",
    "a lane serves writes", "a lane serves a flush", "a service moves to the other node", "a clean restart",
    "a disk is replaced", "a disk marked as bad is synced again",
    "news of newer data comes too late", "I/O is resumed by an operator", "a witness lets a node go on alone",
)  # fmt: skip
"""What is told by whoever sees it."""

SITUATIONS: tuple[str, ...] = (
    *STEPS, *PACKETS.values(), *RULES.values(), *ERRORS.values(), *VERDICTS.values(), *DEATHS, *TOLD,
)  # fmt: skip


class Sightings:
    """What has been seen in one world."""

    def __init__(self, world: World) -> None:
        self.seen: Counter[str] = Counter()
        self._world = world
        self._states: dict[Machine, State] = {}
        self._broken_off: Counter[Machine] = Counter()

    def saw(self, situation: str) -> None:
        assert situation in _KNOWN, situation
        self.seen[situation] += 1

    def on_event(self, machine: Machine, event: Any) -> None:
        """A node has worked in an event."""
        if isinstance(event, Received):
            packet = event.batch.records[0].command
            if packet in PACKETS:
                self.seen[PACKETS[packet]] += 1
            if packet == Packet.P_CONN_ST_CHG_REQ and _parts(machine):
                self.saw("both part at once")
        elif isinstance(event, Done):
            if event.failed and machine.disks[0].failed_last and type(event.effect) in ERRORS:
                self.seen[ERRORS[type(event.effect)]] += 1
            if isinstance(event.effect, fx.RunHelper) and event.effect.name == "fence-peer":
                self._on_verdict(machine, event.effect.exit_code)
        elif isinstance(event, LaneEnded) and event.groups:
            self.saw("a lane ends with writes under way")
        node, volume = machine.node, machine.volume
        assert node is not None
        if node.gate.busy:
            self.saw("the activity log waits for the peer" if node.gate.starves(volume) else
                     "a write waits for the activity log")  # fmt: skip
        if volume.state is not self._states.get(machine):
            self._on_state(machine, self._states.get(machine, State()), volume.state)
            self._states[machine] = volume.state

    def _on_verdict(self, machine: Machine, code: int | None) -> None:
        if code in VERDICTS:
            self.seen[VERDICTS[code]] += 1
        if machine.volume.state.connected:
            self.saw("a verdict comes after the peer has returned")

    def _on_state(self, machine: Machine, old: State, new: State) -> None:
        other = self._world.other(machine)
        step = Step(machine, old, new, other.volume.state if other.node is not None else None)
        for name, holds in STEPS.items():
            if holds(step):
                self.seen[name] += 1
        if step.parted and old.conn in _TARGETS:
            self._broken_off[machine] += 1
            if self._broken_off[machine] == 2:
                self.saw("a resync is broken off twice before it ends")
        elif new.disk == DiskState.UpToDate:
            self._broken_off[machine] = 0

    def on_effect(self, machine: Machine, effect: Any) -> None:
        """A node asks for something."""
        state = machine.volume.state
        match effect:
            case fx.Log():
                rule = _RULE.search(effect.text)
                if rule is not None and rule[1] in RULES:
                    self.seen[RULES[rule[1]]] += 1
                if "Split-Brain" in effect.text:
                    self.saw("a split brain is seen")
            case fx.Reply():
                if state.role == Role.Primary and machine.volume.disk is None:
                    self.saw("a diskless Primary answers")
            case fx.DiskWrite() if state.conn == ConnState.SyncSource and machine.volume.disk:
                bitmap = machine.volume.disk.bitmap
                records = [effect.batch.records[index] for index in native.indices(effect.mask)]
                written = [record.offset // BIT_SIZE_BYTES for record in records if record.command == _NBD_WRITE]
                if any(map(bitmap.test, written)):
                    self.saw("a client writes what a resync has not reached")
            case fx.Answer() if str(effect.request).startswith("primary") and effect.code < 1:
                self.saw("a promotion is refused")

    def on_death(self, machine: Machine, *, power: bool) -> None:
        """A node is about to die."""
        for name, holds in DEATHS.items():
            if holds(machine):
                self.seen[name] += 1
        if power and machine.disks[0].unflushed:
            self.saw("power takes what was not flushed")
        self._states.pop(machine, None)

    def on_request(self, offset: int, length: int, *, fua: bool, overlaps: bool) -> None:
        """A client asks for something in the data area."""
        if overlaps:
            self.saw("requests overlap")
        if offset // EXTENT_SIZE_BYTES != (offset + length - 1) // EXTENT_SIZE_BYTES:
            self.saw("a request crosses two extents")
        if offset % BIT_SIZE_BYTES or length % BIT_SIZE_BYTES:
            self.saw("a request is not aligned to 4 KiB")
        if fua:
            self.saw("a durable write (FUA) is asked for")


_KNOWN = frozenset(SITUATIONS)
