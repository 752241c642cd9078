"""The bitmap against a set of block numbers: counts, edges, partial last blocks, changed pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pydrbd import native
from pydrbd.errors import MetaDataError
from pydrbd.metadata.bitmap import BITS_PER_PAGE, Bitmap
from pydrbd.units import BIT_SIZE_BYTES, bits_for_sectors

BITS_MAX = 3 * BITS_PER_PAGE


def batch_of(ranges):
    """A batch of requests at these (offset, length) places."""
    records = native.new_records(max(1, len(ranges)))
    for record, (offset, length) in zip(records, ranges, strict=False):
        record.offset, record.length = offset, length
    return native.Batch(bytearray(1), records, len(ranges))


class BitmapModel(RuleBasedStateMachine):
    """Every change of a bitmap beside the same change of a set; pages on disk kept as dirty pages say."""

    def __init__(self):
        super().__init__()
        self.sectors = 3 * BITS_PER_PAGE * 8 - 8 * 100 - 3
        self.bitmap = Bitmap.for_sectors(self.sectors)
        self.model = set()
        self.disk = bytearray(self.bitmap.to_bytes())

    @property
    def bit_count(self):
        return bits_for_sectors(self.sectors)

    def changed(self, newly, model):
        assert newly == abs(len(model) - len(self.model))
        self.model = model

    @rule(first=st.integers(0, BITS_MAX * 8), sectors=st.integers(0, 70_000))
    def set_range(self, first, sectors):
        end = min(-(-(first + sectors) // 8), self.bit_count) if sectors else 0
        newly = self.bitmap.set_range(first * 512, sectors * 512)
        self.changed(newly, self.model | set(range(first // 8, end)))

    @rule(first=st.integers(0, BITS_MAX * 8), sectors=st.integers(0, 70_000), to_end=st.booleans())
    def clear_range(self, first, sectors, to_end):
        first = min(first, self.sectors)
        sectors = self.sectors - first if to_end else min(sectors, self.sectors - first)
        whole = range(-(-first // 8), (first + sectors) // 8)
        last = self.bit_count - 1
        gone = set(whole)
        if sectors and first + sectors == self.sectors and first <= last * 8:
            gone.add(last)
        newly = self.bitmap.clear_range(first * 512, sectors * 512)
        self.changed(newly, self.model - gone)

    @rule(data=st.data(), first_byte=st.integers(0, BITS_MAX // 8))
    def merge(self, data, first_byte):
        piece = data.draw(st.binary(max_size=9)) * data.draw(st.sampled_from([1, 500]))
        bits = {first_byte * 8 + bit for bit in range(len(piece) * 8) if piece[bit >> 3] >> (bit & 7) & 1}
        newly = self.bitmap.merge(first_byte, piece)
        self.changed(newly, self.model | {bit for bit in bits if bit < self.bit_count})

    @rule(ranges=st.lists(st.tuples(st.integers(0, BITS_MAX * 4096), st.integers(1, 1 << 22)), min_size=1, max_size=5))
    def set_records(self, ranges):
        newly = self.bitmap.set_records(batch_of(ranges), (1 << len(ranges)) - 1)
        bits = {bit for at, size in ranges for bit in range(at // 4096, (at + size - 1) // 4096 + 1)}
        self.changed(newly, self.model | {bit for bit in bits if bit < self.bit_count})

    @rule(sectors=st.integers(1, BITS_MAX * 8), mark_new=st.booleans())
    def resize(self, sectors, mark_new):
        old, self.sectors = self.bit_count, sectors
        self.bitmap.resize(self.bit_count, sectors * 512, mark_new=mark_new)
        self.model = {bit for bit in self.model if bit < self.bit_count}
        if mark_new:
            self.model |= set(range(old, self.bit_count))
        self.disk = self.disk.ljust(self.bitmap.page_count * 4096, b"\xee")[: self.bitmap.page_count * 4096]

    @rule(fill=st.booleans())
    def fill(self, fill):
        newly = self.bitmap.set_all() if fill else self.bitmap.clear_all()
        self.changed(newly, set(range(self.bit_count)) if fill else set())

    @rule()
    @precondition(lambda self: self.bitmap.dirty_page_count)
    def write_dirty_pages(self):
        for page, data in self.bitmap.take_dirty_pages():
            assert len(data) == 4096
            self.disk[page * 4096 : (page + 1) * 4096] = data
        assert self.bitmap.take_dirty_pages() == [] and bytes(self.disk) == self.bitmap.to_bytes()

    @rule(first=st.integers(0, BITS_MAX))
    def find(self, first):
        found = self.bitmap.find_next(first)
        assert found == min((bit for bit in self.model if bit >= first), default=None)
        if found is not None:
            end = self.bitmap.run_end(found, 1000)
            assert set(range(found, end)) <= self.model and (end == found + 1000 or end not in self.model)

    @invariant()
    def agrees(self):
        bits = int.from_bytes(self.bitmap.to_bytes(), "little")
        assert self.bitmap.count == len(self.model) == bits.bit_count()
        assert bits >> self.bit_count == 0
        for first, count in self.bitmap.runs():
            assert self.model.issuperset(range(first, first + count))


TestBitmapModel = BitmapModel.TestCase
TestBitmapModel.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)


def test_bit_order_is_the_one_on_disk():
    """Block 0 is the lowest bit of byte 0; block 79 the highest of byte 9."""
    bitmap = Bitmap(100)
    bitmap.set_bits(0, 1)
    bitmap.set_bits(79, 1)
    assert bitmap.to_bytes()[:10] == b"\x01" + bytes(8) + b"\x80"
    assert bitmap.test(0) and bitmap.test(79) and not bitmap.test(78)
    assert bitmap.count_bits(1, 99) == 1


def test_a_partly_covered_block_stays_marked():
    """One byte less than the block at either side; all of it clears it."""
    bitmap = Bitmap(4)
    bitmap.set_all()
    assert bitmap.clear_range(1, 4095) == 0
    assert bitmap.clear_range(4096, 4095) == 0
    assert bitmap.clear_range(4095, 4098) == 1
    assert [bitmap.test(bit) for bit in range(4)] == [True, False, True, True]


def test_the_partial_last_block_is_complete_at_the_end_of_the_device():
    """A device of 2.5 blocks: the last half block covered to the end counts; a byte less does not."""
    bitmap = Bitmap(3, size_bytes=10240)
    bitmap.set_all()
    assert bitmap.clear_range(8192, 2047) == 0
    assert bitmap.clear_range(8192, 2048) == 1
    assert bitmap.clear_range(0, 10240) == 2
    assert bitmap.count == 0


def test_stray_bits_behind_the_device_are_dropped_when_loading():
    """A kernel leaves what it likes in the rest of the last page."""
    bitmap = Bitmap(9)
    bitmap.load(b"\xff" * 4096)
    assert bitmap.count == 9
    assert bitmap.to_bytes() == b"\xff\x01" + bytes(4094)
    assert bitmap.dirty_page_count == 0
    with pytest.raises(MetaDataError, match="1 bytes of bitmap were read, but 9 blocks need 2"):
        bitmap.load(b"\xff")


def test_only_pages_that_changed_are_taken():
    """Marking what is marked changes nothing; a page given back is not given twice."""
    bitmap = Bitmap(3 * BITS_PER_PAGE)
    bitmap.set_bits(BITS_PER_PAGE - 1, 2)
    bitmap.set_records(batch_of([(2 * BITS_PER_PAGE * BIT_SIZE_BYTES, 512)]), 1)
    assert bitmap.dirty_page_count == 3
    assert [page for page, _ in bitmap.take_dirty_pages([1, 2, 7])] == [1, 2]
    assert [page for page, _ in bitmap.take_dirty_pages()] == [0]
    bitmap.set_bits(BITS_PER_PAGE - 1, 2)
    assert bitmap.take_dirty_pages() == []
    bitmap.mark_all_dirty()
    assert [page for page, _ in bitmap.take_dirty_pages()] == [0, 1, 2]


@given(st.binary(min_size=1, max_size=200), st.integers(0, 7))
@settings(max_examples=50)
def test_a_compressed_bitmap_is_merged_and_counted(data, cut):
    """What one side encodes, the other has marked, beside what it had; its count and dirty pages follow."""
    bit_count = len(data) * 8 - cut
    source, target = Bitmap(bit_count), Bitmap(bit_count)
    source.load(data)
    target.set_bits(0, 1)
    position = 0
    while position < bit_count:
        code = native.vli_encode(source.bits, bit_count, position, 64)
        assert target.merge_code(position, code.code, code.pad, code.polarity) == code.next
        position = code.next
    source.set_bits(0, 1)
    assert target.to_bytes() == source.to_bytes() and target.count == source.count
    assert target.dirty_page_count == 1


def test_bits_that_a_codec_set_directly_are_noticed():
    """The count follows, and all pages are written, since any may have changed; nothing set, nothing written."""
    bitmap = Bitmap(2 * BITS_PER_PAGE)
    bitmap.set_bits(0, 3)
    bitmap.take_dirty_pages()
    assert bitmap.recount() == 0 and bitmap.dirty_page_count == 0
    bitmap.bits[5000] |= 0x81
    assert bitmap.recount() == 2 and bitmap.count == 5
    assert bitmap.dirty_page_count == 2


def test_an_empty_device_has_an_empty_bitmap():
    """No size agreed yet: nothing to mark, nothing to write, nothing to find."""
    bitmap = Bitmap(0)
    assert (bitmap.set_all(), bitmap.set_range(0, 1 << 20), bitmap.clear_range(0, 1 << 20)) == (0, 0, 0)
    bitmap.load(b"\xff" * 4096)
    assert bitmap.find_next(0) is None and bitmap.to_bytes() == b"" and bitmap.merge(0, b"\xff") == 0
    bitmap.resize(10)
    assert bitmap.count == 10
