"""Scenarios: fencing. Who may go on alone, what is frozen until that is known, and what a verdict changes.

The states and their order are those of a pair of kernels (DRBD 8.4.11) that was put through the same.
"""

from __future__ import annotations

from typing import Any

import pytest

from pydrbd.core.states import ConnState, DiskState
from pydrbd.core.transitions import Fencing
from pydrbd.metadata.superblock import MdFlag
from tests.harness.scene import BLOCK, order, pair, read, state, wait, write
from tests.harness.world import Client, Machine, World

STONITH = {"fencing": Fencing.RESOURCE_AND_STONITH, "handlers": ("fence-peer", "unfence-peer", "after-resync-target")}
RESOURCE = {**STONITH, "fencing": Fencing.RESOURCE_ONLY}
OUTDATED, INCONSISTENT = "UpToDate/Outdated", "UpToDate/Inconsistent"
VERDICT_S = 1.0
COLD_BYTES = 8 << 20
"""Nothing has been written there: its extent is not in the activity log."""


def says(machine: Machine, code: int | None, seconds: float = VERDICT_S) -> None:
    """What fence-peer will say on this node; other handlers end well."""
    machine.handler = lambda name: (code, seconds) if name == "fence-peer" else (0, 0.01)


def part(world: World) -> None:
    """The network fails, for as long as the scenario does not say otherwise."""
    world.link_allowed = False
    world.cut()


def reunite(world: World) -> None:
    world.link_allowed = True
    world.try_link()


def is_frozen(machine: Machine) -> bool:
    return machine.volume.state.susp_fen


def current(machine: Machine) -> int:
    return machine.disks[0].superblock().current_uuid & ~1


# --- a Primary loses its peer ---


@pytest.mark.parametrize(
    ("code", "disks"), [(3, INCONSISTENT), (4, OUTDATED), (5, OUTDATED), (7, OUTDATED)]
)
def test_io_is_frozen_until_a_good_verdict(code: int, disks: str) -> None:
    """C8: nothing is answered before; then a new generation is on disk first, and everything is answered."""
    world, client = pair(**STONITH)
    says(world.a, code)
    before = current(world.a)
    cookies = [client.write(n * BLOCK, b"x" * BLOCK) for n in range(10)]
    part(world)
    cookies += [client.write(n * BLOCK, b"y" * BLOCK) for n in range(10, 20)]
    flush = client.flush()
    world.run(VERDICT_S * 0.9)
    assert is_frozen(world.a) and not client.replies
    assert world.a.volume.state.suspended_text == "fencing"
    assert current(world.a) == before
    assert set(wait(client, *cookies, flush)) == {0}
    assert state(world.a) == f"WFConnection Primary/Unknown {disks}"
    assert current(world.a) != before == world.a.disks[0].superblock().bitmap_uuid & ~1
    assert world.a.helpers == [("fence-peer", None)] and world.b.helpers == []
    reunite(world)
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors
    assert world.a.helpers == [("fence-peer", None), ("unfence-peer", None)]
    assert world.b.helpers == [("after-resync-target", 0)]


@pytest.mark.parametrize("code", [None, 0, 1, 2, 6, 8, 20, 127])
def test_no_other_code_thaws(code: int | None) -> None:
    """C8: a handler that fails, is not there, takes too long, or sees a Primary there: I/O stays frozen."""
    world, client = pair(**STONITH)
    says(world.a, code)
    cookie = client.write(0, b"x" * BLOCK)
    part(world)
    later = client.read(0, BLOCK)
    world.run(60)
    assert is_frozen(world.a) and not {cookie, later} & set(client.replies)
    assert state(world.a) == "WFConnection Primary/Unknown UpToDate/DUnknown"


def test_without_a_handler_io_stays_frozen() -> None:
    """As DRBD: drbdadm ends with 0 then, which is no verdict."""
    world, client = pair(fencing=Fencing.RESOURCE_AND_STONITH)
    part(world)
    cookie = client.write(0, b"x" * BLOCK)
    world.run(10)
    assert is_frozen(world.a) and cookie not in client.replies
    assert any("fence-peer helper broken, returned 0" in line for line in world.a.log)


