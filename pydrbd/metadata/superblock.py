"""The superblock of DRBD's meta-data: one block of 4096 bytes, all integers big-endian, no checksum.

off   size  field                    off   size  field
0x00  8     la_size_sect             0x44  4     al_offset (signed sectors from the superblock)
0x08  8     current uuid             0x48  4     al_nr_extents
0x10  8     bitmap uuid              0x4c  4     bm_offset (signed)
0x18  8     history uuid, younger    0x50  4     bm_bytes_per_bit (4096)
0x20  8     history uuid, older      0x54  4     la_peer_max_bio_size (bytes)
0x28  8     device uuid              0x58  4     al_stripes
0x30  8     reserved                 0x5c  4     al_stripe_size_4k
0x38  4     flags                    0x60  4000  reserved, 0
0x3c  4     magic
0x40  4     md_size_sect
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import Final

from pydrbd.errors import MetaDataError, UsageError
from pydrbd.metadata.layout import Layout
from pydrbd.units import BIT_SIZE_BYTES, MD_BLOCK_SIZE_BYTES

__all__ = [
    "MAGIC_CLEAN",
    "MAGIC_UNCLEAN",
    "MAGIC_V07",
    "MAGIC_V09",
    "UUID_JUST_CREATED",
    "AttachState",
    "MdFlag",
    "StoredDiskState",
    "Superblock",
]

MAGIC_V07: Final = 0x8374026A
MAGIC_CLEAN: Final = 0x8374026B
MAGIC_UNCLEAN: Final = 0x8374026C
MAGIC_V09: Final = 0x8374026D
UUID_JUST_CREATED: Final = 4
_NR_EXTENTS_FRESH: Final = 257
_FIELDS: Final = struct.Struct(">QQQQQQ8xIIIiIiIIII")
assert _FIELDS.size == 0x60


class MdFlag(IntFlag):
    """MDF_* of the kernel."""

    CONSISTENT = 0x001
    PRIMARY_IND = 0x002
    CONNECTED_IND = 0x004
    FULL_SYNC = 0x008
    WAS_UP_TO_DATE = 0x010
    PEER_OUT_DATED = 0x020
    CRASHED_PRIMARY = 0x040
    AL_CLEAN = 0x080
    AL_DISABLED = 0x100


_GI_FLAGS: Final = (
    MdFlag.CONSISTENT,
    MdFlag.WAS_UP_TO_DATE,
    MdFlag.PRIMARY_IND,
    MdFlag.CONNECTED_IND,
    MdFlag.FULL_SYNC,
    MdFlag.PEER_OUT_DATED,
    MdFlag.CRASHED_PRIMARY,
)
"""The order of the flags in the text form of the generation identifiers."""


class StoredDiskState(IntEnum):
    """The disk states that a superblock can stand for, with the kernel's numbers."""

    Inconsistent = 4
    Outdated = 5
    Consistent = 7


@dataclass(frozen=True, slots=True)
class AttachState:
    """What a superblock says about the disk that is being attached (before the peer has a word in it)."""

    disk: StoredDiskState
    peer_outdated: bool
    crashed_primary: bool
    full_sync: bool
    degraded: bool
    """A Primary that was alone: the degraded wait-for-connection time applies."""


