"""Scenarios: a Primary without good data (`on-no-data-accessible suspend-io`) waits for it instead of failing."""

from __future__ import annotations

import pytest

from pydrbd.core.node import NodeOptions
from tests.harness.scene import BLOCK, order, pair, read, state, wait, write
from tests.harness.world import Client, Machine, World

SEEDS = range(4)


def apart(world: World) -> None:
    """The network fails, and stays so."""
    world.link_allowed = False
    world.cut()
    world.run(1)


def together(world: World) -> None:
    world.link_allowed = True
    world.try_link()


def without_disk(seed: int = 1, **options: object) -> tuple[World, Client]:
    """A Primary that has detached, and is served by its peer."""
    world, client = pair(seed, suspends=True, **options)
    assert write(client, 0, b"old" + bytes(BLOCK - 3)) == 0
    assert order(world, world.a, "detach") == 1
    return world, client


def suspended(machine: Machine) -> bool:
    return machine.volume.state.susp_nod


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_under_way_is_done_when_the_peer_is_back(seed: int) -> None:
    """Writes, reads and a FLUSH of a Primary without a disk wait for its peer, and none fails."""
    world, client = without_disk(seed)
    cookies = [client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(20)]
    cookies.append(client.read(100 * BLOCK, BLOCK))
    apart(world)
    assert state(world.a) == "WFConnection Primary/Unknown Diskless/DUnknown" and suspended(world.a)
    late = [client.write(50 * BLOCK, b"l" * BLOCK), client.read(51 * BLOCK, BLOCK), client.flush()]
    world.run(60)
    assert not set(late) & set(client.replies)
    together(world)
    assert set(wait(client, *cookies, *late[:2])) == {0}
    assert not suspended(world.a)
    assert read(client, 19 * BLOCK, BLOCK) == bytes([20]) * BLOCK
    assert read(client, 50 * BLOCK, BLOCK) == b"l" * BLOCK
    assert order(world, world.a, "attach") == 1
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


def test_what_was_answered_before_is_told_of_by_the_next_flush() -> None:
    """Protocol C confirms what lies in the peer's cache: whether it survived there, only an error can say."""
    world, client = without_disk()
    assert write(client, BLOCK, b"x" * BLOCK) == 0
    world.b.lose_power(world.rng)
    world.run(1)
    assert suspended(world.a)
    waiting = client.flush()
    world.b.start()
    assert wait(client, waiting) == [5] and wait(client, client.flush()) == [0]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_only_disk_fails_and_is_attached_again(seed: int) -> None:
    """Alone, with a disk that came loose: nobody hears of an error, and all that was asked for is written."""
    world, client = pair(seed, suspends=True)
    world.b.stop()
    world.run(1)
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.disks[0].fail_writes = world.a.disks[0].fail_reads = True
    cookies = [client.write(n * BLOCK, bytes([n + 1]) * BLOCK) for n in range(10)]
    cookies.append(client.read(0, BLOCK))
    world.run(60)
    assert state(world.a) == "WFConnection Primary/Unknown Diskless/DUnknown" and suspended(world.a)
    world.a.disks[0].fail_writes = world.a.disks[0].fail_reads = False
    assert order(world, world.a, "attach") == 1
    assert set(wait(client, *cookies)) == {0} and not suspended(world.a)
    assert read(client, 9 * BLOCK, BLOCK) == bytes([10]) * BLOCK
    world.b.start()
    world.run_until(world.is_in_sync)
    assert world.copies_equal()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_primary_that_is_a_sync_target_waits_for_its_source(seed: int) -> None:
    """Its own disk is not good yet: it goes on when the source is back, and the writes are on both."""
    world, client = pair(seed, suspends=True)
    assert order(world, world.a, "detach") == 1
    for n in range(200):
        client.write(n * 4 * BLOCK, b"n" * BLOCK)
    world.run(5)
    request = world.a.command("attach")
    world.run_until(lambda: state(world.a).startswith("SyncTarget"))
    cookies = [client.write(n * 8 * BLOCK, bytes([n]) * BLOCK) for n in range(50)]
    apart(world)
    assert suspended(world.a) and request in world.a.answers
    together(world)
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    assert world.copies_equal() and read(client, 49 * 8 * BLOCK, BLOCK) == bytes([49]) * BLOCK


def test_resume_io_lets_what_waits_fail() -> None:
    """As the kernel does: errors, and errors for what comes later."""
    world, client = without_disk()
    waiting = [client.write(0, b"x" * BLOCK), client.read(BLOCK, BLOCK)]
    apart(world)
    waiting += [client.write(8 * BLOCK, b"x" * BLOCK), client.flush()]
    assert order(world, world.a, "resume-io") == 1
    assert wait(client, *waiting) == [5] * 4
    assert wait(client, client.read(0, BLOCK)) == [5] and not suspended(world.a)


def test_demotion_by_force_ends_it() -> None:
    """What waits fails, and the node is Secondary."""
    world, client = without_disk()
    waiting = [client.write(0, b"x" * BLOCK), client.read(BLOCK, BLOCK)]
    apart(world)
    assert order(world, world.a, "secondary", force=True) == 1
    assert set(wait(client, *waiting)) <= {5, 108} and state(world.a).startswith("WFConnection Secondary/Unknown")


def test_a_demotion_does_not_wait_for_data_that_is_lost_meanwhile() -> None:
    """It had begun before the peer was lost."""
    world, client = without_disk()
    waiting = client.write(0, b"x" * BLOCK)
    request = world.a.command("secondary", force=True)
    apart(world)
    assert world.a.answers[request][0] == 1 and wait(client, waiting) in ([5], [0])


def test_all_volumes_are_frozen_or_none() -> None:
    """One volume loses its data: the other, which has it, waits, too, and both go on together."""
    world, client = pair(suspends=True, volumes=2)
    other = Client(world, world.a, 1)
    world.b.stop()
    world.run(1)
    world.a.disks[0].fail_writes = True
    first = client.write(0, b"x" * BLOCK)
    world.run(1)
    second = other.write(0, b"y" * BLOCK)
    world.run(30)
    assert not client.replies and not other.replies
    world.a.disks[0].fail_writes = False
    assert order(world, world.a, "attach") == 1
    assert wait(client, first) == wait(other, second) == [0]


def test_without_the_option_errors_come_at_once() -> None:
    """io-error, the default; and the option is taken over while the node runs."""
    world, client = pair()
    assert order(world, world.a, "detach") == 1
    node = world.a.node
    assert node is not None
    options = NodeOptions("r0", node.options.net, node.options.volumes, on_no_data_suspend=True)
    assert order(world, world.a, "reconfigure", options=options) == 1
    waiting = client.write(0, b"x" * BLOCK)
    apart(world)
    assert suspended(world.a) and waiting not in client.replies
    world, client = pair()
    assert order(world, world.a, "detach") == 1
    waiting = client.write(0, b"x" * BLOCK)
    apart(world)
    assert wait(client, waiting) == [5] and not suspended(world.a)
