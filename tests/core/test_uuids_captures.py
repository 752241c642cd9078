"""What two kernel nodes decided in recorded sessions, decided again from what they told each other."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import cache

import pytest

from pydrbd.core.split_brain import Abort, NoSync, Situation, SyncSource, SyncTarget, decide
from pydrbd.core.states import ConnState, DiskState, State
from pydrbd.core.transitions import Rules, sanitize
from pydrbd.core.uuids import (
    PeerUuids,
    clear_bitmap_uuid,
    compare,
    finish_sync_source,
    finish_sync_target,
    start_sync_source,
    start_sync_target,
)
from pydrbd.wire.packet_numbers import Packet, UuidFlag
from tests.wire.pcap import CAPTURES
from tests.wire.sessions import session_of

A, B = "10.77.0.11", "10.77.0.12"
SOURCE, TARGET = SyncSource(full=False), SyncTarget(full=False)
SPLIT = Abort("split brain that no policy resolves")


@cache
def told(capture):
    """(P_UUIDS, P_STATE, P_SYNC_UUID) of a capture, each: sender -> values in order."""
    uuids, states, sync_uuids = defaultdict(list), defaultdict(list), defaultdict(list)
    for seen in session_of(CAPTURES / f"{capture}.pcap.xz").packets():
        if seen.command == Packet.P_UUIDS:
            uuids[seen.sender].append(PeerUuids.from_packet(seen.value))
        elif seen.command == Packet.P_STATE:
            states[seen.sender].append(State.decode(seen.value.word))
        elif seen.command == Packet.P_SYNC_UUID:
            sync_uuids[seen.sender].append(seen.value.uuid)
    return uuids, states, sync_uuids


FIRST = ((0, 1), (0, 1))
FORCED = ((2, None), (1, 2))
LATE_ATTACH = ((0, None), (0, 0))

MEETINGS = [
    # capture, which P_UUIDS of each, per node which P_STATE is before and which after, rule and outcome on A, on B
    ("01-initial-full-sync", 0, FIRST, 10, NoSync(), 10, NoSync()),
    ("01-initial-full-sync", 1, FORCED, 30, SyncSource(full=True), 20, SyncTarget(full=True)),
    ("04-reconnect-bitmap-resync", 0, FIRST, 70, SOURCE, 50, TARGET),
    ("07-diskless-primary-reads-and-writes", 0, LATE_ATTACH, 50, TARGET, 70, SOURCE),
    ("08-auth-sha1-digests-full-sync", 0, FIRST, 10, NoSync(), 10, NoSync()),
    ("08-auth-sha1-digests-full-sync", 1, FORCED, 30, SyncSource(full=True), 20, SyncTarget(full=True)),
    ("09-checksum-resync", 0, FIRST, 70, SOURCE, 50, TARGET),
    ("11-crashed-primary-returns", 0, FIRST, 40, SOURCE, 40, TARGET),
    ("12-split-brain", 0, ((0, None), (0, None)), 90, SPLIT, 90, SPLIT),
]
IDS = [f"{row[0]}, meeting {row[1]}" for row in MEETINGS]


def judged(mine, peers, my_state, peer_state, holder):
    """The verdict and the decision of a node, and its state as it was before."""
    verdict = compare(
        mine.set, peers.set, i_crashed=UuidFlag.CRASHED_PRIMARY in mine.flags,
        peer_crashed=UuidFlag.CRASHED_PRIMARY in peers.flags, my_role=my_state.role, peer_role=peer_state.role,
        resolve_conflicts=holder, apv=101, features_wsame=True,
    )  # fmt: skip
    settled = {DiskState.Negotiating: DiskState.Consistent}
    peer_disk = settled.get(peer_state.disk, peer_state.disk)
    situation = Situation(
        my_state.role, peer_state.role, my_state.disk, peer_disk, planned_disk=settled.get(my_state.disk),
        my_dirty_bits=mine.dirty_bits, peer_dirty_bits=peers.dirty_bits,
    )  # fmt: skip
    before = State(my_state.role, peer_state.role, ConnState.WFReportParams, my_state.disk, peer_disk)
    return verdict, decide(verdict, situation), before


@pytest.mark.parametrize(
    ("capture", "index", "of_states", "rule_a", "outcome_a", "rule_b", "outcome_b"), MEETINGS, ids=IDS
)
def test_we_decide_as_the_kernel_did(capture, index, of_states, rule_a, outcome_a, rule_b, outcome_b):
    """Rule and outcome on both nodes; where a node told its next state, sanitising ours gives the same word."""
    uuids, states, _ = told(capture)
    (a_before, a_after), (b_before, b_after) = of_states
    a_told, b_told = (uuids[A][index], states[A][a_before]), (uuids[B][index], states[B][b_before])
    for me, (mine, my_state), (peers, peer_state), after, rule, outcome in (
        (A, a_told, b_told, a_after, rule_a, outcome_a),
        (B, b_told, a_told, b_after, rule_b, outcome_b),
    ):
        verdict, decision, before = judged(mine, peers, my_state, peer_state, holder=me == A)
        assert (verdict.rule, decision.outcome) == (rule, outcome)
        if after is not None:
            assert sanitize(before, replace(before, conn=outcome.conn), Rules()) == states[me][after]


@pytest.mark.parametrize("row", [row for row in MEETINGS if SOURCE in row], ids=lambda row: row[0])
def test_sync_uuid_is_the_one_that_the_kernel_made(row):
    """bitmap + OFF where there is a bitmap uuid; the end of the resync gives both nodes the same set."""
    capture, index, _, _, outcome_a, _, _ = row
    source, target = (A, B) if outcome_a == SOURCE else (B, A)
    uuids, states, sync_uuids = told(capture)
    before, of_target = uuids[source][index].set, uuids[target][index].set
    during, sync_uuid = start_sync_source(before, random=sync_uuids[source][0])
    assert sync_uuid == sync_uuids[source][0]
    primary = states[target][index].role.name == "Primary"
    done_target = finish_sync_target(start_sync_target(of_target, sync_uuid, primary), before, primary)
    assert done_target.masked() == finish_sync_source(during).masked()


def test_sets_after_a_resync_are_those_that_the_kernel_tells_next():
    """Session 11 ends with a resync; session 12 shows what both nodes made of it, to the last bit of history."""
    uuids, _, sync_uuids = told("11-crashed-primary-returns")
    later, _, _ = told("12-split-brain")
    before = uuids[A][0].set
    during, sync_uuid = start_sync_source(before, random=sync_uuids[A][0])
    source = finish_sync_source(during)
    target = finish_sync_target(start_sync_target(uuids[B][0].set, sync_uuid, False), before, False)
    for uuids_now, told_later in ((source, later[A][0].set), (target, later[B][0].set)):
        assert told_later.bitmap == uuids_now.current  # both were promoted since: a new current each
        assert (told_later.history0, told_later.history1) == (uuids_now.history0, uuids_now.history1)
    assert clear_bitmap_uuid(source) == source
