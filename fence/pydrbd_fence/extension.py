"""What pydrbd-sbd keeps in the bytes that SBD leaves zero: who lives in which boot, what was acknowledged, who claims.

It begins at byte 128 of a sector and ends at byte 512, with a CRC-32 over everything before, SBD's part too. A sector
without it is SBD's own; one that SBD overwrites loses it. Each sector has one writer at a time:

* the **header** is written by `create`: the time for one I/O;
* a **slot** is written by its own node's daemon: boot, state, priority, and the pill that it acknowledges;
* a **mailbox** is written by senders, and emptied by its owner: pill or claim, and the boot that it is aimed at.

    128 magic "pydrbd" | 134 kind | 135 version | 136 body | 508 CRC-32 of bytes 0 to 507      (big endian)
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from .layout import KILLS, Header, decode_name, encode_header, encode_name

__all__ = [
    "NO_ID",
    "Letter",
    "Record",
    "Stage",
    "State",
    "decode_io_s",
    "decode_letter",
    "decode_record",
    "encode_header_with_io",
    "encode_letter",
    "encode_record",
    "is_kill",
]

MAGIC = b"pydrbd"
VERSION = 1
BEGIN = 128
BODY = BEGIN + 8
CRC_AT = 508
ID_BYTES = 16
NO_ID = bytes(ID_BYTES)

_FRAME = struct.Struct(">6sBB")
_CRC = struct.Struct(">I")
_HEADER_BODY = struct.Struct(">I")
_RECORD_BODY = struct.Struct(">Q16sIB3xI16sB3xI")
_LETTER_BODY = struct.Struct(">Q16s16s16sB3xI")
_HEADER_KIND, _RECORD_KIND, _LETTER_KIND = 1, 2, 3


class State(IntEnum):
    """How far a node's daemon is."""

    stock = 0  # never written: SBD's own daemon, or none
    starting = 1  # it reads its mailbox, the watchdog is not armed yet
    watching = 2  # the watchdog is armed
    left = 3  # it ended cleanly, the watchdog is disarmed: nobody reads the mailbox
    dying = 4  # it took a pill, and feeds the watchdog no more


class Stage(IntEnum):
    """What a letter with our extension is."""

    plain = 0  # its command counts
    claim = 1  # "I am about to kill you, if you are not about to kill me": the command is `clear`


@dataclass(frozen=True, slots=True)
class Record:
    """A slot. `boot` names one life of the node; times in milliseconds."""

    name: str
    in_use: bool = True
    sequence: int = 0
    boot: bytes = NO_ID
    generation: int = 0
    state: State = State.stock
    priority: int = 0
    taken_id: bytes = NO_ID
    taken_command: int = 0
    dead_within_ms: int = 0


@dataclass(frozen=True, slots=True)
class Letter:
    """A mailbox. `ours` says that the extension is there; `intact`, that its CRC fits."""

    command: int = 0
    sender: str = ""
    ours: bool = False
    intact: bool = True
    sequence: int = 0
    letter_id: bytes = NO_ID
    sender_boot: bytes = NO_ID
    target_boot: bytes = NO_ID
    stage: Stage = Stage.plain
    priority: int = 0

    @property
    def claims(self) -> bool:
        """It is a claim, and no command."""
        return self.ours and self.intact and self.stage is Stage.claim


def is_kill(letter: Letter) -> bool:
    """The letter asks its node to die (whichever boot it is aimed at)."""
    return letter.command in KILLS


def _frame(begin: bytes, sector_bytes: int, kind: int, body: bytes) -> bytes:
    """A sector with our extension, sealed by its CRC."""
    text = begin.ljust(BEGIN, b"\0") + _FRAME.pack(MAGIC, kind, VERSION) + body
    text = text.ljust(CRC_AT, b"\0")
    return (text + _CRC.pack(zlib.crc32(text))).ljust(sector_bytes, b"\0")


def _has(sector: bytes, kind: int) -> bool:
    return _FRAME.unpack_from(sector, BEGIN) == (MAGIC, kind, VERSION)


def _intact(sector: bytes) -> bool:
    return bool(_CRC.unpack_from(sector, CRC_AT)[0] == zlib.crc32(bytes(sector[:CRC_AT])))


def encode_header_with_io(header: Header, io_s: int) -> bytes:
    """The header with the time for one I/O, which SBD has no place for."""
    return _frame(encode_header(header)[:BEGIN], header.sector_bytes, _HEADER_KIND, _HEADER_BODY.pack(io_s))


def decode_io_s(sector: bytes) -> int:
    """The time for one I/O in a header; 0 if SBD's `create` wrote it, or it is damaged."""
    if not _has(sector, _HEADER_KIND) or not _intact(sector):
        return 0
    return int(_HEADER_BODY.unpack_from(sector, BODY)[0])


def encode_record(record: Record, sector_bytes: int) -> bytes:
    """A slot as one sector; without our extension while the daemon that owns it is SBD's, or none."""
    begin = encode_name(int(record.in_use), record.name)
    if record.state is State.stock:
        return begin.ljust(sector_bytes, b"\0")
    body = _RECORD_BODY.pack(
        record.sequence,
        record.boot,
        record.generation,
        record.state,
        record.priority,
        record.taken_id,
        record.taken_command,
        record.dead_within_ms,
    )
    return _frame(begin, sector_bytes, _RECORD_KIND, body)


def decode_record(sector: bytes) -> Record:
    """The slot in a sector. A damaged extension counts as none: nothing is acknowledged by it."""
    in_use, name = decode_name(sector)
    if not _has(sector, _RECORD_KIND) or not _intact(sector):
        return Record(name, bool(in_use))
    sequence, boot, generation, state, priority, taken, command, dead_ms = _RECORD_BODY.unpack_from(sector, BODY)
    if state not in State.__members__.values():
        return Record(name, bool(in_use))
    return Record(name, bool(in_use), sequence, boot, generation, State(state), priority, taken, command, dead_ms)


def encode_letter(letter: Letter, sector_bytes: int) -> bytes:
    """A mailbox as one sector; `clear` without our extension is all zero but for the sender."""
    begin = encode_name(letter.command, letter.sender)
    if not letter.ours:
        return begin.ljust(sector_bytes, b"\0")
    body = _LETTER_BODY.pack(
        letter.sequence,
        letter.letter_id,
        letter.sender_boot,
        letter.target_boot,
        letter.stage,
        letter.priority,
    )
    return _frame(begin, sector_bytes, _LETTER_KIND, body)


def decode_letter(sector: bytes) -> Letter:
    """The letter in a mailbox. A damaged one keeps its command, and says that it is damaged."""
    command, sender = decode_name(sector)
    if not _has(sector, _LETTER_KIND):
        return Letter(command, sender)
    sequence, letter_id, sender_boot, target_boot, stage, priority = _LETTER_BODY.unpack_from(sector, BODY)
    if not _intact(sector) or stage not in Stage.__members__.values():
        return Letter(command, sender, ours=True, intact=False)
    return Letter(command, sender, True, True, sequence, letter_id, sender_boot, target_boot, Stage(stage), priority)
