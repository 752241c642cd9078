"""Scenarios: disks fail. A client hears of it only when no good copy is left."""

from __future__ import annotations

import pytest

from pydrbd.core.effects import DiskWrite
from pydrbd.core.events import Done, Tick
from pydrbd.core.states import ConnState, DiskState
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, AtReply, order, pair, read, sent, sent_bytes, state, wait, write
from tests.harness.world import Client, World

SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_local_write_error_costs_the_disk_and_not_the_write(seed: int) -> None:
    """A8: success, by the peer; the local disk is gone; reads come from the peer."""
    world, client = pair(seed)
    world.a.disks[0].fail_writes = True
    cookies = [client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(20)]
    assert set(wait(client, *cookies)) == {0}
    assert state(world.a) == "Connected Primary/Secondary Diskless/UpToDate"
    assert read(client, 3 * BLOCK, BLOCK) == bytes([4]) * BLOCK
    world.a.disks[0].fail_writes = False
    assert order(world, world.a, "attach") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_write_error_of_the_peer_costs_its_disk_and_not_the_write(seed: int) -> None:
    """A8: success, by the local disk; what the peer lacks is copied when its disk is back."""
    world, client = pair(seed)
    assert write(client, 100 * BLOCK, b"before" + bytes(BLOCK - 6)) == 0
    world.b.disks[0].fail_writes = True
    cookies = [client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(20)]
    assert set(wait(client, *cookies)) == {0}
    world.run(5)
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless"
    world.b.disks[0].fail_writes = False
    assert order(world, world.b, "attach") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_no_reply_rests_on_the_peer_alone_before_it_knows_that() -> None:
    """A2, C6: until the peer has begun a new generation, our failed disk would come back as the better one."""
    world, client = pair()
    before = world.b.disks[0].superblock().current_uuid
    assert write(client, 0, b"w" * BLOCK) == 0
    world.a.disks[0].fail_writes = True
    moment = AtReply(world, lambda: world.b.disks[0].superblock().current_uuid)
    assert write(client, 0, b"x" * BLOCK) == 0 and wait(client, client.flush()) == [0]
    assert len(moment.seen) == 2 and all((current ^ before) & ~1 for current in moment.seen)


def test_with_both_disks_bad_a_write_fails() -> None:
    """A8: an honest EIO, and so for what comes later."""
    world, client = pair()
    world.a.disks[0].fail_writes = world.b.disks[0].fail_writes = True
    assert wait(client, *[client.write(n * BLOCK, b"x" * BLOCK) for n in range(5)]) == [5] * 5
    assert wait(client, client.read(0, BLOCK), client.flush()) == [5, 5]


def test_a_read_error_is_mended_by_the_peer() -> None:
    """The client gets the peer's data; the disk is given up."""
    world, client = pair()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.disks[0].fail_reads = True
    assert read(client, 0, BLOCK) == b"x" * BLOCK
    assert state(world.a) == "Connected Primary/Secondary Diskless/UpToDate"


def test_a_failed_flush_is_final() -> None:
    """A9: the disk is gone, is not asked again, and the flush holds by the peer."""
    world, client = pair()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.disks[0].fail_once.add("flush")
    assert wait(client, client.flush()) == [0]
    assert state(world.a) == "Connected Primary/Secondary Diskless/UpToDate"
    assert world.b.disks[0].unflushed == 0


def test_a_failed_flush_alone_is_an_error() -> None:
    """A9, with no other copy."""
    world, client = pair()
    world.b.stop()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.disks[0].fail_once.add("flush")
    assert wait(client, client.flush()) == [5]
    assert wait(client, client.flush(), client.write(0, b"y" * BLOCK)) == [5, 5]


def test_a_peer_that_fails_to_flush_sends_no_barrier_acknowledgement() -> None:
    """Its link is dropped instead, so that the Primary marks all that was not confirmed."""
    world, client = pair()
    world.b.disks[0].fail_once.add("flush")
    assert write(client, 0, b"x" * BLOCK) == 0
    assert wait(client, client.flush()) == [0]
    assert not sent(world.b, Packet.P_BARRIER_ACK) and world.a.volume.out_of_sync_bits == 1


