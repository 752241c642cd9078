"""The uuid rules one by one, each seen from both sides, and the rotations of WIRE 8."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd.core.states import Role
from pydrbd.core.uuids import (
    JUST_CREATED,
    NEEDS_FEATURE_WSAME,
    NEEDS_PROTOCOL_91,
    OFF,
    SPLIT_BRAIN,
    SPLIT_BRAIN_AMBIGUOUS,
    UNRELATED,
    PeerUuids,
    UuidSet,
    adopt_skipped_sync,
    clear_bitmap_uuid,
    compare,
    finish_sync_source,
    finish_sync_target,
    new_current,
    new_current_by_operator,
    set_primary_bit,
    start_sync_source,
    start_sync_target,
)
from pydrbd.wire.packet_numbers import UuidFlag

A, B, C, E, F, G = (number << 32 for number in (0xAAAA, 0xBBBB, 0xCCCC, 0xEEEE, 0xFFFF, 0x1111))
PRI, SEC = Role.Primary, Role.Secondary
U = UuidSet


def verdict(mine, peer, i_crashed=False, peer_crashed=False, roles=(SEC, SEC), holder=False, apv=101, wsame=True):
    return compare(
        mine, peer, i_crashed=i_crashed, peer_crashed=peer_crashed, my_role=roles[0], peer_role=roles[1],
        resolve_conflicts=holder, apv=apv, features_wsame=wsame,
    )  # fmt: skip


def mirrored(mine, peer, i_crashed=False, peer_crashed=False, roles=(SEC, SEC), holder=False, apv=101, wsame=True):
    return verdict(peer, mine, peer_crashed, i_crashed, roles[::-1], not holder, apv, wsame)


CRASHED_ME, CRASHED_PEER, CRASHED_BOTH = ({"i_crashed": a, "peer_crashed": b} for a, b in ((1, 0), (0, 1), (1, 1)))

ROWS = [
    # rule, the rule that the other side finds, result, my set, the peer's set, circumstances
    (10, 10, 0, U(4), U(4), {}),
    (10, 10, 0, U(5, 9, 9, 9), U(4), {}),
    (20, 30, -2, U(4), U(A), {}),
    (20, 30, -2, U(0), U(A), {}),
    (30, 20, +2, U(A), U(5), {}),
    (30, 20, +2, U(A), U(0), {}),
    (34, 35, +1, U(A, B, C, E), U(A, 0, B, C), {}),
    (36, 37, +1, U(A, B, C, E), U(A, 0, B, E), {}),
    (36, 37, +1, U(A, 4), U(A), {}),
    (35, 34, -1, U(A, 0, B, C), U(A, B, C, E), {}),
    (37, 36, -1, U(A, 0, C, B), U(A, B, C, E), {}),
    (40, 40, 0, U(A, 0, B), U(A, 0, B), {}),
    (40, 40, 0, U(A, B), U(A, C), {}),
    (40, 40, 0, U(A), U(A), {"roles": (PRI, SEC)}),
    (40, 40, +1, U(A), U(A), CRASHED_ME),
    (40, 40, -1, U(A), U(A), CRASHED_PEER),
    (40, 40, -1, U(A), U(A), CRASHED_BOTH | {"holder": True}),
    (40, 40, +1, U(A), U(A), CRASHED_BOTH),
    (40, 40, +1, U(A), U(A), CRASHED_ME | {"wsame": False}),
    (41, 41, SPLIT_BRAIN_AMBIGUOUS, U(A), U(A), CRASHED_BOTH | {"roles": (PRI, PRI)}),
    (41, 41, +1, U(A), U(A), CRASHED_PEER | {"roles": (PRI, SEC)}),
    (41, 41, -1, U(A), U(A), CRASHED_PEER | {"roles": (SEC, PRI)}),
    (41, 41, NEEDS_FEATURE_WSAME, U(A), U(A), CRASHED_ME | {"roles": (PRI, SEC), "wsame": False}),
    (50, 70, -1, U(A, 0, E), U(B, A, C), {}),
    (50, 70, -1, U(A, 0, E), U(B, A, A - OFF), {}),
    (51, 71, -1, U(A, 0, E), U(B, A + OFF, A, C), {}),
    (51, 71, -1, U(A, 0, C), U(B, E, A, C), {"apv": 95}),
    (60, 80, -2, U(A), U(B, C, A, 0), {}),
    (60, 80, -2, U(A), U(B, C, E, A), {}),
    (60, 80, -2, U(A, 0, C), U(B, E, A, F), {"apv": 95}),
    (70, 50, +1, U(B, A, C), U(A), {}),
    (71, 51, +1, U(B, A + OFF, A, C), U(A, 0, E), {}),
    (71, 51, +1, U(B, (A + 1) + OFF, A + 1, C), U(A), {}),
    (71, 51, +1, U(B, E, A, C), U(A, 0, C), {"apv": 95}),
    (80, 60, +2, U(B, C, E, A), U(A), {}),
    (90, 90, SPLIT_BRAIN, U(A, C), U(B, C + 1), {}),
    (100, 100, SPLIT_BRAIN_AMBIGUOUS, U(A, 0, C, E), U(B, 0, F, C), {}),
    (100, 100, SPLIT_BRAIN_AMBIGUOUS, U(A), U(B), {}),
    (100, 100, SPLIT_BRAIN_AMBIGUOUS, U(A, C, E), U(B, F, G), {}),
    (0, 0, UNRELATED, U(A, 0, C, E), U(B, 0, F, G), {}),
    (34, 35, NEEDS_PROTOCOL_91, U(A, B, C, E), U(A, 0, B, C), {"apv": 90}),
    (37, 36, NEEDS_PROTOCOL_91, U(A), U(A, B), {"apv": 90}),
    (51, 71, NEEDS_PROTOCOL_91, U(A, 0, C), U(B, E, A, C), {"apv": 90}),
]


@pytest.mark.parametrize("row", ROWS, ids=[f"rule {row[0]}, row {index}" for index, row in enumerate(ROWS)])
def test_each_rule_gives_its_result_on_both_nodes(row):
    """A row of the table from my side and from the peer's: opposite directions, equal refusals."""
    rule, other_rule, result, mine, peer, circumstances = row
    here, there = verdict(mine, peer, **circumstances), mirrored(mine, peer, **circumstances)
    assert (here.rule, here.result) == (rule, result)
    assert (there.rule, there.result) == (other_rule, -result if abs(result) <= 2 else result)


