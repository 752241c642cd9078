"""Generation uuids: which node's data descends from whose, and how the uuids turn over (WIRE 7.1 and 8).

A set names the data that a disk holds (`current`), the data that the bitmap is relative to (`bitmap`, 0: the bitmap
means nothing), and the two generations before. Bit 0 of `current` says that the node is Primary; it moves to `bitmap`
with the rest when current turns over, and every comparison ignores it.

The comparison is three tables, read from the top; the first row that holds decides. Both nodes walk them with the same
facts from opposite sides, and for every set that can come about they reach opposite results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from pydrbd.core.states import Role
from pydrbd.wire.packet_numbers import UuidFlag
from pydrbd.wire.packets import Uuids

__all__ = [
    "JUST_CREATED",
    "NEEDS_FEATURE_WSAME",
    "NEEDS_PROTOCOL_91",
    "OFF",
    "SPLIT_BRAIN",
    "SPLIT_BRAIN_AMBIGUOUS",
    "UNRELATED",
    "PeerUuids",
    "UuidSet",
    "Verdict",
    "adopt_skipped_sync",
    "clear_bitmap_uuid",
    "compare",
    "finish_sync_source",
    "finish_sync_target",
    "new_current",
    "new_current_by_operator",
    "set_primary_bit",
    "start_sync_source",
    "start_sync_target",
]

OFF: Final = 0x0001_0000_0000_0000
"""What a sync uuid is above the bitmap uuid that it replaces."""

JUST_CREATED: Final = 4
"""The current uuid of meta-data that was never part of anything."""

SPLIT_BRAIN: Final = 100
SPLIT_BRAIN_AMBIGUOUS: Final = -100
UNRELATED: Final = -1000
NEEDS_PROTOCOL_91: Final = -1091
NEEDS_FEATURE_WSAME: Final = -1100

_WORD: Final = 2**64 - 1
_PRIMARY_BIT: Final = 1
_NO_FLAGS: Final = UuidFlag(0)


@dataclass(frozen=True, slots=True)
class UuidSet:
    """The four generation uuids of one disk: 64-bit numbers, 0 for none."""

    current: int = JUST_CREATED
    bitmap: int = 0
    history0: int = 0
    history1: int = 0

    def masked(self) -> UuidSet:
        """Without the Primary bits, ready to be compared."""
        mask = _WORD - _PRIMARY_BIT
        return UuidSet(self.current & mask, self.bitmap & mask, self.history0 & mask, self.history1 & mask)

    def __str__(self) -> str:
        """Four numbers of 16 hex digits with colons between, as `drbdadm show-gi` prints."""
        return f"{self.current:016X}:{self.bitmap:016X}:{self.history0:016X}:{self.history1:016X}"


@dataclass(frozen=True, slots=True)
class PeerUuids:
    """What a node tells of itself in P_UUIDS."""

    set: UuidSet
    dirty_bits: int
    flags: UuidFlag = _NO_FLAGS

    @classmethod
    def from_packet(cls, packet: Uuids) -> PeerUuids:
        generations = UuidSet(packet.current, packet.bitmap, packet.history_0, packet.history_1)
        return cls(generations, packet.dirty_bits, UuidFlag(packet.flags))

    def packet(self) -> Uuids:
        s = self.set
        return Uuids(s.current, s.bitmap, s.history0, s.history1, self.dirty_bits, int(self.flags))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a comparison.

    result: 0 no resync; +1/-1 I am source/target of a resync by bitmap; +2/-2 of a full one; SPLIT_BRAIN;
    SPLIT_BRAIN_AMBIGUOUS; UNRELATED; NEEDS_...: the rule that fits can't be used with this peer.
    rule: the kernel's number of the rule that decided; 0 if none did.
    mine, peer: both sets after the corrections that belong to the rule; mine has to be persisted if it changed.
    """

    result: int
    rule: int
    mine: UuidSet
    peer: UuidSet


