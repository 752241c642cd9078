"""Scenarios: quorum with a witness. Which of two nodes may go on alone, and what becomes of the other one's I/O."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pydrbd.core.quorum import Standing
from pydrbd.core.quorum_options import QuorumOptions
from pydrbd.core.refusals import StateCode
from pydrbd.core.snapshot import snapshot
from pydrbd.core.states import DiskState
from pydrbd.core.transitions import Fencing
from pydrbd.limits import WITNESS_RETRY_S, WITNESS_TIMEOUT_S
from tests.harness.scene import BLOCK, order, pair, state, wait, write
from tests.harness.witness import Witness
from tests.harness.world import Client, Machine, World

SUSPEND = QuorumOptions(enabled=True, by_witness=True)
IO_ERROR = QuorumOptions(enabled=True, by_witness=True, io_error=True)
EIO, ESHUTDOWN = 5, 108
NO_QUORUM = int(StateCode.SS_NO_QUORUM)


def trio(quorum: QuorumOptions = SUSPEND, **options: Any) -> tuple[World, Client, Witness]:
    """A pair in sync, `a` Primary with a client, and their witness, which has been told of that."""
    world, client = pair(quorum=quorum, **options)
    assert world.witness is not None
    world.run(1)
    return world, client, world.witness


def part(world: World) -> None:
    world.link_allowed = False
    world.cut()


def reunite(world: World) -> None:
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_in_sync)
    world.run(WITNESS_RETRY_S + 1)


def standing(machine: Machine) -> Standing:
    assert machine.node is not None
    return machine.node.quorum.standing


# --- the vote ---


def test_a_primary_that_loses_its_peer_asks_before_it_answers() -> None:
    """C2: nothing is answered before the witness has spoken; then it goes on, in a new generation."""
    world, client, witness = trio()
    before = world.a.volume.uuids.current
    witness.latency_s = 1.0
    cookies = [client.write(n * BLOCK, b"x" * BLOCK) for n in range(10)]
    part(world)
    assert standing(world.a) is Standing.ASKING and snapshot(world.a.node)["suspended_reasons"] == ["quorum"]
    cookies += [client.write(n * BLOCK, b"y" * BLOCK) for n in range(10, 20)]
    world.run(0.0001)
    assert not client.replies
    assert set(wait(client, *cookies)) == {0}
    assert standing(world.a) is Standing.LEASE and witness.lease.holder == "a"
    assert world.a.volume.uuids.current != before == world.a.volume.uuids.bitmap


def test_the_other_node_is_refused_and_says_why() -> None:
    """C2: whoever did not get the lease can't become Primary, with DRBD's code, nor with --force."""
    world, client, witness = trio()
    part(world)
    assert write(client, 0, b"x" * BLOCK) == 0
    request = world.b.command("primary")
    world.run_until(lambda: request in world.b.answers)
    code, text = world.b.answers[request]
    assert code == NO_QUORUM and text.startswith("State change failed: (-25) No quorum: the witness has given")
    assert state(world.b).startswith("WFConnection Secondary/")
    assert order(world, world.b, "primary", force=True) == NO_QUORUM
    assert witness.lease.holder == "a"


def test_the_lease_is_given_back_when_both_copies_are_equal() -> None:
    """After that the other one may have it; a node that has lost a vote and was synced is as good as any."""
    world, client, witness = trio()
    part(world)
    assert write(client, 0, b"x" * BLOCK) == 0
    assert witness.lease.holder == "a"
    reunite(world)
    assert witness.lease.holder == "" and standing(world.a) is Standing.PEER
    world.a.lose_power(world.rng)
    world.run_until(lambda: world.b.volume.state.conn.name == "WFConnection")
    assert order(world, world.b, "primary") == 1
    assert witness.lease.holder == "b" and write(Client(world, world.b), BLOCK, b"z" * BLOCK) == 0


def test_a_node_that_was_not_there_stays_refused_after_everybody_restarts() -> None:
    """The lease has no time limit: old data is not promoted because its owner was away long enough."""
    world, client, _witness = trio()
    part(world)
    assert write(client, 0, b"x" * BLOCK) == 0
    for machine in (world.a, world.b):
        machine.lose_power(world.rng)
    world.run(3600)
    world.b.start()
    world.run_until(lambda: world.b.volume.disk is not None)
    assert order(world, world.b, "primary") == NO_QUORUM
    world.a.start()
    world.run_until(lambda: world.a.volume.disk is not None)
    assert order(world, world.a, "primary") == 1, "its own lease is no obstacle"


def overtake(world: World, client: Client, witness: Witness) -> int:
    """The Primary sees nobody; its peer is promoted, and writes: the request that a client of the first waits for."""
    witness.cut_off.add("a")
    part(world)
    cookie = client.write(0, b"x" * BLOCK)
    assert order(world, world.b, "primary") == 1
    assert write(Client(world, world.b), BLOCK, b"y" * BLOCK) == 0
    world.run(WITNESS_TIMEOUT_S * 3)
    return cookie


def test_a_primary_that_is_cut_off_from_both_stops_and_the_other_one_takes_over() -> None:
    """With suspend-io nothing is answered, and with a peer that has gone on nothing ever is."""
    world, client, witness = trio()
    cookie = overtake(world, client, witness)
    assert cookie not in client.replies and standing(world.a) in (Standing.NONE, Standing.ASKING)
    witness.cut_off.clear()
    world.run(WITNESS_TIMEOUT_S * 3)
    assert cookie not in client.replies and "given the lease to b" in world.a.node.quorum.refusal
    assert order(world, world.a, "resume-io") == NO_QUORUM
    assert order(world, world.a, "secondary", force=True) == 1
    assert wait(client, cookie) != [0]
    reunite(world)
    assert state(world.a) == "Connected Secondary/Primary UpToDate/UpToDate" and world.copies_equal()


def test_a_frozen_primary_whose_peer_went_on_gives_up_its_role_if_it_is_told_to() -> None:
    """on-suspended-primary-outdated force-secondary: what waits fails, and the two meet without anybody's help."""
    world, client, witness = trio(dataclasses.replace(SUSPEND, force_secondary=True))
    cookie = overtake(world, client, witness)
    assert cookie not in client.replies and state(world.a).startswith("WFConnection Primary"), "it does not know yet"
    witness.cut_off.clear()
    assert wait(client, cookie) != [0]
    assert state(world.a).startswith("WFConnection Secondary")
    assert any("becomes Secondary: on-suspended-primary-outdated" in line for line in world.a.log)
    reunite(world)
    assert state(world.a) == "Connected Secondary/Primary UpToDate/UpToDate" and world.copies_equal()


