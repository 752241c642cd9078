"""From a meta-data device to what a node needs to attach: layout, superblock, bitmap, with the log applied.

Pure: the caller reads for us, writes the stages that come out (each durable before the next), and only then goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from pydrbd.errors import DiskTooSmall, MetaDataError
from pydrbd.metadata.activity_log import clean_ring
from pydrbd.metadata.apply_al import AppliedLog, apply_al, split_blocks
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.metadata.layout import INDEXED_SLOT_SECTORS, Layout, MetaKind, internal_superblock_sector
from pydrbd.metadata.moving import grown_layout, plan_move, with_layout
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.units import MD_BLOCK_SIZE_BYTES, ceil_div, sectors_to_bytes

__all__ = ["KnownSize", "OpenedMetaData", "open_meta_data", "superblock_offset_bytes"]


@dataclass(frozen=True, slots=True)
class KnownSize:
    """How large a meta-data device was, and the `device_uuid` of what it held (0: not known)."""

    md_sectors: int
    device_uuid: int = 0


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
    read: Callable[[int, int], bytes],
    kind: MetaKind,
    index: int,
    md_sectors: int,
    backing_sectors: int,
    known: Iterable[KnownSize] = (),
) -> OpenedMetaData:
    """Read and check meta-data, and apply its activity log.

    read: (offset_bytes, length_bytes) on the meta-data device of `md_sectors`. known: sizes that the device has had;
    if there is no internal meta-data at its end, it is looked for at theirs, and moved. Raises MetaDataError if there
    is none, if it is damaged, or if it does not fit the disk.
    """
    offset = superblock_offset_bytes(kind, index, md_sectors)
    if offset < 0 or offset + MD_BLOCK_SIZE_BYTES > sectors_to_bytes(md_sectors):
        raise DiskTooSmall(f"a device of {md_sectors} sectors is too small for {kind.value} meta-data")
    try:
        superblock = Superblock.decode(read(offset, MD_BLOCK_SIZE_BYTES), f"the superblock at byte {offset}")
    except MetaDataError as error:
        if kind is not MetaKind.INTERNAL:
            raise
        known = tuple(known)
        old = _before_it_grew(read, md_sectors, known)
        if old is None:
            _complain_of_shrinking(md_sectors, known, error)
            raise
        return _moved(old, md_sectors)
    return _open(read, Layout.from_superblock(kind, md_sectors, superblock, index), superblock, backing_sectors)


def _open(
    read: Callable[[int, int], bytes], layout: Layout, superblock: Superblock, backing_sectors: int
) -> OpenedMetaData:
    capacity = layout.data_sectors(backing_sectors)
    size = superblock.la_size_sectors or capacity
    bitmap = Bitmap.for_sectors(size)
    length = ceil_div(bitmap.bit_count, 8 * MD_BLOCK_SIZE_BYTES) * MD_BLOCK_SIZE_BYTES
    if length > layout.bitmap_size_bytes:
        raise MetaDataError(f"the bitmap of {layout.where} is too small for a device of {size} sectors")
    if MdFlag.FULL_SYNC in superblock.flags and not superblock.is_clean:
        bitmap.set_all()  # it was being written
    elif superblock.la_size_sectors:
        bitmap.load(read(layout.bitmap_offset_bytes, length))
    else:
        bitmap.mark_all_dirty()  # never in use: what lies there may be anything
    blocks = split_blocks(read(layout.al_offset_bytes, layout.al_size_bytes))
    applied = apply_al(superblock, layout, blocks, bitmap)
    return OpenedMetaData(layout, applied.superblock, bitmap, capacity, applied)


def _before_it_grew(
    read: Callable[[int, int], bytes], md_sectors: int, known: Iterable[KnownSize]
) -> OpenedMetaData | None:
    """Internal meta-data at the end that the device had once; the largest of its sizes is the last."""
    for size in sorted(known, key=lambda size: size.md_sectors, reverse=True):
        sector = internal_superblock_sector(size.md_sectors)
        if not 0 < sector < internal_superblock_sector(md_sectors):
            continue
        try:
            superblock = Superblock.decode(read(sectors_to_bytes(sector), MD_BLOCK_SIZE_BYTES))
            layout = Layout.from_superblock(MetaKind.INTERNAL, size.md_sectors, superblock)
        except MetaDataError:
            continue
        if size.device_uuid in (0, superblock.device_uuid):
            return _open(read, layout, superblock, size.md_sectors)
    return None


def _complain_of_shrinking(md_sectors: int, known: Iterable[KnownSize], error: MetaDataError) -> None:
    """Raises MetaDataError if the device was larger once: who is told to create meta-data then could lose his data."""
    largest = max((size.md_sectors for size in known), default=0)
    if largest > md_sectors:
        raise MetaDataError(
            f"no DRBD meta-data at the end of a device of {md_sectors} sectors, which had {largest} when it was used "
            "last: it has been truncated, or this is another disk; give it its size back"
        ) from error


def _moved(old: OpenedMetaData, md_sectors: int) -> OpenedMetaData:
    """Applied where it was, then moved to the new end."""
    layout = grown_layout(old.layout, md_sectors)
    superblock = with_layout(old.superblock, layout)
    pages = [(page, old.bitmap.page(page)) for page in range(old.bitmap.page_count)]
    stages = plan_move(old.layout, layout, superblock, pages, clean_ring(layout.al_block_count))
    note = f"the device has grown: the internal meta-data was moved from byte {old.layout.superblock_offset_bytes}"
    applied = replace(
        old.applied,
        superblock=superblock,
        stages=old.applied.stages + stages,
        notes=(*old.applied.notes, f"{note} to {layout.superblock_offset_bytes}"),
    )
    return OpenedMetaData(layout, superblock, old.bitmap, layout.usable_sectors, applied)
