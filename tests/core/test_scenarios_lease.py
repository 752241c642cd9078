"""Scenarios: what a lease protects besides a cut link. Disks that come and go, --force, witnesses that forget."""

from __future__ import annotations

import dataclasses

import pytest

from pydrbd.core.lease import Lease
from pydrbd.core.quorum import Standing
from pydrbd.core.quorum_options import QUORUM_MARK_BYTES, QuorumOptions
from pydrbd.core.refusals import StateCode
from pydrbd.core.states import DiskState
from pydrbd.limits import WITNESS_LOOK_S, WITNESS_RETRY_S, WITNESS_TIMEOUT_S
from tests.core.test_scenarios_quorum import EIO, IO_ERROR, NO_QUORUM, SUSPEND, part, reunite, standing, trio
from tests.harness.scene import BLOCK, order, read, state, wait, write
from tests.harness.witness import Witness
from tests.harness.world import Client, World

A_WHILE_S = WITNESS_TIMEOUT_S + WITNESS_RETRY_S + 1


# --- the peer's disk is lost, and the witness is not there ---


def test_a_primary_whose_peer_loses_its_disk_answers_when_it_has_the_lease() -> None:
    """C1: until then that disk could come back as a good one, with a node that has forgotten."""
    world, client, witness = trio()
    witness.up = False
    assert order(world, world.b, "detach") == 1
    cookie = client.write(0, b"x" * BLOCK, fua=True)
    world.run(A_WHILE_S)
    assert cookie not in client.replies and standing(world.a) in (Standing.NONE, Standing.ASKING)
    witness.up = True
    assert wait(client, cookie) == [0] and witness.lease.holder == "a"
    assert world.a.volume.uuids.bitmap != 0


def test_with_io_error_it_fails_them() -> None:
    """on-no-quorum says how; when the disk is back, so are writes."""
    world, client, witness = trio(IO_ERROR)
    witness.up = False
    assert order(world, world.b, "detach") == 1
    world.run(A_WHILE_S)
    assert write(client, 0, b"x" * BLOCK) == EIO
    assert order(world, world.b, "attach") == 1
    world.run_until(world.is_in_sync)
    assert write(client, 0, b"y" * BLOCK) == 0
    world.run(2)
    assert world.copies_equal()


def test_the_disk_that_comes_back_ends_the_wait() -> None:
    """C1: no lease is needed then, and what was written meanwhile gets there by a resync."""
    world, client, witness = trio()
    witness.up = False
    assert order(world, world.b, "detach") == 1
    cookie = client.write(0, b"x" * BLOCK)
    world.run(A_WHILE_S)
    assert cookie not in client.replies
    assert order(world, world.b, "attach") == 1
    assert wait(client, cookie) == [0]
    world.run_until(world.is_in_sync)
    world.run(2)
    assert world.copies_equal()


@pytest.mark.parametrize("diskless", ["a", "b"])
@pytest.mark.parametrize("how", ["detach", "error"])
def test_a_disk_that_was_lost_does_not_come_back_as_a_good_one(diskless: str, how: str) -> None:
    """C1: whatever was answered, the node whose disk lacks it is not promoted alone."""
    world, client, witness = trio()
    old, good = (world.a, world.b) if diskless == "a" else (world.b, world.a)
    witness.up = False
    if how == "detach":
        assert order(world, old, "detach") == 1
    else:
        old.disks[0].fail_writes = True  # nor does it take a mark that it is bad
    cookie = client.write(0, b"x" * BLOCK, fua=True)
    world.run(A_WHILE_S)
    assert cookie not in client.replies, "the other disk could be promoted without it"
    witness.up = True
    assert wait(client, cookie) == [0]
    assert witness.lease.holder == good.name
    for machine in (world.a, world.b):
        machine.lose_power(world.rng)
    old.disks[0].fail_writes = False
    old.start()
    world.run_until(lambda: old.volume.disk is not None)
    # the error may have left a mark that the disk is bad
    assert order(world, old, "primary") in (NO_QUORUM, int(StateCode.SS_NO_UP_TO_DATE_DISK))
    good.start()
    world.try_link()
    world.run_until(world.is_in_sync)
    world.run(1)
    assert witness.lease.holder == "" and world.copies_equal()


def test_a_peer_without_a_disk_costs_one_question() -> None:
    """The lease is taken once; without a Primary not at all."""
    world, client, witness = trio()
    assert order(world, world.a, "secondary", force=True) == 1
    witness.asked.clear()
    assert order(world, world.b, "detach") == 1
    world.run(WITNESS_LOOK_S)
    assert not witness.asked
    assert order(world, world.a, "primary") == 1
    world.run(WITNESS_LOOK_S * 0.9)
    assert witness.asked == [("a", "ACQUIRE")] and write(client, 0, b"x" * BLOCK) == 0


