"""Is a history of reads and writes of one register linearizable? Decided while it happens (promises A1, A3, A4).

A write that is not answered, or answered with an error, stays possible for ever: it may take effect once, at any time,
or never. The check is Wing and Gong's, just in time: a write is put in its place only when an answer forces it, so
that few possibilities are open at any time.

One possibility is (value, used, hidden, seen): the register's value; the pending writes that have taken effect
already; those that may have taken effect just before the value did, unseen; and what each pending read could return.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

__all__ = ["History", "NotLinearizable", "Register"]

_Possibility = tuple[Hashable, frozenset[int], frozenset[int], frozenset[tuple[int, Hashable]]]
_POSSIBILITIES_MAX = 64
_NONE: frozenset[int] = frozenset()


class NotLinearizable(AssertionError):
    """A read returned what no order of the operations explains."""


@dataclass(slots=True)
class _Write:
    """For power loss: what may come back. `durable`: a flush (or FUA) that was answered covers it."""

    value: Hashable
    begun: int
    ended: int | None
    durable: bool


class Register:
    """One register. Operations are numbers; time is a counter that the caller keeps."""

    __slots__ = ("_past", "_pending", "_possible", "_reads")

    def __init__(self, value: Hashable) -> None:
        self._possible: list[_Possibility] = [(value, frozenset(), frozenset(), frozenset())]
        self._pending: dict[int, Hashable] = {}
        self._reads: set[int] = set()
        self._past: dict[int, _Write] = {-1: _Write(value, -1, -1, True)}

    def copy(self) -> Register:
        """Another register with the same history."""
        other = Register(None)
        other._possible = list(self._possible)
        other._pending = dict(self._pending)
        other._reads = set(self._reads)
        other._past = {op: _Write(w.value, w.begun, w.ended, w.durable) for op, w in self._past.items()}
        return other

    @property
    def values(self) -> set[Hashable]:
        """What a read might return now."""
        return {possibility[0] for possibility in self._possible} | set(self._pending.values())

    @property
    def values_after_power_loss(self) -> set[Hashable]:
        """What the disk may hold then: nothing older than the last durable write."""
        return {write.value for write in self._past.values()} | set(self._pending.values())

    def begin_write(self, op: int, value: Hashable, now: int) -> None:
        self._pending[op] = value
        self._past[op] = _Write(value, now, None, False)

    def end_write(self, op: int, now: int, *, durable: bool = False) -> None:
        """The write was answered with success."""
        value = self._pending.pop(op)
        if not self._pending and not self._reads and len(self._possible) == 1 and not any(self._possible[0][1:3]):
            self._possible = [(value, _NONE, _NONE, self._possible[0][3])]  # nothing else is open: the usual case
            self._end_in_past(op, now, durable)
            return
        rest = frozenset(self._pending)
        possible: set[_Possibility] = set()
        for current, used, hidden, seen in self._possible:
            if op in used:
                possible.add((current, used - {op}, hidden, seen))
                continue
            seen_too = seen | {(read, value) for read in self._reads}
            possible.add((value, used, rest - used, seen_too))
            if op in hidden:
                possible.add((current, used, hidden - {op}, seen_too))
        self._keep(possible)
        self._end_in_past(op, now, durable)

    def _end_in_past(self, op: int, now: int, durable: bool) -> None:
        self._past[op].ended = now
        if durable:
            self._past[op].durable = True
            self._forget_superseded()

    def begin_read(self, op: int) -> None:
        self._reads.add(op)
        self._possible = [(value, used, hidden, seen | {(op, value)}) for value, used, hidden, seen in self._possible]

    def end_read(self, op: int, value: Hashable) -> None:
        """The read returned `value`. Raises NotLinearizable."""
        self._reads.discard(op)
        possible: set[_Possibility] = set()
        for current, used, hidden, seen in self._possible:
            kept = frozenset(pair for pair in seen if pair[0] != op)
            if current == value or (op, value) in seen:
                possible.add((current, used, hidden, kept))
            for write, written in self._pending.items():
                if written == value and write not in used:
                    taken = used | {write}
                    more = kept | {(read, value) for read in self._reads}
                    possible.add((value, taken, frozenset(self._pending) - taken, more))
                    if write in hidden:
                        possible.add((current, taken, hidden - {write}, more))
        if not possible:
            known = sorted(map(repr, self.values))
            raise NotLinearizable(f"read {value!r}, which can only be one of {', '.join(known)}")
        self._keep(possible)

    def abandon_read(self, op: int) -> None:
        """The read failed or will never be answered."""
        self._reads.discard(op)
        self._possible = [
            (value, used, hidden, frozenset(pair for pair in seen if pair[0] != op))
            for value, used, hidden, seen in self._possible
        ]

    def flushed(self, begun: int) -> bool:
        """A flush that began at `begun` was answered: what was answered before it is durable. Whether that is all."""
        changed, everything = False, True
        for write in self._past.values():
            if not write.durable and write.ended is not None:
                if write.ended < begun:
                    write.durable = changed = True
                else:
                    everything = False
        if changed:
            self._forget_superseded()
        return everything

    def _forget_superseded(self) -> None:
        """Power loss can't bring back what ended before a durable write began."""
        newest = max(write.begun for write in self._past.values() if write.durable)
        self._past = {
            op: write
            for op, write in self._past.items()
            if write.ended is None or write.ended >= newest or (write.durable and write.begun >= newest)
        }

    def lose_volatile(self) -> None:
        """What was not durable may be gone: any value since the last durable one, from now on.

        Which one it is, is decided now: no flush makes another one durable later. A read that is under way may return
        what it could before, or what there is now.
        """
        seen = {pair for possibility in self._possible for pair in possibility[3]}
        seen |= {(read, possibility[0]) for possibility in self._possible for read in self._reads}
        hidden = frozenset(self._pending)
        for op, write in self._past.items():
            if op not in self._pending:
                write.begun, write.ended, write.durable = -1, -1, True
        self._possible = [
            (value, frozenset(), hidden, frozenset(seen | {(read, value) for read in self._reads}))
            for value in {write.value for write in self._past.values()}
        ]

    @property
    def is_settled(self) -> bool:
        """Nothing is open: whoever reads finds one value."""
        return not self._pending and not self._reads and len(self._possible) == 1

    def has_open_write(self, dead: Callable[[int], bool]) -> bool:
        """Whether a write of a client that is gone may still have happened or not."""
        return any(map(dead, self._pending))

    def settle(self, value: Hashable, dead: Callable[[int], bool]) -> None:
        """Both copies hold `value` and nothing is under way: writes of dead clients have happened or never will."""
        self._reads.add(-2)
        self._possible = [(v, u, h, s | {(-2, v)}) for v, u, h, s in self._possible]
        self.end_read(-2, value)
        gone = {op for op in self._pending if dead(op)}
        for op in gone:
            del self._pending[op]
        self._keep({(v, u - gone, h - gone, s) for v, u, h, s in self._possible if v == value})

    def _keep(self, possible: set[_Possibility]) -> None:
        """Drop possibilities that allow nothing that another one would not allow, too."""
        if len(possible) > 1:
            ordered = sorted(possible, key=lambda p: (len(p[1]), -len(p[2]), -len(p[3]), repr(p[0])))
            kept: list[_Possibility] = []
            for one in ordered:
                if not any(
                    one[0] == other[0] and other[1] <= one[1] and other[2] >= one[2] - one[1] and other[3] >= one[3]
                    for other in kept
                ):
                    kept.append(one)
            assert len(kept) <= _POSSIBILITIES_MAX, "too many open writes on one register: use fewer"
            self._possible = kept
        else:
            self._possible = list(possible)


