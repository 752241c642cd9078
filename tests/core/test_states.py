"""The state word: every field in its place, nothing undefined accepted, requests turned to the other side's view."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd.core.states import Change, ConnState, DiskState, Role, State, connection_text, replication_text
from pydrbd.errors import PeerProtocolError

STATES = st.builds(
    State,
    role=st.sampled_from(Role),
    peer=st.sampled_from(Role),
    conn=st.sampled_from(ConnState),
    disk=st.sampled_from(DiskState),
    pdsk=st.sampled_from(DiskState),
    **{name: st.booleans() for name in ("susp", "aftr_isp", "peer_isp", "user_isp", "susp_nod", "susp_fen")},
)


def test_word_is_the_one_that_the_kernel_sends():
    """The specification's vector: Connected Primary/Secondary UpToDate/UpToDate."""
    state = State(Role.Primary, Role.Secondary, ConnState.Connected, DiskState.UpToDate, DiskState.UpToDate)
    assert state.encode() == 0x000110A9
    assert State.decode(0x000110A9) == state


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("role", Role.Secondary, 2),
        ("peer", Role.Secondary, 2 << 2),
        ("conn", ConnState.Behind, 23 << 4),
        ("disk", DiskState.UpToDate, 8 << 9),
        ("pdsk", DiskState.UpToDate, 8 << 13),
        ("susp", True, 1 << 17),
        ("aftr_isp", True, 1 << 18),
        ("peer_isp", True, 1 << 19),
        ("user_isp", True, 1 << 20),
        ("susp_nod", True, 1 << 21),
        ("susp_fen", True, 1 << 22),
    ],
)
def test_each_field_has_its_own_bits(name, value, word):
    """One field at a time against the table of WIRE 5.1, in a State and in a Change."""
    zero = State.decode(0)
    assert State.decode(word).encode() == word
    assert getattr(State.decode(word), name) == value
    assert Change(**{name: value}).apply(zero) == State.decode(word)
    mask, wanted = Change(**{name: value}).encode()
    assert wanted == word
    assert mask & word == word


@given(STATES)
def test_word_survives_the_round_trip(state):
    """decode undoes encode, and no bit above 22 is used."""
    assert State.decode(state.encode()) == state
    assert state.encode() < 1 << 23


@pytest.mark.parametrize(
    ("shift", "defined", "width"),
    [(0, Role, 2), (2, Role, 2), (4, ConnState, 5), (9, DiskState, 4), (13, DiskState, 4)],
)
def test_undefined_numbers_are_the_peers_fault(shift, defined, width):
    """Every number of every field: either it has a name, or decoding blames the peer."""
    for number in range(1 << width):
        if number in {int(member) for member in defined}:
            State.decode(number << shift)
        else:
            with pytest.raises(PeerProtocolError):
                State.decode(number << shift)


def test_spare_bits_are_ignored():
    """A later DRBD sets one of them; that is no reason to drop the link."""
    assert State.decode(0xFF80_0000 | 0x000110A9) == State.decode(0x000110A9)


CONN_PAIRS = {
    ConnState.Connected: ConnState.Connected,
    ConnState.WFReportParams: ConnState.WFReportParams,
    ConnState.StartingSyncS: ConnState.StartingSyncT,
    ConnState.StartingSyncT: ConnState.StartingSyncS,
    ConnState.Disconnecting: ConnState.TearDown,
    ConnState.VerifyS: ConnState.VerifyT,
}


@pytest.mark.parametrize("conn", ConnState)
def test_peers_connection_state_becomes_mine(conn):
    """The six that have a counterpart; all others are number 0 to the other side."""
    assert Change(conn=conn).from_peer().conn is CONN_PAIRS.get(conn, ConnState.StandAlone)


def test_forced_promotion_arrives_as_the_peers():
    """The request of a captured session: role=Primary, disk=UpToDate of the sender are peer and pdsk to me."""
    mask, value = Change(role=Role.Primary, disk=DiskState.UpToDate).encode()
    assert (mask, value) == (0x1E03, 0x1001)
    seen = Change.decode(mask, value).from_peer()
    assert seen == Change(peer=Role.Primary, pdsk=DiskState.UpToDate)


def test_graceful_disconnect_may_outdate_me():
    """conn=Disconnecting, pdsk=Outdated of the sender: I go to TearDown with an Outdated disk."""
    request = Change(conn=ConnState.Disconnecting, pdsk=DiskState.Outdated)
    assert Change.decode(*request.encode()).from_peer() == Change(conn=ConnState.TearDown, disk=DiskState.Outdated)


@pytest.mark.parametrize("pauses", list(itertools.product([None, False, True], repeat=2)))
def test_peers_pauses_merge_into_one(pauses):
    """peer_isp is aftr_isp or user_isp of the other side, untouched if neither is asked for."""
    aftr, user = pauses
    expected = None if aftr is None and user is None else bool(aftr or user)
    seen = Change(aftr_isp=aftr, user_isp=user, susp=True, susp_fen=True).from_peer()
    assert seen == Change(peer_isp=expected)


@given(STATES, STATES)
def test_change_touches_only_what_it_names(state, other):
    """A change of some fields, over the wire words and back, leaves all other fields alone."""
    change = Change(conn=other.conn, pdsk=other.pdsk, user_isp=other.user_isp)
    decoded = Change.decode(*change.encode())
    assert decoded == change
    mask, value = change.encode()
    assert decoded.apply(state).encode() == state.encode() & ~mask | value


@pytest.mark.parametrize(
    ("mask", "value"), [(1, 1), (0x10 << 4, 0x10 << 4), (0x3, 0x3), (0x1F0, 31 << 4), (0x1E00, 0x1E00)]
)
def test_malformed_requests_are_the_peers_fault(mask, value):
    """Half a field under the mask, or a number without a meaning."""
    with pytest.raises(PeerProtocolError):
        Change.decode(mask, value)


def test_empty_request_changes_nothing():
    """Mask 0 selects no field, whatever the value says."""
    assert Change.decode(0, 0xFFFF_FFFF) == Change()
    assert Change().apply(State()) == State()


def test_texts_are_those_of_drbdsetup():
    """The words that scripts look for."""
    state = State(
        Role.Primary, Role.Secondary, ConnState.PausedSyncS, DiskState.UpToDate, DiskState.Inconsistent,
        susp=True, susp_fen=True, user_isp=True, aftr_isp=True,
    )  # fmt: skip
    assert str(state) == "cs:PausedSyncS ro:Primary/Secondary ds:UpToDate/Inconsistent"
    assert state.suspended_text == "user,fencing"
    assert state.resync_suspended_text == "user,dependency"
    assert state.suspended and state.resync_paused and state.connected
    assert State().suspended_text == State().resync_suspended_text == "no"
    assert [connection_text(ConnState(n)) for n in (0, 5, 8, 10, 17)] == [
        "StandAlone", "NetworkFailure", "Connecting", "Connected", "Connected",
    ]  # fmt: skip
    assert [replication_text(ConnState(n)) for n in (0, 9, 10, 17)] == ["Off", "Off", "Established", "SyncTarget"]


def test_sync_states_are_sixteen_to_twenty_one():
    """The range in which writes may set blocks in sync."""
    assert [int(conn) for conn in ConnState if conn.is_sync] == [16, 17, 18, 19, 20, 21]
