"""Bugs that stories have found, told again by hand, each as short as it can be: seeds rot, scenarios don't."""

from __future__ import annotations

import random

import pytest

from pydrbd.core import effects as fx
from pydrbd.core.outbox import Outbox
from pydrbd.core.quorum_options import QuorumOptions
from pydrbd.core.states import ConnState, DiskState
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.wire.packet_numbers import Packet
from tests.harness.checkers import Oracle
from tests.harness.simulation import fresh_pair_superblock
from tests.harness.world import Client, Machine, World

SIZE_BYTES = 12 << 20


def pair(seed: int = 1, **options) -> World:
    """Two nodes in sync, `a` Primary."""
    world = World(seed, size_bytes=SIZE_BYTES, superblock=fresh_pair_superblock(SIZE_BYTES), **options)
    world.start()
    world.run_until(world.is_in_sync)
    assert granted(world, world.a, "primary")
    return world


def granted(world: World, machine: Machine, verb: str) -> bool:
    request = machine.command(verb)
    world.run_until(lambda: request in machine.answers)
    return machine.answers[request][0] >= 1


def write(world: World, client: Client, offset: int, byte: int) -> int:
    cookie = client.write(offset, bytes([byte]) * 4096)
    world.run_until(lambda: cookie in client.replies)
    return client.replies[cookie][0]


def same_generation(world: World) -> bool:
    a, b = world.a.disks[0].superblock(), world.b.disks[0].superblock()
    return (a.current_uuid ^ b.current_uuid) & ~1 == 0


def test_a_diskless_primary_alone_does_not_go_back_to_its_old_disk() -> None:
    """C1: it has written through its peer since; without the peer its own disk is stale, and attaching is refused."""
    world = pair()
    client = Client(world, world.a)
    assert granted(world, world.a, "detach")
    assert write(world, client, 0, 1) == 0
    world.link_allowed = False
    world.sever()
    world.run(1.0)
    assert not granted(world, world.a, "attach")
    assert world.a.volume.state.disk == DiskState.Diskless
    world.link_allowed = True
    world.try_link()
    world.run(2.0)
    assert granted(world, world.a, "attach")
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", range(6))
def test_a_link_that_breaks_while_a_primary_attaches_does_not_make_its_old_disk_good(seed: int) -> None:
    """C1: Negotiating falls back to what the disk was only if that is the data that clients have seen."""
    world = pair(seed)
    client = Client(world, world.a)
    assert granted(world, world.a, "detach")
    assert write(world, client, 0, 1) == 0
    world.link_latency_s = 0.5
    world.a.command("attach")
    world.run_until(lambda: world.a.volume.state.disk == DiskState.Negotiating)
    world.link_allowed = False
    world.sever()
    world.run(3.0)
    assert world.a.volume.state.disk == DiskState.Diskless
    assert world.a.volume.disk is None


def test_the_peers_new_generation_is_unknown_until_it_says_so() -> None:
    """C1: acknowledgements come on another socket than P_UUIDS; what they overtake counts as a new generation."""
    world = pair()
    client = Client(world, world.a)
    assert granted(world, world.a, "detach")
    assert world.a.volume.exposed_moves
    assert write(world, client, 0, 1) == 0
    world.run(1.0)
    assert not world.a.volume.exposed_moves
    assert (world.a.volume.exposed.current ^ world.b.volume.uuids.current) & ~1 == 0


@pytest.mark.parametrize("seed", range(12))
def test_the_sync_uuid_may_overtake_the_grant_of_a_full_sync(seed: int) -> None:
    """D5: one comes on the data socket, the other one on the meta socket; a peer that is quick is no liar."""
    world = pair(seed)
    world.link_latency_s = 0.05
    assert granted(world, world.b, "invalidate")
    world.run_until(world.is_in_sync)
    assert not world.protocol_errors


