"""What two nodes do when they meet: nothing, a resync in one direction, or part again (WIRE 7.2 and 7.3).

`decide` takes the verdict of the uuids through the rules in their order: unrelated data, a disk that can't be a source,
split brain with its policies, the operator's --discard-my-data, and what a Primary puts up with. Both nodes do it with
the same facts, so what one decides the other one decides mirrored; where they can't (a Primary that refuses to become
target), the one that gives up drops the link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, TypeAlias

from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.uuids import (
    NEEDS_FEATURE_WSAME,
    NEEDS_PROTOCOL_91,
    SPLIT_BRAIN,
    SPLIT_BRAIN_AMBIGUOUS,
    UNRELATED,
    Verdict,
)
from pydrbd.wire.packet_numbers import AfterSb

__all__ = [
    "Abort",
    "Decision",
    "NoSync",
    "Outcome",
    "Policies",
    "RrConflict",
    "Situation",
    "SyncSource",
    "SyncTarget",
    "decide",
]

RrConflict: TypeAlias = AfterSb
"""rr-conflict takes three of the same words: DISCONNECT, CALL_PRI_LOST_AFTER_SB (call-pri-lost), VIOLENTLY_AS0P."""

_UNDECIDED: Final = SPLIT_BRAIN_AMBIGUOUS
_RR_HELPER: Final = "pri-lost"
_SB_HELPER: Final = "pri-lost-after-sb"


@dataclass(frozen=True, slots=True)
class Policies:
    """The net options that settle conflicts."""

    after_sb_0pri: AfterSb = AfterSb.DISCONNECT
    after_sb_1pri: AfterSb = AfterSb.DISCONNECT
    after_sb_2pri: AfterSb = AfterSb.DISCONNECT
    rr_conflict: RrConflict = AfterSb.DISCONNECT
    always_asbp: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """What counts besides the uuids. The dirty bits are those that were told in P_UUIDS, mine too."""

    my_role: Role
    peer_role: Role
    my_disk: DiskState
    peer_disk: DiskState
    policies: Policies = Policies()
    planned_disk: DiskState | None = None
    """What my disk will be, if it is Negotiating."""
    my_dirty_bits: int = 0
    peer_dirty_bits: int = 0
    resolve_conflicts: bool = False
    discard_my_data: bool = False
    peer_discards_its_data: bool = False
    can_demote: bool = False
    """Whether I could become Secondary right now: no client holds the device."""
    dry_run: bool = False
    """Either node only wants to know."""

    @property
    def usable_disk(self) -> DiskState:
        """My disk as it counts for the direction."""
        if self.my_disk is DiskState.Negotiating and self.planned_disk is not None:
            return self.planned_disk
        return self.my_disk


@dataclass(frozen=True, slots=True)
class NoSync:
    conn: ClassVar = ConnState.Connected


@dataclass(frozen=True, slots=True)
class SyncSource:
    """full: all bits are set first, on both nodes."""

    full: bool
    conn: ClassVar = ConnState.WFBitMapS


@dataclass(frozen=True, slots=True)
class SyncTarget:
    full: bool
    conn: ClassVar = ConnState.WFBitMapT


@dataclass(frozen=True, slots=True)
class Abort:
    """No resync and no connection: StandAlone, or after a dry run just the end of this link."""

    reason: str
    dry_run: bool = False


Outcome: TypeAlias = NoSync | SyncSource | SyncTarget | Abort


@dataclass(frozen=True, slots=True)
class Decision:
    """outcome: what comes next; its `conn` is the next connection state unless it is Abort.

    helpers: names of the handlers to run, in order, whatever the outcome. demote: I give up the Primary role first.
    notes: what the log should say about the way there.
    """

    outcome: Outcome
    helpers: tuple[str, ...] = ()
    demote: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Result:
    """A result on its way through the policies."""

    result: int
    helpers: tuple[str, ...] = ()
    demote: bool = False
    notes: tuple[str, ...] = ()

    def noting(self, note: str) -> _Result:
        return replace(self, notes=(*self.notes, note))

    def calling(self, helper: str) -> _Result:
        return replace(self, helpers=(*self.helpers, helper))

    def decision(self, outcome: Outcome) -> Decision:
        return Decision(outcome, self.helpers, self.demote, self.notes)

    def abort(self, reason: str, s: Situation) -> Decision:
        return self.decision(Abort(reason, s.dry_run))


# ---- no node is Primary: whose changes go (WIRE 7.3) ----


def _tie(s: Situation) -> int:
    return -1 if s.resolve_conflicts else +1


def _zero_changes(v: Verdict, s: Situation) -> int:
    if s.my_dirty_bits == 0 and s.peer_dirty_bits == 0:
        return _tie(s)
    if s.peer_dirty_bits == 0:
        return +1
    return -1 if s.my_dirty_bits == 0 else _UNDECIDED


def _least_changes(v: Verdict, s: Situation) -> int:
    if s.my_dirty_bits == s.peer_dirty_bits:
        return _tie(s)
    return -1 if s.my_dirty_bits < s.peer_dirty_bits else +1


def _by_primary(v: Verdict, s: Situation, *, winner_was_primary: bool) -> int:
    """By who was Primary when the histories parted, which bit 0 of the bitmap uuid remembers.

    If that was both or neither, by changes. (A node without any has the fewest, so that case needs no step of its own.)
    """
    mine, peers = v.mine.bitmap & 1, v.peer.bitmap & 1
    if mine == peers:
        return _least_changes(v, s)
    return +1 if bool(mine) is winner_was_primary else -1


def _younger_primary(v: Verdict, s: Situation) -> int:
    return _by_primary(v, s, winner_was_primary=True)


def _older_primary(v: Verdict, s: Situation) -> int:
    return _by_primary(v, s, winner_was_primary=False)


_NO_PRIMARY: Final[Mapping[AfterSb, Callable[[Verdict, Situation], int]]] = {
    AfterSb.DISCARD_YOUNGER_PRIMARY: _younger_primary,
    AfterSb.DISCARD_OLDER_PRIMARY: _older_primary,
    AfterSb.DISCARD_ZERO_CHANGES: _zero_changes,
    AfterSb.DISCARD_LEAST_CHANGES: _least_changes,
    AfterSb.DISCARD_LOCAL: lambda v, s: -1,
    AfterSb.DISCARD_REMOTE: lambda v, s: +1,
}
"""after-sb-0pri; a value that is not here (disconnect, or a configuration error) decides nothing."""


def _no_primary(v: Verdict, s: Situation) -> int:
    policy = _NO_PRIMARY.get(s.policies.after_sb_0pri)
    return policy(v, s) if policy else _UNDECIDED


# ---- one or both are Primary ----


def _give_up_primary(so_far: _Result, wish: int, s: Situation) -> _Result:
    """call-pri-lost-after-sb: the Primary that loses demotes itself; if it can't, the handler is to reboot it."""
    if wish != -1 or s.my_role is not Role.Primary:
        return replace(so_far, result=wish)
    if s.can_demote:
        return replace(so_far, result=wish, demote=True).noting("gave up the Primary role")
    return replace(so_far, result=_UNDECIDED).calling(_SB_HELPER)


