"""Sending messages: who may kill whom, and when a kill counts as done.

A kill between daemons of ours has three steps. In a split both nodes take them at the same time, and one must win:

1. **Claim.** We write a claim into the target's mailbox, and only then read our own. Whoever of two comes later sees
   the other's claim. Of two that see each other the one of lower rank takes its claim back; the other one waits until
   it has, because a claim that nobody saw in time becomes a pill. A claim that nobody follows up is void after
   `contest_s`: its sender crashed, and never writes a pill later than that.
2. **Pill.** Aimed at the boot that the target's slot names: a node that came back meanwhile is not shot again.
3. **Proof.** The target's slot says that the pill was taken (then it is dead within the time that it says), or shows
   another boot, or msgwait passes. A pill that vanishes without proof is written again.

Each function that takes time is a generator of pauses in seconds: tests interleave two senders step by step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from enum import Enum

from .disk import SbdDisk
from .errors import DeviceError, Refused, SbdError
from .extension import NO_ID, Letter, Record, Stage, State, is_kill
from .layout import KILLS, Command, same_name
from .panel import Panel, good_answers, majority_of
from .timeouts import Timeouts, contest_s

__all__ = ["Errand", "Proof", "outranks", "run_to_end", "send"]

POLL_S = 0.1
REWRITES_MAX = 8
"""So often a pill may vanish from the mailbox, before it must be said that somebody fights us."""

Pauses = Generator[float, None, None]


class Proof(Enum):
    """Why a message counts as delivered; the words are for people."""

    written = "written"
    consumed = "its daemon took it"
    taken = "its daemon took the pill and is dead"
    rebooted = "it is in another boot already"
    elapsed = "msgwait is over"


@dataclass(frozen=True, slots=True)
class Errand:
    """Who sends what to whom. `now` and `new_id` are the world's clock and chance."""

    me: str
    boot: bytes
    priority: int
    target: str
    command: Command
    now: Callable[[], float]
    new_id: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class View:
    """What one device shows of both nodes."""

    target: Record
    target_letter: Letter
    own: Record | None
    own_letter: Letter


def outranks(priority: int, name: str, other_priority: int, other_name: str) -> bool:
    """The higher priority; of equal ones the name that sorts first. Of two nodes exactly one outranks the other."""
    return (-priority, name.lower()) < (-other_priority, other_name.lower())


def send(panel: Panel, errand: Errand, times: Timeouts) -> Generator[float, None, Proof]:
    """Deliver one message; what it returns is the proof, and SbdError says why there is none."""
    if errand.command in KILLS:
        return (yield from _Kill(panel, errand, times).run())
    letter = Letter(errand.command, errand.me)
    waiting = [v for v in _look(panel, errand) if is_kill(v.target_letter)]
    if waiting and errand.command is not Command.clear:
        raise Refused(f"a pill waits for {errand.target}: {errand.command.name} would take its place")
    _post(panel, errand.target, letter)
    if errand.command is not Command.test:
        return Proof.written
    end = errand.now() + times.msgwait_s
    while errand.now() < end:
        yield POLL_S
        if any(view.target_letter.command != Command.test for view in _look(panel, errand)):
            return Proof.consumed
    _post(panel, errand.target, Letter(Command.clear, errand.me))
    raise Refused(f"nobody took the test message for {errand.target} within {times.msgwait_s} s: is its daemon alive?")


def run_to_end(steps: Generator[float, None, Proof], sleep: Callable[[float], None] = time.sleep) -> Proof:
    """Do all steps, and make the pauses between them."""
    while True:
        try:
            pause = next(steps)
        except StopIteration as end:
            proof = end.value
            assert isinstance(proof, Proof)
            return proof
        sleep(pause)


def _look(panel: Panel, errand: Errand) -> list[View]:
    """What a majority of the devices shows."""

    def view(disk: SbdDisk) -> View:
        index = disk.slot_of(errand.target)
        own = disk.find_own(errand.me)
        return View(
            disk.read_slot(index),
            disk.read_letter(index),
            None if own is None else disk.read_slot(own),
            Letter() if own is None else disk.read_letter(own),
        )

    needed = majority_of(len(panel.names))
    return good_answers(panel, panel.each(view), needed, f"{errand.target} can be seen")


def _post(panel: Panel, target: str, letter: Letter) -> None:
    """Write a letter, read back and compared, on a majority of the devices."""
    answers = panel.each(lambda disk: disk.write_letter(disk.slot_of(target), letter))
    good_answers(panel, answers, majority_of(len(panel.names)), f"the message for {target} was written")