@pytest.mark.parametrize("seed", range(8))
def test_a_source_has_a_generation_of_its_own_before_the_target_knows(seed: int) -> None:
    """C6: cut in the moment of an invalidate, a Primary goes on alone, and its peer must not look as good as it is."""
    world = pair(seed)
    client = Client(world, world.a)
    world.link_latency_s = 0.01
    world.b.command("invalidate")
    world.run_until(lambda: world.a.volume.state.conn.name == "SyncSource")
    world.link_allowed = False
    world.sever()
    world.run(1.0)
    assert write(world, client, 0, 1) == 0
    bad = not world.b.disks[0].superblock().flags & MdFlag.CONSISTENT
    assert bad or not same_generation(world)
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_attaching_leaves_a_good_disk_good_at_every_moment() -> None:
    """B7, C1: killed in the middle of an attach, UpToDate data stays UpToDate on disk."""
    world = World(2, size_bytes=SIZE_BYTES, superblock=fresh_pair_superblock(SIZE_BYTES))
    machine = world.a
    written: list[MdFlag] = []
    begin = machine._begin_disk

    def spy(effect: fx.Effect) -> None:
        begin(effect)
        if isinstance(effect, fx.Persist):
            place = machine.disks[0].layout.superblock_offset_bytes
            writes = [write for stage in effect.stages for write in stage.writes]
            written.extend(Superblock.decode(data).flags for offset, data in writes if offset == place)

    machine._begin_disk = spy  # type: ignore[method-assign]
    world.a.start()
    world.run(1.0)
    assert written
    assert all(MdFlag.CONSISTENT in flags and MdFlag.WAS_UP_TO_DATE in flags for flags in written)


@pytest.mark.parametrize("seed", range(6))
def test_what_a_diskless_primary_wrote_is_marked_on_disk_when_its_disk_comes_back(seed: int) -> None:
    """B2: the server's activity log covers those writes only as long as its superblock says so; then the bits must."""
    world = pair(seed)
    oracle = Oracle(world)
    client = Client(world, world.a)
    assert granted(world, world.a, "detach")
    for block in range(4):
        assert write(world, client, block * 8192, block + 1) == 0
    world.a.command("attach")
    for _ in range(4000):
        if world.is_in_sync() or not world.step():
            break
        oracle.check_coverage()
    assert world.is_in_sync()
    assert world.copies_equal()


def test_what_the_sockets_still_hold_after_a_disconnect_does_not_count() -> None:
    """D1: an acknowledgement that is read after the connection was given up is no protocol error."""
    for seed in range(8):
        world = pair(seed)
        client = Client(world, world.a)
        world.link_latency_s = 0.02
        for block in range(30):
            client.write(block * 4096, b"x" * 4096)
        world.run(0.01)
        assert granted(world, world.a, "disconnect")
        world.run(1.0)
        assert not world.protocol_errors


def test_an_outdated_node_stays_outdated_beside_a_peer_without_a_disk() -> None:
    """C1: connecting to a peer that is still attaching must not make old data UpToDate, and promotable."""
    world = pair()
    client = Client(world, world.a)
    world.link_allowed = False
    world.sever()
    world.run(1.0)
    assert granted(world, world.b, "outdate")
    assert write(world, client, 0, 1) == 0
    world.a.volume.sessions.clear()
    assert granted(world, world.a, "secondary")
    assert granted(world, world.a, "detach")
    world.link_allowed = True
    world.try_link()
    world.run(1.0)
    assert world.b.volume.state.conn.name == "Connected"
    assert world.b.volume.state.disk == DiskState.Outdated
    assert not granted(world, world.b, "primary")
    assert granted(world, world.a, "attach")
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", range(10))
def test_a_disk_may_go_while_the_peer_begins_to_sync_it(seed: int) -> None:
    """D5: the bitmap that the peer has sent by then is for nobody, and no offence."""
    world = pair(seed)
    world.link_latency_s = 0.03
    assert granted(world, world.a, "detach")
    world.run(1.0)
    attach = world.a.command("attach")
    world.run_until(lambda: attach in world.a.answers)
    detach = world.a.command("detach", force=True)
    world.run_until(lambda: detach in world.a.answers)
    world.run(1.0)
    assert not world.protocol_errors
    assert granted(world, world.a, "attach")
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_a_disk_may_go_before_its_invalidation_is_granted() -> None:
    """D1: the peer's grant finds no disk to sync; the connection begins anew, and the node lives."""
    world = pair()
    world.link_latency_s = 0.05
    invalidate, detach = world.b.command("invalidate"), world.b.command("detach", force=True)
    world.run_until(lambda: {invalidate, detach} <= world.b.answers.keys())
    assert world.b.answers[invalidate][0] < 0
    world.run(2.0)
    assert granted(world, world.b, "attach")
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_nobody_reads_a_write_that_can_still_be_lost() -> None:
    """A1: what only the Primary's own disk has so far is not shown: the Primary could take it with it."""
    world = pair()
    client = Client(world, world.a)
    world.link_latency_s = 1.0
    new = client.write(0, b"n" * 4096)
    world.run(0.1)
    read, elsewhere = client.read(0, 4096), client.read(8192, 4096)
    world.run_until(lambda: elsewhere in client.replies)
    assert read not in client.replies
    world.run_until(lambda: read in client.replies)
    assert client.replies[read] == (0, b"n" * 4096)
    world.run(0.001)
    assert client.replies[new][0] == 0