def _one_primary(so_far: _Result, v: Verdict, s: Situation) -> _Result:
    i_am_primary = s.my_role is Role.Primary
    match s.policies.after_sb_1pri:
        case AfterSb.CONSENSUS:
            wish = _no_primary(v, s)
            spares_primary = wish == (+1 if i_am_primary else -1)
            return replace(so_far, result=wish if spares_primary else _UNDECIDED)
        case AfterSb.VIOLENTLY_AS0P:
            return replace(so_far, result=_no_primary(v, s))
        case AfterSb.DISCARD_SECONDARY:
            return replace(so_far, result=+1 if i_am_primary else -1)
        case AfterSb.CALL_PRI_LOST_AFTER_SB:
            return _give_up_primary(so_far, _no_primary(v, s), s)
        case _:
            return replace(so_far, result=_UNDECIDED)


def _two_primaries(so_far: _Result, v: Verdict, s: Situation) -> _Result:
    match s.policies.after_sb_2pri:
        case AfterSb.VIOLENTLY_AS0P:
            return replace(so_far, result=_no_primary(v, s))
        case AfterSb.CALL_PRI_LOST_AFTER_SB:
            return _give_up_primary(so_far, _no_primary(v, s), s)
        case _:
            return replace(so_far, result=_UNDECIDED)


