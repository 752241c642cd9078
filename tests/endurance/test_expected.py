"""What a disk may hold: what was acknowledged; of what was not, the old or the new, sector by sector."""

from __future__ import annotations

from tests.endurance.expected import Expected
from tests.lab.load import SECTOR, Op

SIZE = 64 * SECTOR
NEW = Op("write", 8 * SECTOR, 4 * SECTOR, 1)


def content(*ops: Op) -> bytearray:
    expected = Expected(SIZE)
    for op in ops:
        expected.done(op)
    return expected.image


def test_what_was_acknowledged_must_be_there() -> None:
    """A sector that was lost is named."""
    expected = Expected(SIZE)
    expected.done(NEW)
    found = content(NEW)
    found[9 * SECTOR] ^= 1
    assert expected.settle(bytes(found)) == [9]


def test_what_was_not_answered_may_be_there_in_part() -> None:
    """Old or new, each sector by itself; afterwards it is what was found."""
    expected = Expected(SIZE)
    expected.perhaps_done(NEW)
    assert not expected.is_certain(0, 9 * SECTOR) and expected.is_certain(0, 8 * SECTOR)
    torn = content()
    torn[9 * SECTOR : 10 * SECTOR] = content(NEW)[9 * SECTOR : 10 * SECTOR]
    assert expected.settle(bytes(torn)) == []
    assert expected.settle(bytes(content(NEW))) == [8, 10, 11]


def test_what_was_not_answered_can_be_nothing_else() -> None:
    """A third content is a fault."""
    expected = Expected(SIZE)
    expected.perhaps_done(NEW)
    assert expected.settle(bytes(content(Op("write", 8 * SECTOR, SECTOR, 2)))) == [8]


def test_an_acknowledged_write_ends_the_doubt() -> None:
    """From then on only its content is right."""
    expected = Expected(SIZE)
    expected.perhaps_done(NEW)
    newer = Op("zero", 8 * SECTOR, 2 * SECTOR)
    expected.done(newer)
    assert expected.settle(bytes(content(NEW))) == [8, 9]
