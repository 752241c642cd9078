"""The text form of meta-data, as `drbdmeta dump-md` prints it and `drbdmeta restore-md` reads it.

The bitmap is words of 64 bits, four a line; eight or more equal ones, if their halves are equal too (drbdmeta compares
32 bits at a time), are a line `N times 0x...;`. One difference: the flags are what the superblock holds. drbdmeta 9.22
prints 0 for every v08 block, so that its own dumps restore to an inconsistent disk.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import Superblock
from pydrbd.units import BIT_SIZE_BYTES, MD_BLOCK_SIZE_BYTES, bits_for_sectors, ceil_div

__all__ = ["bitmap_dump_bytes", "dump_md"]

_WORD_BYTES: Final = 8
_WORDS_PER_LINE: Final = 4
_RUN_WORDS_MIN: Final = 8
_WORDS_PER_MARK: Final = 32
_KIB_PER_WORD: Final = _WORD_BYTES * 8 * BIT_SIZE_BYTES // 1024
_LINE: Final = struct.Struct(f"<{_WORDS_PER_LINE}Q")
_UNCLEAN: Final = """\
This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.
# You should "apply-al" first, if you plan to restore this.

"""


def bitmap_dump_bytes(superblock: Superblock) -> int:
    """How many bytes of the bitmap a dump shows: whole pages up to the last agreed size."""
    return ceil_div(bits_for_sectors(superblock.la_size_sectors), 8 * MD_BLOCK_SIZE_BYTES) * MD_BLOCK_SIZE_BYTES


def dump_md(superblock: Superblock, layout: Layout, bitmap: bytes) -> str:
    """The dump, without drbdmeta's first lines (time, host and command). `bitmap` is `bitmap_dump_bytes` long."""
    assert len(bitmap) == bitmap_dump_bytes(superblock)
    sb = superblock
    uuids = " ".join(f"0x{uuid:016X};" for uuid in (sb.current_uuid, sb.bitmap_uuid, *sb.history_uuids))
    head = f"""\
version "v08";

{"" if sb.is_clean else _UNCLEAN}# md_size_sect {sb.md_size_sectors}
# md_offset {layout.superblock_offset_bytes}
# al_offset {layout.al_offset_bytes}
# bm_offset {layout.bitmap_offset_bytes}

uuid {{
    {uuids}
    flags 0x{sb.flags:08X};
}}
# al-extents {sb.al_extents};
la-size-sect {sb.la_size_sectors};
bm-byte-per-bit {sb.bytes_per_bit};
device-uuid 0x{sb.device_uuid:016X};
la-peer-max-bio-size {sb.peer_max_bio_bytes};
al-stripes {layout.al_stripes};
al-stripe-size-4k {layout.al_stripe_size_4k};
# bm-bytes {len(bitmap)};
bm {{
"""
    bits_set = int.from_bytes(bitmap, "little").bit_count()
    return head + "".join(_bitmap_lines(bitmap)) + f"}}\n# bits-set {bits_set};\n"


def _bitmap_lines(bitmap: bytes) -> Iterator[str]:
    word_count = len(bitmap) // _WORD_BYTES
    index = 0
    while index < word_count:
        if index % _WORDS_PER_MARK == 0:
            yield f"   # at {index * _KIB_PER_WORD}kB\n"
        run = _run_length(bitmap, index, word_count) // _WORDS_PER_LINE * _WORDS_PER_LINE
        words = _LINE.unpack_from(bitmap, index * _WORD_BYTES)
        if run >= _RUN_WORDS_MIN:
            yield f"    {run} times 0x{words[0]:016X};\n"
            index += run
        else:
            yield "    " + " ".join(f"0x{word:016X};" for word in words) + "\n"
            index += _WORDS_PER_LINE


def _run_length(bitmap: bytes, index: int, word_count: int) -> int:
    """How many words of equal halves are equal from `index` on, compared in pieces that double and then halve."""
    word = bitmap[index * _WORD_BYTES : (index + 1) * _WORD_BYTES]
    half = _WORD_BYTES // 2
    if word[:half] != word[half:]:
        return 1

    def equal(begin: int, count: int) -> bool:
        end = begin + count
        return end <= word_count and bitmap[begin * _WORD_BYTES : end * _WORD_BYTES] == word * count

    end, step = index + 1, 1
    while equal(end, step):
        end += step
        step *= 2
    while step > 1:
        step //= 2
        if equal(end, step):
            end += step
    return end - index
