"""What lives on a disk, told by its magic numbers: file systems, partition tables, volumes of other systems.

Offsets and fields follow the formats' own documentation. `size_bytes` is how far the thing reaches from the start of
the disk, by its own account; None if it does not say, which must be taken as the whole disk.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pydrbd.units import KIB

__all__ = ["HEAD_BYTES", "Finding", "FindingKind", "Reader", "find_foreign"]

Reader = Callable[[int, int], bytes]
"""(offset_bytes, length_bytes) -> what is there; shorter, or empty, at the end of the device."""

HEAD_BYTES: Final = 72 * KIB
"""How much of the start of a disk is looked at."""


class FindingKind(Enum):
    """What sort of thing was found; it decides how hard it is to overwrite it."""

    DRBD = "DRBD"
    FILE_SYSTEM = "file system"
    VOLUME = "volume"
    PARTITIONS = "partition table"
    UNKNOWN_DATA = "unknown data"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing on the disk, in words for the administrator."""

    kind: FindingKind
    text: str
    size_bytes: int | None = None
    offset_bytes: int = 0


def find_foreign(read: Reader, device_bytes: int) -> list[Finding]:
    """Everything but DRBD that is recognised; if nothing is, but the first 72 KiB are not zero, unknown data."""
    head = read(0, HEAD_BYTES).ljust(HEAD_BYTES, b"\0")
    findings = [finding for probe in _PROBES if (finding := probe(head)) is not None]
    findings += _md_raid_at_end(read, device_bytes)
    findings += _zfs(read)
    if not any(finding.size_bytes is None or finding.size_bytes > 0 for finding in findings) and any(head):
        findings.append(Finding(FindingKind.UNKNOWN_DATA, "some data that is not recognised"))
    return findings


def _file_system(name: str, size_bytes: int | None) -> Finding:
    size = "" if size_bytes is None else f" of {size_bytes} bytes"
    return Finding(FindingKind.FILE_SYSTEM, f"{name} file system{size}", size_bytes)


def _volume(text: str, size_bytes: int | None = None) -> Finding:
    return Finding(FindingKind.VOLUME, text, size_bytes)


# --- file systems ---


def _ext(head: bytes) -> Finding | None:
    sb = head[1024:2048]
    if sb[56:58] != b"\x53\xef":
        return None
    blocks, log_block_size = struct.unpack_from("<I", sb, 4)[0], struct.unpack_from("<I", sb, 24)[0]
    compat, incompat, ro_compat = struct.unpack_from("<III", sb, 92)
    if incompat & 0x80:  # 64bit
        blocks |= struct.unpack_from("<I", sb, 0x150)[0] << 32
    # extents, 64bit, flex_bg; huge_file, gdt_csum, dir_nlink, extra_isize, metadata_csum
    is_ext4 = incompat & 0x2C0 or ro_compat & 0x478
    name = "ext4" if is_ext4 else "ext3" if compat & 0x4 else "ext2"
    size = blocks * (1024 << log_block_size) if log_block_size <= 6 else None
    return _file_system(f"an {name}", size)


def _xfs(head: bytes) -> Finding | None:
    if not head.startswith(b"XFSB"):
        return None
    block_size, blocks = struct.unpack_from(">IQ", head, 4)
    return _file_system("an XFS", block_size * blocks)


def _btrfs(head: bytes) -> Finding | None:
    sb = head[64 * KIB :]
    if sb[64:72] != b"_BHRfS_M":
        return None
    # the device item's own size: the total is that of all devices together
    return _file_system("a btrfs", struct.unpack_from("<Q", sb, 209)[0])


def _ntfs(head: bytes) -> Finding | None:
    if head[3:11] != b"NTFS    ":
        return None
    sector_size, sectors = struct.unpack_from("<H", head, 11)[0], struct.unpack_from("<Q", head, 40)[0]
    return _file_system("an NTFS", (sectors + 1) * sector_size)


def _fat(head: bytes) -> Finding | None:
    if head[3:11] == b"EXFAT   ":
        sectors, shift = struct.unpack_from("<Q", head, 72)[0], head[108]
        return _file_system("an exFAT", sectors << shift if 9 <= shift <= 12 else None)
    if head[510:512] != b"\x55\xaa" or not (head[54:57] == b"FAT" or head[82:87] == b"FAT32"):
        return None
    sector_size, small, large = struct.unpack_from("<H6xH11xI", head, 11)
    return _file_system("a FAT", (small or large) * sector_size)


def _f2fs(head: bytes) -> Finding | None:
    if head[1024:1028] != b"\x10\x20\xf5\xf2":
        return None
    log_block_size, blocks = struct.unpack_from("<I", head, 1024 + 16)[0], struct.unpack_from("<Q", head, 1024 + 36)[0]
    return _file_system("an F2FS", blocks << log_block_size if log_block_size <= 16 else None)