def test_after_a_failed_metadata_write_nothing_more_is_written_there() -> None:
    """B2: an activity log that forgets must not follow bits that did not get to the disk."""
    done: list[tuple[str, int]] = []
    outbox = Outbox(lambda vnr, errno: done.append(("failed", vnr)), lambda reply: reply)
    stage = (fx.Stage(False, ((0, b"x"),)),)
    outbox.persist(0, stage)
    outbox.persist(0, stage)
    outbox.put(fx.Persist(0, stage, lambda failed, errno: done.append(("log", failed))))
    outbox.persist(1, stage)
    (first,) = outbox.take()
    first.then(1, 5)
    assert [effect.volume for effect in outbox.take()] == [1]
    assert done == [("failed", 0), ("log", 1)]


@pytest.mark.parametrize("seed", range(12))
def test_a_target_does_not_end_before_it_knows_of_every_refused_write(seed: int) -> None:
    """A2, D5: writes that reach a peer without a disk are refused, on the other socket, perhaps after its bitmap."""
    world = pair(seed)
    client = Client(world, world.a)
    world.link_latency_s = 0.02
    world.b.command("detach")
    world.run_until(lambda: world.b.volume.state.disk == DiskState.Diskless)
    late = [client.write(block * 4096, bytes([block + 1]) * 4096) for block in range(8)]
    assert world.a.volume.state.pdsk == DiskState.UpToDate, "they must be on their way to a disk that is gone"
    attach = world.b.command("attach")
    world.run_until(lambda: attach in world.b.answers and set(late) <= client.replies.keys())
    world.run_until(lambda: world.b.volume.state.disk == DiskState.UpToDate)
    assert world.copies_equal()
    world.run_until(world.is_in_sync)
    assert not world.protocol_errors


@pytest.mark.parametrize("seed", range(4))
def test_a_demoted_node_remembers_that_its_peer_has_gone_on_without_its_disk(seed: int) -> None:
    """C1: it was Primary and detached, so only the peer has what clients were told; its own disk is not promoted."""
    world = pair(seed)
    client = Client(world, world.a)
    assert granted(world, world.a, "detach")
    assert write(world, client, 0, 1) == 0
    world.a.volume.sessions.clear()
    assert granted(world, world.a, "secondary")
    world.b.stop()
    world.run(1.0)
    assert granted(world, world.a, "attach")
    assert world.a.volume.state.disk == DiskState.Outdated
    assert not granted(world, world.a, "primary")
    world.a.stop()
    world.a.start()
    world.run(1.0)
    assert not granted(world, world.a, "primary"), "a restart makes old data no younger"
    world.b.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and world.a.disks[0].data[0] == 1


