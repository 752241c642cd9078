"""Scenarios: a resync by checksums sends only what differs, and takes nothing for equal that is not."""

from __future__ import annotations

from typing import Any

import pytest

from pydrbd.core.handshake import NetOptions
from pydrbd.core.states import ConnState
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, MIB, order, pair, sent, sent_bytes, wait, write
from tests.harness.world import Client


def net(**options: Any) -> NetOptions:
    return NetOptions(csums_alg="sha1", **options)


@pytest.mark.parametrize("alg", ["crc32c", "md5", "sha256"])
@pytest.mark.parametrize("seed", range(2))
def test_equal_blocks_are_not_sent(seed: int, alg: str) -> None:
    """A full sync of copies that are equal but for three blocks sends the three (in their 64 KiB), and the odd end."""
    world, client = pair(seed, size_bytes=11 * MIB + 4608, net=NetOptions(csums_alg=alg))
    assert set(wait(client, *[client.write(n * MIB, bytes([n + 1]) * MIB) for n in range(10)])) == {0}
    for offset in (BLOCK, 5 * MIB, world.a.volume.size_bytes - 512):
        world.b.disks[0].write(offset, b"?" * 512)
    assert order(world, world.b, "invalidate") == 1
    world.run_until(world.is_in_sync)
    assert 0 < sent_bytes(world.a, Packet.P_RS_DATA_REPLY) <= 3 * 65536 and world.copies_equal()
    assert sent(world.b, Packet.P_CSUM_RS_REQUEST) and not sent(world.b, Packet.P_RS_DATA_REQUEST)
    assert any("had equal checksums, eliminated" in line for line in world.a.log)
    assert any("had equal checksums, eliminated" in line for line in world.b.log)
    assert not world.protocol_errors


@pytest.mark.parametrize("seed", range(8))
def test_writes_during_a_resync_by_checksums_end_on_both_nodes(seed: int) -> None:
    """The source writes where digests are being taken and compared, also what was there before; copies are equal."""
    world, client = pair(seed, size_bytes=8 * MIB, net=net())
    assert order(world, world.b, "invalidate") == 1
    world.run_until(lambda: world.b.volume.state.conn == ConnState.SyncTarget)
    world.link_latency_s = 0.01
    cookies = []
    for n in range(200):
        cookies.append(client.write(n * 37 % 900 * 2048, bytes([n % 3]) * 2048))
        world.run(0.001)
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("seed", range(4))
def test_the_target_of_a_resync_by_checksums_may_be_primary(seed: int) -> None:
    """Its own writes during the resync are not taken for what they overwrite."""
    world, client = pair(seed, size_bytes=8 * MIB, net=net())
    assert write(client, 0, b"1" * MIB) == 0
    assert order(world, world.a, "invalidate") == 1
    cookies = [client.write(n * 6144, bytes([n % 250 + 3]) * 2048) for n in range(200)]
    assert set(wait(client, *cookies)) == {0}
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


@pytest.mark.parametrize("seed", range(6))
def test_roles_change_and_links_break_in_a_resync_by_checksums(seed: int) -> None:
    """Digests that are under way then are not worth anything; the end is the same."""
    world, _ = pair(seed, size_bytes=12 * MIB, net=net())
    world.link_latency_s = 0.005
    assert order(world, world.b, "invalidate") == 1
    world.run(0.01 + seed / 200)
    assert order(world, world.a, "secondary", force=True) == 1
    world.run_until(lambda: world.b.volume.state.peer.name == "Secondary")
    assert order(world, world.b, "primary") == 1
    other = Client(world, world.b)
    cookies = [other.write(n * 20480, bytes([n % 250 + 3]) * BLOCK) for n in range(200)]
    world.run(0.01)
    world.cut()
    world.run(5)
    wait(other, *cookies)
    world.run_until(world.is_in_sync)
    world.run(1)
    assert world.copies_equal() and not world.protocol_errors


def test_a_read_error_of_the_target_costs_its_disk_and_nothing_else() -> None:
    """It can't tell what it has: detached, as for any read error."""
    world, _ = pair(net=net())
    assert order(world, world.b, "invalidate") == 1
    world.b.disks[0].fail_once.add("read")
    world.run_until(lambda: world.b.volume.state.disk.name == "Diskless")
    world.run(1)
    assert world.a.volume.state.conn == ConnState.Connected and not world.protocol_errors


@pytest.mark.parametrize("crash", [False, True])
def test_csums_after_crash_only(crash: bool) -> None:
    """A crashed Primary as target compares; after an orderly absence all that is marked is sent."""
    world, client = pair(net=net(csums_after_crash_only=True))
    assert write(client, 0, b"1" * BLOCK) == 0
    if crash:
        world.a.lose_power(world.rng)
        world.run(1)
        assert order(world, world.b, "primary") == 1
        assert write(Client(world, world.b), 8 * MIB, b"2" * BLOCK) == 0
        world.a.start()
    else:
        assert order(world, world.b, "invalidate") == 1
    world.run_until(world.is_in_sync)
    asked = sent(world.a if crash else world.b, Packet.P_CSUM_RS_REQUEST)
    assert bool(asked) == crash and world.copies_equal()


@pytest.mark.parametrize(("option", "value"), [("csums_alg", "md5"), ("csums_alg", ""), ("verify_alg", "md5")])
def test_nodes_with_different_algorithms_do_not_connect(option: str, value: str) -> None:
    """As in DRBD: StandAlone, and the log names both."""
    world, _ = pair(net=NetOptions(csums_alg="sha1", verify_alg="sha1"))
    world.b.stop()
    world.net = NetOptions(**{"csums_alg": "sha1", "verify_alg": "sha1", option: value})
    world.b.start()
    world.run(5)
    assert world.b.volume.state.conn == ConnState.StandAlone or world.a.volume.state.conn == ConnState.StandAlone
    text = f"the peer's {option.replace('_', '-')} ("
    assert any(text in line and "differs from ours" in line for line in world.a.log + world.b.log)
