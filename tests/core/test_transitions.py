"""The tables of states: what a state implies, what follows what, what is refused and with which code."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from pydrbd.core.refusals import StateCode, decode_reply, refusal
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.core.transitions import (
    CLAMP,
    CONN_FOLLOWERS,
    VALIDITY,
    Fencing,
    Planned,
    Rules,
    check_change,
    check_connection,
    check_state,
    check_transition,
    needs_peer,
    sanitize,
)

C, D, R, SS = ConnState, DiskState, Role, StateCode
NO_RULES = Rules()
FENCED = Rules(fencing=Fencing.RESOURCE_AND_STONITH, on_no_data_suspend=True)


def connected(role="Secondary", peer="Secondary", disk="UpToDate", pdsk="UpToDate", conn="Connected", **flags):
    return State(R[role], R[peer], C[conn], D[disk], D[pdsk], **flags)


def every_state():
    """All combinations of the five enums: 17496 states, with and without a pause in turn."""
    grid = itertools.product(R, R, C, D, D)
    for index, (role, peer, conn, disk, pdsk) in enumerate(grid):
        yield State(role, peer, conn, disk, pdsk, user_isp=index % 2 == 1)


# ---- sanitize ----


@pytest.mark.parametrize("rules", [NO_RULES, FENCED], ids=["no rules", "fenced"])
def test_sanitized_state_is_its_own_sanitized_state_and_within_the_clamp(rules):
    """Every combination, twice: the second time changes nothing, and the clamp table holds."""
    old = State()
    for new in every_state():
        state = sanitize(old, new, rules)
        assert sanitize(old, state, rules) == state, new
        assert sanitize(state, state, rules) == state, new
        clamp = CLAMP.get(state.conn)
        if clamp:
            assert clamp.disk_least <= state.disk <= clamp.disk_most, new
            assert clamp.pdsk_least <= state.pdsk <= clamp.pdsk_most, new


def test_every_connection_state_from_connected_on_has_a_clamp():
    """And none below."""
    assert set(CLAMP) == {conn for conn in C if conn >= C.Connected}


def test_without_link_nothing_of_the_peer_is_known_but_a_bad_disk():
    """Below Connected: role Unknown, no peer pause; of its disk only that it was Inconsistent or Outdated."""
    for conn, pdsk in itertools.product([conn for conn in C if conn < C.Connected], D):
        lost = State(R.Primary, R.Primary, conn, D.UpToDate, pdsk, peer_isp=True)
        state = sanitize(lost, lost, NO_RULES)
        assert (state.peer, state.peer_isp) == (R.Unknown, False)
        assert state.pdsk is (pdsk if pdsk in (D.Inconsistent, D.Outdated) else D.DUnknown)


@pytest.mark.parametrize("lost", [D.Diskless, D.Attaching, D.Failed])
def test_resync_ends_when_a_disk_goes(lost):
    """conn above Connected needs two disks; the other disk's state stays."""
    source = connected(conn="SyncSource", pdsk="Inconsistent")
    assert sanitize(source, replace(source, disk=lost), NO_RULES) == replace(source, conn=C.Connected, disk=lost)
    assert sanitize(source, replace(source, pdsk=lost), NO_RULES) == replace(source, conn=C.Connected, pdsk=lost)


@pytest.mark.parametrize("conn", ["Ahead", "WFBitMapS", "PausedSyncS"])
@pytest.mark.parametrize("lost", [D.Diskless, D.Failed])
def test_a_peer_that_was_to_be_synced_from_a_lost_disk_stays_outdated(conn, lost):
    """Nothing makes it newer, now or with the next change."""
    source = connected("Primary", disk=lost.name, pdsk="Consistent", conn=conn)
    state = sanitize(source, source, NO_RULES)
    assert state == replace(source, conn=C.Connected, pdsk=D.Outdated)
    assert sanitize(state, replace(state, disk=D.Diskless), NO_RULES).pdsk is D.Outdated


