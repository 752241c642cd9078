"""Which states may follow which, and what a state implies: the tables of WIRE 5.2 to 5.4 and 6.

A wish (a `Change`) becomes a state in this order: apply it, `sanitize` the result, then `check_change` it against the
old state; `needs_peer` says whether the peer has to agree first. What happens without being asked for (a link breaks, a
disk fails) is sanitised and stored; only `check_connection` holds for it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from pydrbd.core.refusals import StateCode
from pydrbd.core.states import ConnState, DiskState, Role, State

__all__ = [
    "CLAMP",
    "CONN_FOLLOWERS",
    "VALIDITY",
    "Clamp",
    "Fencing",
    "Planned",
    "Rules",
    "check_change",
    "check_connection",
    "check_state",
    "check_transition",
    "needs_peer",
    "sanitize",
]


class Fencing(IntEnum):
    """The `fencing` policy of a resource."""

    DONT_CARE = 0
    RESOURCE_ONLY = 1
    RESOURCE_AND_STONITH = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration, and the world around a volume, say about its states."""

    allow_two_primaries: bool = False
    fencing: Fencing = Fencing.DONT_CARE
    needs_lease: bool = False
    """Without its peer a Primary has no quorum."""
    counts_disks: bool = False
    """For quorum a peer without a disk is as none."""
    on_no_data_suspend: bool = False
    verify_alg_set: bool = False
    opened: bool = False
    """A client has the device open (for writing), so it can't become Secondary."""
    other_volume_peer_primary: bool = False
    """The peer is Primary on another volume of the same connection."""
    handshake_in_flight: bool = False
    """My state went out in the handshake, and the peer's has not been answered: the two must not drift apart."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What a disk will be when it needn't negotiate: the result of attaching (META 2.3)."""

    disk: DiskState
    pdsk: DiskState


_NOT_LINKED: Final = (ConnState.Disconnecting, ConnState.Unconnected)
_ERRORS: Final = tuple(ConnState(number) for number in range(ConnState.Timeout, ConnState.WFConnection))
_UP: Final = tuple(ConnState(number) for number in range(ConnState.Connected, ConnState.Behind + 1))

CONN_FOLLOWERS: Final[Mapping[ConnState, frozenset[ConnState]]] = {
    ConnState.StandAlone: frozenset({ConnState.Unconnected}),
    ConnState.Disconnecting: frozenset({ConnState.StandAlone}),
    ConnState.Unconnected: frozenset({ConnState.Disconnecting, *_ERRORS, ConnState.WFConnection}),
    **{error: frozenset(_NOT_LINKED) for error in _ERRORS},
    ConnState.WFConnection: frozenset({*_NOT_LINKED, *_ERRORS, ConnState.WFReportParams}),
    ConnState.WFReportParams: frozenset({ConnState.Disconnecting, *_ERRORS, *_UP}),
    **{up: frozenset({ConnState.Disconnecting, *_ERRORS, *_UP}) - {up} for up in _UP},
}
"""Connection state -> those that may follow it (WIRE 5.2). A state is not in its own set."""


@dataclass(frozen=True, slots=True)
class Clamp:
    """The least and the greatest state of both disks under one connection state."""

    disk_least: DiskState
    disk_most: DiskState
    pdsk_least: DiskState
    pdsk_most: DiskState


_TARGET: Final = Clamp(DiskState.Inconsistent, DiskState.Outdated, DiskState.UpToDate, DiskState.UpToDate)
_SOURCE: Final = Clamp(DiskState.UpToDate, DiskState.UpToDate, DiskState.Inconsistent, DiskState.Consistent)
_VERIFY: Final = Clamp(DiskState.UpToDate, DiskState.UpToDate, DiskState.UpToDate, DiskState.UpToDate)

