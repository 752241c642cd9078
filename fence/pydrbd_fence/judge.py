"""The inquisitor's decisions: what it heard, and the time, in; what to do, out. No clock, device or signal is in here.

The watchdog is fed only while the vote is good:

| devices | the vote is good |
|---|---|
| none | both health reporters are fresh and well (or have not both been well yet: nothing runs here) |
| 1, 2 | one device is fresh, or (all lost, and both health reporters well) |
| 3 | two devices are fresh, or (as above) |
| with `cluster_first` | the devices *and* both reporters |

Fresh is what was seen within `io + loop`, counted from when the looking began. Without a feed for the watchdog's time
the node ends itself, also if the vote is good again by then: others may count on its death. What was decided for good
(to die, to leave) is never taken back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from .extension import NO_ID, Letter
from .layout import Command
from .timeouts import Timeouts

__all__ = ["Acknowledge", "Arm", "Decision", "Die", "Health", "Judge", "Kick", "Leave", "Log", "Rules"]

CLUSTER_SOURCES = ("pacemaker", "corosync")
NOTICE, WARNING, ERROR, EMERGENCY = 5, 4, 3, 0


class Health(Enum):
    """What a reporter says of its part of the cluster."""

    well = "well"
    silent = "silent"  # in between: what it said before goes stale
    ill = "ill"
    stopped = "stopped"  # ended on purpose: nothing is managed here any more


@dataclass(frozen=True, slots=True)
class Rules:
    """What does not change after the start. `devices` are names."""

    devices: tuple[str, ...]
    times: Timeouts
    cluster: bool
    cluster_first: bool = False
    action: str = "reboot"
    flush: bool = True
    warn_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Log:
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Arm:
    """The first good vote: arm the watchdog, and tell whoever waits that we are up."""


@dataclass(frozen=True, slots=True)
class Kick:
    """Feed the watchdog."""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Say on every device that the pill is taken; no feed follows any more."""

    letter_id: bytes
    command: int


@dataclass(frozen=True, slots=True)
class Die:
    """End the node: `reboot`, `off` or `crashdump`."""

    action: str
    flush: bool
    why: str


@dataclass(frozen=True, slots=True)
class Leave:
    """End cleanly with this exit code: disarm the watchdog first."""

    code: int
    why: str


Decision = Log | Arm | Kick | Acknowledge | Die | Leave
ACTIONS = {Command.reset: "reboot", Command.off: "off", Command.crashdump: "crashdump"}


@dataclass(slots=True)
class _Source:
    """The last that was heard of a device or a reporter."""

    fresh_at: float | None = None
    lost: bool = True
    spoke: bool = False
    was_well: bool = False
    why: str = "nothing seen yet"