@pytest.mark.parametrize("seed", range(12))
def test_a_diskless_primary_keeps_its_old_disk_out_when_the_peers_disk_goes_meanwhile(seed: int) -> None:
    """C1: Negotiating with a peer that has no disk any more, nobody says that this data is old; it still is."""
    world = pair(seed)
    client = Client(world, world.a)
    assert granted(world, world.a, "detach")
    assert write(world, client, 0, 1) == 0
    world.run(1.0)
    world.link_latency_s = 0.05
    world.a.command("attach")
    world.run_until(lambda: world.a.volume.state.disk == DiskState.Negotiating)
    world.b.command("detach", force=True)
    world.run_until(lambda: world.a.volume.state.disk != DiskState.Negotiating)
    assert world.a.volume.state.disk == DiskState.Diskless
    cookie = client.read(0, 4096)
    world.run_until(lambda: cookie in client.replies)
    assert client.replies[cookie] == (5, b"")
    for machine in (world.b, world.a):
        world.run(1.0)
        assert granted(world, machine, "attach")
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and world.a.disks[0].data[0] == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("crashes", [False, True])
def test_a_full_sync_of_whom_has_left_is_no_split_brain(seed: int, crashes: bool) -> None:
    """C3, D5 (wide stories, seed 50089): a Secondary asks for it, loses the link, and is promoted; the other one grants
    it before it sees that. It has no writes of its own, and must not look as if it had."""
    world = pair(seed)
    assert granted(world, world.a, "secondary")
    world.run(1.0)
    world.link_latency_s = 0.05
    world.a.command("invalidate")
    world.run(0.001)
    link = world.link
    assert link is not None
    world.link_allowed = False
    link.drop(world.a, ConnState.NetworkFailure)
    assert granted(world, world.a, "primary")
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncSource)
    assert write(world, Client(world, world.a), 0, 1) == 0
    link.broken = True
    if crashes:
        world.run(0.5)
        world.b.stop()
        world.b.start()
    else:
        link.drop(world.b, ConnState.NetworkFailure)
    world.run(1.0)
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and world.b.disks[0].data[0] == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_disk_that_is_let_go_of_is_not_the_target_of_a_full_sync(seed: int) -> None:
    """D2 (stories with lanes, seed 1598485604): a grant could not be used, or its sync UUID came when the disk was
    attached again and compared, and that cost the connection."""
    world = pair(seed)
    world.link_latency_s = 0.02
    detach, invalidate = world.b.command("detach"), world.b.command("invalidate")
    world.run_until(lambda: detach in world.b.answers)
    world.b.command("attach")
    world.run_until(lambda: invalidate in world.b.answers)
    world.run_until(world.is_in_sync)
    assert world.b.answers[invalidate][0] < 0 and "connection lost" not in world.report()
    assert not world.protocol_errors and world.copies_equal()


@pytest.mark.parametrize("seed", range(6))
def test_a_disk_that_is_being_compared_is_not_the_source_of_a_full_sync(seed: int) -> None:
    """C5: the peer has asked for it when that disk was good; attached again, it may have the older data."""
    world = pair(seed)
    client = Client(world, world.a)
    assert world.link is not None
    world.link.clogged_until = world.now + 0.3
    invalidate = world.b.command("invalidate")
    world.a.command("detach", force=True)
    cookie = client.write(0, b"n" * 4096)
    attach = world.a.command("attach")
    world.run_until(lambda: attach in world.a.answers)
    assert world.a.volume.state.disk == DiskState.Negotiating
    world.run_until(lambda: invalidate in world.b.answers)
    assert world.b.answers[invalidate][0] < 0
    assert not any("-> StartingSyncS" in line for line in world.a.log)
    world.run_until(lambda: cookie in client.replies and world.is_in_sync())
    assert world.copies_equal() and world.a.disks[0].data[:1] == b"n"
    assert client.replies[cookie][0] == 0


@pytest.mark.parametrize("seed", range(6))
def test_both_nodes_know_that_an_attaching_disk_is_inconsistent(seed: int) -> None:
    """D5: a crashed Primary would be the source, but not with a bad disk; else both nodes wait as targets for ever."""
    world = pair(seed)
    client = Client(world, world.a)
    assert write(world, client, 0, 1) == 0
    world.link_allowed = False
    world.a.disks[0].fail_once.add("read")
    assert world.link is not None
    world.link.clogged_until = world.now + 1.0
    client.read(0, 4096)
    world.run_until(lambda: world.a.volume.state.disk == DiskState.Diskless)
    world.run(0.1)
    world.sever()
    world.run(1.0)
    world.a.volume.sessions.clear()
    assert granted(world, world.a, "secondary")
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_linked)
    assert same_generation(world)
    assert granted(world, world.a, "attach")
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and world.a.disks[0].data[0] == 1


