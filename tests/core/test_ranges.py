"""Overlapping work is done one after the other, in the order it came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pydrbd.core.ranges import Hold, Ranges
from pydrbd.native import Batch, indices, new_records

Place = tuple[int, int]


def batch(*places: Place) -> Batch:
    """Members at (sector, sectors)."""
    records = new_records(len(places))
    for record, (offset, length) in zip(records, places, strict=True):
        record.offset, record.length = offset * 512, length * 512
    return Batch(bytearray(1), records, len(places))


class Desk:
    """Ranges, and what has begun, by the name of its batch."""

    def __init__(self) -> None:
        self.ranges = Ranges()
        self.begun: list[tuple[str, int]] = []
        self.holds: dict[str, Hold] = {}

    def acquire(self, name: str, *places: Place) -> None:
        members = batch(*places)

        def start(hold: Hold, mask: int) -> None:
            self.holds[name] = hold
            self.begun += [(name, index) for index in indices(mask)]

        self.holds[name] = self.ranges.acquire(members, members.all, start)

    def release(self, name: str, index: int) -> None:
        self.ranges.release(self.holds[name], 1 << index)


def test_what_does_not_overlap_begins_at_once() -> None:
    desk = Desk()
    desk.acquire("a", (0, 8), (8, 8))
    desk.acquire("b", (16, 8))
    assert desk.begun == [("a", 0), ("a", 1), ("b", 0)] and len(desk.ranges) == 2


def test_what_overlaps_waits_for_its_turn() -> None:
    """The third overlaps only with the second, which waits: it must not overtake it."""
    desk = Desk()
    desk.acquire("a", (0, 8))
    desk.acquire("b", (4, 8))
    desk.acquire("c", (10, 8))
    assert desk.begun == [("a", 0)]
    desk.release("a", 0)
    assert desk.begun == [("a", 0), ("b", 0)]
    desk.release("b", 0)
    assert desk.begun[-1] == ("c", 0)
    desk.release("c", 0)
    assert len(desk.ranges) == 0


def test_members_of_one_batch_are_ordered_too() -> None:
    desk = Desk()
    desk.acquire("a", (0, 8), (0, 8), (100, 1))
    assert sorted(desk.begun) == [("a", 0), ("a", 2)]
    desk.release("a", 0)
    assert desk.begun[-1] == ("a", 1)


def test_busy_names_the_members_that_somebody_holds_or_awaits() -> None:
    desk = Desk()
    desk.acquire("a", (0, 8))
    desk.acquire("b", (4, 8))
    asked = batch((0, 1), (9, 1), (12, 1))
    assert desk.ranges.busy(asked, asked.all) == 0b011 and desk.ranges.busy(asked, 0b110) == 0b010


def test_a_hold_may_be_released_while_it_begins() -> None:
    """A write that finds neither disk nor peer ends at once."""
    ranges, begun = Ranges(), []

    def start(hold: Hold, mask: int) -> None:
        begun.append(mask)
        ranges.release(hold, mask)

    one = batch((0, 8), (4, 8))
    ranges.acquire(one, one.all, start)
    assert begun == [1, 2] and len(ranges) == 0


places = st.tuples(st.integers(0, 30), st.integers(1, 8))


@given(st.lists(st.one_of(st.lists(places, min_size=1, max_size=4), st.integers(0, 100)), max_size=40))
def test_order_and_exclusion_hold_for_any_mixture(steps: list[list[Place] | int]) -> None:
    """A7: no two that overlap are under way together, overlapping ones begin in order, and all come to their turn."""
    desk = Desk()
    where: dict[tuple[str, int], Place] = {}
    done: set[tuple[str, int]] = set()

    def under_way() -> list[tuple[str, int]]:
        return [name for name in desk.begun if name not in done]

    def overlap(one: tuple[str, int], two: tuple[str, int]) -> bool:
        (first, length), (second, other) = where[one], where[two]
        return first < second + other and second < first + length

    def end(pick: int) -> None:
        active = under_way()
        if active:
            name = active[pick % len(active)]
            done.add(name)
            desk.release(*name)

    for number, step in enumerate(steps):
        if isinstance(step, int):
            end(step)
        else:
            where.update({(f"{number:03}", index): place for index, place in enumerate(step)})
            desk.acquire(f"{number:03}", *step)
        active = under_way()
        assert not any(overlap(one, two) for n, one in enumerate(active) for two in active[:n])
    while under_way():
        end(0)
    assert sorted(desk.begun) == sorted(where) and len(desk.ranges) == 0
    position = {name: n for n, name in enumerate(desk.begun)}
    assert all(position[a] < position[b] for a in where for b in where if a < b and overlap(a, b))
