"""The states of two nodes and a witness, nearest first; where a rule is wrong, the shortest way to what it breaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from pydrbd.core import lease, quorum, transitions
from pydrbd.core.lease import Lease
from pydrbd.core.promotion import Promotion
from pydrbd.core.quorum import Quorum
from pydrbd.wire.witness import Verb
from tests.harness import quorum_model
from tests.harness.quorum_model import QuorumBounds, explore_quorum

LINKS = QuorumBounds(writes=1, cuts=1, crashes=0, disks=0, losses=0, states=2500)
DISKS = QuorumBounds(writes=1, cuts=0, crashes=1, disks=1, losses=0, states=2500)
WORDS = QuorumBounds(writes=1, cuts=1, crashes=0, disks=0, losses=1, states=2500)

Mutant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("bounds", [LINKS, DISKS, WORDS], ids=["links", "disks", "words"])
@pytest.mark.parametrize("io_error", [False, True], ids=["suspend-io", "io-error"])
def test_every_state_keeps_every_promise(bounds: QuorumBounds, io_error: bool) -> None:
    """B1, C1, C2, Q1 and Q2, with either on-no-quorum; `make prove` goes on where this stops."""
    found = explore_quorum(io_error=io_error, bounds=bounds)
    print(f"{found.states} states, {found.transitions} transitions, {dict(found.checks)}")
    assert not found.broken, found.broken
    assert found.states >= 2000 and found.checks["C1"] > 100


# --- canaries: one rule of ours, broken ---


def freeze_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transitions, "_frozen", lambda old, new, rules: new)


def give_the_lease_to_whoever_asks(patch: pytest.MonkeyPatch) -> None:
    honest = lease.decide

    def generous(held: Lease, request):
        return honest(dataclasses.replace(held, holder="") if request.verb is Verb.ACQUIRE else held, request)

    patch.setattr(quorum_model, "decide", generous)


def take_a_refusal_for_a_grant(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quorum, "_on_refused", lambda self, _words, **_held: setattr(self, "_lease", True))


def promote_whoever_was_refused(patch: pytest.MonkeyPatch) -> None:
    def hasty(self, command, fenced, _good):
        self._promote_next(command, list(self._node.volumes.values()), fenced)

    patch.setattr(Promotion, "_on_quorum", hasty)


def give_it_back_while_a_copy_lacks_something(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(quorum, "_in_sync", lambda volume: volume.state.connected)


def take_a_peer_without_a_disk_for_company(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quorum, "_is_only_disk", property(lambda self: False))
    patch.setattr(Quorum, "counts_disks", property(lambda self: False))


def confirm_to_a_diskless_primary_without_the_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Quorum, "holds_peer", property(lambda self: False))


GONE_ON = ("promote a", "cut", "notice a", "witness-ask a", "answer-ask a", "write a")
"""`a` has lost its peer, has the lease, and has written alone."""
ALONE_WITH_ITS_PEERS_DISK = ("promote a", "detach a")

CANARIES = (
    (freeze_nothing, "C2", (), LINKS),
    (give_the_lease_to_whoever_asks, "Q2", (), LINKS),
    (take_a_refusal_for_a_grant, "Q1", (), LINKS),
    (promote_whoever_was_refused, "C2", (*GONE_ON, "notice b"), LINKS),
    (give_it_back_while_a_copy_lacks_something, "Q2", GONE_ON, LINKS),
    (take_a_peer_without_a_disk_for_company, "B1", (), DISKS),
    (confirm_to_a_diskless_primary_without_the_lease, "C1", ALONE_WITH_ITS_PEERS_DISK, DISKS),
)


@pytest.mark.parametrize(
    ("mutant", "promise", "first", "bounds"), CANARIES, ids=[mutant.__name__ for mutant, *_more in CANARIES]
)
def test_a_rule_that_is_broken_is_found(
    mutant: Mutant, promise: str, first: tuple[str, ...], bounds: QuorumBounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the promise that it breaks, and a way there."""
    mutant(monkeypatch)
    found = explore_quorum(bounds=dataclasses.replace(bounds, states=6000), first=first)
    print(f"{found.states} states")
    assert found.broken.startswith(promise), found.broken


def test_the_shortest_way_is_printed_as_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """C2: without freezing, one promotion, a cut, and another one."""
    freeze_nothing(monkeypatch)
    assert explore_quorum(bounds=LINKS).broken.splitlines() == [
        "C2: both nodes are Primary and answer writes",
        "def test_the_shortest_way() -> None:",
        "    world, client, witness = trio()",
        '    order(world, world.a, "secondary")',
        '    world.a.command("primary")',
        "    part(world)",
        "    # a notices it",
        "    # b notices it",
        '    world.b.command("primary")',
        "    # the witness decides on what b has asked for",
        "    # and b hears of it",
    ]