CLAMP: Final[Mapping[ConnState, Clamp]] = {
    ConnState.Connected: Clamp(DiskState.Diskless, DiskState.UpToDate, DiskState.Diskless, DiskState.UpToDate),
    ConnState.StartingSyncS: _SOURCE,
    ConnState.StartingSyncT: _TARGET,
    ConnState.WFBitMapS: _SOURCE,
    ConnState.WFBitMapT: _TARGET,
    ConnState.WFSyncUUID: _TARGET,
    ConnState.SyncSource: Clamp(DiskState.UpToDate, DiskState.UpToDate, DiskState.Inconsistent, DiskState.Inconsistent),
    ConnState.SyncTarget: Clamp(DiskState.Inconsistent, DiskState.Inconsistent, DiskState.UpToDate, DiskState.UpToDate),
    ConnState.VerifyS: _VERIFY,
    ConnState.VerifyT: _VERIFY,
    ConnState.PausedSyncS: _SOURCE,
    ConnState.PausedSyncT: _TARGET,
    ConnState.Ahead: _SOURCE,
    ConnState.Behind: _TARGET,
}
"""WIRE 5.3, step 5. Below Connected nothing is clamped."""

_PAUSED: Final[Mapping[ConnState, ConnState]] = {
    ConnState.SyncSource: ConnState.PausedSyncS,
    ConnState.SyncTarget: ConnState.PausedSyncT,
}
_RESUMED: Final[Mapping[ConnState, ConnState]] = {paused: running for running, paused in _PAUSED.items()}
_STARTING: Final = (ConnState.StartingSyncS, ConnState.StartingSyncT)
_VERIFYING: Final = (ConnState.VerifyS, ConnState.VerifyT)
_SERVING: Final = (ConnState.Connected, ConnState.WFBitMapS, ConnState.SyncSource, ConnState.PausedSyncS)
_KNOWN_WITHOUT_LINK: Final = (DiskState.Inconsistent, DiskState.Outdated, DiskState.DUnknown)
_AGED: Final = (DiskState.Consistent, DiskState.Outdated)


def _clamped(conn: ConnState, disk: DiskState, pdsk: DiskState) -> tuple[DiskState, DiskState]:
    clamp = CLAMP.get(conn)
    if clamp is None:
        return disk, pdsk
    return (
        max(clamp.disk_least, min(disk, clamp.disk_most)),
        max(clamp.pdsk_least, min(pdsk, clamp.pdsk_most)),
    )


def sanitize(old: State, new: State, rules: Rules, planned: Planned | None = None) -> State:
    """`new` with everything set that it implies (WIRE 5.3), to be stored after `old`.

    `planned`: what the disk was about to become while Negotiating, if it holds the data that was last seen by a user;
    None makes it Diskless when the link breaks first. Applying it again changes nothing.
    """
    conn, disk, pdsk, peer, peer_isp = new.conn, new.disk, new.pdsk, new.peer, new.peer_isp
    if conn < ConnState.Connected:
        peer, peer_isp = Role.Unknown, False
        if pdsk not in _KNOWN_WITHOUT_LINK:
            pdsk = DiskState.DUnknown
        if disk is DiskState.Negotiating:
            fallback = planned or Planned(DiskState.Diskless, DiskState.DUnknown)
            disk, pdsk = fallback.disk, fallback.pdsk
    elif conn > ConnState.Connected and min(disk, pdsk) <= DiskState.Failed:
        conn = ConnState.Connected  # no resync and no verify without both disks
        if disk <= DiskState.Failed and pdsk in _AGED:
            pdsk = DiskState.Outdated  # it was to be synced from the disk that we lose, and is not
    elif conn is ConnState.VerifyS and new.role is peer is Role.Primary:
        conn = ConnState.Connected  # both would hold what is looked at, and each wait for the other's writes
    if ConnState.Connected <= conn < ConnState.Ahead:
        # Unlike the kernel: a peer without a disk makes nobody's data newer, so Outdated stays Outdated beside it (C1).
        keeps_age = disk is DiskState.Outdated and pdsk < DiskState.Inconsistent
        peer_keeps_age = pdsk is DiskState.Outdated and disk < DiskState.Inconsistent and conn is ConnState.Connected
        disk = DiskState.UpToDate if disk in _AGED and not keeps_age else disk
        pdsk = DiskState.UpToDate if pdsk in _AGED and not peer_keeps_age else pdsk
    disk, pdsk = _clamped(conn, disk, pdsk)
    paused = new.aftr_isp or peer_isp or new.user_isp
    conn = (_PAUSED if paused else _RESUMED).get(conn, conn)
    # A paused resync allows more than a running one, so resuming needs the clamp of what it resumes to.
    disk, pdsk = _clamped(conn, disk, pdsk)
    implied = State(
        role=new.role, peer=peer, conn=conn, disk=disk, pdsk=pdsk, susp=new.susp, aftr_isp=new.aftr_isp,
        peer_isp=peer_isp, user_isp=new.user_isp, susp_nod=new.susp_nod, susp_fen=new.susp_fen,
    )  # fmt: skip
    return _frozen(old, implied, rules)