@pytest.mark.parametrize("replaced", [False, True])
def test_a_good_disk_is_not_outdated_by_a_peer_that_is_behind_it(replaced: bool) -> None:
    """A2: a node without its disk meets a peer with older data, or a new disk; its own disk stays the good one."""
    world = pair()
    client = Client(world, world.a)
    world.link_allowed = False
    world.sever()
    world.run(1.0)
    assert write(world, client, 0, 1) == 0
    world.a.volume.sessions.clear()
    assert granted(world, world.a, "secondary")
    assert granted(world, world.a, "detach")
    world.b.stop()
    if replaced:
        world.b.disks[0].wipe()
    world.b.start()
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_linked)
    world.run(1.0)
    world.b.stop()
    world.run(1.0)
    assert granted(world, world.a, "attach")
    assert world.a.volume.state.disk == DiskState.UpToDate
    assert granted(world, world.a, "primary")
    assert world.a.disks[0].data[0] == 1


def sync_target(seed: int = 1) -> tuple[World, Client]:
    """`a` is Primary and far from the end of a resync from `b`, which has the only good disk."""
    world = pair(seed)
    client = Client(world, world.a)
    assert granted(world, world.a, "invalidate")
    world.run_until(lambda: world.a.volume.state.conn.name == "SyncTarget")
    return world, client


def test_a_flush_is_not_answered_by_a_disk_that_is_out_of_date() -> None:
    """A4: the good disk is lost while it flushes; what the other one has is overwritten when the good one returns."""
    world, client = sync_target()
    assert write(world, client, 0, 1) == 0
    assert world.link is not None
    world.link.clogged_until = world.now + 1.0
    flush = client.flush()
    world.run(0.5)
    world.b.lose_power(world.rng)
    world.run_until(lambda: flush in client.replies)
    assert client.replies[flush] == (5, b"")


@pytest.mark.parametrize("diskless", [False, True])
def test_the_next_flush_fails_when_the_only_good_disk_may_have_lost_an_answered_write(diskless: bool) -> None:
    """A4: it was in the cache of a peer that lost its power; a FLUSH that succeeds would say that it is safe."""
    if diskless:
        world = pair()
        client = Client(world, world.a)
        assert granted(world, world.a, "detach")
    else:
        world, client = sync_target()
    assert write(world, client, 0, 1) == 0
    world.b.lose_power(world.rng)
    world.run(0.1)
    world.b.start()
    world.run_until(lambda: world.a.volume.state.pdsk == DiskState.UpToDate)
    for expected in (5, 0):
        flush = client.flush()
        world.run_until(lambda flush=flush: flush in client.replies)
        assert client.replies[flush] == (expected, b"")
    assert any("may have lost" in line for line in world.a.log)


@pytest.mark.parametrize("lanes", [False, True])
def test_the_next_flush_fails_when_both_disks_may_have_lost_an_answered_write(lanes: bool) -> None:
    """A4: it was in both caches; one disk is given up, then the other one loses its power. With lanes, too."""
    world = pair(lanes=lanes)
    client = Client(world, world.a)
    assert write(world, client, 0, 1) == 0  # its extent is hot from here on
    flush = client.flush()  # and the peer has confirmed its epoch
    world.run_until(lambda: flush in client.replies)
    assert write(world, client, 0, 2) == 0
    assert not lanes or (world.a.lane is not None and world.a.lane.taken)
    assert granted(world, world.a, "detach")
    world.b.lose_power(world.rng)
    world.run(0.1)
    world.b.start()
    world.run_until(lambda: world.a.volume.state.pdsk == DiskState.UpToDate)
    later = client.flush()
    world.run_until(lambda: later in client.replies)
    assert client.replies[later] == (5, b"")


@pytest.mark.parametrize("seed", range(8))
def test_a_demotion_that_a_bad_disk_cuts_short_forgets_no_write(seed: int) -> None:
    """B2: the superblock that ends the activity log's duty fails, with the flush before it; marking the disk as bad
    afterwards must not end it either, for nothing has been flushed, and then the power fails."""
    world = pair(seed)
    client = Client(world, world.a)
    for block in range(6):
        assert write(world, client, block << 20, block + 1) == 0
    world.a.disks[0].fail_once.add("write")
    world.a.volume.sessions.clear()
    assert granted(world, world.a, "secondary")
    world.run_until(lambda: world.a.volume.state.disk == DiskState.Diskless and not world.a.attached)
    world.a.lose_power(world.rng)
    world.run(1.0)
    assert granted(world, world.b, "primary")
    world.a.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", range(12))
