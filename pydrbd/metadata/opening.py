"""From a meta-data device to what a node needs to attach: layout, superblock, bitmap, with the log applied.

Pure: the caller reads for us, writes the stages that come out (each durable before the next), and only then goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydrbd.errors import MetaDataError
from pydrbd.metadata.apply_al import AppliedLog, apply_al, split_blocks
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.metadata.layout import INDEXED_SLOT_SECTORS, Layout, MetaKind, internal_superblock_sector
from pydrbd.metadata.superblock import Superblock
from pydrbd.units import MD_BLOCK_SIZE_BYTES, ceil_div, sectors_to_bytes

__all__ = ["OpenedMetaData", "open_meta_data", "superblock_offset_bytes"]


@dataclass(frozen=True, slots=True)
class OpenedMetaData:
    """What is on the disk, after `applied.stages` have been written."""

    layout: Layout
    superblock: Superblock
    bitmap: Bitmap
    capacity_sectors: int
    applied: AppliedLog


def superblock_offset_bytes(kind: MetaKind, index: int, md_sectors: int) -> int:
    """Where the superblock of this kind of meta-data must lie."""
    if kind is MetaKind.INTERNAL:
        return sectors_to_bytes(internal_superblock_sector(md_sectors))
    return sectors_to_bytes(index * INDEXED_SLOT_SECTORS if kind is MetaKind.INDEXED else 0)


def open_meta_data(
    read: Callable[[int, int], bytes], kind: MetaKind, index: int, md_sectors: int, backing_sectors: int
) -> OpenedMetaData:
    """Read and check meta-data, and apply its activity log.

    read: (offset_bytes, length_bytes) on the meta-data device of `md_sectors`. Raises MetaDataError if there is none,
    if it is damaged, or if it does not fit the disk.
    """
    offset = superblock_offset_bytes(kind, index, md_sectors)
    if offset < 0 or offset + MD_BLOCK_SIZE_BYTES > sectors_to_bytes(md_sectors):
        raise MetaDataError(f"a device of {md_sectors} sectors is too small for {kind.value} meta-data")
    superblock = Superblock.decode(read(offset, MD_BLOCK_SIZE_BYTES), f"the superblock at byte {offset}")
    layout = Layout.from_superblock(kind, md_sectors, superblock, index)
    capacity = layout.data_sectors(backing_sectors)
    size = superblock.la_size_sectors or capacity
    bitmap = Bitmap.for_sectors(size)
    length = ceil_div(bitmap.bit_count, 8 * MD_BLOCK_SIZE_BYTES) * MD_BLOCK_SIZE_BYTES
    if length > layout.bitmap_size_bytes:
        raise MetaDataError(f"the bitmap of {layout.where} is too small for a device of {size} sectors")
    if superblock.la_size_sectors:
        bitmap.load(read(layout.bitmap_offset_bytes, length))
    else:
        bitmap.mark_all_dirty()  # never in use: what lies there may be anything
    blocks = split_blocks(read(layout.al_offset_bytes, layout.al_size_bytes))
    applied = apply_al(superblock, layout, blocks, bitmap)
    return OpenedMetaData(layout, applied.superblock, bitmap, capacity, applied)