def _recover(so_far: _Result, v: Verdict, s: Situation) -> _Result:
    """The after-split-brain policy for as many Primaries as there are now."""
    was_ambiguous = so_far.result == SPLIT_BRAIN_AMBIGUOUS
    primary_count = (s.my_role, s.peer_role).count(Role.Primary)
    if primary_count == 0:
        recovered = replace(so_far, result=_no_primary(v, s))
    else:
        recovered = (_one_primary if primary_count == 1 else _two_primaries)(so_far, v, s)
    if recovered.result == _UNDECIDED:
        return recovered
    recovered = recovered.noting(f"split brain, {primary_count} Primaries: solved by policy")
    if was_ambiguous:
        return replace(recovered, result=2 * recovered.result).noting("full sync, because the uuids are ambiguous")
    return recovered


# ---- the whole decision ----

_NO_VERDICT: Final[Mapping[int, str]] = {
    UNRELATED: "the data of the two nodes is not related",
    NEEDS_PROTOCOL_91: "to resolve this both nodes need protocol 91 or later",
    NEEDS_FEATURE_WSAME: "to resolve this the peer needs a newer DRBD (feature WSAME)",
}


def _forced(result: int, s: Situation) -> int:
    """Inconsistent data is never a source: if one disk is and the other one is better, the direction is given."""
    mine, peers = s.usable_disk, s.peer_disk
    if DiskState.Inconsistent not in (mine, peers) or min(mine, peers) < DiskState.Inconsistent or mine is peers:
        return result
    full = result == SPLIT_BRAIN_AMBIGUOUS or abs(result) == 2
    return (+1 if mine > peers else -1) * (2 if full else 1)


def decide(verdict: Verdict, situation: Situation) -> Decision:
    """Whether and in which direction to resync, and if not, why the link must go."""
    s = situation
    if verdict.result in _NO_VERDICT:
        return _Result(verdict.result).abort(_NO_VERDICT[verdict.result], s)
    state = _Result(_forced(verdict.result, s))
    if abs(state.result) == SPLIT_BRAIN:
        state = state.calling("initial-split-brain")
    if state.result == SPLIT_BRAIN or (state.result == SPLIT_BRAIN_AMBIGUOUS and s.policies.always_asbp):
        state = _recover(state, verdict, s)
    if state.result == _UNDECIDED and s.discard_my_data is not s.peer_discards_its_data:
        state = replace(state, result=-1 if s.discard_my_data else +1).noting("split brain: solved by discard-my-data")
    if state.result == _UNDECIDED:
        return state.calling("split-brain").abort("split brain that no policy resolves", s)
    return _judge(state, s)


def _judge(state: _Result, s: Situation) -> Decision:
    """The objections against a direction that is clear."""
    result, full = state.result, abs(state.result) >= 2
    if result > 0 and s.usable_disk <= DiskState.Inconsistent:
        return state.abort("I should become SyncSource, but my data is Inconsistent", s)
    is_primary = s.my_role is Role.Primary and not state.demote
    if result < 0 and is_primary and s.my_disk >= DiskState.Consistent:
        if s.policies.rr_conflict is not AfterSb.VIOLENTLY_AS0P:
            if s.policies.rr_conflict is AfterSb.CALL_PRI_LOST_AFTER_SB:
                state = state.calling(_RR_HELPER)
            return state.abort("I should become SyncTarget, but I am Primary", s)
        state = state.noting("becoming SyncTarget while Primary: data changes under its users")
    if s.dry_run:
        direction = {+1: "SyncSource", -1: "SyncTarget", 0: "no resync"}[(result > 0) - (result < 0)]
        return state.abort(f"dry run: {direction}{', full' if full else ''}", s)
    if result == 0:
        return state.decision(NoSync())
    return state.decision(SyncSource(full) if result > 0 else SyncTarget(full))