def test_the_role_is_kept_while_nobody_else_has_the_lease() -> None:
    """It may go on when the witness is back, and so does what waits."""
    world, client, witness = trio(dataclasses.replace(SUSPEND, force_secondary=True))
    witness.up = False
    part(world)
    cookie = client.write(0, b"x" * BLOCK)
    world.run(WITNESS_TIMEOUT_S * 5)
    assert cookie not in client.replies and state(world.a).startswith("WFConnection Primary")
    witness.up = True
    assert wait(client, cookie) == [0]


def test_with_io_error_requests_fail_until_there_is_quorum_again() -> None:
    """on-no-quorum io-error: what waited and what comes fail; when the witness is back, all is well again."""
    world, client, witness = trio(IO_ERROR)
    witness.up = False
    cookies = [client.write(n * BLOCK, b"x" * BLOCK) for n in range(10)]
    part(world)
    cookies += [client.write(10 * BLOCK, b"y" * BLOCK), client.flush()]
    assert set(wait(client, *cookies)) == {EIO}
    assert wait(client, client.read(0, BLOCK), client.flush()) == [EIO, EIO]
    seen = snapshot(world.a.node)
    assert not seen["suspended"] and seen["suspended_reasons"] == [] and seen["volumes"][0]["fails"], "nothing waits"
    assert not seen["volumes"][0]["quorum"]
    assert world.a.volume.uuids.bitmap == 0, "a generation of writes that nobody was told of"
    witness.up = True
    world.run_until(lambda: standing(world.a) is Standing.LEASE)
    assert write(client, 0, b"z" * BLOCK) == 0 and world.a.volume.uuids.bitmap != 0
    assert not snapshot(world.a.node)["volumes"][0]["fails"]
    reunite(world)
    assert world.copies_equal() and write(client, 0, b"w" * BLOCK) == 0


