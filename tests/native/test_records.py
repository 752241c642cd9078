"""Questions about a batch's members: C against its twin, and the edges by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd import native, reference
from pydrbd.native import Batch, new_records
from pydrbd.reference import Record
from tests.native.strategies import (
    U64,
    batch_of,
    far_lengths,
    far_offsets,
    masks,
    record_lists,
    records,
    records_of,
    u16,
    u32,
    u64,
    within,
)

EXTENT = 4 << 20
everywhere = record_lists(records(far_offsets, far_lengths))
clustered = record_lists(records(st.integers(0, 200), st.integers(0, 12)))


@given(everywhere, masks, st.one_of(u64, st.integers(0, 50 * 4096)), u32, u16, st.integers(0, 31))
def test_members_are_asked_as_by_the_twin(members, mask, capacity_bytes, number, command, alignment_bit):
    """One question after the other; numbers that occur, and ranges up to the end of 64 bits."""
    mask, batch = within(mask, members), batch_of(members)
    if members:
        number = members[-1].length if number % 2 else number
        command = members[0].command if command % 2 else command
    assert native.records_out_of_bounds(batch, mask, capacity_bytes) == reference.records_out_of_bounds(
        members, mask, capacity_bytes
    )
    alignment = 1 << alignment_bit
    assert native.records_unaligned(batch, mask, alignment) == reference.records_unaligned(members, mask, alignment)
    assert native.records_longer(batch, mask, number) == reference.records_longer(members, mask, number)
    assert native.records_empty(batch, mask) == reference.records_empty(members, mask)
    assert native.records_with_command(batch, mask, command) == reference.records_with_command(members, mask, command)
    assert native.records_with_flags(batch, mask, number) == reference.records_with_flags(members, mask, number)
    assert native.records_length_sum(batch, mask) == reference.records_length_sum(members, mask)


@given(st.one_of(clustered, everywhere), masks, st.one_of(clustered, everywhere), masks)
def test_overlaps_are_the_twins(live, live_mask, members, mask):
    """With another batch and within one, dense and sparse."""
    live_mask, mask = within(live_mask, live), within(mask, members)
    live_batch, batch = batch_of(live), batch_of(members)
    expected = reference.records_overlap(live, live_mask, members, mask)
    # What ends beyond 64 bits is out of bounds, and was refused before anyone asks for overlaps.
    beyond = reference.records_out_of_bounds(members, mask, U64)
    if not beyond and not reference.records_out_of_bounds(live, live_mask, U64):
        assert native.records_overlap(live_batch, live_mask, batch, mask) == expected
    if not beyond:
        assert native.records_overlap_self(batch, mask) == reference.records_overlap_self(members, mask)


@given(
    record_lists(records(st.integers(0, 30 * EXTENT), st.one_of(st.integers(0, 5 * EXTENT), u32)), max_size=20), masks
)
def test_extents_are_the_twins(members, mask):
    """Distinct and ascending, however many; or None beyond a room."""
    mask, batch = within(mask, members), batch_of(members)
    expected = reference.records_extents(members, mask)
    assert native.records_extents(batch, mask) == expected
    assert native.records_extents(batch, mask, len(expected)) == expected
    if expected:
        assert native.records_extents(batch, mask, len(expected) - 1) is None


def test_the_most_extents_there_can_be():
    """64 discards of almost 4 GiB each, at odd places, far from each other; and the last extent of 16 PiB."""
    members = [Record(offset=index * (5 << 30) + 1, length=2**32 - 1) for index in range(64)]
    assert len(native.records_extents(batch_of(members), 2**64 - 1)) == 64 * 1024
    members = [Record(offset=index * (5 << 30) + EXTENT - 1, length=2**32 - 1) for index in range(64)]
    assert len(native.records_extents(batch_of(members), 2**64 - 1)) == 64 * 1025
    assert native.records_extents(batch_of([Record(offset=2**54 - 1, length=1)]), 1) == [2**32 - 1]


def test_neighbours_do_not_overlap_and_nothing_overlaps_with_nothing():
    """Touching is not sharing; a member of length 0 shares nothing even in the middle of another."""
    members = [Record(offset=0, length=512), Record(offset=512, length=512), Record(offset=100, length=0)]
    assert native.records_overlap_self(batch_of(members), 0b111) == 0
    assert native.records_overlap_self(batch_of([*members, Record(offset=511, length=2)]), 0b1111) == 0b1000
    assert native.records_overlap(batch_of(members), 0b100, batch_of(members), 0b111) == 0


def test_a_range_that_wraps_around_is_out_of_bounds():
    """Offset and length that add up to a small number are not a small range."""
    members = [Record(offset=U64 - 511, length=1024), Record(offset=U64, length=1), Record(offset=0, length=4096)]
    assert native.records_out_of_bounds(batch_of(members), 0b111, 4096) == 0b011
    assert native.records_out_of_bounds(batch_of(members), 0b111, U64) == 0b011


def test_members_past_the_count_are_never_asked():
    """A batch of 2 in memory for 64: the rest of a mask means nothing."""
    members = [Record(length=5), Record(length=7)]
    assert native.records_length_sum(batch_of(members), 2**64 - 1) == 12


def test_batches_that_the_core_makes_itself():
    """single_read reads into its buffer; single_request is what a client would have sent."""
    batch, buffer = native.single_read(4096, 100)
    assert (batch.all, batch.records[0].offset, batch.data(0).nbytes) == (1, 4096, 100)
    batch.data(0)[:] = b"x" * 100
    assert buffer == b"x" * 100
    piece = native.single_request(4, 1, 8192, 512)
    assert native.nbd_commands(piece, 1).trim == native.nbd_commands(piece, 1).fua == 1
    assert (piece.records[0].offset, piece.records[0].length) == (8192, 512)


def test_a_batch_says_what_it_is():
    """For logs and failed assertions."""
    assert repr(batch_of([Record()] * 3, b"abc")) == "<Batch of 3 in 3 bytes>"


@pytest.mark.parametrize("count", [0, 65])
def test_a_batch_has_1_to_64_records(count):
    """The members of a mask are bits of 64."""
    with pytest.raises(AssertionError):
        new_records(count)


def test_indices_of_a_mask():
    """Ascending, up to the last."""
    assert list(native.indices(1 << 63 | 0b1010)) == [1, 3, 63]


PAYLOADS = [b"", b"\0", b"x", b"\0" * 64, b"\0" * 63 + b"x", b"x" + b"\0" * 63]


@given(st.lists(st.sampled_from(PAYLOADS), max_size=64), masks)
def test_zeroes_are_found_as_by_the_twin(payloads, mask):
    """The last byte counts as the first does; nothing at all is zeroes."""
    buffer, members = b"".join(payloads), []
    for payload in payloads:
        members.append(Record(data=sum(one.length for one in members), length=len(payload)))
    mask, batch = within(mask, members), Batch(bytearray(buffer), batch_of(members).records, len(members))
    assert native.records_zero(batch, mask) == reference.records_zero(buffer, members, mask)


@given(everywhere, masks, st.integers(0, 1 << 20), st.integers(0, 64))
def test_members_are_laid_out_as_by_the_twin(members, mask, first_bytes, gap_bytes):
    """Each keeps its place and its name; what it has lies behind what the one before it has."""
    mask, batch = within(mask, members), batch_of(members)
    if not mask:
        return
    expected, expected_end = reference.records_lay_out(members, mask, first_bytes, gap_bytes)
    found, end = native.records_lay_out(batch, mask, first_bytes, gap_bytes)
    assert end == expected_end
    assert records_of(Batch(bytearray(), found, len(expected))) == expected
