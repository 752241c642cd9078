"""Where the three pieces of DRBD's meta-data lie on the meta-data device.

    internal            data ... | bitmap | activity log | superblock |      (end of the backing device)
    external flexible   | superblock | activity log | bitmap ...             (from sector 0)
    external indexed    the same, 128 MiB each, number i at i * 128 MiB

Each piece begins on a 4 KiB boundary. Offsets in the superblock are signed sectors relative to the superblock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from pydrbd.errors import DiskTooSmall, MetaDataError
from pydrbd.units import BIT_SIZE_BYTES, MD_BLOCK_SIZE_BYTES, bits_for_sectors, ceil_div, sectors_to_bytes

if TYPE_CHECKING:
    from pydrbd.metadata.superblock import Superblock

__all__ = [
    "AL_BLOCKS_MAX",
    "AL_BLOCKS_MIN",
    "DATA_SECTORS_MAX",
    "INDEXED_SLOT_SECTORS",
    "Layout",
    "MetaKind",
    "internal_superblock_sector",
]

_BLOCK_SECTORS: Final = 8
_SECTORS_PER_BITMAP_PAGE: Final = 262_144
"""128 MiB of data: what one 4 KiB page of bitmap covers."""

INDEXED_SLOT_SECTORS: Final = 262_144
"""128 MiB of meta-data device for each index."""

AL_BLOCKS_MIN: Final = 8
AL_BLOCKS_MAX: Final = 4_194_304
DATA_SECTORS_MAX: Final = 1 << 51
_DEVICE_SECTORS_MIN: Final = 2048
"""A kernel attaches no smaller internal or flexible meta-data device (1 MiB)."""


class MetaKind(Enum):
    """The three kinds of `meta-disk`, as drbdmeta's index argument spells them."""

    INTERNAL = "internal"
    FLEXIBLE = "flex-external"
    INDEXED = "indexed"


def internal_superblock_sector(device_sectors: int) -> int:
    """The last whole 4 KiB block of the device that begins on a 4 KiB boundary."""
    return (device_sectors & ~7) - _BLOCK_SECTORS