def test_every_rule_has_a_row():
    """All numbers of the specification, and 0 for none."""
    assert {row[0] for row in ROWS} == {0, 10, 20, 30, 34, 35, 36, 37, 40, 41, 50, 51, 60, 70, 71, 80, 90, 100}


@pytest.mark.parametrize("row", ROWS, ids=[f"rule {row[0]}, row {index}" for index, row in enumerate(ROWS)])
def test_primary_bits_do_not_change_a_verdict(row):
    """Bit 0 of any uuid that is set may differ: comparisons ignore it."""
    rule, _, result, mine, peer, circumstances = row
    for flip in (mine, peer):
        others = U(
            *(word ^ 1 if word > 1 else word for word in (flip.current, flip.bitmap, flip.history0, flip.history1))
        )
        got = verdict(others if flip is mine else mine, others if flip is peer else peer, **circumstances)
        assert (got.rule, got.result) == (rule, result)


def test_a_bitmap_uuid_of_only_bit_0_counts_as_set():
    """Rules 34 to 37 ask for zero on the raw value."""
    assert verdict(U(A, 1), U(A)).rule == 34  # 1 without its bit 0 equals the peer's empty history
    assert verdict(U(A, 1), U(A, 0, B)).rule == 36


SIDE_EFFECTS = [
    (34, U(A, B, C, E), U(A, 0, B, C), U(A, 0, B, C), None),
    (35, U(A, 0, B, C), U(A, B, C, E), None, U(A, 0, B, C)),
    (51, U(A, 0, E), U(B, A + OFF, A, C), None, U(B, A, C, C)),
    (71, U(B, A + OFF, A, C), U(A, 0, E), U(B, A, C, C), None),
]


@pytest.mark.parametrize(("rule", "mine", "peer", "mine_after", "peer_after"), SIDE_EFFECTS)
def test_rules_that_correct_a_missed_event_change_one_set(rule, mine, peer, mine_after, peer_after):
    """34/71 correct mine, 35/51 my copy of the peer's; refused rules and all others change nothing."""
    got = verdict(mine, peer)
    assert (got.rule, got.mine, got.peer) == (rule, mine_after or mine, peer_after or peer)
    refused = verdict(mine, peer, apv=90)
    assert (refused.mine, refused.peer) == (mine, peer)


@pytest.mark.parametrize("row", [row for row in ROWS if row[0] not in (34, 35, 51, 71)])
def test_all_other_rules_leave_the_sets_alone(row):
    """Comparing alone does not turn anything over."""
    _, _, _, mine, peer, circumstances = row
    got = verdict(mine, peer, **circumstances)
    assert (got.mine, got.peer) == (mine, peer)


WORDS = st.sampled_from([0, 4, 5, A, A | 1, A + OFF, B, B | 1, B + OFF, C, (1 << 64) - 2, (1 << 64) - OFF])
SETS = st.builds(UuidSet, WORDS, WORDS, WORDS, WORDS)