def test_a_diskless_primary_goes_on_when_its_peer_attaches_after_connecting(seed: int) -> None:
    """D5: the peer had died before it heard of the lost disk. Its data serves from now on, in a generation of its own,
    and for that the Primary waits: whether the peer's disk comes before its link or after."""
    world = pair(seed)
    client = Client(world, world.a)
    world.link_latency_s = 0.1
    world.a.disks[0].fail_once.add("read")
    client.read(0, 4096)
    world.run_until(lambda: world.a.volume.state.disk == DiskState.Diskless)
    world.b.stop()
    world.run(0.5)
    world.link_latency_s = 0.0002
    world.b.start()
    world.run_until(lambda: world.a.volume.state.pdsk == DiskState.UpToDate)
    assert write(world, client, 0, 1) == 0
    assert not same_generation(world)


def test_a_lone_primary_gives_its_extents_up_in_an_epoch_that_a_lane_had_begun() -> None:
    """D5: writes that went to no peer are answered without ending such an epoch; what ends it then must release it."""
    size_bytes = 40 << 20
    world = World(1, size_bytes=size_bytes, superblock=fresh_pair_superblock(size_bytes), al_extents=4, lanes=True)
    world.start()
    world.run_until(world.is_in_sync)
    assert granted(world, world.a, "primary")
    client = Client(world, world.a)
    assert write(world, client, 0, 1) == 0
    for ask in (client.flush, lambda: client.read(0, 4096)):  # an epoch ends; then a lane begins, and writes nothing
        request = ask()
        world.run_until(lambda request=request: request in client.replies)
    world.b.stop()
    for extent in range(9):
        assert write(world, client, extent << 22, extent + 10) == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("meets_first", [False, True])
def test_a_disk_that_was_let_go_does_not_win_as_that_of_a_crashed_primary(seed: int, meets_first: bool) -> None:
    """C5: a Primary lets go of its disk, and the peer dies before it hears of that: both disks are of one generation,
    and the old one's activity log says that it was a Primary's. Clients have read from the other one since."""
    world = pair(seed)
    client = Client(world, world.a)
    assert write(world, client, 0, 1) == 0
    world.link_latency_s = 0.1
    world.a.command("detach")
    world.run_until(lambda: world.a.volume.state.disk == DiskState.Diskless)
    world.b.stop()
    world.run(1.0)
    world.link_latency_s = 0.0002
    world.a.volume.sessions.clear()
    assert granted(world, world.a, "secondary")
    heard = len(world.a.log)
    if not meets_first:
        assert granted(world, world.a, "attach")
    world.b.start()
    world.run_until(world.is_linked)
    if meets_first:
        assert granted(world, world.a, "attach")
    world.run_until(world.is_in_sync)
    assert world.copies_equal()
    assert not any("SyncSource" in line for line in world.a.log[heard:])


@pytest.mark.parametrize("seed", range(4))
def test_what_the_peer_said_before_it_knew_of_a_disk_is_no_answer_to_it(seed: int) -> None:
    """C1: a diskless peer becomes Primary, and both attach at once: the news of its promotion, with no disk in it, must
    not make the other disk the only one there is, in a generation of its own."""
    world = pair(seed)
    assert granted(world, world.a, "secondary")
    assert granted(world, world.a, "detach")
    world.run(1.0)
    world.link_latency_s = 0.1
    world.b.command("detach")
    assert granted(world, world.b, "primary")
    for machine in (world.a, world.b):
        machine.command("attach")
    world.run_until(lambda: min(machine.volume.state.disk for machine in (world.a, world.b)) > DiskState.Negotiating)
    world.run(2.0)
    assert world.is_in_sync() and same_generation(world)


class KeepsNothing(random.Random):
    """A power failure that takes everything that was not flushed."""

    def randrange(self, *limits: int) -> int:
        return 0

    def random(self) -> float:
        return 1.0


