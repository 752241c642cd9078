"""Questions about a batch's members, and the disk: records.c and io.c.

A mask names who is asked; an answer that is a mask names those it is true for.
"""

from __future__ import annotations

from typing import Any, Final, overload

from pydrbd._native import ffi, lib
from pydrbd.limits import BATCH_RECORDS_MAX
from pydrbd.native.batch import Batch, Buffer, WritableBuffer, new, new_records, readable, writable
from pydrbd.units import EXTENT_SIZE_BYTES

__all__ = [
    "pread_records",
    "pwrite_records",
    "records_dirty",
    "records_empty",
    "records_extents",
    "records_lay_out",
    "records_length_sum",
    "records_longer",
    "records_out_of_bounds",
    "records_overlap",
    "records_overlap_self",
    "records_unaligned",
    "records_with_command",
    "records_with_flags",
    "records_zero",
]

_EXTENTS_USUAL: Final = 4 * BATCH_RECORDS_MAX
_EXTENTS_MAX: Final = BATCH_RECORDS_MAX * (2**32 // EXTENT_SIZE_BYTES + 1)


def records_out_of_bounds(batch: Batch, mask: int, capacity_bytes: int) -> int:
    """The members that end after the device does."""
    found = new("uint64_t *", mask)
    lib.pydrbd_records_out_of_bounds(batch.records, batch.count, capacity_bytes, found)
    outside: int = found[0]
    return outside


def records_unaligned(batch: Batch, mask: int, alignment_bytes: int) -> int:
    """The members whose offset or length is not a multiple of this power of two."""
    assert alignment_bytes.bit_count() == 1
    found: int = lib.pydrbd_records_unaligned(batch.records, batch.count, mask, alignment_bytes)
    return found


def records_with_command(batch: Batch, mask: int, command: int) -> int:
    """The members with this NBD command or packet number."""
    found: int = lib.pydrbd_records_with_command(batch.records, batch.count, mask, command)
    return found


def records_with_flags(batch: Batch, mask: int, flags: int) -> int:
    """The members with any of these flags."""
    found: int = lib.pydrbd_records_with_flags(batch.records, batch.count, mask, flags)
    return found


def records_longer(batch: Batch, mask: int, length: int) -> int:
    """The members that are longer than this."""
    found: int = lib.pydrbd_records_longer(batch.records, batch.count, mask, length)
    return found


def records_empty(batch: Batch, mask: int) -> int:
    """The members of length 0."""
    return mask & ~records_longer(batch, mask, 0)


def records_length_sum(batch: Batch, mask: int) -> int:
    """The members' lengths together."""
    total: int = lib.pydrbd_records_length_sum(batch.records, batch.count, mask)
    return total


def records_overlap(live: Batch, live_mask: int, batch: Batch, mask: int) -> int:
    """The members that share a byte with any of the live batch's members."""
    found: int = lib.pydrbd_records_overlap(live.records, live.count, live_mask, batch.records, batch.count, mask)
    return found


def records_overlap_self(batch: Batch, mask: int) -> int:
    """The members that share a byte with an earlier one of the same mask."""
    found: int = lib.pydrbd_records_overlap_self(batch.records, batch.count, mask)
    return found


@overload
def records_extents(batch: Batch, mask: int) -> list[int]: ...
@overload
def records_extents(batch: Batch, mask: int, room: int) -> list[int] | None: ...
def records_extents(batch: Batch, mask: int, room: int | None = None) -> list[int] | None:
    """The 4 MiB extents that the members touch, ascending; None if they are more than `room`.

    The members must be within a device of at most 16 PiB.
    """
    usual = _EXTENTS_USUAL if room is None else room
    out = new("uint32_t[]", usual)
    count = lib.pydrbd_records_extents(batch.records, batch.count, mask, out, usual)
    if count > usual:
        return None if room is not None else records_extents(batch, mask, _EXTENTS_MAX)
    return ffi.unpack(out, count) if count else []


def records_dirty(bits: Buffer, bit_count: int, batch: Batch, mask: int) -> int:
    """The members that touch a 4 KiB block whose bit is set."""
    pointer = readable(bits)
    assert 0 <= bit_count <= 8 * len(bits), f"{bit_count} bits in {len(bits)} bytes"
    found: int = lib.pydrbd_records_dirty(pointer, bit_count, batch.records, batch.count, mask)
    return found


def records_zero(batch: Batch, mask: int) -> int:
    """The members whose payload is nothing but zeroes."""
    _assert_inside(batch, mask, batch.size_bytes)
    found: int = lib.pydrbd_records_zero(batch.pointer, batch.records, batch.count, mask)
    return found


def records_lay_out(batch: Batch, mask: int, first_bytes: int, gap_bytes: int) -> tuple[Any, int]:
    """New records of these places, volumes, commands and ids, as many as `mask` has members, and where they end.

    Their `data` lies one behind the other, the first at `first_bytes`, with a gap behind each.
    """
    assert mask & ~batch.all == 0
    out = new_records(mask.bit_count())
    end: int = lib.pydrbd_records_lay_out(batch.records, batch.count, mask, first_bytes, gap_bytes, out)
    return out, end


# --- the disk ---


def _assert_inside(batch: Batch, mask: int, size_bytes: int) -> None:
    outside = lib.pydrbd_records_outside_buffer(batch.records, batch.count, mask, size_bytes)
    assert not outside, f"payload outside of {size_bytes} bytes: members {outside:#x} of {batch!r}"


def pwrite_records(descriptor: int, base_bytes: int, batch: Batch, mask: int) -> tuple[int, int]:
    """Writes each member's payload at base_bytes + offset; the mask of those that failed, and the first errno or 0."""
    _assert_inside(batch, mask, batch.size_bytes)
    error = new("int *")
    failed = lib.pydrbd_pwrite_records(descriptor, base_bytes, batch.pointer, batch.records, batch.count, mask, error)
    return failed, error[0]


def pread_records(
    descriptor: int, base_bytes: int, batch: Batch, mask: int, buffer: WritableBuffer | None = None
) -> tuple[int, int]:
    """Reads from base_bytes + offset to where each member's `data` says, in the batch's buffer or another one.

    Returns as pwrite_records. The end of the file is EIO.
    """
    pointer, error = batch.pointer if buffer is None else writable(buffer), new("int *")
    _assert_inside(batch, mask, batch.size_bytes if buffer is None else len(buffer))
    failed = lib.pydrbd_pread_records(descriptor, base_bytes, pointer, batch.records, batch.count, mask, error)
    return failed, error[0]