def test_link_that_breaks_while_negotiating_falls_back_to_the_plan():
    """With the plan of the attach if the data is the known one, else the disk goes."""
    old = connected(conn="WFReportParams", disk="Negotiating")
    new = replace(old, conn=C.NetworkFailure)
    planned = sanitize(old, new, NO_RULES, Planned(D.Consistent, D.Outdated))
    assert (planned.disk, planned.pdsk) == (D.Consistent, D.Outdated)
    unknown = sanitize(old, new, NO_RULES)
    assert (unknown.disk, unknown.pdsk) == (D.Diskless, D.DUnknown)
    still_up = sanitize(old, replace(old, conn=C.Connected), NO_RULES)
    assert still_up.disk is D.Negotiating


@pytest.mark.parametrize("disk", [D.Consistent, D.Outdated])
def test_connecting_makes_doubtful_data_uptodate(disk):
    """Connected without a resync proves that both hold the same."""
    state = sanitize(State(), connected(disk=disk.name, pdsk=disk.name), NO_RULES)
    assert (state.disk, state.pdsk) == (D.UpToDate, D.UpToDate)


def test_peer_that_is_ahead_leaves_me_outdated():
    """Behind and Ahead are beyond the range in which doubts vanish."""
    behind = sanitize(State(), connected(conn="Behind"), NO_RULES)
    assert (behind.disk, behind.pdsk) == (D.Outdated, D.UpToDate)
    ahead = sanitize(State(), connected(conn="Ahead"), NO_RULES)
    assert (ahead.disk, ahead.pdsk) == (D.UpToDate, D.Consistent)
    assert sanitize(State(), connected(conn="Ahead", pdsk="Outdated"), NO_RULES).pdsk is D.Outdated


@pytest.mark.parametrize("pause", ["aftr_isp", "peer_isp", "user_isp"])
@pytest.mark.parametrize(("running", "paused"), [("SyncSource", "PausedSyncS"), ("SyncTarget", "PausedSyncT")])
def test_each_pause_stops_a_resync_and_the_last_one_gone_resumes_it(pause, running, paused):
    """The connection state follows the flags both ways; the disks of the running resync stay Inconsistent."""
    start = sanitize(State(), connected(conn=running), NO_RULES)
    stopped = sanitize(start, replace(start, **{pause: True}), NO_RULES)
    assert stopped == replace(start, conn=C[paused], **{pause: True})
    assert sanitize(stopped, replace(stopped, **{pause: False}), NO_RULES) == start


def test_resumed_target_is_inconsistent():
    """PausedSyncT may be Outdated, SyncTarget may not: one pass must do it."""
    paused = connected(conn="PausedSyncT", disk="Outdated")
    assert sanitize(paused, paused, NO_RULES).disk is D.Inconsistent


@pytest.mark.parametrize("fencing", Fencing)
def test_primary_that_loses_its_peer_freezes_only_with_stonith(fencing):
    """And only when the peer's disk was not known to be bad."""
    rules = Rules(fencing=fencing)
    old = connected(role="Primary")
    lost = sanitize(old, replace(old, conn=C.NetworkFailure), rules)
    assert lost.susp_fen is (fencing is Fencing.RESOURCE_AND_STONITH)
    bad_peer = replace(old, pdsk=D.Inconsistent, conn=C.SyncSource)
    assert not sanitize(bad_peer, replace(bad_peer, conn=C.NetworkFailure), rules).susp_fen
    secondary = replace(old, role=R.Secondary)
    assert not sanitize(secondary, replace(secondary, conn=C.NetworkFailure), rules).susp_fen


def test_freezing_happens_once():
    """After somebody resumed I/O, other changes of the same lonely Primary don't freeze it again."""
    old = connected(role="Primary")
    resumed = replace(sanitize(old, replace(old, conn=C.Timeout), FENCED), susp_fen=False)
    assert not sanitize(resumed, replace(resumed, conn=C.Unconnected), FENCED).susp_fen


@pytest.mark.parametrize("suspend", [False, True])
def test_primary_without_data_freezes_if_told_so(suspend):
    """on-no-data suspend-io: neither disk UpToDate; once."""
    rules = Rules(on_no_data_suspend=suspend)
    old = connected(role="Primary", disk="Diskless")
    lost = sanitize(old, replace(old, conn=C.BrokenPipe), rules)
    assert lost.susp_nod is suspend
    resumed = replace(lost, susp_nod=False)
    assert not sanitize(resumed, replace(resumed, conn=C.Unconnected), rules).susp_nod
    kept = connected(role="Primary", disk="UpToDate")
    assert not sanitize(kept, replace(kept, conn=C.BrokenPipe), rules).susp_nod


