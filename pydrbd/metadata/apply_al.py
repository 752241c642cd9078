"""Applying the activity log after a crash, as planned writes: what `drbdmeta apply-al` does, and when it must stop.

A node that was Primary may have written to any extent that was hot; none of that is known to be on the peer. Their
blocks are marked out of sync, durably, before the log is re-initialised, and that before the superblock says clean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydrbd.metadata.activity_log import ReplayResult, clean_ring, replay
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.units import BITS_PER_EXTENT, EXTENT_SIZE_BYTES, MD_BLOCK_SIZE_BYTES

__all__ = ["AppliedLog", "Write", "apply_al", "split_blocks"]

Write = tuple[int, bytes]
"""(byte offset on the meta-data device, what goes there)."""


@dataclass(frozen=True, slots=True)
class AppliedLog:
    """What to write, in stages: each must be durable before the next begins. No stages: there was nothing to do."""

    superblock: Superblock
    stages: tuple[tuple[Write, ...], ...]
    replay: ReplayResult | None
    marked_extents: tuple[int, ...]
    """The extents whose blocks were marked."""
    newly_marked_bits: int
    notes: tuple[str, ...]
    """What the administrator should know."""


def split_blocks(al: bytes | memoryview) -> list[memoryview]:
    """The activity-log area as its blocks."""
    view = memoryview(al)
    return [view[offset : offset + MD_BLOCK_SIZE_BYTES] for offset in range(0, len(view), MD_BLOCK_SIZE_BYTES)]


def apply_al(
    superblock: Superblock, layout: Layout, al_blocks: Sequence[bytes | memoryview], bitmap: Bitmap
) -> AppliedLog:
    """Replay the log into the bitmap (which changes) and plan the writes. PRIMARY_IND stays as it was.

    Raises MetaDataError if the log can't be read and this node was Primary. If transactions are lost in a way that
    leaves the hot set in doubt, FULL_SYNC is set: too much to sync rather than too little.
    """
    if superblock.is_clean:
        return AppliedLog(superblock, (), None, (), 0, ())
    assert len(al_blocks) == layout.al_block_count
    if MdFlag.FULL_SYNC in superblock.flags and MdFlag.AL_DISABLED in superblock.flags:
        return _without_log(superblock, layout)
    was_primary = MdFlag.PRIMARY_IND in superblock.flags
    result = replay(al_blocks, was_primary, layout.al_stripes)
    notes = [result.damage] if result.damage else []
    if result.corrupt_count and not result.damage:
        notes.append(f"{result.corrupt_count} corrupt transactions in the activity log")
    flags = superblock.flags
    marked: list[int] = []
    newly = 0
    if was_primary:
        for extent in result.extents:
            if extent * BITS_PER_EXTENT < bitmap.bit_count:
                marked.append(extent)
                newly += bitmap.set_range(extent * EXTENT_SIZE_BYTES, EXTENT_SIZE_BYTES)
        beyond = len(result.extents) - len(marked)
        if beyond:
            notes.append(f"{beyond} extents in the activity log lie beyond the end of the device")
        if not result.complete:
            flags |= MdFlag.FULL_SYNC
            notes.append("lost transactions leave in doubt what was written last: the next sync is a full one")
    clean = replace(superblock, flags=flags).marked_clean()
    pages = tuple((layout.bitmap_page_offset_bytes(page), data) for page, data in bitmap.take_dirty_pages())
    # Replaying twice is harmless, so a crash between the stages is: clean comes last.
    stages = (
        pages,
        ((layout.al_offset_bytes, clean_ring(layout.al_block_count)),),
        ((layout.superblock_offset_bytes, clean.encode()),),
    )
    return AppliedLog(clean, tuple(stage for stage in stages if stage), result, tuple(marked), newly, tuple(notes))


def _without_log(superblock: Superblock, layout: Layout) -> AppliedLog:
    """A crash while meta-data was moved (moving.py): neither log nor bitmap count, everything is out of sync."""
    clean = superblock.marked_clean()
    stages = (
        ((layout.al_offset_bytes, clean_ring(layout.al_block_count)),),
        ((layout.superblock_offset_bytes, clean.encode()),),
    )
    return AppliedLog(clean, stages, None, (), 0, ("the meta-data was being moved: the next sync is a full one",))
