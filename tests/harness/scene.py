"""Words for scenarios over `World`: a pair in sync, orders that are carried out, requests that are answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydrbd.core.effects import Reply
from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire.packets import Packet
from tests.harness.world import Client, Machine, World

__all__ = [
    "BLOCK",
    "MIB",
    "AtReply",
    "in_sync_superblock",
    "order",
    "pair",
    "read",
    "sent",
    "sent_bytes",
    "state",
    "wait",
    "write",
]

BLOCK = 4096
MIB = 1 << 20


def pair(seed: int = 1, size_bytes: int = 16 * MIB, **options: Any) -> tuple[World, Client]:
    """Two nodes that have been in sync before, `a` Primary, and a client of it."""
    world = World(seed, size_bytes=size_bytes, superblock=in_sync_superblock(size_bytes), **options)
    world.start()
    world.run_until(world.is_in_sync)
    assert order(world, world.a, "primary") == 1
    return world, Client(world, world.a)


def in_sync_superblock(size_bytes: int) -> Superblock:
    """Meta-data as after a first sync and a clean stop."""
    layout = Layout.internal(size_bytes // SECTOR_SIZE_BYTES)
    flags = MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE | MdFlag.AL_CLEAN
    return replace(
        Superblock.fresh(layout), la_size_sectors=layout.usable_sectors, current_uuid=0x1122_3344_5566_7788, flags=flags
    )


def order(world: World, machine: Machine, verb: str, **arguments: Any) -> int:
    """An operator's command; its return code."""
    request = machine.command(verb, **arguments)
    world.run_until(lambda: request in machine.answers)
    return machine.answers[request][0]


def wait(client: Client, *cookies: int) -> list[int]:
    """The errors of these requests, when all have been answered."""
    client.world.run_until(lambda: all(cookie in client.replies for cookie in cookies))
    return [client.replies[cookie][0] for cookie in cookies]


def write(client: Client, offset: int, data: bytes, **flags: bool) -> int:
    return wait(client, client.write(offset, data, **flags))[0]


def read(client: Client, offset: int, length: int) -> bytes | int:
    """The data, or the error."""
    cookie = client.read(offset, length)
    wait(client, cookie)
    error, data = client.replies[cookie]
    return error or data


def state(machine: Machine, vnr: int = 0) -> str:
    """Such as "Connected Primary/Secondary UpToDate/UpToDate"."""
    assert machine.node is not None
    state = machine.node.volumes[vnr].state
    return f"{state.conn.name} {state.roles_text} {state.disks_text}"


def sent(machine: Machine, packet: Packet) -> list[int]:
    """The payload lengths of all packets of a kind that have arrived from this machine."""
    return [length for command, length in machine.sent_packets if command == packet]


def sent_bytes(machine: Machine, packet: Packet) -> int:
    return sum(sent(machine, packet))


class AtReply:
    """Looks at the world at the moment at which a node decides to answer its clients."""

    def __init__(self, world: World, look: Any) -> None:
        self.seen: list[Any] = []
        self._look = look
        world.observer = self

    def on_effect(self, machine: Machine, effect: Any) -> None:
        if isinstance(effect, Reply):
            self.seen.append(self._look())

    def on_event(self, machine: Machine, event: Any) -> None: ...