@dataclass(frozen=True, slots=True)
class Layout:
    """The geometry of one set of meta-data. `md_device_sectors` is the backing device's size if internal."""

    kind: MetaKind
    index: int
    md_device_sectors: int
    superblock_sector: int
    md_size_sectors: int
    al_offset_sectors: int
    bm_offset_sectors: int
    al_stripes: int = 1
    al_stripe_size_4k: int = 8

    @classmethod
    def internal(cls, device_sectors: int, al_stripes: int = 1, al_stripe_size_4k: int = 8) -> Layout:
        """The geometry that a new internal set gets. Raises MetaDataError if the device is too small."""
        al_sectors = _al_sectors(al_stripes, al_stripe_size_4k)
        bm_sectors = _BLOCK_SECTORS * ceil_div(device_sectors, _SECTORS_PER_BITMAP_PAGE)
        layout = cls(
            MetaKind.INTERNAL,
            0,
            device_sectors,
            internal_superblock_sector(device_sectors),
            bm_sectors + al_sectors + _BLOCK_SECTORS,
            -al_sectors,
            -(bm_sectors + al_sectors),
            al_stripes,
            al_stripe_size_4k,
        )
        _check_device_size(layout)
        return layout

    @classmethod
    def flexible(cls, md_sectors: int, al_stripes: int = 1, al_stripe_size_4k: int = 8) -> Layout:
        """The geometry that a new external flexible set gets: the whole meta-data device. Raises MetaDataError."""
        al_sectors = _al_sectors(al_stripes, al_stripe_size_4k)
        offset = _BLOCK_SECTORS
        layout = cls(
            MetaKind.FLEXIBLE, 0, md_sectors, 0, md_sectors, offset, offset + al_sectors, al_stripes, al_stripe_size_4k
        )
        _check_device_size(layout)
        return layout

    @classmethod
    def indexed(cls, index: int, md_sectors: int) -> Layout:
        """The geometry of external set number `index`: fixed size, 32 KiB of activity log. Raises MetaDataError."""
        assert index >= 0
        sector = index * INDEXED_SLOT_SECTORS
        layout = cls(MetaKind.INDEXED, index, md_sectors, sector, INDEXED_SLOT_SECTORS, 8, 72)
        _check_device_size(layout)
        return layout

    @classmethod
    def from_superblock(cls, kind: MetaKind, device_sectors: int, sb: Superblock, index: int = 0) -> Layout:
        """The geometry that a superblock describes, checked as the kernel checks it on attach. Raises MetaDataError."""
        stripes, stripe_size = sb.al_stripes, sb.al_stripe_size_4k
        if stripes == 0 and stripe_size == 0:
            stripes, stripe_size = 1, 8
        sector = {
            MetaKind.INTERNAL: internal_superblock_sector(device_sectors),
            MetaKind.FLEXIBLE: 0,
            MetaKind.INDEXED: index * INDEXED_SLOT_SECTORS,
        }[kind]
        layout = cls(
            kind,
            index,
            device_sectors,
            sector,
            sb.md_size_sectors,
            sb.al_offset_sectors,
            sb.bm_offset_sectors,
            stripes,
            stripe_size,
        )
        _check_geometry(layout, sb)
        return layout

    @property
    def where(self) -> str:
        """The kind in words, for messages."""
        number = f" {self.index}" if self.kind is MetaKind.INDEXED else ""
        return f"{self.kind.value}{number} meta-data at byte {self.superblock_offset_bytes}"

    @property
    def superblock_offset_bytes(self) -> int:
        return sectors_to_bytes(self.superblock_sector)

    @property
    def al_offset_bytes(self) -> int:
        return sectors_to_bytes(self.superblock_sector + self.al_offset_sectors)

    @property
    def al_block_count(self) -> int:
        return self.al_stripes * self.al_stripe_size_4k

    @property
    def al_size_bytes(self) -> int:
        return self.al_block_count * MD_BLOCK_SIZE_BYTES

    @property
    def bitmap_offset_bytes(self) -> int:
        return sectors_to_bytes(self.superblock_sector + self.bm_offset_sectors)

    @property
    def bitmap_size_sectors(self) -> int:
        if self.kind is MetaKind.INTERNAL:
            return self.al_offset_sectors - self.bm_offset_sectors
        return self.md_size_sectors - self.bm_offset_sectors

    @property
    def bitmap_size_bytes(self) -> int:
        """Room for the bitmap in whole 4 KiB pages."""
        return sectors_to_bytes(self.bitmap_size_sectors & ~7)

    @property
    def usable_sectors(self) -> int:
        """The most data that this set can describe; for internal meta-data, all the room that it leaves."""
        covered = min(self.bitmap_size_bytes * 8 * (BIT_SIZE_BYTES // 512), DATA_SECTORS_MAX)
        if self.kind is MetaKind.INTERNAL:
            return min(covered, self.superblock_sector + self.bm_offset_sectors)
        return covered

    def data_sectors(self, backing_sectors: int) -> int:
        """The size of the data area on a backing device of this size: what P_SIZES announces as d_size."""
        if self.kind is MetaKind.INTERNAL:
            assert backing_sectors == self.md_device_sectors
            return self.usable_sectors
        return min(backing_sectors, self.usable_sectors)

    def bitmap_page_offset_bytes(self, page: int) -> int:
        """Where page `page` of the bitmap lies on the meta-data device."""
        assert 0 <= page * MD_BLOCK_SIZE_BYTES < self.bitmap_size_bytes, f"bitmap page {page} of {self.where}"
        return self.bitmap_offset_bytes + page * MD_BLOCK_SIZE_BYTES


def _al_sectors(stripes: int, stripe_size_4k: int) -> int:
    blocks = stripes * stripe_size_4k
    if stripes < 1 or stripe_size_4k < 1 or not AL_BLOCKS_MIN <= blocks <= AL_BLOCKS_MAX:
        raise MetaDataError(
            f"an activity log of {stripes} stripes of {stripe_size_4k} blocks of 4 KiB is not allowed: "
            f"both numbers at least 1, and {AL_BLOCKS_MIN} to {AL_BLOCKS_MAX} blocks together (32 KiB to 16 GiB)"
        )
    return blocks * _BLOCK_SECTORS


def _check_device_size(layout: Layout) -> None:
    """Refuse a device that cannot hold the set, or that a kernel would not attach."""
    need = _DEVICE_SECTORS_MIN
    if layout.kind is MetaKind.INDEXED:
        need = (layout.index + 1) * INDEXED_SLOT_SECTORS
    if layout.md_device_sectors < need:
        raise DiskTooSmall(
            f"the device of {sectors_to_bytes(layout.md_device_sectors)} bytes is too small for {layout.kind.value} "
            f"meta-data: it needs at least {sectors_to_bytes(need)} bytes; use a larger device"
        )
    if layout.usable_sectors <= 0:
        raise DiskTooSmall(
            f"{layout.where} of {layout.md_size_sectors} sectors leaves no room for data on a device of "
            f"{layout.md_device_sectors} sectors; use a larger device or a smaller activity log"
        )


def _check_geometry(layout: Layout, sb: Superblock) -> None:
    """The kernel's sanity checks. The remedy is the same for all: these numbers don't repair themselves."""

    def require(ok: bool, field: str, found: int, expected: str) -> None:
        if not ok:
            raise MetaDataError(
                f"{layout.where}: {field} is {found}, expected {expected}; the block is damaged or belongs to another "
                "kind or size of device: check `meta-disk` and the device's size, or create new meta-data"
            )

    require(sb.bytes_per_bit == BIT_SIZE_BYTES, "bm_bytes_per_bit", sb.bytes_per_bit, str(BIT_SIZE_BYTES))
    blocks = layout.al_block_count
    require(layout.al_stripes > 0, "al_stripes", layout.al_stripes, "at least 1")
    require(layout.al_stripe_size_4k > 0, "al_stripe_size_4k", layout.al_stripe_size_4k, "at least 1")
    require(
        AL_BLOCKS_MIN <= blocks <= AL_BLOCKS_MAX,
        "the activity log's length in 4 KiB blocks (al_stripes * al_stripe_size_4k)",
        blocks,
        f"{AL_BLOCKS_MIN} to {AL_BLOCKS_MAX}",
    )
    al_sectors = blocks * _BLOCK_SECTORS
    if layout.kind is MetaKind.INTERNAL:
        require(sb.al_offset_sectors == -al_sectors, "al_offset", sb.al_offset_sectors, str(-al_sectors))
        require(sb.bm_offset_sectors <= -al_sectors, "bm_offset", sb.bm_offset_sectors, f"at most {-al_sectors}")
        expected_size = _BLOCK_SECTORS - sb.bm_offset_sectors
        require(sb.md_size_sectors == expected_size, "md_size_sect", sb.md_size_sectors, str(expected_size))
    else:
        expected = _BLOCK_SECTORS + al_sectors
        require(sb.al_offset_sectors == _BLOCK_SECTORS, "al_offset", sb.al_offset_sectors, str(_BLOCK_SECTORS))
        require(sb.bm_offset_sectors == expected, "bm_offset", sb.bm_offset_sectors, str(expected))
        require(sb.md_size_sectors > expected, "md_size_sect", sb.md_size_sectors, f"more than {expected}")
    if layout.kind is MetaKind.INDEXED:
        size = INDEXED_SLOT_SECTORS
        require(sb.md_size_sectors == size, "md_size_sect", sb.md_size_sectors, str(size))
    require(sb.bm_offset_sectors % _BLOCK_SECTORS == 0, "bm_offset", sb.bm_offset_sectors, "a multiple of 8")
    room = layout.md_device_sectors - (0 if layout.kind is MetaKind.INTERNAL else layout.superblock_sector)
    require(sb.md_size_sectors <= room, "md_size_sect", sb.md_size_sectors, f"at most {room} (the device's size)")
    _check_device_size(layout)
    need = ceil_div(bits_for_sectors(sb.la_size_sectors), 8 * 512)
    require(
        layout.bitmap_size_sectors >= need,
        "the bitmap's room in sectors",
        layout.bitmap_size_sectors,
        f"at least {need} for the last agreed size of {sb.la_size_sectors} sectors",
    )
