"""Scenarios: what BLOCK_STATUS and CACHE tell a client, and when."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from pydrbd.core import effects as fx
from pydrbd.core.block_status import BASE_ALLOCATION, OUT_OF_SYNC
from pydrbd.core.states import ConnState, DiskState
from pydrbd.wire.nbd import ChunkType, Command, CommandFlag, NbdError
from tests.harness.scene import BLOCK, MIB, pair, wait, write
from tests.harness.world import Client, World

EINVAL = int(NbdError.EINVAL)
ALLOCATION, SYNC = (1, BASE_ALLOCATION), (2, OUT_OF_SYNC)


class Surveyor(Client):
    """A client with some contexts; what it is told by context number."""

    def __init__(self, world: World, contexts: tuple[tuple[int, str], ...]) -> None:
        super().__init__(world, world.a, 0)
        self.contexts = contexts
        self.told: dict[int, list[tuple[int, int]]] = {}

    def ask(self, offset: int, length: int, flags: int = 0) -> int:
        """The error, or 0 with `told` filled."""
        self.told.clear()
        (cookie,) = self.submit((Command.BLOCK_STATUS, flags, offset, bytes(length)))
        return wait(self, cookie)[0]

    def on_reply(self, effect: fx.Reply) -> None:
        stream = b"".join(effect.parts)
        if stream[:4] != (0x668E33EF).to_bytes(4, "big"):
            super().on_reply(effect)
            return
        position, done = 0, 0
        while position < len(stream):
            assert not done, "chunks behind the last one"
            _magic, done, kind, cookie, length = struct.unpack_from(">IHHQI", stream, position)
            (context,) = struct.unpack_from(">I", stream, position + 20)
            assert kind == ChunkType.BLOCK_STATUS and context not in self.told
            self.told[context] = list(struct.iter_unpack(">II", stream[position + 24 : position + 20 + length]))
            position += 20 + length
        assert done
        self.answered(cookie, 0, b"")


def surveyor(*contexts: tuple[int, str]) -> tuple[World, Surveyor]:
    world, _client = pair(1)
    return world, Surveyor(world, contexts)


def test_what_was_written_while_the_peer_was_away_is_out_of_sync_and_nothing_else() -> None:
    """Cut to the bytes that were asked for; and in sync again when the peer has come back."""
    world, client = surveyor(SYNC)
    assert client.ask(0, MIB) == 0 and client.told == {2: [(MIB, 0)]}
    world.b.lose_power(world.rng)
    world.run_until(lambda: world.a.volume.state.conn < ConnState.Connected)
    assert write(client, 2 * BLOCK, b"x" * 3 * BLOCK) == 0
    assert client.ask(BLOCK, 8 * BLOCK) == 0
    assert client.told == {2: [(BLOCK, 0), (3 * BLOCK, 1), (4 * BLOCK, 0)]}
    assert client.ask(3 * BLOCK + 512, BLOCK) == 0 and client.told == {2: [(BLOCK, 1)]}
    assert client.ask(BLOCK, 8 * BLOCK, CommandFlag.REQ_ONE) == 0 and client.told == {2: [(BLOCK, 0)]}


def test_each_context_has_its_chunk_and_a_disk_that_does_not_tell_has_no_holes() -> None:
    """Both in one answer, whose last chunk says that it is the last."""
    _world, client = surveyor(ALLOCATION, SYNC)
    assert client.ask(0, MIB) == 0 and client.told == {1: [(MIB, 0)], 2: [(MIB, 0)]}


def test_holes_are_the_disks_own_as_long_as_it_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has become worse while it was looked at does not speak for the device."""
    world, client = surveyor(ALLOCATION)
    good = True

    def begin_disk(effect: Any) -> None:
        if isinstance(effect, fx.MapDisk):
            effect.extents = [(BLOCK, True), (effect.length_bytes - BLOCK, False)]
            if not good:
                world.a.volume.state = replace(world.a.volume.state, disk=DiskState.Inconsistent)
        real(effect)

    real = world.a._begin_disk
    monkeypatch.setattr(world.a, "_begin_disk", begin_disk)
    assert client.ask(0, MIB) == 0 and client.told == {1: [(BLOCK, 3), (MIB - BLOCK, 0)]}
    good = False
    assert client.ask(0, MIB) == 0 and client.told == {1: [(MIB, 0)]}


def test_a_hole_that_only_this_disk_has_yet_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A1: a TRIM is under way, our disk has done it, the peer has not: a reader would wait for it."""
    world, client = surveyor(ALLOCATION)

    def begin_disk(effect: Any) -> None:
        if isinstance(effect, fx.MapDisk):
            effect.extents = [(effect.length_bytes, True)]
        real(effect)

    real = world.a._begin_disk
    monkeypatch.setattr(world.a, "_begin_disk", begin_disk)
    monkeypatch.setattr(world.b, "_begin_disk", lambda effect: None)
    client.trim(4 * BLOCK, BLOCK)
    world.run(0.2)
    assert client.ask(0, MIB) == 0 and client.told == {1: [(MIB, 0)]}
    assert client.ask(8 * BLOCK, BLOCK) == 0 and client.told == {1: [(BLOCK, 3)]}


def test_what_can_not_be_asked_is_invalid() -> None:
    """No context chosen, no length, or a range that is not all inside; and flags of other commands."""
    world, client = surveyor(SYNC)
    end = world.a.volume.size_bytes
    assert client.ask(0, 0) == EINVAL
    assert client.ask(end - BLOCK, 2 * BLOCK) == EINVAL
    assert client.ask(0, BLOCK, CommandFlag.NO_HOLE) == EINVAL
    client.contexts = ()
    assert client.ask(0, BLOCK) == EINVAL


def test_cache_is_a_hint_that_is_always_taken() -> None:
    """Success inside the device, wherever the data is; an error outside."""
    world, client = surveyor()
    assert wait(client, *client.submit((Command.CACHE, 0, 0, bytes(MIB)))) == [0]
    end = world.a.volume.size_bytes
    assert wait(client, *client.submit((Command.CACHE, 0, end, bytes(BLOCK)))) == [EINVAL]