# ---- connection states ----


def test_legal_connection_transitions_are_those_of_the_specification():
    """All 24 x 24 pairs against the sentences of WIRE 5.2, said in another way than the table."""
    errors = {C.Timeout, C.BrokenPipe, C.NetworkFailure, C.ProtocolError, C.TearDown}
    for old, new in itertools.product(C, C):
        if old is new:
            legal = False
        elif old is C.StandAlone:
            legal = new is C.Unconnected
        elif old is C.Disconnecting:
            legal = new is C.StandAlone
        elif old in errors:
            legal = new in (C.Unconnected, C.Disconnecting)
        elif new is C.Disconnecting or new in errors:
            legal = True
        elif old is C.Unconnected:
            legal = new is C.WFConnection
        elif old is C.WFConnection:
            legal = new in (C.Unconnected, C.WFReportParams)
        else:
            legal = new >= C.Connected
        assert (new in CONN_FOLLOWERS[old]) is legal, (old, new)
        assert (check_connection(old, new) is SS.SS_SUCCESS) is legal, (old, new)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("StandAlone", "Disconnecting", SS.SS_ALREADY_STANDALONE),
        ("StandAlone", "WFConnection", SS.SS_NEED_CONNECTION),
        ("WFConnection", "SyncSource", SS.SS_NEED_CONNECTION),
        ("Disconnecting", "Unconnected", SS.SS_IN_TRANSIENT_STATE),
        ("NetworkFailure", "Timeout", SS.SS_IN_TRANSIENT_STATE),
        ("Connected", "StandAlone", SS.SS_IN_TRANSIENT_STATE),
        ("Connected", "Connected", SS.SS_NOTHING_TO_DO),
    ],
)
def test_illegal_connection_transitions_say_why(old, new, code):
    """The code that the operator or the peer gets."""
    assert check_connection(C[old], C[new]) is code


def test_every_connection_state_can_be_left_and_reached():
    """No dead end, and StandAlone is reached from everywhere."""
    for start in C:
        seen, todo = {start}, [start]
        while todo:
            fresh = CONN_FOLLOWERS[todo.pop()] - seen
            seen |= fresh
            todo += fresh
        assert seen == set(C), start


# ---- refusals ----

REFUSED = [
    (SS.SS_TWO_PRIMARIES, connected("Primary", "Primary"), NO_RULES),
    (SS.SS_O_VOL_PEER_PRI, connected("Primary"), Rules(other_volume_peer_primary=True)),
    (SS.SS_DEVICE_IN_USE, connected("Secondary"), Rules(opened=True)),
    (SS.SS_NO_UP_TO_DATE_DISK, State(R.Primary, disk=D.Outdated, conn=C.WFConnection), NO_RULES),
    (SS.SS_PRIMARY_NOP, State(R.Primary, disk=D.UpToDate), Rules(fencing=Fencing.RESOURCE_ONLY)),
    (SS.SS_NO_UP_TO_DATE_DISK, connected("Primary", disk="Inconsistent", pdsk="Inconsistent"), NO_RULES),
    (SS.SS_NO_LOCAL_DISK, connected(conn="SyncSource", disk="Negotiating"), NO_RULES),
    (SS.SS_NO_REMOTE_DISK, connected(conn="SyncSource", pdsk="Diskless"), NO_RULES),
    (SS.SS_NO_UP_TO_DATE_DISK, connected(conn="SyncSource", disk="Inconsistent", pdsk="Inconsistent"), NO_RULES),
    (SS.SS_CONNECTED_OUTDATES, connected(disk="Outdated"), NO_RULES),
    (SS.SS_NO_VERIFY_ALG, connected(conn="VerifyS"), NO_RULES),
    (SS.SS_NO_UP_TO_DATE_DISK, connected("Primary", disk="Consistent", pdsk="Consistent"), NO_RULES),
    (SS.SS_NEED_CONNECTION, connected(conn="StartingSyncS", pdsk="DUnknown"), Rules(verify_alg_set=True)),
    (SS.SS_CONNECTED_OUTDATES, connected(pdsk="DUnknown"), NO_RULES),
]


