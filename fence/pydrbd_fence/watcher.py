"""One device, watched: a thread that looks, and tells the inquisitor what it saw. It may hang; nobody waits for it.

Each look reads the header (still the same?), the own slot (still ours?) and the mailbox. Only a look in which all three
were good counts, from the moment when it began. After an error the device is closed, and opened again after a pause.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from .device import Device
from .disk import SbdDisk
from .errors import DeviceError, SbdError
from .extension import NO_ID, Letter, Record, State
from .reading import Verdict, read_first, read_running
from .timeouts import Timeouts, contest_s

__all__ = ["Event", "Followed", "Lost", "Noted", "Posted", "Seen", "Watcher", "Wish"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the own slot is to say; the inquisitor sets it, the watcher writes it."""

    state: State = State.starting
    taken_id: bytes = NO_ID
    taken_command: int = 0
    dead_within_ms: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    index: int
    began_at: float


@dataclass(frozen=True, slots=True)
class Lost:
    index: int
    why: str


@dataclass(frozen=True, slots=True)
class Posted:
    """A letter for this boot."""

    index: int
    letter: Letter


@dataclass(frozen=True, slots=True)
class Noted:
    """Something for the log."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Followed:
    """The slot says what was wished."""

    index: int
    wish: Wish


Event = Seen | Lost | Posted | Noted | Followed


class Watcher:
    """The eyes on one device. `step` is one look; `run` looks for ever."""

    def __init__(
        self,
        index: int,
        node: str,
        boot: bytes,
        times: Timeouts,
        *,
        opener: Callable[[], Device],
        post: Callable[[Event], None],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.wish = Wish()
        self.priority = 0
        self.wake = threading.Event()
        self._index = index
        self._node = node
        self._boot = boot
        self._times = times
        self._opener = opener
        self._post = post
        self._clock = clock
        self._sleep = sleep
        self._disk: SbdDisk | None = None
        self._header = b""
        self._slot = 0
        self._record = Record(node)
        """What the slot holds."""
        self._generation = 0
        self._doubted = False
        self._claim: tuple[bytes, int] | None = None
        self._claim_since = 0.0

    def run(self, pause_s: float, restart_s: float) -> None:
        """Look every `pause_s`, or sooner when woken; after a loss, after `restart_s`."""
        while True:
            good = self.step()
            self.wake.wait(pause_s if good else restart_s)
            self.wake.clear()

    def step(self) -> bool:
        """One look, and what follows from it; whether the device is there."""
        began_at = self._clock()
        try:
            if self._disk is None:
                self._begin()
            else:
                self._compare()
            self._read_mailbox()
            self._follow()
        except SbdError as error:
            self.forget()
            self._post(Lost(self._index, str(error)))
            return False
        self._post(Seen(self._index, began_at))
        return True

    def forget(self) -> None:
        """Close the device; the next look opens it again."""
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    def _note(self, text: str) -> None:
        self._post(Noted(self._index, text))

    def _begin(self) -> None:
        """Open it, find or take our slot, and see what is left in the mailbox."""
        disk = SbdDisk(self._opener())
        try:
            if disk.read_times(self._times.io_s) != self._times:
                raise DeviceError(f"{disk.name} was created with other times than this daemon works with")
            header = disk.header_sector()
            slot = disk.allocate(self._node, self._times.allocate_s, self._sleep)
            old = disk.read_slot(slot)
            first = read_first(disk.read_letter(slot), self._boot, old)
            if first.verdict is Verdict.drop:
                self._note(first.why)
                disk.write_letter(slot, Letter())
        except SbdError:
            disk.close()
            raise
        self._disk, self._header, self._slot = disk, header, slot
        self._record = old
        self._generation = self._generation or old.generation + 1
        self._note(f"watching {disk.name}, slot {slot}")

    def _compare(self) -> None:
        assert self._disk is not None
        if self._disk.header_sector() != self._header:
            raise DeviceError(f"{self._disk.name}: its header is not what it was")
        if self._disk.read_slot(self._slot) != self._record:
            raise DeviceError(f"{self._disk.name}: slot {self._slot} is not ours any more")

    def _read_mailbox(self) -> None:
        assert self._disk is not None
        letter = self._disk.read_letter(self._slot)
        reading = read_running(letter, self._boot, self._doubted)
        self._doubted = reading.verdict is Verdict.doubt
        self._watch_claim(letter)
        if reading.verdict in (Verdict.obey, Verdict.take):
            self._post(Posted(self._index, letter))
        if reading.verdict in (Verdict.drop, Verdict.doubt):
            self._note(reading.why)
        if reading.verdict in (Verdict.take, Verdict.drop):
            self._empty(letter)

    def _empty(self, letter: Letter) -> None:
        """Empty the mailbox, unless it holds something else by now."""
        assert self._disk is not None
        if self._disk.read_letter(self._slot) == letter:
            self._disk.write_letter(self._slot, Letter())

    def _watch_claim(self, letter: Letter) -> None:
        """A claim that nobody follows up is removed when it is void: its sender crashed."""
        mark = (letter.letter_id, letter.sequence) if letter.claims else None
        if mark != self._claim:
            self._claim, self._claim_since = mark, self._clock()
        elif mark is not None and self._clock() - self._claim_since > contest_s(self._times) + 2 * self._times.io_s:
            self._note(f"a claim of {letter.sender} on this node led to nothing")
            self._empty(letter)

    def _follow(self) -> None:
        """Write into the slot what the inquisitor wishes."""
        assert self._disk is not None
        wish = self.wish
        record = replace(
            self._record,
            boot=self._boot,
            generation=self._generation,
            state=wish.state,
            priority=self.priority,
            taken_id=wish.taken_id,
            taken_command=wish.taken_command,
            dead_within_ms=wish.dead_within_ms,
        )
        if record != self._record:
            record = replace(record, sequence=self._record.sequence + 1)
            self._disk.write_slot(self._slot, record)
            self._record = record
            self._post(Followed(self._index, wish))
