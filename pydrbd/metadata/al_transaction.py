"""One block of the activity log: 4096 bytes, big-endian, with a checksum of its own.

off  size  field
0    4     magic 0x69cb65a2
4    4     tr_number
8    4     CRC-32C over the block with this field 0; initial value 0, no final inversion
12   2     type: 0 = update, 0xffff = initialised (empty)
14   2     how many updates, 0..64
16   2     context_size: slots in the log
18   2     context_start_slot_nr
20   16    reserved, 0
36   128   64 slot numbers; unused 0xffff
164  256   64 extent numbers, the new labels of these slots; unused 0xffffffff
420  3676  919 extent numbers: the labels of the slots from context_start on, before the updates; free 0xffffffff
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pydrbd import native
from pydrbd.limits import AL_UPDATES_PER_TRANSACTION
from pydrbd.units import MD_BLOCK_SIZE_BYTES

__all__ = [
    "CONTEXT_SLOTS",
    "FREE",
    "LABEL",
    "SLOTS_MAX",
    "TR_NUMBER_MODULUS",
    "Transaction",
    "context_starts",
    "decode_block",
    "encode_block",
    "initialised_block",
    "is_initialised",
    "number_modulus",
    "ring_block",
    "slot_limit",
]

FREE: Final = 0xFFFF_FFFF
"""The label of a slot that holds no extent."""

CONTEXT_SLOTS: Final = 919
SLOTS_MAX: Final = 65_534
TR_NUMBER_MODULUS: Final = 1 << 32

_MAGIC: Final = 0x69CB65A2
_TYPE_UPDATE: Final = 0
_TYPE_INITIALISED: Final = 0xFFFF
_NO_SLOT: Final = 0xFFFF
_CRC_OFFSET_BYTES: Final = 8
_HEADER: Final = struct.Struct(">IIIHHHH16x")
_SLOTS: Final = struct.Struct(f">{AL_UPDATES_PER_TRANSACTION}H")
_EXTENTS: Final = struct.Struct(f">{AL_UPDATES_PER_TRANSACTION}I")
_CONTEXT: Final = struct.Struct(f">{CONTEXT_SLOTS}I")
_SLOTS_AT: Final = _HEADER.size
_EXTENTS_AT: Final = _SLOTS_AT + _SLOTS.size
_CONTEXT_AT: Final = _EXTENTS_AT + _EXTENTS.size
assert (_SLOTS_AT, _EXTENTS_AT, _CONTEXT_AT) == (36, 164, 420)
assert _CONTEXT_AT + _CONTEXT.size == MD_BLOCK_SIZE_BYTES
_CRC_ZERO: Final = bytes(4)
_UNUSED_BLOCK: Final = bytes(_SLOTS_AT) + b"\xff" * (MD_BLOCK_SIZE_BYTES - _SLOTS_AT)
_SLOT: Final = struct.Struct(">H")
LABEL: Final = struct.Struct(">I")
"""One slot's label on disk."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """An update block. `context` are the labels of slots `context_start`, `context_start` + 1, ... (at most 919)."""

    tr_number: int
    updates: tuple[tuple[int, int], ...]
    """(slot, its new label); what the slot held before is no longer hot."""
    context_size: int
    context_start: int
    context: Sequence[int]

    def encode(self) -> bytes:
        """The 4096 bytes as they go to disk."""
        context = struct.pack(f">{len(self.context)}I", *self.context)
        return encode_block(self.tr_number, self.updates, self.context_size, self.context_start, context)