def test_a_peer_whose_disk_died_does_not_confirm_what_lay_on_it() -> None:
    """B4: writes that were acknowledged from its cache are marked out of sync, not forgotten."""
    world, client = pair()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.disks[0].fail_once.add("write")
    assert write(client, BLOCK, b"y" * BLOCK) == 0
    assert wait(client, client.flush()) == [0]
    world.run(5)
    assert not sent(world.b, Packet.P_BARRIER_ACK) and world.a.volume.out_of_sync_bits == 2
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless"


def test_a_meta_data_write_error_alone_is_an_error() -> None:
    """B3: the activity log can't be written, so the write to a cold extent must not succeed."""
    world, client = pair()
    world.b.stop()
    world.run(1)
    world.a.disks[0].fail_once.add("write")
    assert wait(client, client.write(0, b"x" * BLOCK)) == [5]
    assert world.a.volume.state.disk.name == "Diskless"


def test_a_generation_that_can_not_be_written_is_not_built_upon() -> None:
    """C6: losing the peer and the superblock together, the waiting writes fail."""
    world, client = pair()
    assert write(client, 0, b"w" * BLOCK) == 0
    world.run(5)
    world.disk_latency_s = 0.0001
    cookie = client.write(0, b"x" * BLOCK)
    world.run(0.00015)
    world.a.disks[0].fail_once.add("write")
    world.b.stop()
    assert wait(client, cookie) == [5]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_disk_that_fails_during_a_resync_is_detached_and_the_other_one_goes_on(seed: int) -> None:
    """The target's: the source serves on. It is copied whole when it is back."""
    world, client = pair(seed)
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    world.b.disks[0].fail_writes = True
    cookies = [client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(30)]
    assert set(wait(client, *cookies)) == {0}
    world.run(5)
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Diskless"
    world.b.disks[0].fail_writes = False
    assert order(world, world.b, "attach") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def fail_flush_unheard(seed: int) -> tuple[World, Client]:
    """The Secondary's disk fails to flush what it has acknowledged, and the link breaks before the Primary hears."""
    world, client = pair(seed)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.link_latency_s = 0.5
    world.b.disks[0].fail_once.add("flush")
    client.flush()
    world.run_until(lambda: world.b.volume.state.disk == DiskState.Diskless)
    assert world.a.volume.state.pdsk == DiskState.UpToDate
    world.run(0.1)
    world.link_allowed = False
    world.sever()
    return world, client


@pytest.mark.parametrize("seed", SEEDS)
def test_a_disk_that_failed_unheard_is_no_source_after_a_restart(seed: int) -> None:
    """A2, C1: it may lack what it has acknowledged, so it is Inconsistent on disk before it is let go of."""
    world, _client = fail_flush_unheard(seed)
    world.a.stop()
    world.b.lose_power(world.rng)
    world.b.start()
    world.run(1)
    assert world.b.volume.state.disk == DiskState.Inconsistent
    assert order(world, world.b, "primary") == -2
    world.link_allowed = True
    world.a.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and world.a.disks[0].data[0] == ord("x")
    assert sent_bytes(world.a, Packet.P_RS_DATA_REPLY) > 0 and not sent_bytes(world.b, Packet.P_RS_DATA_REPLY)


def test_the_last_good_disk_is_not_marked_as_bad() -> None:
    """Alone, its data is the best there is: after an error and a restart it can be promoted without force."""
    world, client = pair()
    world.b.stop()
    world.run(1)
    world.a.disks[0].fail_once.add("read")
    assert read(client, 0, BLOCK) == 5 and state(world.a).endswith("Diskless/DUnknown")
    world.a.stop()
    world.a.start()
    world.run(1)
    assert order(world, world.a, "primary") == 1


def test_a_bad_disk_that_can_not_be_marked_is_closed_all_the_same() -> None:
    """A disk that hangs must not keep another one from being attached; until it is closed, attach says try again."""
    world, client = pair()
    assert write(client, 0, b"x" * BLOCK) == 0
    hung: list[object] = []
    begin, world.b._begin_disk = world.b._begin_disk, hung.append
    assert world.b.node is not None
    world.b.node.on_disk_error(world.b.volume, world.b.volume.disk, "it is broken")
    world.b.feed(Tick())
    assert len(hung) == 1 and state(world.b) == "Connected Secondary/Primary Diskless/UpToDate"
    assert order(world, world.b, "attach") == -18
    world.run(6)
    world.b._begin_disk = begin
    assert order(world, world.b, "attach") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