def _must_fence(state: State) -> bool:
    return state.role is Role.Primary and state.conn < ConnState.Connected and state.pdsk > DiskState.Outdated


def _lacks_company(state: State, rules: Rules) -> bool:
    is_gone = state.conn < ConnState.Connected or (rules.counts_disks and state.pdsk < DiskState.Inconsistent)
    return state.role is Role.Primary and is_gone and state.disk >= DiskState.Inconsistent


def _has_no_data(state: State) -> bool:
    return state.role is Role.Primary and max(state.disk, state.pdsk) < DiskState.UpToDate


def _frozen(old: State, new: State, rules: Rules) -> State:
    """`new` with I/O suspended if it *begins* to need it; resuming is somebody's explicit act (WIRE 5.3, step 6)."""
    fence = rules.fencing is Fencing.RESOURCE_AND_STONITH and _must_fence(new) and not _must_fence(old)
    fence = fence or (rules.needs_lease and _lacks_company(new, rules) and not _lacks_company(old, rules))
    starve = rules.on_no_data_suspend and _has_no_data(new) and not _has_no_data(old)
    if not fence and not starve:
        return new
    return replace(new, susp_fen=new.susp_fen or fence, susp_nod=new.susp_nod or starve)


@dataclass(frozen=True, slots=True)
class _Test:
    code: StateCode
    hits: Callable[[State, Rules], bool]


def _alone(state: State) -> bool:
    return state.role is Role.Primary and not state.connected


VALIDITY: Final[tuple[_Test, ...]] = (
    _Test(
        StateCode.SS_TWO_PRIMARIES,
        lambda s, r: s.role is Role.Primary and s.peer is Role.Primary and not r.allow_two_primaries,
    ),
    _Test(
        StateCode.SS_O_VOL_PEER_PRI,
        lambda s, r: s.role is Role.Primary and r.other_volume_peer_primary and not r.allow_two_primaries,
    ),
    _Test(StateCode.SS_DEVICE_IN_USE, lambda s, r: s.role is Role.Secondary and r.opened),
    _Test(StateCode.SS_NO_UP_TO_DATE_DISK, lambda s, r: _alone(s) and s.disk < DiskState.UpToDate),
    _Test(
        StateCode.SS_PRIMARY_NOP,
        lambda s, r: r.fencing > Fencing.DONT_CARE and _alone(s) and s.pdsk >= DiskState.DUnknown,
    ),
    _Test(
        StateCode.SS_NO_UP_TO_DATE_DISK,
        lambda s, r: s.role is Role.Primary and max(s.disk, s.pdsk) <= DiskState.Inconsistent,
    ),
    _Test(
        StateCode.SS_NO_LOCAL_DISK,
        lambda s, r: s.conn > ConnState.Connected and s.disk < DiskState.Inconsistent,
    ),
    _Test(
        StateCode.SS_NO_REMOTE_DISK,
        lambda s, r: s.conn > ConnState.Connected and s.pdsk < DiskState.Inconsistent,
    ),
    _Test(
        StateCode.SS_NO_UP_TO_DATE_DISK,
        lambda s, r: s.conn > ConnState.Connected and max(s.disk, s.pdsk) < DiskState.UpToDate,
    ),
    _Test(
        StateCode.SS_CONNECTED_OUTDATES,
        lambda s, r: s.disk is DiskState.Outdated and s.conn in _SERVING,
    ),
    _Test(StateCode.SS_NO_VERIFY_ALG, lambda s, r: s.conn in _VERIFYING and not r.verify_alg_set),
    _Test(StateCode.SS_NO_UP_TO_DATE_DISK, lambda s, r: _has_no_data(s)),
    _Test(
        StateCode.SS_NEED_CONNECTION,
        lambda s, r: s.conn in _STARTING and s.pdsk is DiskState.DUnknown,
    ),
    _Test(StateCode.SS_CONNECTED_OUTDATES, lambda s, r: s.connected and s.pdsk is DiskState.DUnknown),
)
"""What a state that somebody asks for must not be, the first hit counts (WIRE 5.4)."""


