"""crc32c and bitmaps: C against its twin, and crc32c against crcmod and DRBD's own words."""

import crcmod
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd import native, reference
from pydrbd.native import Batch
from tests.native.strategies import batch_of, exact, far_lengths, far_offsets, masks, record_lists, records, within

judge = crcmod.mkCrcFun(0x11EDC6F41, initCrc=0, xorOut=0xFFFFFFFF)
STRIPES = [3 * 336, 3 * 4096]
EDGES = sorted({edge + around for edge in [0, 8, 16, *STRIPES, STRIPES[1] + STRIPES[0]] for around in range(-9, 10)})


@pytest.mark.parametrize("length", [length for length in EDGES if length >= 0])
def test_crc32c_is_the_standard_one_at_every_edge_of_its_loops(length):
    """Both implementations agree with an independent one where stripes, words and bytes begin and end."""
    data = exact(bytes((index * 7 + index // 251) & 0xFF for index in range(length)))
    assert native.crc32c(data) == judge(data)
    assert native.crc32c_table(data, 0xFFFFFFFF) ^ 0xFFFFFFFF == judge(data)


def test_crc32c_of_a_big_buffer_is_the_standard_one():
    """Many stripes of both lengths, from an odd address."""
    data = memoryview(bytes(range(256)) * 8200)[1:]
    assert native.crc32c(data) == judge(data) == native.crc32c_table(data, 0xFFFFFFFF) ^ 0xFFFFFFFF


def test_crc32c_digest_of_zeros_is_the_kernels():
    """4096 zero bytes have the digest that a kernel sent (WIRE 9.2)."""
    assert native.crc32c(bytes(4096)).to_bytes(4, "little").hex() == "8941f998"


@given(st.binary(max_size=300), st.binary(max_size=2500), st.integers(0, 2**32 - 1))
def test_crc32c_goes_on_where_it_ended(head, tail, start):
    """The register after two pieces is the register after both at once; C and twin agree on it."""
    whole = native.crc32c_raw(head + tail, start)
    assert native.crc32c_raw(tail, native.crc32c_raw(head, start)) == whole
    assert native.crc32c_table(head + tail, start) == whole
    assert native.crc32c_raw(head, start) == reference.crc32c_raw(head, start)
    assert native.crc32c(head) == reference.crc32c(head)


@st.composite
def bitmaps_with_ranges(draw):
    """A bitmap with long runs, and a range in it."""
    pieces = st.one_of(
        st.binary(max_size=5), st.integers(0, 40).map(bytes), st.integers(0, 40).map(lambda n: b"\xff" * n)
    )
    bits = b"".join(draw(st.lists(pieces, max_size=5)))
    first = draw(st.integers(0, 8 * len(bits)))
    return bits, first, draw(st.integers(first, 8 * len(bits)))


@given(bitmaps_with_ranges())
def test_bitmap_questions_are_answered_as_by_the_twin(case):
    """count, find_set and find_clear."""
    bits, first, end = case
    bits = exact(bits)
    assert native.bitmap_count(bits, first, end - first) == reference.bitmap_count(bits, first, end - first)
    assert native.bitmap_find_set(bits, first, end) == reference.bitmap_find_set(bits, first, end)
    assert native.bitmap_find_clear(bits, first, end) == reference.bitmap_find_clear(bits, first, end)


@given(bitmaps_with_ranges(), st.sampled_from(["bitmap_set", "bitmap_clear"]))
def test_bitmap_changes_are_made_as_by_the_twin(case, name):
    """set and clear: the same count, the same bits after it."""
    bits, first, end = case
    ours, twins = exact(bits), bytearray(bits)
    assert getattr(native, name)(ours, first, end - first) == getattr(reference, name)(twins, first, end - first)
    assert ours == twins


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=60))
def test_bitmap_merge_is_the_twins(pairs):
    """The union, and how many bits are new in it."""
    into, source = exact([pair[0] for pair in pairs]), exact([pair[1] for pair in pairs])
    twins = bytearray(into)
    assert native.bitmap_merge(into, source) == reference.bitmap_merge(twins, source)
    assert into == twins


@given(record_lists(records(far_offsets, far_lengths)), masks, st.binary(max_size=12), st.integers(0, 96))
def test_records_mark_and_meet_the_blocks_they_touch(members, mask, bits, bit_count):
    """bitmap_set_records and records_dirty: every block touched at all, none past the end, whatever the offset."""
    bit_count, mask = min(bit_count, 8 * len(bits)), within(mask, members)
    batch, ours, twins = batch_of(members), exact(bits), bytearray(bits)
    assert native.records_dirty(bits, bit_count, batch, mask) == reference.records_dirty(bits, bit_count, members, mask)
    newly_set = native.bitmap_set_records(ours, bit_count, batch, mask)
    assert newly_set == reference.bitmap_set_records(twins, bit_count, members, mask)
    assert ours == twins


@given(record_lists(records(far_offsets, far_lengths)), masks, st.binary(max_size=12), st.integers(0, 7))
def test_records_clear_the_blocks_that_they_cover(members, mask, bits, missing_sectors):
    """bitmap_clear_records: whole blocks only, but for the last one of a device that ends inside of it."""
    mask, batch = within(mask, members), batch_of(members)
    capacity = max(0, 8 * len(bits) * 4096 - missing_sectors * 512)
    ours, twins = exact(bits), bytearray(bits)
    changed = native.bitmap_clear_records(ours, 8 * len(bits), capacity, batch, mask)
    assert changed == reference.bitmap_clear_records(twins, 8 * len(bits), capacity, members, mask)
    assert ours == twins


@given(
    st.binary(max_size=80), st.integers(0, 7), st.integers(0, 700), st.integers(1, 256), st.integers(-1, 1 << 21),
    st.integers(1, 64),
)  # fmt: skip
def test_pieces_are_the_twins(bits, missing_sectors, first, most_blocks, room, count):
    """bitmap_pieces: as long as their start is aligned, no longer than allowed, up to the device's end."""
    bits = exact(b"\xff" * len(bits[:20]) + bits)
    bit_count, most = 8 * len(bits), most_blocks * 4096
    capacity, first = max(0, bit_count * 4096 - missing_sectors * 512), min(first, bit_count)
    batch = Batch(bytearray(), native.new_records(count), 0)
    found, next_bit = native.bitmap_pieces(bits, bit_count, capacity, first, most, room, batch)
    pieces = [(batch.records[index].offset, batch.records[index].length) for index in range(found)]
    assert (pieces, next_bit) == reference.bitmap_pieces(bits, bit_count, capacity, first, most, room, count)


def test_pieces_end_at_16_mib():
    """A long run of set bits: each piece begins where the one before it has ended, and none crosses that border."""
    bits, batch = b"\xff" * 1024, Batch(bytearray(), native.new_records(), 0)
    found, next_bit = native.bitmap_pieces(bits, 8192, 1 << 25, 4093, 1 << 20, 4 << 12, batch)
    pieces = [(batch.records[index].offset >> 12, batch.records[index].length >> 12) for index in range(found)]
    assert (pieces, next_bit) == ([(4093, 1), (4094, 2), (4096, 256)], 4352)


def test_a_bitmap_can_be_of_any_size_and_lie_anywhere():
    """Ranges over a bitmap bigger than any loop's step, in a view that begins at an odd address."""
    bits = memoryview(bytearray(100_001))[1:]
    assert native.bitmap_set(bits, 3, 700_000) == 700_000
    assert native.bitmap_count(bits, 0, 800_000) == 700_000
    assert native.bitmap_find_clear(bits, 3, 800_000) == 700_003
    assert native.bitmap_clear(bits, 100, 699_000) == 699_000
    assert native.bitmap_find_set(bits, 100, 800_000) == 699_100
    assert native.bitmap_find_set(bits, 700_003, 800_000) == 800_000


@pytest.mark.parametrize(("first", "count"), [(0, 17), (16, 1), (-1, 2), (8, -1)])
def test_a_range_outside_of_the_bitmap_is_the_callers_bug(first, count):
    """Nothing reaches C that would touch other memory."""
    with pytest.raises(AssertionError, match="bits"):
        native.bitmap_set(bytearray(2), first, count)