PASS_ON = {"on_io_error": "pass_on"}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_write_error_that_is_passed_on_leaves_the_disk_inconsistent_in_use(seed: int) -> None:
    """pass_on: the peer has the write; reads of that place come from there, others from the disk; a resync mends it."""
    world, client = pair(seed, disk=PASS_ON)
    assert write(client, 4 * BLOCK, b"o" * BLOCK) == 0
    world.a.disks[0].fail_once.add("write")
    assert write(client, 0, b"x" * BLOCK) == 0
    world.run(1)
    assert state(world.a) == "Connected Primary/Secondary Inconsistent/UpToDate"
    assert state(world.b) == "Connected Secondary/Primary UpToDate/Inconsistent"
    asked = len(sent(world.a, Packet.P_DATA_REQUEST))
    assert read(client, 4 * BLOCK, BLOCK) == b"o" * BLOCK and len(sent(world.a, Packet.P_DATA_REQUEST)) == asked
    assert read(client, 0, BLOCK) == b"x" * BLOCK and len(sent(world.a, Packet.P_DATA_REQUEST)) == asked + 1
    assert write(client, 8 * BLOCK, b"n" * BLOCK) == 0
    world.a.lose_power(world.rng)
    world.run(1)
    world.a.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_a_read_error_that_is_passed_on_is_mended_by_the_peer() -> None:
    """pass_on: the client gets the peer's data, and the disk stays."""
    world, client = pair(disk=PASS_ON)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.disks[0].fail_once.add("read")
    assert read(client, 0, BLOCK) == b"x" * BLOCK
    assert state(world.a) == "Connected Primary/Secondary Inconsistent/UpToDate"
    assert world.a.volume.out_of_sync_bits == 1


def test_without_a_peer_an_error_that_is_passed_on_is_the_clients() -> None:
    """pass_on, alone: EIO for that request, and the only good disk stays in use, and good."""
    world, client = pair(disk=PASS_ON)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.b.stop()
    world.run(1)
    world.a.disks[0].fail_once |= {"write", "read"}
    assert write(client, 0, b"y" * BLOCK) == 5
    assert wait(client, client.read(8 * BLOCK, BLOCK)) == [5]
    assert write(client, 4 * BLOCK, b"z" * BLOCK) == 0
    assert isinstance(read(client, 0, BLOCK), bytes)
    assert state(world.a) == "WFConnection Primary/Unknown UpToDate/DUnknown"
    world.b.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_a_write_error_of_the_peer_that_is_passed_on_is_refused_by_it() -> None:
    """pass_on on a Secondary: P_NEG_ACK, its disk is Inconsistent, and the Primary knows what it lacks."""
    world, client = pair(disk=PASS_ON)
    world.b.disks[0].fail_once.add("write")
    assert write(client, 0, b"x" * BLOCK) == 0
    world.run(1)
    assert sent(world.b, Packet.P_NEG_ACK) and world.a.volume.out_of_sync_bits == 1
    assert state(world.a) == "Connected Primary/Secondary UpToDate/Inconsistent"
    world.cut()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("kind", ["flush", "write"])
def test_an_error_of_a_flush_or_of_the_meta_data_is_never_passed_on(kind: str) -> None:
    """pass_on is about data: what durability rests on costs the disk."""
    world, client = pair(disk=PASS_ON)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.disks[0].fail_once.add(kind)
    if kind == "flush":
        assert wait(client, client.flush()) == [0]
    else:
        assert write(client, 8 << 20, b"x" * BLOCK) == 0  # its extent is cold: the activity log is written first
    assert state(world.a) == "Connected Primary/Secondary Diskless/UpToDate"


@pytest.mark.parametrize(
    ("errno", "words"),
    [(5, "errno 5: input/output error"), (28, "errno 28: no space left where it lies: make room"), (99, "EADDR")],
)
def test_what_a_disk_failed_with_is_told_in_words(errno: int, words: str) -> None:
    """A full file system below a sparse file is no broken disk: who reads the log, or asks the doctor, makes room."""
    world, client = pair()
    cookie = client.write(0, bytes(4096))
    world.run_until(lambda: world.a.is_working_on(DiskWrite))
    (effect,) = [pending.effect for pending in world.a._pending if isinstance(pending.effect, DiskWrite)]
    world.a.hold_back(DiskWrite)  # it ends by the next line
    world.a.feed(Done(effect, effect.mask, errno))
    assert wait(client, cookie) == [0]
    assert any("write failed" in line and words in line for line in world.a.log)
