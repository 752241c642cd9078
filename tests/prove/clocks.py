"""Promises about time: who is to be dead is dead (C9), who stalls is left (D6), who is old is met (D11).

C9    a node loses its disk, or is told to die, at any moment: whoever says that it is dead is right, with both
      clocks wrong by a tenth and reads as slow as may be
C8    a frozen Primary, and the other node forced into its place: two Primaries, and one of them says nothing
D6    the network stalls: no client waits longer than ko-count and timeout say
D11   a peer that speaks an older version of the protocol, and knows less: all is copied as ever
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from pydrbd_fence.judge import Die, Judge, Kick, Rules
from pydrbd_fence.timeouts import POLL_S, Timeouts, derive_timeouts

from pydrbd.core.effects import Send
from pydrbd.core.events import SessionClosed
from pydrbd.core.handshake import APV_MAX, APV_MIN, NetOptions
from pydrbd.core.states import ConnState, Role
from pydrbd.core.transitions import Fencing
from pydrbd.wire.packet_numbers import FEATURES_KERNEL, Packet
from tests.harness.checkers import Violation
from tests.harness.scene import BLOCK, order, pair, wait, write
from tests.harness.situations import SOMETIMES, Sightings
from tests.harness.world import Client, Machine, World
from tests.prove.run import Broken, Rung

__all__ = ["PLAYS", "RUNGS", "death_and_verdict"]

_SIZE_BYTES = 8 << 20
_BLOCKS = 1800
_CLOCK_ERROR = 0.1
_STEP_S = 0.05
_PING_S = 2.0

Figures = Counter[str]


def _require(promise: str, holds: bool, text: str) -> None:
    if not holds:
        raise Violation(promise, text)


# --- C9 ---


def death_and_verdict(times: Timeouts, draw: random.Random, *, told: bool) -> tuple[float, float]:
    """When a node without news is dead, and when a sender says so, in seconds since the sender has written its pill.

    `told`: the node can read its slot, and finds the pill; else its disk is lost to it at that moment.
    """
    mine, theirs = (1 + draw.choice((-1, 1, draw.uniform(-1, 1))) * _CLOCK_ERROR for _ in range(2))
    judge = Judge(Rules(("disk",), times, cluster=False), 0.0)
    now = -draw.uniform(2.0, 5.0) * times.fresh_s
    start, reading, ends, fed, looks = now, now, now, now, now
    while True:
        clock = (now - start) * mine
        if now >= ends:
            if reading <= 0.0:
                judge.on_device_seen(0, (reading - start) * mine)
            elif told:
                return now, times.msgwait_s / theirs
            reading, ends = ends, ends + draw.choice((0.01, draw.uniform(0.0, 1.0), 1.0)) * times.io_s / mine
            ends = max(ends, reading + times.loop_s / mine)
        if now >= looks:
            looks = now + draw.uniform(0.1, 1.0) * POLL_S / mine
            for decision in judge.decide(clock):
                if isinstance(decision, Kick):
                    fed = now
                elif isinstance(decision, Die):
                    return now, times.msgwait_s / theirs
        if judge.armed and (now - fed) * mine >= times.watchdog_s:
            return now, times.msgwait_s / theirs
        now += _STEP_S


def dead_in_time(draw: random.Random, figures: Figures) -> None:
    """C9: the verdict comes after the death, whatever the clocks and the disk do."""
    loop = draw.choice((1, 1, 2))
    watchdog = draw.randint(3, 20)
    times = derive_timeouts(watchdog, loop_s=loop, io_s=draw.choice((None, 1, 10, 30, 60)))
    _require("C9", not times.complaints(), f"{times}: {times.complaints()}")
    dead, said = death_and_verdict(times, draw, told=draw.random() < 0.5)
    _require("C9", dead <= said, f"dead after {dead:.1f} s, and called so after {said:.1f} s: {times}")


# --- C8 ---


def a_frozen_primary_has_a_successor(draw: random.Random, figures: Figures) -> None:
    """C8, C3: nobody can say where the peer is; the other node is forced, and the first one stays silent for good."""
    world, client = pair(
        draw.getrandbits(32), size_bytes=_SIZE_BYTES, fencing=Fencing.RESOURCE_AND_STONITH, handlers=("fence-peer",)
    )
    world.a.handler = world.b.handler = lambda _name: (draw.choice((1, None)), draw.choice((0.01, 1.0)))
    sightings = world.observer = Sightings(world)
    _write_some(draw, client)
    world.link_allowed = False
    world.sever(draw.choice((0.0, 0.5)))
    world.run(2.0)
    waiting = [client.write(draw.randrange(_BLOCKS) * BLOCK, draw.randbytes(BLOCK)) for _ in range(draw.randint(1, 6))]
    order(world, world.b, "primary", force=True)
    world.run(draw.choice((0.0, 1.0, 20.0)))
    _require("C8", not any(cookie in client.replies for cookie in waiting), "a frozen Primary has answered")
    _require("C8", world.b.volume.state.role is Role.Primary, "nobody can be forced")
    world.link_allowed = True
    world.try_link()
    world.run(10.0)
    _require("C3", not world.is_linked(), "two Primaries are connected")
    good = [cookie for cookie in waiting if client.replies.get(cookie, (1, b""))[0] == 0]
    _require("C8", not good, "a frozen Primary has answered after it has met its successor")
    for name in sightings.seen:
        figures[SOMETIMES + name] += 1


# --- D6 ---


def a_stalled_peer_is_left(draw: random.Random, figures: Figures) -> None:
    """D6: everything that a client has asked is answered by the time that the options say, and one ping."""
    net = NetOptions(timeout_s=draw.choice((1.0, 3.0, 6.0)), ko_count=draw.choice((1, 2, 7)))
    world, client = pair(draw.getrandbits(32), size_bytes=_SIZE_BYTES, net=net)
    for _ in range(draw.randint(0, 3)):
        write(client, draw.randrange(_BLOCKS) * BLOCK, draw.randbytes(BLOCK))
    asked = [client.write(draw.randrange(_BLOCKS) * BLOCK, draw.randbytes(BLOCK)) for _ in range(draw.randint(0, 3))]
    world.run(draw.uniform(0.0, 0.003))
    link = world.link
    assert link is not None
    world.link_allowed = False
    link.clogged_until = world.now + 1000
    begun = world.now
    asked += [client.write(draw.randrange(_BLOCKS) * BLOCK, draw.randbytes(BLOCK)) for _ in range(draw.randint(1, 3))]
    asked.append(client.flush())
    asked.append(client.read(0, BLOCK))
    _require("D6", not any(wait(client, *asked)), "a client gets an error, and its disk is good")
    limit_s = net.timeout_s * net.ko_count + _PING_S
    _require("D6", world.now - begun <= limit_s, f"a client has waited {world.now - begun:.1f} s, not {limit_s:.0f} s")
    _require("D6", world.a.volume.state.conn < ConnState.Connected, "the peer is still counted on")


# --- D11 ---


def an_older_peer(draw: random.Random, figures: Figures) -> None:
    """D11: both speak the older one's version, with a part of the features; roles change, links break, one restarts."""
    apv, known = draw.randint(APV_MIN, APV_MAX), draw.choice((0, int(FEATURES_KERNEL), draw.getrandbits(5)))
    world = World(draw.getrandbits(32), size_bytes=_SIZE_BYTES)
    _speak(world, apv, known)
    world.start_in_sync()
    _require("D11", world.copies_equal(), f"version {apv}: blocks differ after the first sync")
    machine = world.a
    for _ in range(draw.randint(2, 5)):
        client = Client(world, machine)
        _write_some(draw, client)
        match draw.randrange(4):
            case 0:
                world.sever(draw.choice((0.0, 0.5)))
            case 1:
                world.other(machine).stop()
                _write_some(draw, client)
                world.other(machine).start()
            case 2:
                order(world, world.other(machine), "disconnect")
                _write_some(draw, client)
                order(world, world.other(machine), "connect")
            case 3:
                client.zero(draw.randrange(_BLOCKS) * BLOCK, 4 * BLOCK)
        _settle(world)
        machine.feed(SessionClosed(client, 0))
        if draw.random() < 0.5:
            _require("D11", order(world, machine, "secondary") == 1, f"version {apv}: no demotion")
            world.run(1.0)
            machine = world.other(machine)
            _require("D11", order(world, machine, "primary") == 1, f"version {apv}: {machine.log[-1]}")
    _settle(world)
    _require("D11", world.copies_equal(), f"version {apv}: blocks {world.differing_blocks()[:8]} differ")
    errors = world.protocol_errors
    _require("D11", not errors, f"version {apv}, features {known:#x}: {errors[:1]}")