@dataclass(slots=True)
class Judge:
    """All state of the inquisitor. Feed it events, then ask `decide`."""

    rules: Rules
    started_at: float
    armed: bool = False
    kicked_at: float = 0.0
    final: Decision | None = None
    warned: bool = False
    _devices: list[_Source] = field(default_factory=list)
    _cluster: dict[str, _Source] = field(default_factory=dict)
    _pending: list[Decision] = field(default_factory=list)
    _surviving: bool = False

    def __post_init__(self) -> None:
        self._devices = [_Source() for _ in self.rules.devices]
        self._cluster = {name: _Source() for name in CLUSTER_SOURCES} if self.rules.cluster else {}

    # What is heard.

    def on_device_seen(self, index: int, began_at: float) -> None:
        """Header, slot and mailbox were read and are ours; `began_at` is when the reading began."""
        source = self._devices[index]
        if source.lost and source.spoke:
            self._say(NOTICE, f"{self.rules.devices[index]} is back")
        source.fresh_at = max(began_at, source.fresh_at or began_at)
        source.lost, source.spoke = False, True

    def on_device_lost(self, index: int, why: str) -> None:
        """It can't be read, or its header or slot is not what it was."""
        source = self._devices[index]
        if not source.lost or source.why != why:
            self._say(ERROR, f"lost device {self.rules.devices[index]}: {why}")
        source.lost, source.spoke, source.why = True, True, why

    def on_health(self, name: str, health: Health, began_at: float, why: str = "") -> None:
        """A reporter of the cluster spoke; `began_at` is when it began to look."""
        source = self._cluster.get(name)
        if source is None:
            return
        if health is Health.well:
            if source.lost and source.spoke:
                self._say(NOTICE, f"{name} is well again")
            source.fresh_at = max(began_at, source.fresh_at or began_at)
            source.lost, source.spoke, source.was_well = False, True, True
        elif health is Health.ill:
            if not source.lost:
                self._say(WARNING, f"{name} is not well: {why}")
            source.lost, source.spoke, source.why = True, True, why
        elif health is Health.stopped and any(other.was_well for other in self._cluster.values()):
            self._say(NOTICE, f"{name} has stopped on purpose: waiting for it as at the start")
            for other in self._cluster.values():
                other.lost, other.spoke, other.was_well = True, False, False

    def on_letter(self, index: int, letter: Letter) -> None:
        """A message that is for this boot of this node."""
        place = f"from {letter.sender or 'nobody'} on disk {self.rules.devices[index]}"
        if isinstance(self.final, Die):
            return
        if letter.command in ACTIONS:
            command = Command(letter.command)
            self._say(EMERGENCY, f"Received command {command.name} {place}")
            if letter.ours and letter.letter_id != NO_ID:
                self._pending.append(Acknowledge(letter.letter_id, letter.command))
            self.final = Die(ACTIONS[command], False, f"told by {letter.sender or 'nobody'}")
        elif letter.command == Command.exit:
            self._say(NOTICE, f"Received command exit {place}")
            self.final = Leave(0, f"told by {letter.sender}")
        elif letter.command == Command.test:
            self._say(NOTICE, f"Received command test {place}")
        else:
            self._say(ERROR, f"Received unknown command {letter.command} {place}: ignored, and removed")

    def on_terminate(self) -> None:
        """A signal asks us to end."""
        if self.final is None:
            self.final = Leave(0, "asked to end by a signal")

    # What is decided.

    def decide(self, now: float) -> list[Decision]:
        """All that is to be done now, in this order."""
        return list(self._decide(now))

    def good_vote(self, now: float) -> bool:
        """Whether this node has proof of being wanted."""
        cluster_well, starting = self._cluster_well(now), self._cluster_starting()
        if not self._devices:
            return cluster_well or starting
        if self.rules.cluster_first:
            return self._enough_devices(now) and (cluster_well or starting)
        return self._enough_devices(now) or (self.armed and cluster_well)

    def asks_cluster(self, now: float) -> bool:
        """Whether the vote may hang on the cluster's health soon: else it is enough to hear of it now and then."""
        if not self._devices or self.rules.cluster_first or not self.armed or self._cluster_starting():
            return bool(self._cluster)
        return bool(self._cluster) and not self._enough_devices(now, self.rules.times.fresh_s / 2)

    def _cluster_well(self, now: float) -> bool:
        return bool(self._cluster) and all(self._fresh(source, now) for source in self._cluster.values())

    def _cluster_starting(self) -> bool:
        """Not all of it has been well since the start, or since it stopped on purpose: nothing runs here yet."""
        return not all(source.was_well for source in self._cluster.values())

    def _enough_devices(self, now: float, fresh_s: float | None = None) -> bool:
        needed = 2 if len(self._devices) == 3 else 1
        return sum(self._fresh(source, now, fresh_s) for source in self._devices) >= needed

    def _decide(self, now: float) -> Iterator[Decision]:
        if self.final is None:
            self._feed(now)
        yield from self._pending
        self._pending.clear()
        if self.final is not None:
            yield self.final

    def _feed(self, now: float) -> None:
        limit = self.rules.times.watchdog_s
        silent_s = now - self.kicked_at
        if self.armed and silent_s > limit:
            # Even if the vote is good again: the hardware should have acted, and others may count on it.
            why = f"No liveness for {silent_s:.1f}s, the watchdog's time is {limit}s: {self._reasons(now)}"
            self._say(EMERGENCY, why)
            self.final = Die(self.rules.action, self.rules.flush, why)
        elif self.good_vote(now):
            if not self.armed:
                self.armed = True
                self._pending.append(Arm())
            self.kicked_at, self.warned = now, False
            self._pending.append(Kick())
            self._notice_survival(now)
        elif self.armed and not self.warned and 0 < self.rules.warn_s <= silent_s:
            self.warned = True
            self._say(WARNING, f"No liveness for {silent_s:.1f}s (dead at {limit}s): {self._reasons(now)}")

    def _notice_survival(self, now: float) -> None:
        surviving = bool(self._devices) and not self._enough_devices(now)
        if surviving and not self._surviving:
            self._say(WARNING, "Majority of devices lost - surviving on pacemaker")
        elif self._surviving and not surviving:
            self._say(NOTICE, "the majority of the devices is back")
        self._surviving = surviving

    def _fresh(self, source: _Source, now: float, fresh_s: float | None = None) -> bool:
        limit_s = self.rules.times.fresh_s if fresh_s is None else fresh_s
        return not source.lost and source.fresh_at is not None and now - source.fresh_at <= limit_s

    def _reasons(self, now: float) -> str:
        named = [*zip(self.rules.devices, self._devices, strict=True), *self._cluster.items()]
        found = [
            f"{name}: {source.why if source.lost else 'no news'}"
            for name, source in named
            if not self._fresh(source, now)
        ]
        return "; ".join(found) or "the inquisitor itself was stopped"

    def _say(self, level: int, text: str) -> None:
        self._pending.append(Log(level, text))