def encode_block(
    tr_number: int,
    updates: Sequence[tuple[int, int]],
    context_size: int,
    context_start: int,
    context: bytes | bytearray,
) -> bytes:
    """A transaction's 4096 bytes; `context` is labels as they stand on disk (4 bytes each), at most 919."""
    assert len(updates) <= AL_UPDATES_PER_TRANSACTION and len(context) <= MD_BLOCK_SIZE_BYTES - _CONTEXT_AT
    block = bytearray(_UNUSED_BLOCK)
    _HEADER.pack_into(block, 0, _MAGIC, tr_number, 0, _TYPE_UPDATE, len(updates), context_size, context_start)
    for index, (slot, extent) in enumerate(updates):
        _SLOT.pack_into(block, _SLOTS_AT + index * _SLOT.size, slot)
        LABEL.pack_into(block, _EXTENTS_AT + index * LABEL.size, extent)
    block[_CONTEXT_AT : _CONTEXT_AT + len(context)] = context
    return _sealed(block)


def initialised_block() -> bytes:
    """The block that create-md and apply-al fill the whole ring with."""
    block = bytearray(MD_BLOCK_SIZE_BYTES)
    _HEADER.pack_into(block, 0, _MAGIC, 0, 0, _TYPE_INITIALISED, 0, 0, 0)
    return _sealed(block)


def decode_block(block: bytes | memoryview) -> Transaction | None:
    """An update block's transaction, or None if the block is damaged, torn, or initialised but never used.

    Every update whose slot number is used counts, whatever the count field says, and so does an unknown type: what is
    marked too much costs a little resync, what is missed costs data.
    """
    if not _is_intact(block):
        return None
    _, tr_number, _, kind, _, context_size, context_start = _HEADER.unpack_from(block)
    if kind == _TYPE_INITIALISED:
        return None
    slots, extents = _SLOTS.unpack_from(block, _SLOTS_AT), _EXTENTS.unpack_from(block, _EXTENTS_AT)
    updates = tuple((slot, extent) for slot, extent in zip(slots, extents, strict=True) if slot != _NO_SLOT)
    return Transaction(tr_number, updates, context_size, context_start, _CONTEXT.unpack_from(block, _CONTEXT_AT))


def is_initialised(block: bytes | memoryview) -> bool:
    """Whether this is an intact block that was never used for a transaction."""
    return _is_intact(block) and _HEADER.unpack_from(block)[3] == _TYPE_INITIALISED


def ring_block(tr_number: int, al_stripes: int, al_stripe_size_4k: int) -> int:
    """Which block of the log takes this transaction: one after the other, each on the next stripe."""
    position = tr_number % (al_stripes * al_stripe_size_4k)
    return (position % al_stripes) * al_stripe_size_4k + position // al_stripes


def number_modulus(block_count: int) -> int:
    """Where transaction numbers wrap to 0: at the last full turn of the ring that 32 bits can count.

    A kernel wraps at 2^32, and in a ring whose length is not a power of two overwrites what it needs most then.
    """
    return TR_NUMBER_MODULUS - TR_NUMBER_MODULUS % block_count


def slot_limit(block_count: int) -> int:
    """The most slots that a ring of this many blocks can describe, when one block may be torn."""
    return min((block_count - 1) * CONTEXT_SLOTS, SLOTS_MAX)


def context_starts(slot_count: int) -> Iterable[int]:
    """Where the context windows begin, in the order in which transactions take their turns."""
    return range(0, slot_count, CONTEXT_SLOTS)


def _is_intact(block: bytes | memoryview) -> bool:
    assert len(block) == MD_BLOCK_SIZE_BYTES
    magic, _, crc, *_ = _HEADER.unpack_from(block)
    return bool(magic == _MAGIC and crc == _checksum(block))


def _checksum(block: bytes | bytearray | memoryview) -> int:
    """Piecewise, so that the block need not be copied to blank its checksum field."""
    view = memoryview(block)
    crc = native.crc32c_raw(view[:_CRC_OFFSET_BYTES])
    crc = native.crc32c_raw(_CRC_ZERO, crc)
    return native.crc32c_raw(view[_CRC_OFFSET_BYTES + len(_CRC_ZERO) :], crc)


def _sealed(block: bytearray) -> bytes:
    struct.pack_into(">I", block, _CRC_OFFSET_BYTES, _checksum(block))
    return bytes(block)