# --- a Primary without a disk beside a peer whose disk is the older one ---


def newer_without_its_disk() -> tuple[World, Witness]:
    """`a` has gone on alone, and meets `b` without its disk."""
    world, client, witness = trio()
    part(world)
    assert write(client, 0, b"y" * BLOCK, fua=True) == 0
    assert order(world, world.a, "secondary", force=True) == 1
    assert order(world, world.a, "detach", force=True) == 1
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_linked)
    return world, witness


@pytest.mark.parametrize("force", [False, True])
def test_a_node_without_its_disk_is_not_promoted_with_an_older_one(force: bool) -> None:
    """C1: the node with the disk has no lease, and gets none: it refuses."""
    world, witness = newer_without_its_disk()
    assert state(world.a) == "Connected Secondary/Secondary Diskless/UpToDate"
    assert order(world, world.a, "primary", force=force) == NO_QUORUM
    assert order(world, world.b, "primary", force=force) == NO_QUORUM
    assert witness.lease.holder == "a"
    assert order(world, world.a, "attach") == 1
    world.run_until(world.is_in_sync)
    world.run(1)
    assert order(world, world.a, "primary") == 1
    assert read(Client(world, world.a), 0, BLOCK) == b"y" * BLOCK and witness.lease.holder == ""


def test_a_node_without_its_disk_is_promoted_when_its_peer_has_the_lease() -> None:
    """It is served by the peer's disk, which nobody can overtake from then on."""
    world, _client, witness = trio()
    assert order(world, world.a, "secondary", force=True) == 1
    assert order(world, world.a, "detach") == 1
    witness.up = False
    assert order(world, world.a, "primary") == NO_QUORUM
    witness.up = True
    assert order(world, world.a, "primary") == 1
    assert witness.lease.holder == "b"
    assert write(Client(world, world.a), 0, b"x" * BLOCK) == 0


def test_a_primary_without_a_disk_that_comes_back_waits_for_its_peers_lease() -> None:
    """Both had the same when the link was cut; then its disk failed, which could return as the good one."""
    world, client, witness = trio()
    witness.up = False
    part(world)
    assert order(world, world.a, "detach", force=True) == 1
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_linked)
    cookie = client.write(0, b"x" * BLOCK, fua=True)
    world.run(A_WHILE_S)
    assert cookie not in client.replies
    witness.up = True
    assert wait(client, cookie) == [0] and witness.lease.holder == "b"


def test_a_cut_ends_the_wait_with_an_error() -> None:
    """What only the lost peer may have is no success."""
    world, client, witness = trio()
    witness.up = False
    assert order(world, world.a, "detach") == 1
    cookie = client.write(0, b"x" * BLOCK, fua=True)
    world.run(1)
    part(world)
    assert wait(client, cookie) == [EIO]


# --- force, and witnesses that forget ---


def test_force_needs_quorum_too() -> None:
    """DRBD 9's rule: it is about data. A witness that is not there, or that says no, is not overruled."""
    world, _client, witness = trio()
    witness.up = False
    world.a.lose_power(world.rng)
    world.run_until(lambda: world.b.volume.state.conn.name == "WFConnection")
    assert order(world, world.b, "primary", force=True) == NO_QUORUM
    witness.up = True
    assert order(world, world.b, "primary", force=True) == 1 and witness.lease.holder == "b"


def test_a_holder_that_is_forgotten_stops_when_it_looks() -> None:
    """An operator has said that it is dead, and its peer was promoted: it was not, and finds out."""
    world, client, witness = trio()
    part(world)
    assert write(client, 0, b"x" * BLOCK) == 0
    witness.lease = Lease("", 0, witness.lease.term)
    assert order(world, world.b, "primary") == 1
    world.run(WITNESS_LOOK_S + A_WHILE_S)
    assert standing(world.a) in (Standing.NONE, Standing.ASKING)
    cookie = client.write(0, b"y" * BLOCK)
    world.run(WITNESS_LOOK_S)
    assert cookie not in client.replies and "given the lease to b" in world.a.node.quorum.refusal


