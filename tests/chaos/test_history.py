"""The judge of the crash rounds is judged itself: what it allows, and what it does not."""

from __future__ import annotations

import pytest

from tests.chaos.history import SECTOR, History, decode, encode


def sector_of(write, sector=7):
    at = (sector - write.first_sector) * SECTOR
    return encode(write)[at : at + SECTOR]


def acknowledged(history, *place):
    write = history.submit(*place)
    history.acknowledge(write)
    return write


def test_the_last_acknowledged_write_is_the_only_one_allowed():
    """A lost acknowledged write is found: neither its predecessor nor zeroes will do."""
    history = History()
    first, second = acknowledged(history, 4, 8), acknowledged(history, 7, 1)
    assert not history.wrong(7, sector_of(second))
    assert "write 1 was read; allowed [2]" in history.wrong(7, sector_of(first))
    assert history.wrong(7, bytes(SECTOR))
    assert not history.wrong(6, sector_of(first, 6))


def test_of_writes_in_flight_together_either_may_win():
    """Two writes that overlap in time have no order."""
    history = History()
    first, second = history.submit(7, 1), history.submit(7, 1)
    history.acknowledge(second)
    history.acknowledge(first)
    assert not history.wrong(7, sector_of(first))
    assert not history.wrong(7, sector_of(second))
    assert history.wrong(7, bytes(SECTOR))


def test_a_write_without_an_acknowledgement_may_be_there_or_not():
    """The reply was lost with the connection: both are right, until the sector is overwritten or has settled."""
    history = History()
    kept, lost = acknowledged(history, 7, 1), history.submit(7, 1)
    history.lose_connection()
    assert not history.wrong(7, sector_of(kept))
    assert not history.wrong(7, sector_of(lost))
    history.settle(7, sector_of(kept))
    assert history.wrong(7, sector_of(lost))
    newer = acknowledged(history, 7, 1)
    assert history.wrong(7, sector_of(kept))
    assert not history.wrong(7, sector_of(newer))


@pytest.mark.parametrize("at", [0, 5, 9, 17, 40, SECTOR - 1])
def test_a_single_wrong_bit_anywhere_is_garbage(at):
    """Half of one write and half of another is no write."""
    write = History().submit(7, 1)
    content = bytearray(encode(write))
    content[at] ^= 1
    assert decode(7, bytes(content)) is None


def test_the_content_of_another_sector_is_garbage():
    """A misdirected write is found."""
    write = History().submit(7, 2)
    assert decode(7, sector_of(write)) == write.number
    assert decode(7, sector_of(write, 8)) is None


def test_zeroes_are_a_value_too():
    """WRITE_ZEROES overwrites like any other write."""
    history = History()
    old = acknowledged(history, 7, 1)
    zeroes = history.submit(7, 1, zeroes=True)
    history.acknowledge(zeroes)
    assert not history.wrong(7, sector_of(zeroes))
    assert history.wrong(7, sector_of(old))