@dataclass(frozen=True, slots=True)
class Superblock:
    """One v08 superblock. Reserved bytes are dropped on reading and zero on writing, as in the kernel."""

    la_size_sectors: int = 0
    current_uuid: int = UUID_JUST_CREATED
    bitmap_uuid: int = 0
    history_uuids: tuple[int, int] = (0, 0)
    device_uuid: int = 0
    flags: MdFlag = MdFlag.AL_CLEAN
    magic: int = MAGIC_CLEAN
    md_size_sectors: int = 0
    al_offset_sectors: int = 0
    al_extents: int = _NR_EXTENTS_FRESH
    bm_offset_sectors: int = 0
    bytes_per_bit: int = BIT_SIZE_BYTES
    peer_max_bio_bytes: int = 0
    al_stripes: int = 1
    al_stripe_size_4k: int = 8

    @classmethod
    def fresh(cls, layout: Layout, device_uuid: int = 0) -> Superblock:
        """What create-md writes: never agreed on a size, no data generation yet, clean."""
        return cls(
            device_uuid=device_uuid,
            md_size_sectors=layout.md_size_sectors,
            al_offset_sectors=layout.al_offset_sectors,
            bm_offset_sectors=layout.bm_offset_sectors,
            al_stripes=layout.al_stripes,
            al_stripe_size_4k=layout.al_stripe_size_4k,
        )

    @classmethod
    def decode(cls, block: bytes, where: str = "the superblock") -> Superblock:
        """Read a 4096-byte block. Raises MetaDataError (named by `where`) if it is not a v08 superblock."""
        assert len(block) == MD_BLOCK_SIZE_BYTES
        values = _FIELDS.unpack_from(block)
        la_size, current, bitmap, history0, history1, device, flags, magic = values[:8]
        if magic not in (MAGIC_CLEAN, MAGIC_UNCLEAN):
            raise MetaDataError(_foreign_magic(block, magic, where))
        return cls(la_size, current, bitmap, (history0, history1), device, MdFlag(flags), magic, *values[8:])

    def encode(self) -> bytes:
        """The 4096 bytes as they go to disk."""
        return _FIELDS.pack(
            self.la_size_sectors,
            self.current_uuid,
            self.bitmap_uuid,
            *self.history_uuids,
            self.device_uuid,
            self.flags,
            self.magic,
            self.md_size_sectors,
            self.al_offset_sectors,
            self.al_extents,
            self.bm_offset_sectors,
            self.bytes_per_bit,
            self.peer_max_bio_bytes,
            self.al_stripes,
            self.al_stripe_size_4k,
        ).ljust(MD_BLOCK_SIZE_BYTES, b"\0")

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing in the activity log to apply; the clean magic counts only with its flag."""
        return self.magic == MAGIC_CLEAN and MdFlag.AL_CLEAN in self.flags

    def marked_unclean(self) -> Superblock:
        """As it must stand on disk before the first transaction: the log is to be applied."""
        return replace(self, magic=MAGIC_UNCLEAN, flags=self.flags & ~MdFlag.AL_CLEAN)

    def marked_clean(self) -> Superblock:
        """As it may stand on disk after the log was applied and its ring re-initialised."""
        return replace(self, magic=MAGIC_CLEAN, flags=self.flags | MdFlag.AL_CLEAN)

    def attach_state(self) -> AttachState:
        """Disk state, peer's disk state and duties after attach, as the kernel derives them."""
        flags = self.flags
        crashed = bool(flags & (MdFlag.CRASHED_PRIMARY | MdFlag.PRIMARY_IND))
        if MdFlag.CONSISTENT not in flags:
            disk = StoredDiskState.Inconsistent
        elif MdFlag.WAS_UP_TO_DATE not in flags:
            disk = StoredDiskState.Outdated
        else:
            disk = StoredDiskState.Consistent
        return AttachState(
            disk,
            peer_outdated=MdFlag.PEER_OUT_DATED in flags,
            crashed_primary=crashed,
            full_sync=MdFlag.FULL_SYNC in flags or (crashed and MdFlag.AL_DISABLED in flags),
            degraded=MdFlag.PRIMARY_IND in flags and MdFlag.CONNECTED_IND not in flags,
        )

    def disk_state_text(self) -> str:
        """What `dstate` prints for a disk that is not attached."""
        state = self.attach_state()
        if state.disk is StoredDiskState.Consistent and state.peer_outdated:
            return "UpToDate"
        return state.disk.name

    def outdated(self) -> Superblock:
        """As after `outdate`. Raises MetaDataError on an inconsistent disk, which is worse than outdated."""
        if MdFlag.CONSISTENT not in self.flags:
            raise MetaDataError("the disk is Inconsistent, so it can't be outdated; let it sync from its peer first")
        return replace(self, flags=self.flags & ~MdFlag.WAS_UP_TO_DATE)

    def invalidated(self) -> Superblock:
        """As after `invalidate`: inconsistent, the next sync is a full one."""
        flags = self.flags & ~(MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE) | MdFlag.FULL_SYNC
        return replace(self, flags=flags)

    def gi_text(self) -> str:
        """The generation identifiers and flags in get-gi's form: four uuids, seven 0 or 1, between colons."""
        uuids = (self.current_uuid, self.bitmap_uuid, *self.history_uuids)
        return ":".join([f"{uuid:016X}" for uuid in uuids] + [str(int(flag in self.flags)) for flag in _GI_FLAGS])

    def with_gi_text(self, text: str) -> Superblock:
        """These identifiers and flags instead; an empty or missing field keeps what it was. Raises UsageError."""
        words = text.strip().split(":")
        if len(words) > 4 + len(_GI_FLAGS):
            raise UsageError(f"{len(words)} fields in {text!r}: expected at most four uuids and seven flags")
        uuids = [self.current_uuid, self.bitmap_uuid, *self.history_uuids]
        flags = self.flags
        for position, word in enumerate(words):
            if not word:
                continue
            if position < 4:
                uuids[position] = _parse_uuid(word, text)
            elif word in ("0", "1"):
                flag = _GI_FLAGS[position - 4]
                flags = flags | flag if word == "1" else flags & ~flag
            else:
                raise UsageError(f"{_GI_FLAGS[position - 4].name} is {word!r} in {text!r}: expected 0 or 1")
        current, bitmap, history0, history1 = uuids
        return replace(self, current_uuid=current, bitmap_uuid=bitmap, history_uuids=(history0, history1), flags=flags)


def _parse_uuid(word: str, text: str) -> int:
    digits = word.removeprefix("0x").removeprefix("0X")
    if not 1 <= len(digits) <= 16 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
        raise UsageError(f"uuid {word!r} in {text!r}: expected 1 to 16 hexadecimal digits")
    return int(digits, 16)


def _foreign_magic(block: bytes, magic: int, where: str) -> str:
    if magic == MAGIC_V09:
        return f"{where} is of DRBD 9 (v09): this version reads v08; convert it with drbdmeta, or create new meta-data"
    if struct.unpack_from(">I", block, 0x1C)[0] == MAGIC_V07:
        return f"{where} is of DRBD 0.7 (v07): convert it with drbdmeta, or create new meta-data"
    if not any(block):
        return (
            f"no DRBD meta-data: {where} is all zeros. A new disk needs create-md; one that was in use, and has grown "
            "since, must not get it: give it its old size back, up, and grow it while it is in use"
        )
    return (
        f"no DRBD meta-data: the magic number of {where} is {magic:#010x}, expected {MAGIC_CLEAN:#010x} or "
        f"{MAGIC_UNCLEAN:#010x}; check the device and `meta-disk`, or create it with create-md"
    )
