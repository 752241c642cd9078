"""Applying the log after a crash: what is marked, the order of the writes, and a crash between any two of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pydrbd.errors import MetaDataError
from pydrbd.metadata.activity_log import clean_ring
from pydrbd.metadata.apply_al import apply_al, split_blocks
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.units import BITS_PER_EXTENT, MIB
from tests.metadata.rings import Ring

DISK_BYTES = 512 * MIB
LAYOUT = Layout.internal(DISK_BYTES // 512)
CRASHED = replace(Superblock.fresh(LAYOUT).marked_unclean(), la_size_sectors=LAYOUT.usable_sectors, flags=MdFlag(0x13))


def used_ring(*extents: int) -> Ring:
    ring = Ring(1237)
    ring.add(list(extents), 0, epoch=1)
    return ring


def fresh_bitmap() -> Bitmap:
    return Bitmap.for_sectors(LAYOUT.usable_sectors)


def test_a_crashed_primary_marks_every_hot_extent():
    """1024 bits for each, the last one's up to the end of the device; clean then, PRIMARY_IND as it was."""
    bitmap = fresh_bitmap()
    applied = apply_al(CRASHED, LAYOUT, used_ring(0, 7, 127).blocks(), bitmap)
    assert applied.marked_extents == (0, 7, 127)
    assert applied.newly_marked_bits == bitmap.count == 2 * BITS_PER_EXTENT + bitmap.bit_count - 127 * BITS_PER_EXTENT
    assert list(bitmap.runs())[1] == (7 * BITS_PER_EXTENT, BITS_PER_EXTENT)
    assert applied.superblock.is_clean and applied.superblock.flags == 0x93
    assert applied.notes == ()


def test_writes_come_in_stages_with_clean_as_the_last():
    """Changed bitmap pages, then the ring, then the superblock."""
    applied = apply_al(CRASHED, LAYOUT, used_ring(0, 40).blocks(), fresh_bitmap())
    pages, ring, superblock = applied.stages
    assert [(offset - LAYOUT.bitmap_offset_bytes) // 4096 for offset, _ in pages] == [0, 1]
    assert ring == ((LAYOUT.al_offset_bytes, clean_ring(8)),)
    assert superblock == ((LAYOUT.superblock_offset_bytes, applied.superblock.encode()),)


def test_a_crash_between_any_two_writes_leaves_the_same_end():
    """Replay after a part of the writes, then replay whole: the same bits, the same superblock."""
    disk = bytearray(DISK_BYTES - LAYOUT.usable_sectors * 512)
    start = LAYOUT.usable_sectors * 512

    def put(offset: int, data: bytes) -> None:
        disk[offset - start : offset - start + len(data)] = data

    def get(offset: int, length: int) -> bytes:
        return bytes(disk[offset - start : offset - start + length])

    def attach():
        bitmap = fresh_bitmap()
        bitmap.load(get(LAYOUT.bitmap_offset_bytes, LAYOUT.bitmap_size_bytes))
        sb = Superblock.decode(get(LAYOUT.superblock_offset_bytes, 4096))
        blocks = split_blocks(get(LAYOUT.al_offset_bytes, LAYOUT.al_size_bytes))
        return bitmap, apply_al(sb, LAYOUT, blocks, bitmap)

    def crash_on_disk():
        put(LAYOUT.superblock_offset_bytes, CRASHED.encode())
        put(LAYOUT.al_offset_bytes, bytes(used_ring(3, 50, 99).disk))
        put(LAYOUT.bitmap_offset_bytes, bytes(LAYOUT.bitmap_size_bytes))

    crash_on_disk()
    expected, applied = attach()
    writes = [write for stage in applied.stages for write in stage]
    for count in range(len(writes) + 1):
        crash_on_disk()
        for write in writes[:count]:
            put(*write)
        bitmap, again = attach()
        assert bitmap.to_bytes() == expected.to_bytes()
        assert again.superblock == applied.superblock


def test_a_secondary_marks_nothing_and_an_unreadable_log_is_forgiven():
    """Without PRIMARY_IND nothing of ours can be unknown to the peer."""
    secondary = replace(CRASHED, flags=MdFlag(0x11))
    for blocks in (used_ring(1, 2).blocks(), [bytes(4096)] * 8):
        bitmap = fresh_bitmap()
        applied = apply_al(secondary, LAYOUT, blocks, bitmap)
        assert bitmap.count == 0 and applied.superblock.flags == 0x91
        assert len(applied.stages) == 2
    assert "no usable activity log" in applied.notes[0]


def test_a_clean_superblock_needs_nothing():
    """No stages, no replay."""
    applied = apply_al(CRASHED.marked_clean(), LAYOUT, [], fresh_bitmap())
    assert applied.stages == () and applied.superblock == CRASHED.marked_clean()


def test_a_former_primary_with_an_unreadable_log_must_stop():
    """Better no disk than silently different data."""
    with pytest.raises(MetaDataError, match="invalidate this disk"):
        apply_al(CRASHED, LAYOUT, [bytes(4096)] * 8, fresh_bitmap())


def test_lost_transactions_that_matter_ask_for_a_full_sync():
    """The window after the lost transaction does not describe all slots: FULL_SYNC, and words."""
    ring = Ring(1237)
    for extent in range(4):
        ring.add([extent], 0, epoch=1)
    blocks = ring.blocks()
    blocks[2] = bytes(4096)
    applied = apply_al(CRASHED, LAYOUT, blocks, fresh_bitmap())
    assert MdFlag.FULL_SYNC in applied.superblock.flags
    assert any("full one" in note for note in applied.notes)


def test_extents_behind_the_end_of_the_device_are_said_and_skipped():
    """A device that shrank, or a damaged number."""
    bitmap = fresh_bitmap()
    applied = apply_al(CRASHED, LAYOUT, used_ring(3, 128, 5000).blocks(), bitmap)
    assert applied.marked_extents == (3,) and bitmap.count == BITS_PER_EXTENT
    assert applied.notes == ("2 extents in the activity log lie beyond the end of the device",)