@dataclass(frozen=True, slots=True)
class _Facts:
    """All that the rules may look at. s: mine, p: the peer's, both masked."""

    s: UuidSet
    p: UuidSet
    i_have_bitmap: bool
    peer_has_bitmap: bool
    i_crashed: bool
    peer_crashed: bool
    i_am_primary: bool
    peer_is_primary: bool
    resolve_conflicts: bool
    apv: int

    @property
    def only_i_have_bitmap(self) -> bool:
        return self.i_have_bitmap and not self.peer_has_bitmap

    @property
    def only_peer_has_bitmap(self) -> bool:
        return self.peer_has_bitmap and not self.i_have_bitmap

    @property
    def crashed(self) -> bool:
        return self.i_crashed or self.peer_crashed

    @property
    def primaries(self) -> tuple[bool, bool]:
        return self.i_am_primary, self.peer_is_primary

    @property
    def sync_uuid_lost_by_me(self) -> bool:
        """The peer began a resync as source, and its sync uuid never reached me."""
        if self.apv < 96:
            return self.s.history0 == self.p.history1
        return (self.p.history0 + OFF) & _WORD == self.p.bitmap

    @property
    def sync_uuid_lost_by_peer(self) -> bool:
        if self.apv < 96:
            return self.s.history1 == self.p.history0
        return (self.s.history0 + OFF) & _WORD == self.s.bitmap


def _keep(uuids: UuidSet) -> UuidSet:
    return uuids


def clear_bitmap_uuid(uuids: UuidSet) -> UuidSet:
    """The bitmap uuid, if there is one, becomes the younger history."""
    if uuids.bitmap == 0:
        return uuids
    return replace(uuids, bitmap=0, history0=uuids.bitmap, history1=uuids.history0)


def _undo_sync_start(uuids: UuidSet) -> UuidSet:
    """Before the resync whose sync uuid was lost, the bitmap uuid was what is the younger history now."""
    return replace(uuids, bitmap=uuids.history0, history0=uuids.history1)


@dataclass(frozen=True, slots=True)
class _Rule:
    number: int
    holds: Callable[[_Facts], bool]
    result: int
    repair_mine: Callable[[UuidSet], UuidSet] = _keep
    repair_peer: Callable[[UuidSet], UuidSet] = _keep
    least_apv: int = 0
    needs_wsame: bool = False


_FRESH_RULES: Final = (
    _Rule(10, lambda f: f.s.current == JUST_CREATED == f.p.current, 0),
    _Rule(20, lambda f: f.s.current in (JUST_CREATED, 0) and f.p.current != JUST_CREATED, -2),
    _Rule(30, lambda f: f.s.current != JUST_CREATED and f.p.current in (JUST_CREATED, 0), +2),
)

_EQUAL_RULES: Final = (
    # 34: I was source and missed the end of the resync. 35: the peer was, and did.
    _Rule(
        34,
        lambda f: f.only_i_have_bitmap and f.s.bitmap == f.p.history0 and f.s.history0 == f.p.history1,
        +1,
        repair_mine=clear_bitmap_uuid,
        least_apv=91,
    ),
    _Rule(36, lambda f: f.only_i_have_bitmap, +1, least_apv=91),
    _Rule(
        35,
        lambda f: f.only_peer_has_bitmap and f.s.history0 == f.p.bitmap and f.s.history1 == f.p.history0,
        -1,
        repair_peer=clear_bitmap_uuid,
        least_apv=91,
    ),
    _Rule(37, lambda f: f.only_peer_has_bitmap, -1, least_apv=91),
    # 40, 41: the same generation on both; whoever wrote when it crashed may have what the other one lacks.
    _Rule(40, lambda f: not f.crashed, 0),
    _Rule(41, lambda f: f.primaries == (True, True), SPLIT_BRAIN_AMBIGUOUS, needs_wsame=True),
    _Rule(41, lambda f: f.primaries == (True, False), +1, needs_wsame=True),
    _Rule(41, lambda f: f.primaries == (False, True), -1, needs_wsame=True),
    _Rule(40, lambda f: not f.peer_crashed, +1),
    _Rule(40, lambda f: not f.i_crashed, -1),
    _Rule(40, lambda f: f.resolve_conflicts, -1),
    _Rule(40, lambda f: True, +1),
)

_DIFFERENT_RULES: Final = (
    _Rule(50, lambda f: f.s.current == f.p.bitmap, -1),
    _Rule(
        51,
        lambda f: f.s.current == f.p.history0 and f.sync_uuid_lost_by_me,
        -1,
        repair_peer=_undo_sync_start,
        least_apv=91,
    ),
    _Rule(60, lambda f: f.s.current in (f.p.history0, f.p.history1), -2),
    _Rule(70, lambda f: f.s.bitmap == f.p.current, +1),
    _Rule(
        71,
        lambda f: f.s.history0 == f.p.current and f.sync_uuid_lost_by_peer,
        +1,
        repair_mine=_undo_sync_start,
        least_apv=91,
    ),
    _Rule(80, lambda f: f.p.current in (f.s.history0, f.s.history1), +2),
    _Rule(90, lambda f: f.s.bitmap == f.p.bitmap != 0, SPLIT_BRAIN),
    # An empty history equals an empty history: young nodes count as related rather than as strangers.
    _Rule(
        100,
        lambda f: bool({f.s.history0, f.s.history1} & {f.p.history0, f.p.history1}),
        SPLIT_BRAIN_AMBIGUOUS,
    ),
    _Rule(0, lambda f: True, UNRELATED),
)