@pytest.mark.parametrize("seed", range(4))
def test_a_source_has_its_data_on_disk_before_its_target_is_good(seed: int) -> None:
    """B5: a Secondary has written for a diskless Primary, unflushed, and is the source of the resync that follows. Once
    the target is UpToDate nothing is marked any more: power failure at the source must not take a block from it."""
    world = pair(seed)
    client = Client(world, world.a)
    assert granted(world, world.a, "detach")
    assert write(world, client, 0, 1) == 0
    world.run(3.0)
    world.b.slow_s = 1.0
    client.write(0, bytes([2]) * 4096)
    world.run(0.1)
    world.b.slow_s = 0.0
    world.link_allowed = False
    world.cut()  # what the loss of the link writes comes before this write, and no barrier comes after it
    world.run(2.0)
    assert world.b.disks[0].unflushed
    world.a.volume.sessions.clear()
    assert granted(world, world.a, "secondary")
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_linked)
    world.link_latency_s = 0.05
    world.a.command("attach")
    world.run_until(lambda: world.a.disks[0].superblock().flags & MdFlag.WAS_UP_TO_DATE)
    world.run_until(lambda: same_generation(world))
    assert world.b.volume.state.conn.name == "SyncSource"
    world.b.lose_power(KeepsNothing())
    world.b.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", range(6))
def test_a_source_answers_nothing_of_a_resync_that_is_over(seed: int) -> None:
    """B6: the target has let go of its disk and has it again; what the source still reads for the first resync would be
    taken for an answer in the second one, and may be older than what was written meanwhile."""
    world = pair(seed)
    world.link_latency_s = 0.0002
    world.b.command("invalidate")
    world.run_until(lambda: world.b.volume.state.conn.name == "SyncTarget")
    world.a.slow_s = 0.2
    world.run(0.003)
    world.b.command("detach")
    world.run_until(lambda: world.b.volume.state.disk == DiskState.Diskless)
    world.a.slow_s = 0.0
    assert granted(world, world.b, "attach")
    world.run_until(world.is_in_sync)
    assert not world.protocol_errors and world.copies_equal()


def test_a_disk_that_is_let_go_and_attached_again_takes_the_second_bitmap(seed: int) -> None:
    """D2, B6: before the peer has answered the first attach; the connection stays, and all is copied."""
    world = pair(seed)
    client = Client(world, world.a)
    world.link_latency_s = 0.02
    assert granted(world, world.b, "detach")
    assert write(world, client, 0, 1) == 0
    world.b.command("attach")
    world.run_until(lambda: world.b.volume.state.disk is DiskState.Negotiating)
    world.b.command("detach", force=True)
    assert write(world, client, 4096, 2) == 0
    world.run_until(lambda: world.b.volume.state.disk is DiskState.Diskless)
    world.b.command("attach")
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and not world.protocol_errors
    assert not any("connection lost" in line for line in world.b.log)


def test_a_disk_that_goes_as_its_invalidation_begins_does_not_cost_the_connection() -> None:
    """D2: the peer's sync UUID comes when the disk has failed already; nobody waits for it any more."""
    for one in range(1, 17):  # it takes a certain order of what is under way
        world = pair(one)
        assert write(world, Client(world, world.a), 0, 1) == 0
        asked = [world.b.command("invalidate"), world.b.command("detach")]
        world.run_until(lambda world=world, asked=asked: all(request in world.b.answers for request in asked))
        world.run(1.0)
        assert not world.protocol_errors, one
        assert not any("connection lost" in line for line in world.b.log)
        assert granted(world, world.b, "attach")
        world.run_until(world.is_in_sync)
        assert world.copies_equal()