def _settle(world: World) -> None:
    world.run(1.0)
    world.run_until(world.is_in_sync)
    world.run(1.0)


def _speak(world: World, apv: int, known: int) -> None:
    """What both say of themselves is as an older program would say it."""
    as_ever = world.send

    def send(machine: Machine, effect: Send) -> None:
        stream = bytearray(b"".join(effect.parts))
        if int.from_bytes(stream[4:6], "big") == Packet.P_CONNECTION_FEATURES and stream[:4] == b"\x83\x74\x02\x67":
            start = 8
            offered = int.from_bytes(stream[start + 4 : start + 8], "big")
            stream[start + 4 : start + 8] = (offered & known).to_bytes(4, "big")
            stream[start + 8 : start + 12] = apv.to_bytes(4, "big")
            effect = Send(effect.socket, [bytes(stream)])
        as_ever(machine, effect)

    world.send = send  # type: ignore[method-assign]


def _write_some(draw: random.Random, client: Client) -> None:
    for _ in range(draw.randint(1, 4)):
        write(client, draw.randrange(_BLOCKS) * BLOCK, draw.randbytes(BLOCK))
    wait(client, client.flush())


PLAYS: dict[str, tuple[str, Callable[[random.Random, Figures], None]]] = {
    "a frozen Primary": ("C8", a_frozen_primary_has_a_successor),
    "an older peer": ("D11", an_older_peer),
    "dead in time": ("C9", dead_in_time),
    "a stalled peer": ("D6", a_stalled_peer_is_left),
}


def play(seed: int, figures: Figures) -> None:
    """One play. Raises Broken."""
    name = sorted(PLAYS)[seed % len(PLAYS)]
    promise, tell = PLAYS[name]
    try:
        tell(random.Random(f"{name}/{seed}"), figures)
    except Exception as error:
        replay = f"python -m tests.prove --only 'clocks' --seed {seed} --once"
        broken = error.promise if isinstance(error, Violation) else promise
        raise Broken(broken, f"{name}: {type(error).__name__}: {error}", replay) from error
    figures[f"checked {promise}"] += 1


RUNGS = (Rung("clocks", 0.5, play),)
