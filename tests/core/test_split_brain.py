"""From verdict to decision: every policy in every circumstance, and that both nodes decide mirrored."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from pydrbd.core.split_brain import Abort, NoSync, Policies, Situation, SyncSource, SyncTarget, decide
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.uuids import NEEDS_FEATURE_WSAME, NEEDS_PROTOCOL_91, UNRELATED, UuidSet, Verdict
from pydrbd.wire.packet_numbers import AfterSb

P = AfterSb
PRI, SEC = Role.Primary, Role.Secondary
GOOD, BAD = DiskState.UpToDate, DiskState.Inconsistent
QUIET = Situation(SEC, SEC, GOOD, GOOD)
UNDECIDED = -100


def verdict(result, mine_was_primary=0, peer_was_primary=0):
    mine = UuidSet(0xA0, 0x40 | mine_was_primary)
    return Verdict(result, 90, mine, UuidSet(0xB0, 0x40 | peer_was_primary))


def mirror(s):
    """The same situation seen from the peer, whose policies say local where mine say remote."""
    swap = {P.DISCARD_LOCAL: P.DISCARD_REMOTE, P.DISCARD_REMOTE: P.DISCARD_LOCAL}
    policies = replace(s.policies, after_sb_0pri=swap.get(s.policies.after_sb_0pri, s.policies.after_sb_0pri))
    return replace(
        s, my_role=s.peer_role, peer_role=s.my_role, my_disk=s.peer_disk, peer_disk=s.my_disk, policies=policies,
        my_dirty_bits=s.peer_dirty_bits, peer_dirty_bits=s.my_dirty_bits, resolve_conflicts=not s.resolve_conflicts,
        discard_my_data=s.peer_discards_its_data, peer_discards_its_data=s.discard_my_data,
    )  # fmt: skip


def number(decision):
    """An outcome as a number: 0, +-1, +-2, or -100 for split brain."""
    match decision.outcome:
        case NoSync():
            return 0
        case SyncSource(full):
            return 2 if full else 1
        case SyncTarget(full):
            return -2 if full else -1
        case _:
            return UNDECIDED


@pytest.mark.parametrize(
    ("result", "outcome", "conn"),
    [
        (0, NoSync(), ConnState.Connected),
        (+1, SyncSource(full=False), ConnState.WFBitMapS),
        (-1, SyncTarget(full=False), ConnState.WFBitMapT),
        (+2, SyncSource(full=True), ConnState.WFBitMapS),
        (-2, SyncTarget(full=True), ConnState.WFBitMapT),
    ],
)
def test_a_clear_verdict_is_the_decision(result, outcome, conn):
    """No helper, no note, and the connection state that follows."""
    decision = decide(verdict(result), QUIET)
    assert (decision.outcome, decision.outcome.conn) == (outcome, conn)
    assert (decision.helpers, decision.demote, decision.notes) == ((), False, ())


@pytest.mark.parametrize("result", [UNRELATED, NEEDS_PROTOCOL_91, NEEDS_FEATURE_WSAME])
def test_strangers_never_sync(result):
    """Not even to save an Inconsistent disk, or when the operator discards."""
    situation = replace(QUIET, my_disk=BAD, discard_my_data=True)
    decision = decide(verdict(result), situation)
    assert isinstance(decision.outcome, Abort) and decision.outcome.reason
    assert decision.helpers == ()


@pytest.mark.parametrize("result", [0, 1, -1, 2, -2, 100, -100])
def test_inconsistent_data_is_the_target_whatever_the_uuids_say(result):
    """Full if the verdict was a full sync or ambiguous; no split-brain helper, because there is nothing to lose."""
    full = result in (2, -2, -100)
    target = decide(verdict(result), replace(QUIET, my_disk=BAD))
    source = decide(verdict(result), replace(QUIET, peer_disk=BAD))
    assert (target.outcome, source.outcome) == (SyncTarget(full), SyncSource(full))
    assert target.helpers == source.helpers == ()


def test_planned_disk_counts_while_negotiating():
    """A late attach of an Inconsistent disk is a target; without the plan Negotiating itself is no reason."""
    late = replace(QUIET, my_disk=DiskState.Negotiating, planned_disk=BAD)
    assert number(decide(verdict(0), late)) == -1
    assert number(decide(verdict(0), replace(late, planned_disk=DiskState.Consistent))) == 0


def test_two_inconsistent_disks_have_no_source():
    """The verdict stands: nothing to do is fine, to become source is not."""
    both = replace(QUIET, my_disk=BAD, peer_disk=BAD)
    assert number(decide(verdict(0), both)) == 0
    assert decide(verdict(+2), both).outcome == Abort("I should become SyncSource, but my data is Inconsistent")


def zero_primaries(policy, holder, mine_was, peer_was, mine, peers):
    """The policies said once more: one result per circumstance, from the table of WIRE 7.3."""
    tie = -1 if holder else 1
    zero = {(True, True): tie, (True, False): -1, (False, True): 1}.get((mine == 0, peers == 0), UNDECIDED)
    least = tie if mine == peers else (-1 if mine < peers else 1)
    older = {(0, 1): 1, (1, 0): -1}.get((mine_was, peer_was))
    changes = least if zero == UNDECIDED else zero
    return {
        P.DISCARD_YOUNGER_PRIMARY: changes if older is None else -older,
        P.DISCARD_OLDER_PRIMARY: changes if older is None else older,
        P.DISCARD_ZERO_CHANGES: zero,
        P.DISCARD_LEAST_CHANGES: least,
        P.DISCARD_LOCAL: -1,
        P.DISCARD_REMOTE: 1,
    }.get(policy, UNDECIDED)


GRID = list(itertools.product([False, True], [0, 1], [0, 1], [0, 1, 2], [0, 1, 2]))


@pytest.mark.parametrize("policy", P)
def test_zero_primaries_policies(policy):
    """All 11 numbers of after-sb-0pri x holder x who was Primary x change counts: 72 circumstances each."""
    for holder, mine_was, peer_was, mine, peers in GRID:
        situation = replace(
            QUIET, policies=Policies(policy), resolve_conflicts=holder, my_dirty_bits=mine, peer_dirty_bits=peers
        )
        decision = decide(verdict(100, mine_was, peer_was), situation)
        assert number(decision) == zero_primaries(policy, holder, mine_was, peer_was, mine, peers)
        decided = number(decision) != UNDECIDED
        assert decision.helpers == (("initial-split-brain",) if decided else ("initial-split-brain", "split-brain"))


@pytest.mark.parametrize("my_role", [PRI, SEC])
@pytest.mark.parametrize("wish", [P.DISCARD_LOCAL, P.DISCARD_REMOTE, P.DISCONNECT])
@pytest.mark.parametrize("policy", P)
def test_one_primary_policies(policy, wish, my_role):
    """All 11 numbers of after-sb-1pri, for each result of the policy for zero, from the Primary and the Secondary."""
    hint = {P.DISCARD_LOCAL: -1, P.DISCARD_REMOTE: 1, P.DISCONNECT: UNDECIDED}[wish]
    spares_primary = hint == (1 if my_role is PRI else -1)
    expected = {
        P.CONSENSUS: hint if spares_primary else UNDECIDED,
        P.VIOLENTLY_AS0P: hint,
        P.DISCARD_SECONDARY: 1 if my_role is PRI else -1,
        P.CALL_PRI_LOST_AFTER_SB: hint,
    }.get(policy, UNDECIDED)
    situation = Situation(
        my_role, SEC if my_role is PRI else PRI, GOOD, GOOD, Policies(wish, policy, rr_conflict=P.VIOLENTLY_AS0P),
        can_demote=True,
    )  # fmt: skip
    decision = decide(verdict(100), situation)
    assert number(decision) == expected
    lost_primary = policy is P.CALL_PRI_LOST_AFTER_SB and my_role is PRI and hint == -1
    assert decision.demote is lost_primary
    stuck = decide(verdict(100), replace(situation, can_demote=False))
    assert number(stuck) == (UNDECIDED if lost_primary else expected)
    assert ("pri-lost-after-sb" in stuck.helpers) is lost_primary


def test_primary_that_gives_up_its_role_may_become_target():
    """rr-conflict protects the users of a Primary; after the demotion there are none."""
    policies = Policies(P.DISCARD_LOCAL, P.CALL_PRI_LOST_AFTER_SB)
    situation = Situation(PRI, SEC, GOOD, GOOD, policies, can_demote=True)
    decision = decide(verdict(100), situation)
    assert (number(decision), decision.demote) == (-1, True)


@pytest.mark.parametrize("wish", [P.DISCARD_LOCAL, P.DISCARD_REMOTE, P.DISCONNECT])
@pytest.mark.parametrize("policy", P)
def test_two_primaries_policies(policy, wish):
    """All 11 numbers of after-sb-2pri."""
    hint = {P.DISCARD_LOCAL: -1, P.DISCARD_REMOTE: 1, P.DISCONNECT: UNDECIDED}[wish]
    expected = hint if policy in (P.VIOLENTLY_AS0P, P.CALL_PRI_LOST_AFTER_SB) else UNDECIDED
    policies = Policies(wish, after_sb_2pri=policy, rr_conflict=P.VIOLENTLY_AS0P)
    situation = Situation(PRI, PRI, GOOD, GOOD, policies, can_demote=True)
    decision = decide(verdict(100), situation)
    assert number(decision) == expected
    lost = policy is P.CALL_PRI_LOST_AFTER_SB and hint == -1
    assert decision.demote is lost
    stuck = decide(verdict(100), replace(situation, can_demote=False))
    assert number(stuck) == (UNDECIDED if lost else expected)
    if lost:
        assert stuck.helpers == ("initial-split-brain", "pri-lost-after-sb", "split-brain")


@pytest.mark.parametrize("always_asbp", [False, True])
def test_ambiguous_uuids_use_the_policies_only_if_told_so(always_asbp):
    """-100: with always-asbp the policy decides and the sync is a full one; else it stays split brain."""
    policies = Policies(P.DISCARD_REMOTE, always_asbp=always_asbp)
    decision = decide(verdict(-100), replace(QUIET, policies=policies))
    assert number(decision) == (2 if always_asbp else UNDECIDED)
    assert decision.helpers[0] == "initial-split-brain"


@pytest.mark.parametrize("result", [100, -100])
@pytest.mark.parametrize(("mine", "peers"), list(itertools.product([False, True], repeat=2)))
def test_discard_my_data_of_one_node_ends_a_split_brain(result, mine, peers):
    """Exactly one node must have said it; both or none leave it unresolved."""
    situation = replace(QUIET, discard_my_data=mine, peer_discards_its_data=peers)
    expected = UNDECIDED if mine is peers else (-1 if mine else 1)
    assert number(decide(verdict(result), situation)) == expected


def test_discard_my_data_does_not_turn_a_clear_verdict():
    """It settles split brains, it doesn't make an older node the source."""
    assert number(decide(verdict(+1), replace(QUIET, discard_my_data=True))) == 1