class _SaidBy:
    """The packets that a node sends from the moment in which its disk fails."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.packets: list[Packet] = []

    def on_effect(self, machine: Machine, effect: object) -> None:
        if machine is self._machine and machine.volume.state.disk < DiskState.Attaching and isinstance(effect, fx.Send):
            self.packets.append(Packet(int.from_bytes(b"".join(effect.parts)[6:8], "big")))

    def on_event(self, machine: Machine, event: object) -> None: ...


def test_a_write_that_waited_for_a_resync_is_sent_after_the_word_on_the_disk() -> None:
    """B2: a Primary's disk fails while it is sync target: what waited goes to the peer alone, which must mark it."""
    world = pair(1)
    client = Client(world, world.a)
    assert granted(world, world.a, "detach")
    for block in range(1024, 1064):
        assert write(world, client, block * 4096, 1) == 0
    world.a.command("attach")
    world.run_until(lambda: world.a.volume.state.conn is ConnState.SyncTarget)
    world.a.disks[0].fail_once.add("write")
    for block in range(1024, 1064):
        client.write(block * 4096, bytes([2]) * 4096)
    said = world.observer = _SaidBy(world.a)
    world.run_until(lambda: world.a.volume.state.disk is DiskState.Diskless)
    world.run(1.0)
    assert said.packets.index(Packet.P_STATE) < said.packets.index(Packet.P_DATA)
    assert granted(world, world.a, "attach")
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_what_was_asked_for_on_a_lost_link_is_not_sent_on_the_next_one(seed: int) -> None:
    """D2: the source answers a request that had to wait for a write, and meanwhile the link was lost and came back."""
    world = pair(seed)
    client = Client(world, world.a)
    assert granted(world, world.b, "disconnect")
    cookies = [client.write(first * 65536, bytes([1]) * 65536) for first in range(8)]
    world.run_until(lambda: all(cookie in client.replies for cookie in cookies))
    world.b.command("connect")
    world.run_until(lambda: world.b.volume.state.conn is ConnState.WFBitMapT)
    client.write(0, bytes([2]) * 65536)
    world.run_until(lambda: world.a.is_working_on(fx.DiskWrite))
    writes = world.a.hold_back(fx.DiskWrite)
    world.run(0.5)
    assert world.a.volume.state.conn is ConnState.SyncSource
    world.cut()
    world.run_until(lambda: world.a.volume.state.conn is ConnState.SyncSource and world.linked)
    writes()
    world.run_until(world.is_in_sync)
    assert not world.protocol_errors and world.copies_equal()


def test_what_waits_for_a_disk_when_the_link_is_lost_is_not_sent_on_the_next_one(seed: int) -> None:
    """D2: the next link may stand before the disk has ended: a `connect` while the old link is still there asks twice
    for a new one, and the second wish is carried out when that stands already. A sync UUID came first on the third."""
    world = pair(seed)
    assert granted(world, world.a, "secondary")
    world.b.slow_s = 0.05
    world.b.command("disconnect")
    world.run_until(lambda: world.b.volume.state.conn is ConnState.StandAlone)
    world.b.command("connect")
    world.b.command("primary")
    client = Client(world, world.b)
    client.write(0, bytes([1]) * 4096)
    world.run_until(lambda: world.b.volume.state.conn is ConnState.WFReportParams)
    world.run_until(lambda: world.b.volume.state.conn is ConnState.SyncSource)
    assert world.b.node is not None and world.b.node.out.fenced
    world.cut()
    world.run_until(world.is_in_sync)
    assert not world.protocol_errors and world.copies_equal()


@pytest.mark.parametrize("seed", [1, 8, 12, 13])  # in others the peer's word on its disk comes first
def test_a_disk_is_not_let_go_of_for_one_that_its_peer_has_just_let_go_of(seed: int) -> None:
    """A1, 2054937151: both are asked to detach; the Primary's writes meanwhile are on its own disk alone."""
    world = pair(seed)
    client = Client(world, world.a)
    world.b.command("detach")
    world.run_until(lambda: world.b.volume.state.disk is DiskState.Diskless)
    world.b.command("attach")
    world.a.command("detach")
    cookie = client.write(0, bytes([3]) * 65536)
    world.run_until(lambda: cookie in client.replies)
    world.run(1)
    assert world.a.volume.state.disk is DiskState.UpToDate
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_a_primary_does_not_overwrite_what_it_has_written_through_a_peer_that_awaits_the_lease(seed: int) -> None:
    """C1, quorum, 1997785978: both disks had gone, the peer's came first. It confirms nothing and begins no generation
    before it has the lease; the Primary's own old disk counted as a crashed Primary's then, and won.
    """
    world = pair(seed, quorum=QuorumOptions(enabled=True, by_witness=True))
    assert world.witness is not None
    world.witness.up = False
    client = Client(world, world.a)
    world.a.disks[0].fail_once.add("meta")
    assert granted(world, world.b, "detach")
    world.run(1.0)
    assert world.a.volume.state.disk is world.b.volume.state.disk is DiskState.Diskless
    world.b.command("attach")
    world.run(1.0)
    assert world.b.volume.state.disk is DiskState.UpToDate
    cookie = client.write(0, bytes([3]) * 4096)
    world.run(1.0)
    assert cookie not in client.replies
    world.a.command("attach")
    world.run_until(world.is_in_sync)
    world.run_until(lambda: cookie in client.replies)
    assert world.copies_equal()
    assert client.replies[cookie][0] or world.a.disks[0].image[:4096] == bytes([3]) * 4096