@given(SETS, SETS, st.booleans(), st.booleans(), st.sampled_from(Role), st.sampled_from(Role), st.booleans(),
       st.integers(86, 101), st.booleans())  # fmt: skip
def test_any_two_sets_have_a_verdict(mine, peer, i_crashed, peer_crashed, my_role, peer_role, holder, apv, wsame):
    """Even contrived sets: one of the known results, and sets that are still 64-bit numbers."""
    got = verdict(mine, peer, i_crashed, peer_crashed, (my_role, peer_role), holder, apv, wsame)
    assert got.result in (0, 1, -1, 2, -2, 100, -100, -1000, NEEDS_FEATURE_WSAME, NEEDS_PROTOCOL_91)
    for uuids in (got.mine, got.peer):
        assert all(0 <= word < 1 << 64 for word in (uuids.current, uuids.bitmap, uuids.history0, uuids.history1))


# ---- rotations ----


@pytest.mark.parametrize("primary", [False, True])
def test_new_current_moves_current_with_its_bit_to_the_bitmap_uuid(primary):
    """History stays; a bitmap uuid that was there is lost; bit 0 follows the role, not the random number."""
    for random in (B, B | 1):
        assert new_current(U(A | 1, 0, C, E), random, primary) == U(B | primary, A | 1, C, E)
    assert new_current(U(A, F, C, E), B, primary) == U(B | primary, A, C, E)


def test_operator_keeps_the_bitmap_uuid_in_history():
    """new-current-uuid: rotates first."""
    assert new_current_by_operator(U(A, F, C, E), B, primary=False) == U(B, A, F, C)
    assert new_current_by_operator(U(4), B, primary=True) == U(B | 1, 4)


def test_skipped_initial_sync_leaves_equal_sets():
    """Sender and receiver of P_UUIDS with flag 8, by role."""
    sender = new_current_by_operator(U(JUST_CREATED), B | 1, primary=False)
    assert adopt_skipped_sync(sender, sender.current, primary=False) == U(B)
    assert adopt_skipped_sync(U(JUST_CREATED), sender.current, primary=True) == U(B | 1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (U(A, B, C, E), U(A, B + OFF, B, C)),
        (U(A, 0, C, E), U(A, F, C, E)),
        (U(A, 4, C, E), U(A, F, 4, C)),
        (U(A, (1 << 64) - 1, C, E), U(A, OFF - 1, (1 << 64) - 1, C)),
    ],
)
def test_source_makes_the_sync_uuid_from_the_bitmap_uuid(before, after):
    """bitmap + OFF, or chance if there is none to speak of; the old one goes to history if there was one."""
    assert start_sync_source(before, F) == (after, after.bitmap)


@pytest.mark.parametrize("primary", [False, True])
@pytest.mark.parametrize("before", [U(A, B, C, E), U(A, 0, C, E), U(A | 1, 4), U(A, B | 1, C, 0)])
def test_resync_ends_with_equal_sets(before, primary):
    """Both sides through a whole resync: the same sets at the end but for bit 0 of current, which is the role's."""
    source, sync_uuid = start_sync_source(before, F)
    target = start_sync_target(U(G, B, E, C), sync_uuid, primary)
    assert target == U(sync_uuid & ~1 | primary, 0, E, C)
    done_source = finish_sync_source(source)
    done_target = finish_sync_target(target, before, primary)
    assert done_target.masked() == done_source.masked()
    assert done_target.current & 1 == primary
    assert done_source.bitmap == 0 and done_source.history0 == sync_uuid
    if primary is bool(sync_uuid & 1):
        assert set_primary_bit(done_target, bool(done_source.current & 1)) == done_source


def test_bit_0_follows_the_role():
    """Set on promotion, cleared on demotion; nothing else moves."""
    assert set_primary_bit(U(A, B, C, E), True) == U(A | 1, B, C, E)
    assert set_primary_bit(U(A | 1, B | 1, C, E), False) == U(A, B | 1, C, E)


def test_clearing_an_empty_bitmap_uuid_keeps_history():
    """Zeros don't push real generations out."""
    assert clear_bitmap_uuid(U(A, 0, C, E)) == U(A, 0, C, E)
    assert clear_bitmap_uuid(U(A, B, C, E)) == U(A, 0, B, C)


def test_packet_and_value_say_the_same():
    """P_UUIDS there and back; the text is show-gi's."""
    told = PeerUuids(U(A, B, C, E), 17, UuidFlag.CRASHED_PRIMARY | UuidFlag.DISCARD_MY_DATA)
    assert PeerUuids.from_packet(told.packet()) == told
    assert told.packet().flags == 3
    assert str(U(0xA, 0xB)) == "000000000000000A:000000000000000B:0000000000000000:0000000000000000"
