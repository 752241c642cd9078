"""Who may touch a place on the device now: overlapping work is done one after the other, in the order it came.

Everything that changes data (client writes, the peer's writes, resync writes) and everything that must see a place
stand still (the reads of a sync source) holds its range from its beginning to its end. What overlaps with a holder,
or with one that waits before it, waits. This keeps overlapping writes in the same order on both nodes (A7) and a
resync from overwriting a newer write (B6).
"""

from __future__ import annotations

from collections.abc import Callable

from pydrbd import native
from pydrbd.native import Batch

__all__ = ["Hold", "Ranges"]


class Hold:
    """The masked members of a batch, held or waiting; `start` is called with the members that may begin."""

    __slots__ = ("batch", "mask", "start", "waiting", "yields")

    def __init__(self, batch: Batch, mask: int, start: Callable[[Hold, int], None], *, yields: bool = False) -> None:
        self.batch = batch
        self.mask = 0
        self.waiting = mask
        self.start = start
        self.yields = yields


class Ranges:
    """The ranges of one volume that are held, and those that wait for them."""

    __slots__ = ("_holds",)

    def __init__(self) -> None:
        self._holds: dict[Hold, None] = {}

    def __len__(self) -> int:
        return len(self._holds)

    def acquire(
        self, batch: Batch, mask: int, start: Callable[[Hold, int], None], *, yields: bool = False, first: bool = False
    ) -> Hold:
        """Hold what can be held now and let it start; the rest starts when its turn comes.

        With `first` it goes before all that `yields` and has not started: with two Primaries the peer's writes do,
        because our clients' may wait for the peer.
        """
        hold = Hold(batch, mask, start, yields=yields)
        blocked = native.records_overlap_self(batch, mask) if mask & (mask - 1) else 0
        passed: list[Hold] = []
        for other in self._holds:
            if blocked == mask and not first:
                break
            waiting = other.waiting
            if first and other.yields and waiting:
                if passed or native.records_overlap(other.batch, waiting, batch, mask):
                    passed.append(other)
                waiting = 0
            elif passed:
                passed.append(other)
            blocked |= native.records_overlap(other.batch, other.mask | waiting, batch, mask)
        self._holds[hold] = None
        for other in passed:  # to the end again, in their order
            del self._holds[other]
            self._holds[other] = None
        free = mask & ~blocked
        if free:
            hold.waiting &= ~free
            hold.mask |= free
            start(hold, free)
        return hold

    def hold(self, batch: Batch, mask: int) -> Hold:
        """Hold members that nobody else can hold or await: a lane has seen to that."""
        hold = Hold(batch, 0, _never)
        hold.mask = mask
        self._holds[hold] = None
        return hold

    def busy(self, batch: Batch, mask: int) -> int:
        """Those members whose ranges somebody holds or awaits."""
        found = 0
        for other in self._holds:
            found |= native.records_overlap(other.batch, other.mask | other.waiting, batch, mask)
        return found

    def reaches_beyond(self, size_bytes: int) -> bool:
        """Whether anybody holds or awaits a range that does not end within so many bytes."""
        return any(
            native.records_out_of_bounds(hold.batch, hold.mask | hold.waiting, size_bytes) for hold in self._holds
        )

    def has(self, hold: Hold) -> bool:
        """Whether this is a hold of this volume."""
        return hold in self._holds

    def release(self, hold: Hold, mask: int) -> None:
        """These members have ended; whoever waited for them may begin."""
        assert mask & ~hold.mask == 0, "released a range that was not held"
        hold.mask &= ~mask
        if not hold.mask and not hold.waiting:
            self._holds.pop(hold, None)
        self._wake()

    def _wake(self) -> None:
        """Start waiters in the order in which they came."""
        if not any(hold.waiting for hold in self._holds):
            return
        before: list[Hold] = []
        for hold in list(self._holds):
            waiting = hold.waiting
            if waiting:
                blocked = native.records_overlap(hold.batch, hold.mask, hold.batch, waiting)
                if waiting & (waiting - 1):
                    blocked |= native.records_overlap_self(hold.batch, waiting)
                for other in before:
                    blocked |= native.records_overlap(other.batch, other.mask | other.waiting, hold.batch, waiting)
                free = waiting & ~blocked
                if free:
                    hold.waiting &= ~free
                    hold.mask |= free
                    hold.start(hold, free)
            before.append(hold)


def _never(_hold: Hold, _members: int) -> None:
    raise AssertionError("what is held already can't start")