def test_with_io_error_the_returning_peer_ends_it() -> None:
    """No vote was won: both go on in the generation that they had, and what failed is synced."""
    world, client, witness = trio(IO_ERROR)
    witness.up = False
    part(world)
    assert write(client, 0, b"x" * BLOCK) == EIO
    reunite(world)
    assert state(world.a) == "Connected Primary/Secondary UpToDate/UpToDate"
    assert write(client, 0, b"y" * BLOCK) == 0
    world.run(2)
    assert world.copies_equal()


def newer_without_its_disk(frozen: bool) -> tuple[World, Client, Witness]:
    """`b` has gone on alone, and comes back without its disk to `a`, which is frozen, or Secondary."""
    world, client, witness = trio()
    witness.cut_off.add("a")
    part(world)
    assert order(world, world.b, "primary") == 1
    assert write(Client(world, world.b), 0, b"y" * BLOCK, fua=True) == 0
    if not frozen:
        assert order(world, world.a, "secondary", force=True) == 1
    assert order(world, world.b, "secondary", force=True) == 1
    assert order(world, world.b, "detach", force=True) == 1
    witness.cut_off.clear()
    world.link_allowed = True
    world.try_link()
    world.run(1)
    return world, client, witness


def test_frozen_io_does_not_go_on_with_a_peer_whose_disk_nobody_has_seen() -> None:
    """C1: that disk may be ahead. When it is attached, all is as with any peer that has gone on."""
    world, client, _witness = newer_without_its_disk(frozen=True)
    cookie = client.write(0, b"x" * BLOCK)
    world.run(WITNESS_TIMEOUT_S * 3)
    assert cookie not in client.replies
    world.b.command("attach")
    world.run(10)
    assert cookie not in client.replies
    assert order(world, world.a, "secondary", force=True) == 1
    for machine in (world.a, world.b):
        machine.command("connect")
    reunite(world)
    assert world.copies_equal() and world.a.disks[0].image[:BLOCK] == b"y" * BLOCK


def test_nobody_is_promoted_with_a_peer_whose_disk_nobody_has_seen() -> None:
    """C1: nor with --force."""
    world, _client, _witness = newer_without_its_disk(frozen=False)
    assert order(world, world.a, "primary") == NO_QUORUM
    assert order(world, world.a, "primary", force=True) == NO_QUORUM


def test_frozen_io_goes_on_when_the_disk_of_the_returned_peer_was_compared() -> None:
    """No vote is needed for it."""
    world, client, witness = trio()
    witness.up = False
    world.b.lose_power(world.rng)
    cookie = client.write(0, b"x" * BLOCK)
    world.run(60)
    assert cookie not in client.replies
    world.b.start()
    world.b.command("connect")
    world.try_link()
    assert wait(client, cookie) == [0]
    world.run_until(world.is_in_sync)


def test_nobody_is_promoted_before_its_own_disk_was_compared() -> None:
    """C1: it may be the newer one, and the peer would serve us from its own, in a generation that is begun for that."""
    world, client, _witness = trio()
    part(world)
    assert write(client, 0, b"x" * BLOCK, fua=True) == 0
    world.a.lose_power(world.rng)
    world.a.start()
    world.link_allowed = True
    world.a.command("connect")
    world.try_link()
    world.run_until(lambda: world.a.volume.state.connected)
    assert world.a.volume.state.disk in (DiskState.Attaching, DiskState.Negotiating)
    assert order(world, world.a, "primary") == StateCode.SS_IN_TRANSIENT_STATE
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and world.b.disks[0].image[:BLOCK] == b"x" * BLOCK
    assert order(world, world.a, "primary") == 1


