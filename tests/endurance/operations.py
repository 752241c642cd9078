"""What may happen to the pair: each operation with its condition, its effect, and what a log may say of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.endurance.model import BOTH, NODES, Model, peer_of

QUIET_AFTER = (6, 14)
"""So many operations from one quiet point to the next."""

LINK_BREAKS = (
    "PingAck did not arrive in time", "NetworkFailure", "BrokenPipe", "Timeout", r"sock_\w+ returned",
    "(meta|data) connection shut down by peer", "sock was (shut down|reset) by peer", "short (read|sent)",
    "error receiving", "Connection reset", r"drbd_send_block\(\) failed", r"net_ee not empty, killed \d+ entries",
    "_drbd_send_page: size=", "resync aborted", "Error receiving initial packet",
    "missed the resync finished event",  # the link broke in the moment between both nodes' ends of a resync
)  # fmt: skip
RETURNS = (
    *LINK_BREAKS, "recovered from activity log", "Marked additional", r"Found \d+ transactions", "crashed Primary",
)  # fmt: skip
VERIFIES = ("Online [Vv]erify", r"Out of sync: start=\d+", "helper command: /sbin/drbdadm out-of-sync", "out of sync!")
REFUSES = ("State change failed", r"(state|wanted) = ")
SPLITS = (*LINK_BREAKS, "[Ss]plit.[Bb]rain")
GROWS = ("Writing the whole bitmap", "Resync of new storage", "Considerable difference in lower level device sizes")


@dataclass(frozen=True, slots=True)
class Operation:
    """`ready` and `after` are given the model and the node that it is done to (or by)."""

    name: str
    weight: int
    ready: Callable[[Model, str], bool]
    after: Callable[[Model, str], Model]
    says: tuple[str, ...] = ()
    """Patterns of log lines that it brings about, until the next quiet point."""
    busy: bool = False
    """Whether it may be done while the Primary writes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a run; `seed` is for whatever else it has to choose."""

    operation: Operation
    who: str
    seed: int
    busy: bool

    def __str__(self) -> str:
        return f"{self.operation.name} {self.who}{' (busy)' if self.busy else ''}"


def _in_use(model: Model, who: str) -> bool:
    """In sync, and one of them is Primary; `who` may be either."""
    return model.quiet and model.primary is not None


def _may_part(model: Model, who: str) -> bool:
    return model.connected and model.stands_alone


def _may_disconnect(model: Model, who: str) -> bool:
    """A kernel's device with neither disk nor connection would be gone."""
    return who in model.attached and _may_part(model, who)


def _may_promote(model: Model, who: str) -> bool:
    return model.primary is None and who in model.up & model.attached & model.current


def _may_kill(model: Model, who: str) -> bool:
    return who in model.up and (who == model.primary or model.stands_alone)


def _may_take_down(model: Model, who: str) -> bool:
    return who in model.up and who != model.primary and model.stands_alone


def _may_outdate(model: Model, who: str) -> bool:
    """Data that is old already: the other node may have gone on without it."""
    return who in (model.up & model.attached) - model.current and who != model.primary and not model.connected


def _gone(model: Model, who: str) -> Model:
    """When it is back it has its disk again, and looks for its peer."""
    fields = {
        "up": model.up - {who}, "attached": model.attached | {who},
        "standalone": model.standalone - {who}, "paused": model.paused - {who},
    }  # fmt: skip
    if who != model.primary:
        return model.parted(**fields)
    return model.but(primary=None, crashed=who, syncing=False, **fields)


def _is_kernel(who: str) -> bool:
    """For what is done to the pair as a whole: once is enough."""
    return who == NODES[0]


def _may_write(model: Model, who: str) -> bool:
    return who == model.primary and model.serves