def test_resource_only_goes_on_meanwhile() -> None:
    """The handler is run, nobody waits for it."""
    world, client = pair(**RESOURCE)
    says(world.a, 4, 5.0)
    part(world)
    assert write(client, 0, b"x" * BLOCK) == 0
    assert state(world.a) == "WFConnection Primary/Unknown UpToDate/DUnknown"
    world.run(6)
    assert state(world.a) == f"WFConnection Primary/Unknown {OUTDATED}"


def test_a_secondary_and_dont_care_ask_nobody() -> None:
    world, client = pair(handlers=("fence-peer",))
    part(world)
    assert write(client, 0, b"x" * BLOCK) == 0
    assert world.a.helpers == world.b.helpers == []


# --- the peer is back first ---


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("restarts", [False, True])
def test_a_peer_that_is_back_thaws(seed: int, restarts: bool) -> None:
    """What was frozen is answered when the peer is known to be behind; the late verdict changes nothing."""
    world, client = pair(seed, **STONITH)
    says(world.a, 4, 30.0)
    cookies = [client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(20)]
    if restarts:
        world.b.lose_power(world.rng)
    else:
        part(world)
    cookies += [client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(20, 40)]
    world.run(2)
    assert is_frozen(world.a) and not set(cookies[20:]) & set(client.replies)
    if restarts:
        world.b.start()
    reunite(world)
    assert set(wait(client, *cookies, client.flush())) == {0}
    world.run_until(world.is_in_sync)
    world.run(60)
    assert state(world.a) == "Connected Primary/Secondary UpToDate/UpToDate"
    assert any("Ignoring fence-peer exit code 4" in line for line in world.a.log)
    assert world.copies_equal() and not world.protocol_errors
    for n in range(40):
        assert read(client, n * BLOCK, BLOCK) == bytes([n + 1]) * BLOCK


def test_a_verdict_on_an_earlier_loss_is_ignored_and_asked_again() -> None:
    """C8: the link came and went while the handler ran: its word is about what was before."""
    world, client = pair(**STONITH)
    says(world.a, 4, 10.0)
    part(world)
    world.run(1)
    reunite(world)
    world.run_until(world.is_in_sync)
    part(world)
    cookie = client.write(0, b"x" * BLOCK)
    says(world.a, 1, 1.0)
    world.run(20)
    assert is_frozen(world.a) and cookie not in client.replies
    assert world.a.helpers.count(("fence-peer", None)) == 2


def test_nobody_answers_what_a_dying_frozen_primary_had(seed: int = 3) -> None:
    """Frozen writes were never answered: the other node may take over without them, and this one follows it."""
    world, client = pair(seed, **STONITH)
    says(world.a, 1)
    says(world.b, 7)
    assert write(client, 0, b"1" * BLOCK) == 0
    part(world)
    for n in range(8):
        client.write(n * BLOCK, b"2" * BLOCK)
    world.run(3)
    world.a.lose_power(world.rng)
    assert order(world, world.b, "primary") == 1
    other = Client(world, world.b)
    assert read(other, 0, BLOCK) == b"1" * BLOCK
    assert write(other, BLOCK, b"3" * BLOCK) == 0
    world.a.start()
    assert world.a.node is not None
    reunite(world)
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and read(other, 0, BLOCK) == b"1" * BLOCK


# --- by the operator's word ---


