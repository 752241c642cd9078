"""A witness's side of quorum: who holds the lease of a resource, as a pure function.

The lease says which node may have data that the other one lacks. It has no time limit, so no clock matters: whoever
got it keeps it until both copies are known to be equal again, and gives it back itself.

    asks          lease is free    is its own         is another node's
    LOOK          told             told               told
    ACQUIRE       gets it          gets it anew       HELD: it would go on with old data
    RELEASE       nothing to do    free, if its term  nothing to do

Each grant has a new term. A RELEASE names the term that it is about: one that was long under way can't take away what
the same node was granted since. Nobody takes the lease from its holder: if that is lost for ever, an operator has the
witness forget it (`pydrbd witness --forget`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydrbd.wire.witness import Verb, Verdict, WitnessAnswer, WitnessRequest

__all__ = ["Lease", "decide"]


@dataclass(frozen=True, slots=True)
class Lease:
    """What a witness keeps of one resource. `generation`: of the last holder's data when it asked."""

    holder: str = ""
    generation: int = 0
    term: int = 0


def decide(lease: Lease, request: WitnessRequest) -> tuple[Lease, WitnessAnswer]:
    """The lease as it is to be from now on, durable before the answer is said."""
    verdict, after = Verdict.GRANTED, lease
    is_ours = lease.holder == request.node
    if request.verb is Verb.ACQUIRE:
        if is_ours or not lease.holder:
            after = Lease(request.node, request.generation, lease.term + 1)
        else:
            verdict = Verdict.HELD
    elif request.verb is Verb.RELEASE and is_ours:
        if lease.term == request.term:
            after = replace(lease, holder="")
        else:
            verdict = Verdict.OTHER_TERM
    assert after.term >= lease.term, "terms only grow"
    return after, WitnessAnswer(verdict, after.holder, after.term, after.generation)