def _reiserfs(head: bytes) -> Finding | None:
    if head[64 * KIB + 52 : 64 * KIB + 58] not in (b"ReIsEr", b"ReIsE2"):
        return None
    blocks, block_size = struct.unpack_from("<I", head, 64 * KIB)[0], struct.unpack_from("<H", head, 64 * KIB + 44)[0]
    return _file_system("a ReiserFS", blocks * block_size)


def _jfs(head: bytes) -> Finding | None:
    if head[32 * KIB : 32 * KIB + 4] != b"JFS1":
        return None
    return _file_system("a JFS", None)


def _bcachefs(head: bytes) -> Finding | None:
    magic = head[4096 + 24 : 4096 + 40]
    if magic == bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"):
        return _file_system("a bcachefs", None)
    if magic == bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"):
        return _volume("a bcache device")
    return None


# --- volumes and partition tables ---


def _swap(head: bytes) -> Finding | None:
    for page_size in (4 * KIB, 16 * KIB, 64 * KIB):
        if head[page_size - 10 : page_size] in (b"SWAPSPACE2", b"SWAP-SPACE"):
            return _volume("swap space", (struct.unpack_from("<I", head, 1028)[0] + 1) * page_size)
    return None


def _luks(head: bytes) -> Finding | None:
    if not head.startswith(b"LUKS\xba\xbe"):
        return None
    return _volume(f"a LUKS encrypted volume (version {int.from_bytes(head[6:8], 'big')})")


def _lvm(head: bytes) -> Finding | None:
    for sector in range(4):
        label = head[sector * 512 : (sector + 1) * 512]
        if label.startswith(b"LABELONE") and label[24:32] == b"LVM2 001":
            header = struct.unpack_from("<I", label, 20)[0]
            size = struct.unpack_from("<Q", label, header + 32)[0] if header <= 472 else None
            return _volume("an LVM physical volume", size or None)
    return None


def _md_raid(head: bytes) -> Finding | None:
    for offset in (0, 4096):
        if head[offset : offset + 8] == b"\xfc\x4e\x2b\xa9\x01\0\0\0":
            return _volume("a member of an md RAID array (version 1.1 or 1.2)")
    return None


def _md_raid_at_end(read: Reader, device_bytes: int) -> list[Finding]:
    findings = []
    old = (device_bytes & ~0xFFFF) - 64 * KIB
    if old > 0 and read(old, 4) in (b"\xfc\x4e\x2b\xa9", b"\xa9\x2b\x4e\xfc"):
        findings.append(_volume("a member of an md RAID array (version 0.90)"))
    new = (device_bytes // 512 - 16) // 8 * 8 * 512
    if new > 0 and read(new, 8) == b"\xfc\x4e\x2b\xa9\x01\0\0\0":
        findings.append(_volume("a member of an md RAID array (version 1.0)"))
    return findings


def _zfs(read: Reader) -> list[Finding]:
    """The first label's ring of uberblocks is its second half; each begins with the magic number in either order."""
    ring = read(128 * KIB, 128 * KIB)
    magic = 0x00BAB10C
    for offset in range(0, len(ring) - 7, KIB):
        if ring[offset : offset + 8] in (magic.to_bytes(8, "little"), magic.to_bytes(8, "big")):
            return [_volume("a member of a ZFS pool")]
    return []


def _gpt(head: bytes) -> Finding | None:
    for sector_size in (512, 4096):
        header = head[sector_size : sector_size + 92]
        if header.startswith(b"EFI PART"):
            backup = struct.unpack_from("<Q", header, 32)[0]
            return Finding(FindingKind.PARTITIONS, "a GPT partition table", (backup + 1) * sector_size)
    return None


def _mbr(head: bytes) -> Finding | None:
    """A boot sector's signature alone means little: at least one sensible entry, and no entry that is not."""
    if head[510:512] != b"\x55\xaa" or _fat(head) or _ntfs(head):
        return None
    end = 0
    for offset in range(446, 510, 16):
        status, kind = head[offset], head[offset + 4]
        start, count = struct.unpack_from("<II", head, offset + 8)
        if status not in (0x00, 0x80):
            return None
        if kind == 0xEE:
            return None  # the protective entry of a GPT
        if kind and count:
            end = max(end, start + count)
    return Finding(FindingKind.PARTITIONS, "an MBR partition table", end * 512) if end else None


_PROBES: Final[tuple[Callable[[bytes], Finding | None], ...]] = (
    _ext,
    _xfs,
    _btrfs,
    _ntfs,
    _fat,
    _f2fs,
    _reiserfs,
    _jfs,
    _bcachefs,
    _swap,
    _luks,
    _lvm,
    _md_raid,
    _gpt,
    _mbr,
)