def test_resume_io_begins_a_generation_first() -> None:
    """As the kernel: whoever says so takes the peer for outdated, and the peer will be resynced."""
    world, client = pair(**STONITH)
    says(world.a, 1)
    before = current(world.a)
    part(world)
    cookie = client.write(0, b"x" * BLOCK)
    world.run(3)
    assert order(world, world.a, "resume-io") == 1
    assert wait(client, cookie) == [0] and current(world.a) != before
    assert state(world.a) == "WFConnection Primary/Unknown UpToDate/DUnknown"
    reunite(world)
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_suspend_io_holds_and_resume_io_lets_go() -> None:
    world, client = pair()
    assert order(world, world.a, "suspend-io") == 1
    assert world.a.volume.state.suspended_text == "user"
    cookie = client.write(0, b"x" * BLOCK)
    world.run(5)
    assert cookie not in client.replies
    assert order(world, world.a, "resume-io") == 1
    assert wait(client, cookie) == [0] and state(world.a) == "Connected Primary/Secondary UpToDate/UpToDate"


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_frozen_primary_can_be_demoted_by_force(taken_over: bool) -> None:
    """What waits fails, honestly; whoever is met next sorts out what it left on the disk."""
    world, client = pair(**STONITH)
    says(world.a, 1)
    says(world.b, 7)
    assert write(client, 0, b"1" * BLOCK) == 0
    cookies = [client.write(n * BLOCK, b"2" * BLOCK) for n in range(8)]
    part(world)
    cookies += [client.write(n * BLOCK, b"2" * BLOCK) for n in range(8, 16)]
    flush = client.flush()
    world.run(3)
    waiting = [cookie for cookie in (*cookies, flush) if cookie not in client.replies]
    assert waiting and order(world, world.a, "secondary") == -12
    assert order(world, world.a, "secondary", force=True) == 1
    assert 0 not in wait(client, *waiting)
    assert not is_frozen(world.a)
    if taken_over:
        assert order(world, world.b, "primary") == 1
        assert write(Client(world, world.b), BLOCK, b"3" * BLOCK) == 0
    reunite(world)
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors
    if taken_over:
        assert world.a.disks[0].data[: 2 * BLOCK] == b"1" * BLOCK + b"3" * BLOCK


def test_a_demotion_by_force_ends_with_the_write_that_waits_for_the_activity_log() -> None:
    """It is refused when its transaction is on disk: the last thing that the demotion waits for."""
    world, client = pair(**STONITH)
    says(world.a, 1)
    assert write(client, 0, b"1" * BLOCK) == 0
    world.a.slow_s = 2.0
    cookie = client.write(COLD_BYTES, b"2" * BLOCK)
    world.run(0.01)
    part(world)
    world.run(0.5)
    assert is_frozen(world.a) and cookie not in client.replies
    assert order(world, world.a, "secondary", force=True) == 1
    assert 0 not in wait(client, cookie) and state(world.a) == "WFConnection Secondary/Unknown UpToDate/DUnknown"


# --- promotion ---


@pytest.mark.parametrize(
    ("code", "answer", "disks"),
    [
        (1, -2, "Consistent/DUnknown"),
        (5, -2, "Consistent/DUnknown"),
        (6, -2, "Outdated/DUnknown"),
        (3, 1, INCONSISTENT),
        (4, 1, OUTDATED),
        (7, 1, OUTDATED),
    ],
)
def test_a_consistent_disk_is_promoted_only_by_a_verdict(code: int, answer: int, disks: str) -> None:
    """C1: it was in sync when it was last seen, and the peer may have gone on since."""
    world, _ = pair(**STONITH)
    says(world.b, code)
    world.a.lose_power(world.rng)
    world.b.lose_power(world.rng)
    world.b.start()
    world.run(1)
    assert state(world.b) == "WFConnection Secondary/Unknown Consistent/DUnknown"
    assert MdFlag.WAS_UP_TO_DATE in world.b.disks[0].superblock().flags
    before = current(world.b)
    assert order(world, world.b, "primary") == answer
    assert world.b.volume.state.disks_text == disks
    assert (current(world.b) != before) == (answer > 0)
    assert not is_frozen(world.b)


@pytest.mark.parametrize(
    ("policy", "code", "answer", "disks"),
    [
        (STONITH, 1, -7, "UpToDate/DUnknown"),
        (STONITH, 5, 1, OUTDATED),
        (STONITH, 6, -2, "Outdated/DUnknown"),
        (STONITH, 7, 1, OUTDATED),
        (RESOURCE, 1, -7, "UpToDate/DUnknown"),
        (RESOURCE, 4, 1, OUTDATED),
    ],
)
def test_a_secondary_that_lost_its_peer_is_promoted_by_a_verdict(
    policy: dict[str, Any], code: int, answer: int, disks: str
) -> None:
    """Its disk is UpToDate, and where the peer is must be settled: refused with DRBD's words otherwise."""
    world, _ = pair(**policy)
    says(world.b, code)
    world.a.stop()
    world.run(1)
    assert order(world, world.b, "primary") == answer
    assert world.b.volume.state.disks_text == disks
    assert world.b.helpers == [("fence-peer", None)]