def check_state(state: State, rules: Rules) -> StateCode:
    """Whether a sanitised state may be asked for at all: SS_SUCCESS or the reason against it."""
    return next((test.code for test in VALIDITY if test.hits(state, rules)), StateCode.SS_SUCCESS)


def check_connection(old: ConnState, new: ConnState) -> StateCode:
    """Whether one connection state may follow another (WIRE 5.2); it holds for what just happens, too."""
    if old is new:
        return StateCode.SS_NOTHING_TO_DO
    if new in CONN_FOLLOWERS[old]:
        return StateCode.SS_SUCCESS
    if old is ConnState.StandAlone and new is ConnState.Disconnecting:
        return StateCode.SS_ALREADY_STANDALONE
    if old is ConnState.StandAlone or (new >= ConnState.Connected and old < ConnState.WFReportParams):
        return StateCode.SS_NEED_CONNECTION
    return StateCode.SS_IN_TRANSIENT_STATE


def check_transition(old: State, new: State, rules: Rules) -> StateCode:
    """Whether a wish may lead from `old` to `new`, as far as that depends on `old`."""
    if rules.handshake_in_flight and (new.conn is old.conn or new.role is not old.role) and new != old:
        return StateCode.SS_IN_TRANSIENT_STATE
    moves = new.conn is not old.conn
    if moves and new.conn in (*_STARTING, *_VERIFYING):
        if old.conn > ConnState.Connected:
            return StateCode.SS_RESYNC_RUNNING
        if old.conn < ConnState.Connected:
            return StateCode.SS_NEED_CONNECTION
    if moves and new.conn in _VERIFYING and min(old.disk, old.pdsk) < DiskState.UpToDate:
        return _why_no_verify(old)
    if moves and (code := check_connection(old.conn, new.conn)) is not StateCode.SS_SUCCESS:
        return code
    if old.disk is DiskState.Diskless and new.disk > DiskState.Attaching:
        return StateCode.SS_IS_DISKLESS
    if new.disk is DiskState.Outdated and old.disk < DiskState.Outdated and old.disk is not DiskState.Attaching:
        return StateCode.SS_LOWER_THAN_OUTDATED
    return StateCode.SS_SUCCESS if new != old else StateCode.SS_NOTHING_TO_DO


def _why_no_verify(old: State) -> StateCode:
    """Unlike the kernel, for which a verify makes both disks UpToDate: there must be good data to compare."""
    if old.disk < DiskState.Inconsistent:
        return StateCode.SS_NO_LOCAL_DISK
    return StateCode.SS_NO_REMOTE_DISK if old.pdsk < DiskState.Inconsistent else StateCode.SS_NO_UP_TO_DATE_DISK


def check_change(old: State, new: State, rules: Rules) -> StateCode:
    """The whole answer to a wish: may `old` become `new` (already sanitised)?

    A state that is refused for a reason that holds for the old state already is let through: an operator must be
    able to lead a node out of trouble step by step.
    """
    if new == old:
        return StateCode.SS_NOTHING_TO_DO
    if _has_no_data(new) and old.role is not Role.Primary:
        return StateCode.SS_NO_UP_TO_DATE_DISK  # no trouble that is there already excuses this
    code = check_state(new, rules)
    if code is not StateCode.SS_SUCCESS and check_state(old, rules) is not code:
        return code
    return check_transition(old, new, rules)


def needs_peer(old: State, new: State) -> bool:
    """Whether the peer has to agree before this wish comes true (WIRE 6); anything else is only announced."""
    if not old.connected:
        return False
    if new.conn is ConnState.Disconnecting:
        return True
    if old.conn is ConnState.Connected and new.conn is ConnState.VerifyS:
        return True
    return new.connected and (
        (new.role is Role.Primary and old.role is not Role.Primary)
        or (new.conn in _STARTING and new.conn is not old.conn)
        or (new.disk is DiskState.Failed and old.disk is not DiskState.Failed)
    )
