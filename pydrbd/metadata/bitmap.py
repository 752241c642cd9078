"""The out-of-sync bitmap: bit n is set if the 4 KiB block n of the data area may differ from the peer's.

On disk it is a little-endian bit stream in pages of 4 KiB (each for 128 MiB of data). Bits beyond the device's end are
ignored on reading and zero in memory. The bitmap in memory is the one that counts; pages that changed since they were
last taken for writing are remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from pydrbd import native
from pydrbd.errors import MetaDataError
from pydrbd.native import Batch, Buffer
from pydrbd.units import (
    BIT_SIZE_BYTES,
    BITS_PER_EXTENT,
    MD_BLOCK_SIZE_BYTES,
    bits_for_sectors,
    ceil_div,
    sectors_to_bytes,
)

__all__ = ["BITS_PER_PAGE", "EXTENTS_PER_PAGE", "Bitmap"]

BITS_PER_PAGE: Final = MD_BLOCK_SIZE_BYTES * 8
EXTENTS_PER_PAGE: Final = BITS_PER_PAGE // BITS_PER_EXTENT


class Bitmap:
    """The bits of one device of `bit_count` blocks, all clear at first.

    `size_bytes` is the device's size if its last block is a partial one; it counts as complete when it is covered up
    to the end of the device.
    """

    __slots__ = ("_bits", "_count", "_dirty", "bit_count", "size_bytes")

    def __init__(self, bit_count: int, size_bytes: int | None = None) -> None:
        self.bit_count = bit_count
        self.size_bytes = _checked_size(bit_count, size_bytes)
        self._bits = bytearray(_padded_bytes(bit_count))
        self._count = 0
        self._dirty: set[int] = set()

    @classmethod
    def for_sectors(cls, size_sectors: int) -> Bitmap:
        """A clear bitmap for a device of this size."""
        return cls(bits_for_sectors(size_sectors), sectors_to_bytes(size_sectors))

    @property
    def count(self) -> int:
        """How many bits are set."""
        return self._count

    @property
    def bits(self) -> bytearray:
        """The bits themselves, for codecs: one that sets any (it may not clear) has `recount` called."""
        return self._bits

    @property
    def page_count(self) -> int:
        return len(self._bits) // MD_BLOCK_SIZE_BYTES

    # --- ranges of bytes of the device ---

    def set_range(self, offset_bytes: int, length_bytes: int) -> int:
        """Mark every block that the range touches; how many are newly marked. Beyond the device's end is ignored."""
        first = offset_bytes // BIT_SIZE_BYTES
        end = min(ceil_div(offset_bytes + length_bytes, BIT_SIZE_BYTES), self.bit_count)
        return self.set_bits(first, end - first) if length_bytes and first < end else 0

    def clear_range(self, offset_bytes: int, length_bytes: int) -> int:
        """Unmark every block that the range covers whole; how many are newly unmarked."""
        first = ceil_div(offset_bytes, BIT_SIZE_BYTES)
        end_bytes = offset_bytes + length_bytes
        end = self.bit_count if end_bytes >= self.size_bytes else end_bytes // BIT_SIZE_BYTES
        return self.clear_bits(first, end - first) if first < end else 0

    def clear_records(self, batch: Batch, mask: int) -> int:
        """Unmark every block that a member covers whole; how many are newly unmarked. They are within the device."""
        newly = native.bitmap_clear_records(self._bits, self.bit_count, self.size_bytes, batch, mask)
        if newly:
            self._count -= newly
            self._dirty.update(extent // EXTENTS_PER_PAGE for extent in native.records_extents(batch, mask))
        return newly

    def pieces(self, first: int, most: int, room: int, batch: Batch) -> tuple[int, int]:
        """Put runs of marked blocks into a batch, as `native.bitmap_pieces`; how many, and where to go on."""
        return native.bitmap_pieces(self._bits, self.bit_count, self.size_bytes, first, most, room, batch)

    def set_records(self, batch: Batch, mask: int) -> int:
        """Mark every block that these members of a batch touch; how many are newly marked."""
        newly = native.bitmap_set_records(self._bits, self.bit_count, batch, mask)
        if newly:
            self._count += newly
            page_count = self.page_count
            pages = [extent // EXTENTS_PER_PAGE for extent in native.records_extents(batch, mask)]
            self._dirty.update(pages if pages[-1] < page_count else [page for page in pages if page < page_count])
        return newly

    # --- bits ---

    def set_bits(self, first: int, count: int) -> int:
        """Mark `count` blocks from `first` on; how many are newly marked."""
        assert 0 <= first <= first + count <= self.bit_count
        newly = native.bitmap_set(self._bits, first, count)
        if newly:
            self._count += newly
            self._note_pages(first, first + count)
        return newly

    def clear_bits(self, first: int, count: int) -> int:
        """Unmark `count` blocks from `first` on; how many are newly unmarked."""
        assert 0 <= first <= first + count <= self.bit_count
        newly = native.bitmap_clear(self._bits, first, count)
        if newly:
            self._count -= newly
            self._note_pages(first, first + count)
        return newly

    def set_all(self) -> int:
        """Mark the whole device; how many are newly marked."""
        return self.set_bits(0, self.bit_count)

    def clear_all(self) -> int:
        """Unmark the whole device; how many are newly unmarked."""
        return self.clear_bits(0, self.bit_count)

    def test(self, bit: int) -> bool:
        """Whether this block is marked."""
        assert 0 <= bit < self.bit_count
        return bool(self._bits[bit >> 3] >> (bit & 7) & 1)

    def count_bits(self, first: int, count: int) -> int:
        """How many of `count` blocks from `first` on are marked."""
        return native.bitmap_count(self._bits, first, count)

    def find_next(self, first: int) -> int | None:
        """The first marked block from `first` on, or None."""
        bit = native.bitmap_find_set(self._bits, min(first, self.bit_count), self.bit_count)
        return bit if bit < self.bit_count else None

    def run_end(self, first: int, count_max: int) -> int:
        """Where the marked blocks that begin at `first` end, after at most `count_max`."""
        return native.bitmap_find_clear(self._bits, first, min(first + count_max, self.bit_count))

    def runs(self) -> Iterator[tuple[int, int]]:
        """Every stretch of marked blocks as (first, count), ascending."""
        first = self.find_next(0)
        while first is not None:
            end = self.run_end(first, self.bit_count)
            yield first, end - first
            first = self.find_next(end)

    # --- whole bitmaps ---

    def merge(self, first_byte: int, data: Buffer) -> int:
        """Mark what is marked in `data`, a piece of another bitmap from this byte on; how many are newly marked.

        Bits beyond the device's end are ignored.
        """
        end_byte = min(first_byte + len(data), ceil_div(self.bit_count, 8))
        piece = bytearray(data[: max(0, end_byte - first_byte)])
        if not piece:
            return 0
        if end_byte * 8 > self.bit_count:
            piece[-1] &= 0xFF >> (end_byte * 8 - self.bit_count)
        newly_total, source = 0, memoryview(piece)
        # page by page, so that only pages that change are written again
        with memoryview(self._bits) as bits:
            for page in range(first_byte // MD_BLOCK_SIZE_BYTES, ceil_div(end_byte, MD_BLOCK_SIZE_BYTES)):
                begin = max(first_byte, page * MD_BLOCK_SIZE_BYTES)
                end = min(end_byte, (page + 1) * MD_BLOCK_SIZE_BYTES)
                newly = native.bitmap_merge(bits[begin:end], source[begin - first_byte : end - first_byte])
                if newly:
                    newly_total += newly
                    self._dirty.add(page)
        self._count += newly_total
        return newly_total

    def merge_code(self, first: int, code: Buffer, pad: int, polarity: int) -> int:
        """Mark what a compressed piece from bit `first` on says; the bit after it, or native.E_CODE if it is wrong."""
        position, newly = native.vli_decode(self._bits, self.bit_count, first, code, pad, polarity)
        self._count += newly
        if newly:
            # a wrong code may have set bits anywhere behind `first` before it went wrong
            self._note_pages(first, position if position >= 0 else self.bit_count)
        return position

    def recount(self) -> int:
        """Take notice of bits that a codec has set in `bits`; how many they were. Every page may have changed then."""
        count = native.bitmap_count(self._bits, 0, self.bit_count)
        newly, self._count = count - self._count, count
        assert newly >= 0, "a codec may only set bits"
        if newly:
            self.mark_all_dirty()
        return newly

    def load(self, data: Buffer) -> None:
        """Take the bits as they were on disk: at least as many as the device has; nothing is dirty afterwards."""
        used = ceil_div(self.bit_count, 8)
        if len(data) < used:
            raise MetaDataError(
                f"{len(data)} bytes of bitmap were read, but {self.bit_count} blocks need {used}: "
                "the meta-data does not fit the device; check its size"
            )
        self._bits[:used] = data[:used]
        self._clear_tail()
        self._count = native.bitmap_count(self._bits, 0, self.bit_count)
        self._dirty.clear()

    def to_bytes(self) -> bytes:
        """The bits as they go to disk, in whole 4 KiB pages."""
        return bytes(self._bits)

    def resize(self, bit_count: int, size_bytes: int | None = None, *, mark_new: bool = True) -> None:
        """Change the device's size; new blocks are marked, or with `mark_new` false taken as equal to the peer's."""
        old = self.bit_count
        bits = bytearray(_padded_bytes(bit_count))
        kept = min(len(bits), len(self._bits))
        bits[:kept] = self._bits[:kept]
        old_pages = self.page_count
        self._bits, self.bit_count, self.size_bytes = bits, bit_count, _checked_size(bit_count, size_bytes)
        self._clear_tail()
        self._count = native.bitmap_count(bits, 0, bit_count)
        self._dirty = {page for page in self._dirty if page < self.page_count}
        self._dirty.update(range(old_pages, self.page_count))
        if mark_new and bit_count > old:
            self.set_bits(old, bit_count - old)

    # --- pages ---

    def mark_all_dirty(self) -> None:
        """Have every page written again: the bitmap on disk is not what this one was loaded from."""
        self._dirty.update(range(self.page_count))

    @property
    def dirty_page_count(self) -> int:
        """How many pages have changed since they were taken."""
        return len(self._dirty)

    def take_dirty_pages(self, pages: Iterable[int] | None = None) -> list[tuple[int, bytes]]:
        """The changed pages (of those given) as (page number, 4096 bytes), ascending; they count as written then."""
        taken = sorted(self._dirty if pages is None else self._dirty.intersection(pages))
        self._dirty.difference_update(taken)
        return [(page, self.page(page)) for page in taken]

    def page(self, page: int) -> bytes:
        """One page as it goes to disk."""
        assert 0 <= page < self.page_count
        return bytes(self._bits[page * MD_BLOCK_SIZE_BYTES : (page + 1) * MD_BLOCK_SIZE_BYTES])

    def _note_pages(self, first_bit: int, end_bit: int) -> None:
        self._dirty.update(range(first_bit // BITS_PER_PAGE, ceil_div(end_bit, BITS_PER_PAGE)))

    def _clear_tail(self) -> None:
        native.bitmap_clear(self._bits, self.bit_count, len(self._bits) * 8 - self.bit_count)


def _padded_bytes(bit_count: int) -> int:
    return ceil_div(bit_count, BITS_PER_PAGE) * MD_BLOCK_SIZE_BYTES


def _checked_size(bit_count: int, size_bytes: int | None) -> int:
    full = bit_count * BIT_SIZE_BYTES
    if size_bytes is None:
        return full
    assert full - BIT_SIZE_BYTES < size_bytes <= full or size_bytes == full == 0
    return size_bytes