def test_without_a_witness_the_peer_is_the_quorum() -> None:
    """`quorum majority` of two nodes, as in DRBD 9: whoever is alone stops, and nobody is promoted."""
    world, client = pair(quorum=QuorumOptions(enabled=True))
    part(world)
    cookie = client.write(0, b"x" * BLOCK)
    assert order(world, world.b, "primary") == NO_QUORUM
    world.run(60)
    assert cookie not in client.replies
    world.link_allowed = True
    world.try_link()
    assert wait(client, cookie) == [0]


def test_a_dead_witness_is_no_matter_while_both_are_connected() -> None:
    """Neither writes nor a change of roles ask it."""
    world, client, witness = trio()
    witness.up = False
    assert write(client, 0, b"x" * BLOCK) == 0
    assert order(world, world.a, "secondary", force=True) == 1
    world.run(1)
    assert order(world, world.b, "primary") == 1


def test_a_witness_that_answers_too_late_has_not_answered() -> None:
    """The peer is back before: the grant does not count for the next outage, and is given back."""
    world, client, witness = trio()
    witness.latency_s = 4.0
    part(world)
    assert standing(world.a) is Standing.ASKING
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_in_sync)
    world.run(30)
    assert witness.lease.holder == "" and witness.lease.term > 0
    witness.up = False
    part(world)
    cookie = client.write(0, b"x" * BLOCK)
    world.run(30)
    assert cookie not in client.replies


def test_a_secondary_that_is_alone_asks_nothing() -> None:
    """It would keep the other one from the vote."""
    world, _client, witness = trio()
    assert order(world, world.a, "secondary", force=True) == 1
    witness.asked.clear()
    part(world)
    world.run(30)
    assert not witness.asked and snapshot(world.b.node)["volumes"][0]["quorum"] is False


@pytest.mark.parametrize("code", [4, 1])
def test_fencing_and_quorum_are_both_asked(code: int) -> None:
    """With resource-and-stonith a lease is not enough: the verdict of fence-peer counts as before."""
    world, client, witness = trio(fencing=Fencing.RESOURCE_AND_STONITH, handlers=("fence-peer",))
    world.a.handler = lambda _name: (code, 1.0)
    part(world)
    cookie = client.write(0, b"x" * BLOCK)
    world.run(10)
    assert witness.lease.holder == "a"
    assert (cookie in client.replies) is (code == 4)


def test_quorum_that_is_switched_on_and_off_while_a_primary_is_alone() -> None:
    """`resource-options`: a Primary that is alone needs what is asked for now, at once."""
    world, client = pair()
    part(world)
    assert write(client, 0, b"x" * BLOCK) == 0
    for enabled in (True, False):
        options = dataclasses.replace(world.a.node.options, quorum=QuorumOptions(enabled=enabled))
        assert order(world, world.a, "reconfigure", options=options) == 1
        cookie = client.write(0, b"y" * BLOCK)
        world.run(5)
        assert (cookie in client.replies) is not enabled


def test_on_no_quorum_changes_while_there_is_none() -> None:
    """From suspend-io to io-error: what waited fails; and back: what comes waits."""
    world, client = pair(quorum=QuorumOptions(enabled=True))
    part(world)
    cookie = client.write(0, b"x" * BLOCK)
    world.run(1)
    assert cookie not in client.replies
    for io_error in (True, False):
        options = dataclasses.replace(world.a.node.options, quorum=QuorumOptions(enabled=True, io_error=io_error))
        assert order(world, world.a, "reconfigure", options=options) == 1
        later = client.write(BLOCK, b"y" * BLOCK)
        world.run(1)
        assert (later in client.replies) is io_error and client.replies[cookie][0] == EIO
    world.link_allowed = True
    world.try_link()
    assert wait(client, later) == [0]