class History:
    """Registers for a device: one per 4 KiB block, split into one per 512-byte sector where that is needed."""

    SECTORS = 8

    def __init__(self) -> None:
        self.blocks: dict[int, list[Register]] = {}
        self._unflushed: dict[Register, None] = {}
        """Those with answered writes that no flush has covered."""

    def cells(self, sector: int, count: int) -> list[tuple[Register, int]]:
        """The registers of a range as (register, its first sector inside the range); whole blocks stay whole."""
        if count == self.SECTORS and not sector % self.SECTORS:  # one block, as a rule
            registers = self.blocks.get(sector // self.SECTORS)
            if registers is not None and len(registers) == 1:
                return [(registers[0], 0)]
        found: list[tuple[Register, int]] = []
        position = sector
        while position < sector + count:
            block, inside = divmod(position, self.SECTORS)
            registers = self.blocks.get(block)
            if registers is None:
                registers = self.blocks[block] = [Register(0)]
            whole = inside == 0 and sector + count - position >= self.SECTORS
            if whole and len(registers) == 1:
                found.append((registers[0], position - sector))
                position += self.SECTORS
                continue
            if len(registers) == 1:
                self.split(block)
            found.append((registers[inside], position - sector))
            position += 1
        return found

    def split(self, block: int) -> None:
        """Follow each sector of a block by itself from now on."""
        registers = self.blocks[block]
        if len(registers) == 1:
            registers += [registers[0].copy() for _ in range(self.SECTORS - 1)]
            if registers[0] in self._unflushed:
                self._unflushed.update(dict.fromkeys(registers))

    def end_write(self, op: int, sector: int, count: int, now: int, *, durable: bool) -> None:
        """A write of a range was answered with success."""
        for register, _ in self.cells(sector, count):
            register.end_write(op, now, durable=durable)
            if not durable:
                self._unflushed[register] = None

    def flushed(self, begun: int) -> None:
        """A flush that began at `begun` was answered."""
        self._unflushed = {register: None for register in self._unflushed if not register.flushed(begun)}

    def all(self) -> list[Register]:
        return [register for registers in self.blocks.values() for register in registers]
