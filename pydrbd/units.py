"""The units of a block device: sectors, bits, activity-log extents, and the conversions between them.

    sector   512 bytes: what DRBD counts in on the wire and on disk
    bit      4096 bytes (8 sectors): what one bit of the out-of-sync bitmap stands for
    extent   4 MiB (8192 sectors, 1024 bits): what one slot of the activity log stands for
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BITS_PER_EXTENT",
    "BIT_SIZE_BYTES",
    "EXTENT_SIZE_BYTES",
    "GIB",
    "KIB",
    "MD_BLOCK_SIZE_BYTES",
    "MIB",
    "SECTORS_PER_BIT",
    "SECTORS_PER_EXTENT",
    "SECTOR_SIZE_BYTES",
    "bits_for_sectors",
    "bytes_to_sectors",
    "ceil_div",
    "sectors_to_bytes",
]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

SECTOR_SIZE_BYTES: Final = 512
BIT_SIZE_BYTES: Final = 4096
EXTENT_SIZE_BYTES: Final = 4 * MIB
MD_BLOCK_SIZE_BYTES: Final = 4096
SECTORS_PER_BIT: Final = BIT_SIZE_BYTES // SECTOR_SIZE_BYTES
SECTORS_PER_EXTENT: Final = EXTENT_SIZE_BYTES // SECTOR_SIZE_BYTES
BITS_PER_EXTENT: Final = EXTENT_SIZE_BYTES // BIT_SIZE_BYTES


def ceil_div(dividend: int, divisor: int) -> int:
    """The quotient rounded up; both non-negative."""
    return -(-dividend // divisor)


def bytes_to_sectors(size_bytes: int) -> int:
    """A byte count as sectors; it must be a whole number of them."""
    sectors, rest = divmod(size_bytes, SECTOR_SIZE_BYTES)
    assert rest == 0, f"{size_bytes} bytes is not a whole number of sectors"
    return sectors


def sectors_to_bytes(sector_count: int) -> int:
    return sector_count * SECTOR_SIZE_BYTES


def bits_for_sectors(sector_count: int) -> int:
    """How many bitmap bits cover a device of this many sectors (the last one may be partial)."""
    return ceil_div(sector_count, SECTORS_PER_BIT)
