"""Meta-data follows a device that has grown: internal meta-data to its new end, external flexible into its new room.
It is laid out anew, too, for an activity log of other stripes: the log's length decides where the bitmap begins.

Nothing of the old place is given up before the new one is complete and durable. If the new pieces lie upon the old
ones (other stripes, or a device that grew by less than its meta-data takes), that can't be: then, as in the kernel, a
superblock goes first that can be read and says that log and bitmap can't be trusted. A crash costs a full sync then,
never the disk.

Until the first superblock stands at the new end, attaching looks for it in vain, as it does after the device has grown
while nobody had it: `opening.open_meta_data` then needs to be told how large the device was.
"""

from __future__ import annotations

from dataclasses import replace

from pydrbd.errors import MetaDataError
from pydrbd.metadata.apply_al import Write
from pydrbd.metadata.layout import Layout, MetaKind
from pydrbd.metadata.superblock import MdFlag, Superblock
from pydrbd.units import MD_BLOCK_SIZE_BYTES

__all__ = ["grown_layout", "plan_move", "with_layout"]


def grown_layout(layout: Layout, md_sectors: int, stripes: tuple[int, int] | None = None) -> Layout:
    """Where the meta-data belongs on its device, now that it has `md_sectors`; the same if nothing is to be done.

    stripes: how many the activity log is to have, and how many blocks of 4 KiB each. Raises MetaDataError if the
    device can't have such a log.
    """
    assert md_sectors >= layout.md_device_sectors
    now = layout.al_stripes, layout.al_stripe_size_4k
    changed = stripes is not None and stripes != now
    if layout.kind is MetaKind.INDEXED:
        if changed:
            raise MetaDataError("an indexed meta-disk has a fixed activity log: it can't be striped")
        return replace(layout, md_device_sectors=md_sectors)
    build = Layout.internal if layout.kind is MetaKind.INTERNAL else Layout.flexible
    grown = build(md_sectors, *(stripes or now))
    if changed:
        return grown
    # Rounding may cost a few sectors more than the device has grown by: better to stay.
    same_place = replace(grown, md_device_sectors=layout.md_device_sectors) == layout
    if same_place or grown.usable_sectors < layout.usable_sectors:
        return replace(layout, md_device_sectors=md_sectors)
    return grown


def with_layout(superblock: Superblock, layout: Layout) -> Superblock:
    """The superblock for another geometry."""
    return replace(
        superblock,
        md_size_sectors=layout.md_size_sectors,
        al_offset_sectors=layout.al_offset_sectors,
        bm_offset_sectors=layout.bm_offset_sectors,
        al_stripes=layout.al_stripes,
        al_stripe_size_4k=layout.al_stripe_size_4k,
    )


def plan_move(
    old: Layout, new: Layout, superblock: Superblock, pages: list[tuple[int, bytes]], ring: bytes
) -> tuple[tuple[Write, ...], ...]:
    """What to write, in stages; each must be durable before the next begins.

    superblock: as it is to be in the end, of the new layout. pages: the whole bitmap, by page number. ring: the whole
    activity log, with every extent that is hot.
    """
    last: Write = (new.superblock_offset_bytes, superblock.encode())
    if (old.al_offset_bytes, old.al_block_count) == (new.al_offset_bytes, new.al_block_count) and (
        old.kind is not MetaKind.INTERNAL and old.al_stripes == new.al_stripes
    ):
        return ((last,),)  # the pieces lie where they lay
    body = ((new.al_offset_bytes, ring), *((new.bitmap_page_offset_bytes(page), data) for page, data in pages))
    old_end = old.superblock_offset_bytes + MD_BLOCK_SIZE_BYTES
    if old.kind is MetaKind.INTERNAL and new.bitmap_offset_bytes >= old_end:
        # An old superblock would be found again if the device shrank back: it goes.
        return (body, (last,), ((old.superblock_offset_bytes, bytes(MD_BLOCK_SIZE_BYTES)),))
    unreliable = replace(superblock, flags=superblock.flags | MdFlag.FULL_SYNC | MdFlag.AL_DISABLED)
    return (((new.superblock_offset_bytes, unreliable.marked_unclean().encode()),), body, (last,))