def test_a_witness_that_has_lost_its_leases_is_told_again() -> None:
    """The holder looks from time to time: then the other one is refused as before."""
    world, client, witness = trio()
    part(world)
    assert write(client, 0, b"x" * BLOCK) == 0
    witness.lease = Lease()
    world.run(WITNESS_LOOK_S + 1)
    assert witness.lease.holder == "a" and standing(world.a) is Standing.LEASE
    assert order(world, world.b, "primary") == NO_QUORUM
    assert write(client, 0, b"y" * BLOCK) == 0
    reunite(world)
    assert world.copies_equal() and witness.lease.holder == ""


def test_the_lease_outlives_a_meeting_that_ends_before_the_copies_are_equal() -> None:
    """It is the holder's until then: no question is needed for the next cut, also if the witness is gone."""
    world, client, witness = trio()
    part(world)
    assert set(wait(client, *(client.write(n * BLOCK, b"x" * BLOCK) for n in range(600)))) == {0}
    witness.up = False
    world.link_allowed = True
    world.try_link()
    world.run_until(lambda: world.a.volume.state.conn.name == "SyncSource")
    part(world)
    assert world.a.volume.state.pdsk is not DiskState.UpToDate
    assert standing(world.a) is Standing.LEASE and write(client, 0, b"y" * BLOCK) == 0


def test_an_error_that_the_only_disk_passes_on_is_that_requests_alone() -> None:
    """pass_on: the disk stays, and good, so no word on it is under way that would end a doubt."""
    world, client, _witness = trio(disk={"on_io_error": "pass_on"})
    assert order(world, world.a, "detach") == 1
    world.run(A_WHILE_S)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.disks[0].fail_once.add("write")
    assert write(client, BLOCK, b"y" * BLOCK) == EIO
    world.run(A_WHILE_S)
    assert state(world.b).startswith("Connected Secondary") and world.b.volume.state.disk is DiskState.UpToDate
    assert standing(world.a) is Standing.PEER and write(client, BLOCK, b"y" * BLOCK) == 0


# --- both nodes must ask, and the same witness ---


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (QuorumOptions(), "the peer has no quorum configured"),
        (QuorumOptions(enabled=True), "the peer's quorum differs from ours"),
        (dataclasses.replace(IO_ERROR, witness="tcp:10.0.0.9:7799 r0:a,b"), "the peer's quorum differs from ours"),
    ],
)
def test_a_peer_with_another_quorum_is_refused(theirs: QuorumOptions, words: str) -> None:
    """Both stand alone, and say why: what one of them asks the witness for, the other one would take unasked."""
    world, client, _witness = trio()
    options = dataclasses.replace(world.b.node.options, quorum=theirs)
    assert order(world, world.b, "reconfigure", options=options) == 1
    part(world)
    world.link_allowed = True
    world.try_link()
    world.run(A_WHILE_S)
    assert state(world.a).startswith("StandAlone Primary") and state(world.b).startswith("StandAlone Secondary")
    assert words in world.a.node.links.reason and "quorum" in world.b.node.links.reason
    assert write(client, 0, b"x" * BLOCK) == 0, "by the lease"


def test_what_on_no_quorum_says_may_differ() -> None:
    """That is each node's own matter; the same witness by the same name is enough."""
    alike = dataclasses.replace(IO_ERROR, io_error=False, node="other")
    assert IO_ERROR.agreement == alike.agreement and not IO_ERROR.why_not(alike.agreement, is_pydrbd=True)


def test_a_kernel_is_refused_where_quorum_is_configured() -> None:
    """Without quorum it is welcome, whatever it has in bytes that are reserved; today's have zeroes."""
    for theirs in (bytes(QUORUM_MARK_BYTES), b"x" * QUORUM_MARK_BYTES):
        assert IO_ERROR.why_not(theirs, is_pydrbd=False).startswith("the peer is no pydrbd: it knows no quorum")
        assert QuorumOptions().why_not(theirs, is_pydrbd=False) == ""


@pytest.mark.parametrize("quorum", [SUSPEND, IO_ERROR])
def test_the_handler_quorum_lost_is_run_once_for_each_loss(quorum: QuorumOptions) -> None:
    """Not for the moment in which the witness is asked, nor each time that it is asked again; nor on a Secondary."""
    world, client, witness = trio(quorum, handlers=("quorum-lost",))
    part(world)
    assert write(client, 0, b"x" * BLOCK) == 0
    reunite(world)
    assert not world.a.helpers and not world.b.helpers
    for count in (1, 2):
        witness.up = False
        part(world)
        world.run(A_WHILE_S * 3)
        assert world.a.helpers == [("quorum-lost", 0)] * count and not world.b.helpers
        witness.up = True
        reunite(world)