def test_force_takes_an_unfenced_peer_for_outdated() -> None:
    world, _ = pair(**STONITH)
    says(world.b, 1)
    world.a.stop()
    world.run(1)
    assert order(world, world.b, "primary", force=True) == 1
    assert state(world.b) == f"WFConnection Primary/Unknown {OUTDATED}"
    assert any("Forced into split brain situation" in line for line in world.b.log)


def test_what_is_known_of_the_peer_is_remembered() -> None:
    """PEER_OUT_DATED is on disk: after a restart this copy is known to be the newest, and no handler is needed."""
    world, client = pair(**STONITH)
    says(world.a, 4)
    part(world)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.lose_power(world.rng)
    world.a.start()
    world.run(1)
    assert state(world.a) == f"WFConnection Secondary/Unknown {OUTDATED}"
    assert order(world, world.a, "primary") == 1
    assert world.a.helpers == [("fence-peer", None)]


def test_two_that_come_back_together_need_no_handler() -> None:
    world, _ = pair(**STONITH)
    for machine in (world.a, world.b):
        machine.lose_power(world.rng)
    for machine in (world.a, world.b):
        machine.start()
    world.run_until(world.is_in_sync)
    assert order(world, world.b, "primary") == 1
    assert world.a.helpers == world.b.helpers == [] or ("fence-peer", None) not in world.b.helpers


# --- parting in good order ---


def test_a_primary_that_leaves_has_its_peer_outdated() -> None:
    """As a pair of kernels: no handler is needed, and the generation is a new one."""
    world, client = pair(**STONITH)
    assert order(world, world.a, "disconnect") == 1
    world.run(1)
    assert state(world.a) == f"StandAlone Primary/Unknown {OUTDATED}"
    assert state(world.b) == "WFConnection Secondary/Unknown Outdated/DUnknown"
    assert MdFlag.WAS_UP_TO_DATE not in world.b.disks[0].superblock().flags
    assert write(client, 0, b"x" * BLOCK) == 0 and world.a.helpers == []
    says(world.b, 4)
    assert order(world, world.b, "primary") == -2
    assert order(world, world.a, "connect") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_a_secondary_that_leaves_is_outdated() -> None:
    """The Primary would not let it go as it is; outdated it may, and the Primary goes on at once."""
    world, client = pair(**STONITH)
    assert order(world, world.b, "disconnect") == 1
    world.run(1)
    assert state(world.b) == "StandAlone Secondary/Unknown Outdated/DUnknown"
    assert state(world.a) == f"WFConnection Primary/Unknown {OUTDATED}"
    assert write(client, 0, b"x" * BLOCK) == 0 and world.a.helpers == []


@pytest.mark.parametrize("steps", range(0, 40, 2))
def test_both_may_part_at_the_same_time(steps: int) -> None:
    """Whatever each was about to say to the other: nobody stays on the way out, and neither asks a handler."""
    world, _ = pair(**STONITH)
    for machine in (world.b, world.a):
        machine.command("disconnect")
        for _ in range(steps):
            world.step()
    world.run(10)
    ways_out = (ConnState.StandAlone, ConnState.WFConnection)
    assert {machine.volume.state.conn for machine in (world.a, world.b)} <= set(ways_out)
    assert world.b.volume.state.disk is DiskState.Outdated or world.a.volume.state.pdsk is DiskState.Outdated


def test_two_secondaries_part_as_they_are() -> None:
    world, _ = pair(**STONITH)
    assert order(world, world.a, "secondary", force=True) == 1
    assert order(world, world.a, "disconnect") == 1
    world.run(1)
    assert state(world.a) == "StandAlone Secondary/Unknown UpToDate/DUnknown"
    assert state(world.b) == "WFConnection Secondary/Unknown UpToDate/DUnknown"


# --- nothing left to defend, several volumes ---


def test_a_frozen_primary_that_loses_its_disk_fails_what_waits() -> None:
    """There is nothing to go on with: errors, no hanging for ever, and no success."""
    world, client = pair(**STONITH)
    says(world.a, 1)
    part(world)
    cookie = client.write(0, b"x" * BLOCK)
    world.run(3)
    assert order(world, world.a, "detach", force=True) == 1
    assert wait(client, cookie)[0] != 0
    assert world.a.volume.state.disk is DiskState.Diskless and not is_frozen(world.a)


