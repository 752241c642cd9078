"""SBD's on-disk format 2.1: one record per sector, the header first, then a slot and a mailbox for each of 255 nodes.

Numbers are big endian; what a record does not use of its sector is zero (or carries our extension, see `extension`,
which SBD itself never looks at). Everything here is bytes to values and back.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from .errors import FormatError

__all__ = [
    "HEADER_SECTOR",
    "KILLS",
    "NAME_BYTES_MAX",
    "SECTORS_USED",
    "SECTOR_BYTES",
    "SLOTS",
    "Command",
    "Header",
    "check_name",
    "command_name",
    "decode_header",
    "decode_name",
    "encode_header",
    "encode_name",
    "mailbox_sector",
    "same_name",
    "slot_sector",
]

MAGIC = b"SBD_SBD_"
VERSION = 2
MINOR_VERSION = 1
SLOTS = 255
HEADER_SECTOR = 0
SECTORS_USED = 1 + 2 * SLOTS
SECTOR_BYTES = (512, 1024, 2048, 4096)
"""Logical sector sizes that a device may have."""

NAME_AT = 1
NAME_BYTES = 64
NAME_BYTES_MAX = NAME_BYTES - 1
_HEADER = struct.Struct(">8sBB2x5IB16s")


class Command(IntEnum):
    """What a mailbox may ask of its node; the names are the words of the command line."""

    clear = 0
    test = 1
    reset = 2
    off = 3
    exit = 4
    crashdump = 5


KILLS = frozenset({Command.reset, Command.off, Command.crashdump})
"""The commands that a node does not survive."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first sector: times in seconds, and the identity that `create` gave the device."""

    sector_bytes: int
    watchdog_s: int
    allocate_s: int
    loop_s: int
    msgwait_s: int
    uuid: bytes
    minor_version: int = MINOR_VERSION
    slot_count: int = SLOTS


def slot_sector(index: int) -> int:
    """The sector that names the owner of slot `index` (0 to 254)."""
    return 1 + 2 * index


def mailbox_sector(index: int) -> int:
    """The sector with the message for the owner of slot `index`."""
    return 2 + 2 * index


def encode_header(header: Header) -> bytes:
    """The header as one sector."""
    packed = _HEADER.pack(
        MAGIC,
        VERSION,
        header.slot_count,
        header.sector_bytes,
        header.watchdog_s,
        header.allocate_s,
        header.loop_s,
        header.msgwait_s,
        header.minor_version,
        header.uuid,
    )
    return packed.ljust(header.sector_bytes, b"\0")


def decode_header(sector: bytes) -> Header:
    """The header in a sector; FormatError if SBD 2 did not write it, or wrote it for other sectors."""
    magic, version, slots, sector_bytes, watchdog, allocate, loop, msgwait, minor, uuid = _HEADER.unpack_from(sector)
    if magic != MAGIC:
        raise FormatError("it has no SBD header: was it ever created, or overwritten?")
    if version != VERSION:
        raise FormatError(f"its header has version {version}, not {VERSION}")
    if sector_bytes != len(sector):
        raise FormatError(f"it was created for sectors of {sector_bytes} bytes, and has {len(sector)}: create it again")
    if not 1 <= slots <= SLOTS:
        raise FormatError(f"its header claims {slots} slots")
    return Header(sector_bytes, watchdog, allocate, loop, msgwait, uuid, minor, slots)


def check_name(name: str) -> str:
    """A node's name as SBD keeps it (lower case); FormatError if it does not fit."""
    if not name or not name.isascii() or not name.isprintable() or any(c.isspace() for c in name):
        raise FormatError(f"{name!r} is no node name: printable ASCII without blanks is needed")
    if len(name) > NAME_BYTES_MAX:
        raise FormatError(f"the node name {name!r} has {len(name)} characters, at most {NAME_BYTES_MAX} fit")
    return name.lower()


def same_name(one: str, other: str) -> bool:
    """Node names are equal regardless of case, and in their first 63 characters."""
    return one[:NAME_BYTES_MAX].lower() == other[:NAME_BYTES_MAX].lower()


def encode_name(first: int, name: str) -> bytes:
    """What slots and mailboxes begin with: one byte (`in use`, or the command), and a name."""
    return bytes([first]) + name.encode("ascii")[:NAME_BYTES_MAX].ljust(NAME_BYTES, b"\0")


def decode_name(sector: bytes) -> tuple[int, str]:
    """The first byte and the name of a slot or a mailbox; bytes that are no text are shown as escapes."""
    raw = bytes(sector[NAME_AT : NAME_AT + NAME_BYTES])
    return sector[0], raw.split(b"\0", 1)[0].decode("ascii", "backslashreplace")


def command_name(code: int) -> str:
    """The word for a command's number, for people."""
    return Command(code).name if code in Command.__members__.values() else "undefined"