@pytest.mark.parametrize("row", range(len(REFUSED)))
def test_each_validity_test_is_the_first_to_hit_its_case(row):
    """One state per row of the table, refused by that row and by none above it."""
    code, state, rules = REFUSED[row]
    assert [test.hits(state, rules) for test in VALIDITY].index(True) == row
    assert VALIDITY[row].code is code
    assert check_state(state, rules) is code


def test_every_validity_test_has_a_case():
    """A new row of the table needs a new case."""
    assert len(REFUSED) == len(VALIDITY)


@pytest.mark.parametrize(
    ("state", "rules"),
    [
        (connected("Primary"), Rules(opened=True, fencing=Fencing.RESOURCE_AND_STONITH)),
        (connected("Primary", "Primary"), Rules(allow_two_primaries=True, other_volume_peer_primary=True)),
        (State(R.Primary, disk=D.UpToDate), NO_RULES),
        (State(R.Primary, disk=D.UpToDate, pdsk=D.Outdated), Rules(fencing=Fencing.RESOURCE_AND_STONITH)),
        (connected("Primary", disk="Diskless"), NO_RULES),
        (connected(conn="VerifyS"), Rules(verify_alg_set=True)),
        (State(), NO_RULES),
    ],
)
def test_useful_states_are_allowed(state, rules):
    """The life of a cluster: serving, two Primaries by config, alone, alone after fencing, diskless, verify, idle."""
    assert check_state(state, rules) is SS.SS_SUCCESS


def test_stale_data_is_never_promoted():
    """Every sanitised state that passes as Primary has UpToDate data at hand, and a fenced peer if fencing is on."""
    rules = Rules(fencing=Fencing.RESOURCE_AND_STONITH)
    for new in every_state():
        state = sanitize(State(), replace(new, role=R.Primary), rules)
        if check_state(state, rules) is not SS.SS_SUCCESS:
            continue
        assert D.UpToDate in ((state.disk, state.pdsk) if state.connected else (state.disk,)), new
        assert state.connected or state.pdsk < D.DUnknown, new
        assert state.peer is not R.Primary, new


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (connected(conn="SyncSource", pdsk="Inconsistent"), {"conn": C.StartingSyncT}, SS.SS_RESYNC_RUNNING),
        (connected(conn="SyncSource", pdsk="Inconsistent"), {"conn": C.VerifyS}, SS.SS_RESYNC_RUNNING),
        (State(conn=C.WFConnection), {"conn": C.StartingSyncS}, SS.SS_NEED_CONNECTION),
        (State(), {"conn": C.VerifyS}, SS.SS_NEED_CONNECTION),
        (State(), {"conn": C.Disconnecting}, SS.SS_ALREADY_STANDALONE),
        (State(), {"disk": D.Failed}, SS.SS_IS_DISKLESS),
        (State(), {"disk": D.UpToDate}, SS.SS_IS_DISKLESS),
        (State(), {"disk": D.Attaching}, SS.SS_SUCCESS),
        (State(disk=D.Inconsistent), {"disk": D.Outdated}, SS.SS_LOWER_THAN_OUTDATED),
        (State(disk=D.Attaching), {"disk": D.Outdated}, SS.SS_SUCCESS),
        (State(disk=D.UpToDate), {"disk": D.Outdated}, SS.SS_SUCCESS),
        (State(disk=D.UpToDate), {}, SS.SS_NOTHING_TO_DO),
        (connected(), {"conn": C.VerifyS}, SS.SS_SUCCESS),
        (connected(), {"conn": C.StartingSyncS}, SS.SS_SUCCESS),
    ],
)
def test_refusals_that_depend_on_the_old_state(old, new, code):
    """One case per sentence of the last paragraph of WIRE 5.4."""
    assert check_transition(old, replace(old, **new), NO_RULES) is code