class _Kill:
    """One attempt to kill one boot of one node."""

    def __init__(self, panel: Panel, errand: Errand, times: Timeouts) -> None:
        self.panel = panel
        self.errand = errand
        self.times = times
        self.claim: Letter | None = None
        self.claimed_at = 0.0

    def run(self) -> Generator[float, None, Proof]:
        views = _look(self.panel, self.errand)
        target = self._newest(views)
        self._refuse(views, target)
        if self._takes_part(views) and not any(is_kill(view.target_letter) for view in views):
            yield from self._contest(target)
            yield 0.0
            if self.errand.now() > self.claimed_at + contest_s(self.times):
                self._withdraw()
                raise DeviceError(f"the claim on {self.errand.target} took too long to be followed up; try again")
        pill = self._letter(Stage.plain, target)
        _post(self.panel, self.errand.target, pill)
        return (yield from self._prove(pill, target))

    def _newest(self, views: list[View]) -> Record:
        return max((view.target for view in views), key=lambda record: record.sequence)

    def _takes_part(self, views: list[View]) -> bool:
        """Our own daemon lives here, in this boot, so that a claim or a pill against us means something."""
        return any(view.own is not None and view.own.boot == self.errand.boot != NO_ID for view in views)

    def _condemned(self, views: list[View]) -> bool:
        return self._takes_part(views) and any(
            is_kill(view.own_letter)
            and (not view.own_letter.ours or view.own_letter.target_boot in (NO_ID, self.errand.boot))
            for view in views
        )

    def _refuse(self, views: list[View], target: Record) -> None:
        if self._condemned(views):
            raise Refused("a pill waits for this node itself: it fences nobody any more")
        if target.state is State.left:
            raise Refused(
                f"the daemon of {self.errand.target} has ended cleanly: nobody there reads a pill, and no watchdog is"
                f" armed. Start it, or switch the node off by other means and confirm that by hand"
            )

    def _letter(self, stage: Stage, target: Record) -> Letter:
        errand = self.errand
        command = Command.clear if stage is Stage.claim else errand.command
        return Letter(
            command, errand.me, True, True, 1, errand.new_id(), errand.boot, target.boot, stage, errand.priority
        )

    def _contest(self, target: Record) -> Pauses:
        """Returns when the pill may be written; raises Refused when the other node has the better claim."""
        self._post_claim(self._letter(Stage.claim, target))
        settled = self.claimed_at + (self.times.settle_s if target.priority > self.errand.priority else 0)
        void = self.claimed_at + contest_s(self.times) + 2 * self.times.io_s
        while True:
            yield 0.0
            views = _look(self.panel, self.errand)
            if self._condemned(views):
                self._withdraw()
                raise Refused(f"{self.errand.target} was faster: its pill waits for this node")
            rival = self._rival(views)
            if rival is None and self.errand.now() >= settled:
                return
            if rival is not None:
                if outranks(rival.priority, self.errand.target, self.errand.priority, self.errand.me):
                    self._withdraw()
                    raise Refused(f"{self.errand.target} claims this node, and has the better right to go on")
                if self.errand.now() >= void:
                    return
                # Still contested: our own claim must not look like one that was given up.
                assert self.claim is not None
                self._post_claim(replace(self.claim, sequence=self.claim.sequence + 1))
            yield POLL_S

    def _post_claim(self, claim: Letter) -> None:
        self.claim, self.claimed_at = claim, self.errand.now()
        _post(self.panel, self.errand.target, claim)

    def _rival(self, views: list[View]) -> Letter | None:
        """The target's claim on us, if the boot that made it is the one that lives."""
        for view in views:
            letter = view.own_letter
            same_boots = letter.target_boot == self.errand.boot and letter.sender_boot == view.target.boot
            if letter.claims and same_boots and same_name(letter.sender, self.errand.target):
                return letter
        return None

    def _withdraw(self) -> None:
        """Take our claim back where it still is; what somebody else wrote over it stays."""
        claim = self.claim
        assert claim is not None

        def empty(disk: SbdDisk) -> None:
            index = disk.slot_of(self.errand.target)
            if disk.read_letter(index).letter_id == claim.letter_id:
                disk.write_letter(index, Letter(Command.clear, self.errand.me))

        self.panel.each(empty)

    def _prove(self, pill: Letter, target: Record) -> Generator[float, None, Proof]:
        written, rewrites = self.errand.now(), 0
        while True:
            yield POLL_S
            now = self.errand.now()
            views = [v for v in self._views() if not isinstance(v, SbdError)]
            for view in views:
                record = view.target
                if target.boot != NO_ID and record.state is not State.stock and record.boot != target.boot:
                    return Proof.rebooted
                if record.state is State.dying and record.taken_id == pill.letter_id:
                    yield record.dead_within_ms / 1000
                    return Proof.taken
                self._refuse([], record)
            if any(not is_kill(view.target_letter) for view in views):
                if rewrites == REWRITES_MAX:
                    raise Refused(f"somebody keeps emptying the mailbox of {self.errand.target}")
                rewrites += 1
                _post(self.panel, self.errand.target, pill)
                written = self.errand.now()
            elif now >= written + self.times.msgwait_s:
                return Proof.elapsed

    def _views(self) -> list[View] | list[SbdError]:
        """Devices may be lost while we wait: the pill is there, and time alone is proof enough."""
        try:
            return _look(self.panel, self.errand)
        except SbdError as error:
            return [error]