@pytest.mark.parametrize(
    ("policy", "helpers", "expected"),
    [
        (P.DISCONNECT, (), UNDECIDED),
        (P.CALL_PRI_LOST_AFTER_SB, ("pri-lost",), UNDECIDED),
        (P.VIOLENTLY_AS0P, (), -1),
    ],
)
def test_primary_becomes_target_only_violently(policy, helpers, expected):
    """rr-conflict: data doesn't change under a Primary's users, unless its owner wants that."""
    situation = replace(QUIET, my_role=PRI, policies=Policies(rr_conflict=policy))
    decision = decide(verdict(-1), situation)
    assert (number(decision), decision.helpers) == (expected, helpers)
    without_data = replace(situation, my_disk=BAD)
    assert number(decide(verdict(-1), without_data)) == -1
    late = replace(situation, my_disk=DiskState.Negotiating, planned_disk=GOOD)
    assert number(decide(verdict(-1), late)) == -1


@pytest.mark.parametrize("result", [0, 1, -1, 2, -2, 100, -100, -1000])
def test_dry_run_ends_the_link_but_tells_the_result(result):
    """Every dry run ends without a sync and without StandAlone."""
    outcome = decide(verdict(result), replace(QUIET, dry_run=True)).outcome
    assert isinstance(outcome, Abort) and outcome.dry_run
    words = {0: "no resync", 1: "SyncSource", -1: "SyncTarget", 2: "SyncSource, full", -2: "SyncTarget, full"}
    assert result not in words or outcome.reason == f"dry run: {words[result]}"
    assert not decide(verdict(-1000), QUIET).outcome.dry_run