def test_during_the_handshake_only_the_connection_moves():
    """Promotion, detach and pause wait (retry); the handshake itself and giving up go on."""
    rules = Rules(handshake_in_flight=True)
    old = connected(conn="WFReportParams", peer="Unknown", pdsk="DUnknown")
    for change in (
        {"role": R.Primary},
        {"disk": D.Failed},
        {"user_isp": True},
        {"role": R.Primary, "conn": C.Connected},
    ):
        assert check_transition(old, replace(old, **change), rules) is SS.SS_IN_TRANSIENT_STATE
    for conn in (C.Connected, C.WFBitMapS, C.Disconnecting):
        assert check_transition(old, replace(old, conn=conn, pdsk=D.UpToDate), rules) is SS.SS_SUCCESS
    assert check_transition(old, replace(old, role=R.Primary), NO_RULES) is SS.SS_SUCCESS


def test_a_bad_state_may_change_if_it_does_not_become_bad_in_a_new_way():
    """A Primary whose peer is lost and not fenced may be paused, and demoted, but not lose its disk."""
    rules = Rules(fencing=Fencing.RESOURCE_ONLY)
    lonely = State(R.Primary, R.Unknown, C.WFConnection, D.UpToDate, D.DUnknown)
    assert check_state(lonely, rules) is SS.SS_PRIMARY_NOP
    assert check_change(lonely, replace(lonely, user_isp=True), rules) is SS.SS_SUCCESS
    assert check_change(lonely, replace(lonely, role=R.Secondary), rules) is SS.SS_SUCCESS
    assert check_change(lonely, replace(lonely, disk=D.Failed), rules) is SS.SS_NO_UP_TO_DATE_DISK
    assert check_change(lonely, lonely, rules) is SS.SS_NOTHING_TO_DO
    assert check_change(replace(lonely, role=R.Secondary), lonely, rules) is SS.SS_PRIMARY_NOP


# ---- the peer's consent ----


@pytest.mark.parametrize(
    ("old", "change", "needed"),
    [
        (connected(), {"role": R.Primary}, True),
        (connected("Primary"), {"role": R.Secondary}, False),
        (connected(), {"conn": C.StartingSyncS}, True),
        (connected(), {"conn": C.StartingSyncT}, True),
        (connected(), {"conn": C.VerifyS}, True),
        (connected(), {"conn": C.VerifyT}, False),
        (connected(), {"disk": D.Failed}, True),
        (connected(disk="Failed"), {"disk": D.Diskless}, False),
        (connected(), {"conn": C.Disconnecting}, True),
        (connected(conn="SyncSource", pdsk="Inconsistent"), {"conn": C.Disconnecting}, True),
        (connected(), {"conn": C.NetworkFailure}, False),
        (connected(), {"user_isp": True}, False),
        (connected("Primary", conn="StartingSyncS"), {"conn": C.SyncSource}, False),
        (State(conn=C.WFConnection, disk=D.UpToDate), {"role": R.Primary}, False),
        (State(conn=C.WFConnection, disk=D.UpToDate), {"conn": C.Disconnecting}, False),
        (State(conn=C.WFConnection, disk=D.UpToDate), {"disk": D.Failed}, False),
    ],
)
def test_changes_that_the_peer_must_grant(old, change, needed):
    """The list of WIRE 6, and what is only announced."""
    assert needs_peer(old, replace(old, **change)) is needed


# ---- codes and words ----


def test_every_code_has_words_and_a_number():
    """Numbers are the protocol's (-25 is DRBD 9's); each has a message, and a refusal carries both."""
    assert {int(code) for code in SS} == set(range(-21, 3)) - {-3} | {-25}
    for code in SS:
        assert code.message
        assert code.granted is (code >= 1)
    error = refusal(SS.SS_NO_UP_TO_DATE_DISK)
    assert (error.code, str(error)) == (-2, "State change failed: (-2) Need access to UpToDate data")


@pytest.mark.parametrize(
    ("number", "code"),
    [(1, SS.SS_SUCCESS), (2, SS.SS_NOTHING_TO_DO), (4, SS.SS_SUCCESS), (-1, SS.SS_TWO_PRIMARIES),
     (0, SS.SS_UNKNOWN_ERROR), (-3, SS.SS_CW_FAILED_BY_PEER), (-99, SS.SS_CW_FAILED_BY_PEER)],
)  # fmt: skip
def test_reply_codes_that_we_do_not_know_still_grant_or_refuse(number, code):
    """1 and up is yes, anything else no."""
    assert decode_reply(number) is code
