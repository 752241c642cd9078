"""Scenarios: other options while the nodes run: what takes effect at once, when they meet, when a disk is attached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydrbd.core.transitions import Fencing
from pydrbd.metadata.superblock import MdFlag
from pydrbd.wire.packet_numbers import WireProtocol
from pydrbd.wire.packets import Packet
from tests.harness.scene import BLOCK, order, pair, sent, state, write
from tests.harness.world import Machine, World


def reconfigure(world: World, machine: Machine, *, volume: dict[str, Any] | None = None, **net: Any) -> None:
    """Give one node other options."""
    node = machine.node
    assert node is not None
    volumes = tuple(replace(each, **volume or {}) for each in node.options.volumes)
    options = replace(node.options, net=replace(node.options.net, **net), volumes=volumes)
    assert order(world, machine, "reconfigure", options=options) == 1


def test_the_protocol_changes_when_the_nodes_meet_again() -> None:
    """Until then writes go by what both have agreed on; each node is told at another moment."""
    world, client = pair()
    for machine in (world.a, world.b):
        reconfigure(world, machine, protocol=WireProtocol.B)
        assert machine.node is not None and machine.node.net.protocol is WireProtocol.C
    assert write(client, 0, b"x" * BLOCK) == 0
    assert sent(world.b, Packet.P_WRITE_ACK) and not sent(world.b, Packet.P_RECV_ACK)
    assert order(world, world.b, "disconnect") == 1
    assert order(world, world.a, "disconnect") == 1
    for machine in (world.a, world.b):
        assert order(world, machine, "connect") == 1
    world.run_until(world.is_in_sync)
    assert write(client, BLOCK, b"y" * BLOCK) == 0
    assert sent(world.b, Packet.P_RECV_ACK)
    world.run(30)
    assert world.copies_equal()


def test_one_node_alone_with_another_protocol_is_refused_only_when_they_meet() -> None:
    """A connection that stands goes on; the next one is none."""
    world, client = pair()
    reconfigure(world, world.a, protocol=WireProtocol.A)
    world.run(20)
    assert write(client, 0, b"x" * BLOCK) == 0 and state(world.a).startswith("Connected ")
    assert order(world, world.b, "disconnect", force=True) == 1
    assert order(world, world.b, "connect") == 1
    world.run(30)
    assert state(world.b).startswith("StandAlone ")


def test_a_policy_takes_effect_at_once() -> None:
    """Fencing and ko-count count for the next failure."""
    world, _client = pair()
    reconfigure(world, world.a, ko_count=3, volume={"fencing": Fencing.RESOURCE_ONLY})
    node = world.a.node
    assert node is not None and node.net.ko_count == 3
    assert node.rules(node.volumes[0]).fencing is Fencing.RESOURCE_ONLY


def test_the_activity_log_is_not_given_up_before_the_superblock_can_say_so() -> None:
    """al-updates no on an attached disk: later writes are logged as before, until it is attached anew."""
    world, client = pair()
    reconfigure(world, world.a, volume={"al_updates": False})
    assert write(client, 0, b"x" * BLOCK) == 0
    node = world.a.node
    assert node is not None
    volume = node.volumes[0]
    assert volume.options.al_updates and volume.disk is not None
    assert MdFlag.AL_DISABLED not in volume.disk.superblock.flags
    assert order(world, world.a, "detach") == 1 and order(world, world.a, "attach") == 1
    world.run_until(world.is_in_sync)
    assert not volume.options.al_updates and volume.disk is not None
    assert MdFlag.AL_DISABLED in volume.disk.superblock.flags
    assert write(client, 0, b"z" * BLOCK) == 0
    world.run(10)
    assert world.copies_equal()


def test_the_peer_is_told_of_another_verify_alg() -> None:
    """Once connected, one node's word counts for both (WIRE 4.5)."""
    world, _client = pair()
    reconfigure(world, world.a, verify_alg="crc32c")
    world.run(5)
    for machine in (world.a, world.b):
        assert machine.node is not None and machine.node.digests.names[0] == "crc32c"
    assert order(world, world.a, "verify") == 1
    world.run_until(world.is_in_sync)


def test_what_a_resize_has_made_of_the_size_stays() -> None:
    """An attach by an unchanged configuration does not take it back."""
    world, _client = pair()
    node = world.a.node
    assert node is not None
    volume = node.volumes[0]
    volume.options = replace(volume.options, size_sectors=volume.size_sectors)
    reconfigure(world, world.a, ko_count=3)
    assert order(world, world.a, "detach") == 1 and order(world, world.a, "attach") == 1
    assert volume.options.size_sectors == volume.size_sectors
