"""New meta-data: what is on the disk already, whether it stands in the way, and what to write.

`detect` looks, `conflicts` judges, `plan_create` writes. The result is, byte for byte, what `drbdmeta create-md`
leaves; of the bitmap, drbdmeta zeroes as much as the meta-data device itself would need, we as much as the data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from pydrbd.errors import DiskTooSmall
from pydrbd.metadata.activity_log import clean_ring
from pydrbd.metadata.apply_al import Write
from pydrbd.metadata.layout import INDEXED_SLOT_SECTORS, Layout, MetaKind, internal_superblock_sector
from pydrbd.metadata.signatures import Finding, FindingKind, Reader, find_foreign
from pydrbd.metadata.superblock import MAGIC_CLEAN, MAGIC_UNCLEAN, MAGIC_V07, MAGIC_V09, Superblock
from pydrbd.units import MD_BLOCK_SIZE_BYTES, MIB, bits_for_sectors, ceil_div, sectors_to_bytes

__all__ = ["conflicts", "detect", "plan_create", "plan_wipe"]

_ZEROS: Final = bytes(MIB)
_INDEXES_LOOKED_AT: Final = 32
"""How many external indexed sets are looked for on one device."""


def detect(read: Reader, device_sectors: int) -> list[Finding]:
    """Everything that is recognised on a device: DRBD's meta-data at each place where it may lie, then all others'."""
    findings = [
        finding
        for kind, index, sector in _places(device_sectors)
        if (finding := _find_drbd(read, kind, index, sector, device_sectors)) is not None
    ]
    return findings + find_foreign(read, sectors_to_bytes(device_sectors))


def conflicts(findings: Iterable[Finding], layout: Layout) -> list[str]:
    """Why new meta-data must not be written over what was found; empty if nothing (known) would be lost.

    Internal meta-data lies behind the data, so a thing that ends before it may stay. External meta-data takes the
    device's first sectors (or its slot's). DRBD's own meta-data and unknown data are for the administrator to judge.
    """
    usable_bytes = sectors_to_bytes(layout.usable_sectors)
    reasons = []
    for finding in findings:
        if finding.kind in (FindingKind.DRBD, FindingKind.UNKNOWN_DATA):
            continue
        if layout.kind is MetaKind.INTERNAL:
            if finding.size_bytes is None:
                reasons.append(
                    f"found {finding.text}; how much of the device it uses is not known, and the last "
                    f"{sectors_to_bytes(layout.md_device_sectors) - usable_bytes} bytes would become meta-data: "
                    "use external meta-data, or wipe it (wipefs) if it is not needed"
                )
            elif finding.size_bytes > usable_bytes:
                reasons.append(
                    f"found {finding.text}, which needs {finding.size_bytes} bytes, and {usable_bytes} would be left: "
                    "use external meta-data, shrink it first, enlarge the device, or wipe it (wipefs) if not needed"
                )
        elif finding.size_bytes is None or finding.size_bytes > layout.superblock_offset_bytes:
            reasons.append(
                f"found {finding.text} where the meta-data would go: use another device, or wipe it (wipefs) if it "
                "is not needed"
            )
    return reasons


def plan_create(
    layout: Layout,
    *,
    data_sectors: int | None = None,
    device_uuid: int = 0,
    superblock: Superblock | None = None,
) -> list[Write]:
    """The writes that create meta-data, in order; the last makes it valid. All must be durable before the last begins.

    `data_sectors` bounds the bitmap that is zeroed (default: all of it). `superblock` replaces the fresh one, for a
    move or a restore.
    """
    block = (superblock or Superblock.fresh(layout, device_uuid)).encode()
    sectors = layout.usable_sectors if data_sectors is None else min(data_sectors, layout.usable_sectors)
    bitmap_bytes = ceil_div(bits_for_sectors(sectors), 8 * MD_BLOCK_SIZE_BYTES) * MD_BLOCK_SIZE_BYTES
    if data_sectors is None:
        bitmap_bytes = layout.bitmap_size_bytes
    if bitmap_bytes > layout.bitmap_size_bytes:
        raise DiskTooSmall(f"{layout.where}: no room for {bitmap_bytes} bytes of bitmap; use a larger device")
    # An old superblock must not stand beside a new log: first it goes.
    writes: list[Write] = [(layout.superblock_offset_bytes, bytes(MD_BLOCK_SIZE_BYTES))]
    writes.append((layout.al_offset_bytes, clean_ring(layout.al_block_count)))
    for offset in range(0, bitmap_bytes, MIB):
        size = min(MIB, bitmap_bytes - offset)
        writes.append((layout.bitmap_offset_bytes + offset, _ZEROS if size == MIB else _ZEROS[:size]))
    writes.append((layout.superblock_offset_bytes, block))
    return writes


def plan_wipe(layout: Layout) -> list[Write]:
    """The write after which no meta-data is found here."""
    return [(layout.superblock_offset_bytes, bytes(MD_BLOCK_SIZE_BYTES))]


def _places(device_sectors: int) -> list[tuple[str, int, int]]:
    """(kind in words, index, superblock's sector) of every place where a set of meta-data may begin."""
    internal = internal_superblock_sector(device_sectors)
    places = [("internal", 0, internal)]
    fixed = (device_sectors & ~7) - INDEXED_SLOT_SECTORS
    if fixed > 0:
        places.append(("internal (fixed size)", 0, fixed))
    places.append(("external", 0, 0))
    count = min(device_sectors // INDEXED_SLOT_SECTORS, _INDEXES_LOOKED_AT)
    places += [("external indexed", index, index * INDEXED_SLOT_SECTORS) for index in range(1, count)]
    seen: set[int] = set()
    unique = []
    for place in places:
        if place[2] >= 0 and place[2] not in seen:
            seen.add(place[2])
            unique.append(place)
    return unique


def _find_drbd(read: Reader, kind: str, index: int, sector: int, device_sectors: int) -> Finding | None:
    offset = sectors_to_bytes(sector)
    block = read(offset, MD_BLOCK_SIZE_BYTES)
    if len(block) < MD_BLOCK_SIZE_BYTES:
        return None
    magic = struct.unpack_from(">I", block, 0x3C)[0]
    place = f"{kind} {index}" if kind == "external indexed" else kind
    if magic in (MAGIC_CLEAN, MAGIC_UNCLEAN):
        sb = Superblock.decode(block)
        size = sectors_to_bytes(sb.md_size_sectors)
        # A v08 block's own size tells the two kinds that begin at sector 0 apart.
        if sector == 0:
            may_be_indexed = sb.md_size_sectors == INDEXED_SLOT_SECTORS
            place = "external flexible or indexed 0" if may_be_indexed else "external flexible"
        state = "" if sb.is_clean else ", its activity log is not applied yet"
        text = (
            f"DRBD v08 {place} meta-data at byte {offset}, {sb.md_size_sectors} sectors, last agreed size "
            f"{sb.la_size_sectors} sectors, current UUID {sb.current_uuid:016X}{state}"
        )
        return Finding(FindingKind.DRBD, text, size, offset)
    if magic == MAGIC_V09 and struct.unpack_from(">I", block, 0x40)[0]:
        peers = struct.unpack_from(">I", block, 0x58)[0]
        current = struct.unpack_from(">Q", block, 8)[0]
        text = f"DRBD v09 {place} meta-data at byte {offset} for {peers} peers, current UUID {current:016X}"
        return Finding(FindingKind.DRBD, text, None, offset)
    if struct.unpack_from(">I", block, 0x1C)[0] == MAGIC_V07:
        return Finding(FindingKind.DRBD, f"DRBD v07 {place} meta-data at byte {offset}", None, offset)
    return None