def compare(
    mine: UuidSet,
    peer: UuidSet,
    *,
    i_crashed: bool,
    peer_crashed: bool,
    my_role: Role,
    peer_role: Role,
    resolve_conflicts: bool,
    apv: int,
    features_wsame: bool,
) -> Verdict:
    """Whose data is newer: the whole of WIRE 7.1, seen from my side.

    i_crashed: my own crashed-primary flag; peer_crashed: the peer's, from its P_UUIDS.
    """
    facts = _Facts(
        s=mine.masked(),
        p=peer.masked(),
        i_have_bitmap=mine.bitmap != 0,
        peer_has_bitmap=peer.bitmap != 0,
        i_crashed=i_crashed,
        peer_crashed=peer_crashed,
        i_am_primary=my_role is Role.Primary,
        peer_is_primary=peer_role is Role.Primary,
        resolve_conflicts=resolve_conflicts,
        apv=apv,
    )
    known = _EQUAL_RULES if facts.s.current == facts.p.current else _DIFFERENT_RULES
    rule = next(rule for rule in _FRESH_RULES + known if rule.holds(facts))
    if apv < rule.least_apv:
        return Verdict(NEEDS_PROTOCOL_91, rule.number, mine, peer)
    if rule.needs_wsame and not features_wsame:
        return Verdict(NEEDS_FEATURE_WSAME, rule.number, mine, peer)
    return Verdict(rule.result, rule.number, rule.repair_mine(mine), rule.repair_peer(peer))


def set_primary_bit(uuids: UuidSet, primary: bool) -> UuidSet:
    """Bit 0 of the current uuid follows the role."""
    return replace(uuids, current=(uuids.current & ~_PRIMARY_BIT) | primary)


def new_current(uuids: UuidSet, random: int, primary: bool) -> UuidSet:
    """A new generation of data begins here: current moves to the bitmap uuid with its Primary bit.

    random: 64 bits. A bitmap uuid that is still there is lost; the caller warns about it.
    """
    assert 0 <= random <= _WORD
    return set_primary_bit(replace(uuids, current=random, bitmap=uuids.current), primary)


def new_current_by_operator(uuids: UuidSet, random: int, primary: bool) -> UuidSet:
    """`new-current-uuid`: like new_current, but a bitmap uuid goes to the history first.

    After `--clear-bitmap` while Connected (both nodes just created), P_UUIDS with SKIP_INITIAL_SYNC announces the
    result; then the sender forgets the bitmap uuid: `adopt_skipped_sync(mine, mine.current, primary)`.
    """
    return new_current(clear_bitmap_uuid(uuids), random, primary)


def adopt_skipped_sync(uuids: UuidSet, current: int, primary: bool) -> UuidSet:
    """Both disks are declared equal (SKIP_INITIAL_SYNC): take the sender's current, forget the bitmap uuid."""
    return set_primary_bit(replace(uuids, current=current, bitmap=0), primary)


def start_sync_source(uuids: UuidSet, random: int) -> tuple[UuidSet, int]:
    """A resync starts with me as source: (my set, the sync uuid to persist and then to send in P_SYNC_UUID)."""
    assert 0 <= random <= _WORD
    sync_uuid = random if uuids.bitmap in (0, JUST_CREATED) else (uuids.bitmap + OFF) & _WORD
    return replace(clear_bitmap_uuid(uuids), bitmap=sync_uuid), sync_uuid


def start_sync_target(uuids: UuidSet, sync_uuid: int, primary: bool) -> UuidSet:
    """P_SYNC_UUID came: until the end of the resync my data is neither the old nor the new generation."""
    return set_primary_bit(replace(uuids, current=sync_uuid, bitmap=0), primary)


def finish_sync_target(uuids: UuidSet, peer: UuidSet, primary: bool) -> UuidSet:
    """The resync is complete, no block failed. peer: its set from before the resync. Both sets are equal now."""
    past = clear_bitmap_uuid(peer)
    done = clear_bitmap_uuid(replace(past, bitmap=uuids.current))
    return set_primary_bit(done, primary)


def finish_sync_source(uuids: UuidSet) -> UuidSet:
    """The target has everything: the sync uuid is history."""
    return clear_bitmap_uuid(uuids)