ROLES = [(SEC, SEC), (PRI, SEC), (SEC, PRI), (PRI, PRI)]
DISKS = [(GOOD, GOOD), (BAD, GOOD), (GOOD, BAD), (BAD, BAD), (GOOD, DiskState.Outdated), (DiskState.Consistent, GOOD)]
POLICIES = [
    Policies(zero, one, two, P.VIOLENTLY_AS0P, always)
    for zero, one, two, always in itertools.product(
        [policy for policy in P if policy <= P.DISCARD_REMOTE],
        [P.DISCONNECT, P.CONSENSUS, P.DISCARD_SECONDARY, P.VIOLENTLY_AS0P, P.CALL_PRI_LOST_AFTER_SB],
        [P.DISCONNECT, P.VIOLENTLY_AS0P, P.CALL_PRI_LOST_AFTER_SB],
        [False, True],
    )
]


def test_both_nodes_decide_mirrored_under_every_policy():
    """Verdict x roles x disks x all sensible policies x who was Primary: +n here is -n there."""
    clear = itertools.product([0, 1, -1, 2, -2], ROLES, DISKS, POLICIES[:1])
    grid = itertools.chain(clear, itertools.product([100, -100], ROLES, DISKS, POLICIES))
    circumstances = itertools.cycle(GRID[::5])
    flags = itertools.cycle([(False, False), (True, False), (False, True)])
    for (result, roles, disks, policies), (holder, mine_was, peer_was, mine, peers), (d1, d2) in zip(
        grid, circumstances, flags, strict=False
    ):
        here = Situation(
            *roles, *disks, policies, None, mine, peers, holder, discard_my_data=d1, peer_discards_its_data=d2,
            can_demote=True,
        )  # fmt: skip
        there_result = -result if abs(result) <= 2 else result
        ours = decide(verdict(result, mine_was, peer_was), here)
        theirs = decide(verdict(there_result, peer_was, mine_was), mirror(here))
        if disks == (BAD, BAD) and UNDECIDED in (number(ours), number(theirs)):
            continue  # the one that should be source gives up, and the link with it
        assert number(theirs) == (-number(ours) if number(ours) != UNDECIDED else UNDECIDED), (result, here)
