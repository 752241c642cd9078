"""Whose the lease is: the table of core/lease, and what holds after any series of requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd.core.lease import Lease, decide
from pydrbd.wire.witness import Verb, Verdict, WitnessRequest

FREE, OURS, THEIRS = Lease("", 5, 3), Lease("a", 5, 3), Lease("b", 5, 3)
GOT = Lease("a", 9, 4)


def ask(verb: Verb, node: str = "a", term: int = 3) -> WitnessRequest:
    return WitnessRequest(verb, "r0:a,b", node, 9, term)


@pytest.mark.parametrize(
    ("lease", "request_", "after", "verdict"),
    [
        (FREE, ask(Verb.LOOK), FREE, Verdict.GRANTED),
        (THEIRS, ask(Verb.LOOK), THEIRS, Verdict.GRANTED),
        (FREE, ask(Verb.ACQUIRE), GOT, Verdict.GRANTED),
        (OURS, ask(Verb.ACQUIRE), GOT, Verdict.GRANTED),
        (THEIRS, ask(Verb.ACQUIRE), THEIRS, Verdict.HELD),
        (FREE, ask(Verb.RELEASE), FREE, Verdict.GRANTED),
        (OURS, ask(Verb.RELEASE), FREE, Verdict.GRANTED),
        (OURS, ask(Verb.RELEASE, term=2), OURS, Verdict.OTHER_TERM),
        (THEIRS, ask(Verb.RELEASE), THEIRS, Verdict.GRANTED),
    ],
)
def test_the_table(lease: Lease, request_: WitnessRequest, after: Lease, verdict: Verdict) -> None:
    """Row by row."""
    found, answer = decide(lease, request_)
    assert found == after and answer.verdict is verdict
    assert (answer.holder, answer.term, answer.generation) == (after.holder, after.term, after.generation)


@given(st.lists(st.tuples(st.sampled_from(Verb), st.sampled_from("ab"), st.integers(0, 9)), max_size=30))
def test_nobody_takes_it_from_its_holder(asked: list[tuple[Verb, str, int]]) -> None:
    """Only the holder's own RELEASE, of this term, ends what was granted."""
    lease = Lease()
    for verb, node, term in asked:
        before = lease
        lease, _answer = decide(lease, ask(verb, node, term))
        if before.holder and lease.holder != before.holder:
            assert verb is Verb.RELEASE and node == before.holder and term == before.term
        assert lease.term == before.term + (verb is Verb.ACQUIRE and lease.holder == node)