OPERATIONS = (
    # the data
    Operation("write", 12, _may_write, lambda m, w: m.written()),
    Operation("check", 5, _may_write, lambda m, w: m),
    Operation("stress", 2, lambda m, w: w == m.primary and m.stands_alone and not m.slow, lambda m, w: m.written()),
    Operation(
        "wait_in_sync", 8, lambda m, w: _is_kernel(w) and m.connected and m.attached == BOTH and not m.paused,
        lambda m, w: m.but(syncing=False, current=BOTH),
    ),
    # roles
    Operation("promote", 14, _may_promote, lambda m, w: m.promoted(w)),
    Operation("demote", 2, lambda m, w: w == m.primary, lambda m, w: m.but(primary=None)),
    Operation("switch", 3, lambda m, w: w == m.primary and m.quiet, lambda m, w: m.but(primary=peer_of(w))),
    # the link
    Operation(
        "disconnect", 4, _may_disconnect, lambda m, w: m.parted(standalone=m.standalone | {w}),
        LINK_BREAKS, busy=True,
    ),
    Operation(
        "connect", 12, lambda m, w: w in m.standalone, lambda m, w: m.but(standalone=m.standalone - {w}).met(),
        LINK_BREAKS, busy=True,
    ),
    Operation(
        "cut", 3, lambda m, w: _is_kernel(w) and _may_part(m, w), lambda m, w: m.parted(cut=True),
        LINK_BREAKS, busy=True,
    ),
    Operation(
        "restore", 12, lambda m, w: _is_kernel(w) and m.cut, lambda m, w: m.but(cut=False).met(),
        LINK_BREAKS, busy=True,
    ),
    Operation(
        "slow_down", 2, lambda m, w: _is_kernel(w) and w in m.up and not m.slow, lambda m, w: m.but(slow=True),
        busy=True,
    ),
    Operation("speed_up", 6, lambda m, w: _is_kernel(w) and m.slow, lambda m, w: m.but(slow=False), busy=True),
    Operation("hang", 2, lambda m, w: _may_part(m, w) and not m.slow, lambda m, w: m.parted().met(), LINK_BREAKS),
    # machines
    Operation("kill", 5, _may_kill, _gone, LINK_BREAKS, busy=True),
    Operation("take_down", 2, _may_take_down, _gone, LINK_BREAKS, busy=True),
    Operation(
        "bring_back", 14, lambda m, w: w not in m.up, lambda m, w: m.but(up=m.up | {w}).met(),
        RETURNS, busy=True,
    ),
    # disks
    Operation(
        "detach", 2, lambda m, w: m.quiet, lambda m, w: m.but(attached=m.attached - {w}, current=m.current - {w}),
        ("Failed -> Diskless",), busy=True,
    ),
    Operation(
        "attach", 10, lambda m, w: w in m.up - m.attached, lambda m, w: m.but(attached=m.attached | {w}).met(),
        RETURNS, busy=True,
    ),
    Operation(
        "resize", 3, lambda m, w: _in_use(m, w) and m.growths_left > 0,
        lambda m, w: m.but(growths_left=m.growths_left - 1), GROWS,
    ),
    # resync by order
    Operation("invalidate", 2, lambda m, w: m.quiet, lambda m, w: m.but(current=BOTH - {w}, syncing=True), busy=True),
    Operation(
        "invalidate_remote", 2, lambda m, w: m.quiet, lambda m, w: m.but(current=frozenset((w,)), syncing=True),
        busy=True,
    ),
    Operation(
        "pause", 2, lambda m, w: m.connected and m.attached == BOTH and w not in m.paused,
        lambda m, w: m.but(paused=m.paused | {w}), busy=True,
    ),
    Operation("resume", 8, lambda m, w: w in m.paused & m.up, lambda m, w: m.but(paused=m.paused - {w}), busy=True),
    Operation("outdate", 2, _may_outdate, lambda m, w: m, REFUSES),
    # more than one step
    Operation("verify", 3, lambda m, w: m.quiet, lambda m, w: m, VERIFIES),
    Operation("find_planted", 2, _in_use, lambda m, w: m, (*VERIFIES, *LINK_BREAKS)),
    Operation(
        "split_brain", 2, _in_use, lambda m, w: m.but(primary=peer_of(w), current=BOTH - {w}, syncing=True), SPLITS
    ),
    Operation("reconfigure", 2, lambda m, w: _is_kernel(w) and m.quiet, lambda m, w: m, LINK_BREAKS),
)  # fmt: skip
BY_NAME = {operation.name: operation for operation in OPERATIONS}


def possible(model: Model) -> list[tuple[Operation, str]]:
    """All that may happen now."""
    return [(operation, who) for operation in OPERATIONS for who in NODES if operation.ready(model, who)]


def make_step(name: str, who: str, rng: random.Random, model: Model) -> Step:
    """A step of this operation; whether the Primary writes meanwhile is left to chance."""
    operation = BY_NAME[name]
    busy = rng.random() < 0.5 and operation.busy and model.serves
    return Step(operation, who, rng.getrandbits(32), busy)


def draw(model: Model, rng: random.Random) -> Step:
    """One of all that may happen."""
    choices = possible(model)
    ((operation, who),) = rng.choices(choices, [operation.weight for operation, _ in choices])
    return make_step(operation.name, who, rng, model)


def next_to_rest(model: Model, order: Sequence[str] = NODES) -> tuple[str, str] | None:
    """What to do next so that the pair comes to rest, in sync and in use; None: it has. `order`: who is asked first."""
    for name in ("restore", "speed_up", "bring_back", "connect", "attach", "resume", "wait_in_sync", "promote"):
        for who in order:
            if BY_NAME[name].ready(model, who) and not (name == "wait_in_sync" and model.quiet):
                return name, who
    return None


def walk(seed: int, model: Model) -> Iterator[Step]:
    """An endless run. The same seed gives the same steps."""
    rng = random.Random(seed)
    while True:
        for _ in range(rng.randint(*QUIET_AFTER)):
            step = draw(model, rng)
            model = step.operation.after(model, step.who)
            yield step
        while (rest := next_to_rest(model, rng.sample(NODES, 2))) is not None:
            step = make_step(*rest, rng, model)
            model = step.operation.after(model, step.who)
            yield step