def test_a_flush_is_no_success_where_no_good_data_is_left() -> None:
    """A Primary that is sync target loses its source: the writes that the flush is to keep are over there."""
    world, client = pair(**STONITH)
    assert order(world, world.a, "detach") == 1
    assert set(wait(client, *[client.write(n * BLOCK, b"x" * BLOCK) for n in range(300)])) == {0}
    assert order(world, world.a, "attach") == 1
    world.run_until(lambda: world.a.volume.state.conn is ConnState.SyncTarget)
    cookie = client.flush()
    part(world)
    assert wait(client, cookie)[0] != 0 and not is_frozen(world.a)


def test_all_volumes_freeze_and_thaw_together() -> None:
    world, client = pair(volumes=2, **STONITH)
    second = Client(world, world.a, 1)
    says(world.a, 4)
    part(world)
    cookies = [client.write(0, b"x" * BLOCK)], [second.write(0, b"y" * BLOCK)]
    world.run(VERDICT_S / 2)
    assert world.a.node is not None
    assert all(volume.state.susp_fen for volume in world.a.node.volumes.values())
    assert wait(client, *cookies[0]) == [0] and wait(second, *cookies[1]) == [0]
    assert [volume.state.disks_text for volume in world.a.node.volumes.values()] == [OUTDATED] * 2
    assert world.a.helpers == [("fence-peer", None)]
    reunite(world)
    world.run_until(world.is_in_sync)
    assert world.a.node.cstate is ConnState.WFReportParams and world.copies_equal()


@pytest.mark.parametrize("lanes", [False, True])
def test_a_secondary_that_detaches_in_good_order_is_not_left_for_that(lanes: bool) -> None:
    """What it has acknowledged is durable before its disk goes, and is confirmed after it: nobody asks for fencing."""
    world, client = pair(**STONITH, lanes=lanes)
    says(world.a, 7)
    cookies = [client.write(n * BLOCK, b"x" * BLOCK) for n in range(20)]
    detached = world.b.command("detach")
    cookies += [client.write(n * BLOCK, b"y" * BLOCK) for n in range(10)]
    world.run_until(lambda: detached in world.b.answers)
    assert world.b.answers[detached][0] == 1 and world.b.disks[0].unflushed == 0
    assert set(wait(client, *cookies, client.flush())) == {0}
    world.run(5)
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless" and world.a.helpers == []
    assert order(world, world.b, "attach") == 1
    assert set(wait(client, *(client.write(n * BLOCK, b"z" * BLOCK) for n in range(5)), client.flush())) == {0}
    world.run_until(world.is_in_sync)
    world.run(5)
    assert world.copies_equal() and ("fence-peer", None) not in world.a.helpers


def test_a_detach_whose_flush_fails_leaves_the_peer() -> None:
    """What was acknowledged may be lost: the peer must mark it, and it finds out by losing us."""
    world, client = pair(**STONITH)
    says(world.a, 7)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.disks[0].fail_flushes = True
    world.b.command("detach")
    world.run(5)
    assert ("fence-peer", None) in world.a.helpers
    assert world.a.volume.out_of_sync_bits == 1


def test_a_forced_detach_waits_for_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs is what --force is for: nothing is flushed, and what was acknowledged is the peer's to mark."""
    world, client = pair(**STONITH)
    says(world.a, 7)
    assert write(client, 0, b"x" * BLOCK) == 0
    monkeypatch.setattr(world.b, "_begin_disk", lambda effect: None)
    client.write(BLOCK, b"y" * BLOCK)
    world.run(0.1)
    assert order(world, world.b, "detach", force=True) == 1
    assert world.b.volume.state.disk is DiskState.Diskless


def test_a_second_detach_while_the_first_one_flushes_is_no_harm() -> None:
    """Both are granted, and the disk goes once."""
    world, client = pair(**STONITH)
    assert write(client, 0, b"x" * BLOCK) == 0
    requests = [world.b.command("detach") for _ in range(3)]
    world.run_until(lambda: all(request in world.b.answers for request in requests))
    world.run(5)
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless" and world.a.helpers == []
