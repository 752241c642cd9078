"""Sums and bitmaps: crc32c.c, bitmap.c and vli.c."""

from __future__ import annotations

from typing import Final, NamedTuple

from pydrbd._native import lib
from pydrbd.native.batch import Batch, Buffer, WritableBuffer, new, readable, writable
from pydrbd.units import BIT_SIZE_BYTES

__all__ = [
    "VliCode",
    "bitmap_clear",
    "bitmap_clear_records",
    "bitmap_count",
    "bitmap_find_clear",
    "bitmap_find_set",
    "bitmap_merge",
    "bitmap_pieces",
    "bitmap_set",
    "bitmap_set_records",
    "crc32c",
    "crc32c_is_hardware",
    "crc32c_raw",
    "crc32c_table",
    "vli_decode",
    "vli_encode",
]

_RUN_BITS_MAX: Final = 72057611219902768


def crc32c_raw(data: Buffer, crc: int = 0) -> int:
    """The register after `data`, with no inversion before or after: what DRBD's activity log stores (from 0)."""
    pointer = readable(data)
    register: int = lib.pydrbd_crc32c(crc, pointer, len(data))
    return register


def crc32c_table(data: Buffer, crc: int = 0) -> int:
    """As crc32c_raw, never with the processor's instruction."""
    pointer = readable(data)
    register: int = lib.pydrbd_crc32c_table(crc, pointer, len(data))
    return register


def crc32c(data: Buffer) -> int:
    """The standard CRC-32C: register all ones, inverted at the end. On DRBD's wire it is little-endian."""
    return crc32c_raw(data, 0xFFFFFFFF) ^ 0xFFFFFFFF


def crc32c_is_hardware() -> bool:
    """Whether the processor's instruction is used."""
    return bool(lib.pydrbd_crc32c_is_hardware())


# --- bitmaps: bit i is bit (i % 8) of byte (i // 8) ---


def _assert_bits(bits: Buffer, first: int, end: int) -> None:
    assert 0 <= first <= end <= 8 * len(bits), f"bits {first} to {end} of a bitmap of {8 * len(bits)}"


def bitmap_set(bits: WritableBuffer, first: int, count: int) -> int:
    """Sets a range; how many bits changed."""
    pointer = writable(bits)
    _assert_bits(bits, first, first + count)
    changed: int = lib.pydrbd_bitmap_set(pointer, first, count)
    return changed


def bitmap_clear(bits: WritableBuffer, first: int, count: int) -> int:
    """Clears a range; how many bits changed."""
    pointer = writable(bits)
    _assert_bits(bits, first, first + count)
    changed: int = lib.pydrbd_bitmap_clear(pointer, first, count)
    return changed


def bitmap_count(bits: Buffer, first: int, count: int) -> int:
    """How many bits of a range are set."""
    pointer = readable(bits)
    _assert_bits(bits, first, first + count)
    total: int = lib.pydrbd_bitmap_count(pointer, first, count)
    return total


def bitmap_find_set(bits: Buffer, first: int, end: int) -> int:
    """The first set bit from `first` on, or `end`."""
    pointer = readable(bits)
    _assert_bits(bits, first, end)
    found: int = lib.pydrbd_bitmap_find_set(pointer, first, end)
    return found


def bitmap_find_clear(bits: Buffer, first: int, end: int) -> int:
    """The first clear bit from `first` on, or `end`."""
    pointer = readable(bits)
    _assert_bits(bits, first, end)
    found: int = lib.pydrbd_bitmap_find_clear(pointer, first, end)
    return found


def bitmap_merge(into: WritableBuffer, source: Buffer) -> int:
    """ORs `source` into a bitmap of the same size; how many bits are newly set."""
    pointer, other = writable(into), readable(source)
    assert len(into) == len(source), f"{len(source)} bytes into {len(into)}"
    newly_set: int = lib.pydrbd_bitmap_merge(pointer, other, len(into))
    return newly_set


def bitmap_set_records(bits: WritableBuffer, bit_count: int, batch: Batch, mask: int) -> int:
    """Sets the bit of every 4 KiB block that the members touch, up to `bit_count`; how many are newly set."""
    pointer = writable(bits)
    _assert_bits(bits, 0, bit_count)
    newly_set: int = lib.pydrbd_bitmap_set_records(pointer, bit_count, batch.records, batch.count, mask)
    return newly_set


def bitmap_clear_records(bits: WritableBuffer, bit_count: int, capacity_bytes: int, batch: Batch, mask: int) -> int:
    """Clears the bit of every 4 KiB block that a member covers whole, or up to the device's end; how many changed."""
    pointer = writable(bits)
    _assert_bits(bits, 0, bit_count)
    changed: int = lib.pydrbd_bitmap_clear_records(pointer, bit_count, capacity_bytes, batch.records, batch.count, mask)
    return changed


def bitmap_pieces(
    bits: Buffer, bit_count: int, capacity_bytes: int, first: int, most: int, room: int, batch: Batch
) -> tuple[int, int]:
    """Puts runs of set bits, from `first` on, into a batch's records; how many, and the bit after the last of them.

    A run has `most` bytes at most (whole blocks), is aligned to the power of two that its start has, does not cross
    16 MiB, and ends with the device. They end where `room` bytes are used up, by the last one perhaps more.
    """
    pointer, position = readable(bits), new("size_t *", min(first, bit_count))
    _assert_bits(bits, 0, bit_count)
    assert most >= BIT_SIZE_BYTES and most % BIT_SIZE_BYTES == 0, f"pieces of {most} bytes"
    found = lib.pydrbd_bitmap_pieces(
        pointer, bit_count, capacity_bytes, position, most, room, batch.records, len(batch.records)
    )
    return found, position[0]


# --- the run-length code of P_COMPRESSED_BITMAP (WIRE 11.2) ---


class VliCode(NamedTuple):
    """A stretch of bitmap as code: what one P_COMPRESSED_BITMAP carries."""

    code: bytes
    next: int  # the bit where the next packet goes on
    pad: int  # unused bits in the last byte
    polarity: int  # 1 if the first run is of set bits


def vli_encode(bits: Buffer, bit_count: int, first: int, room: int) -> VliCode:
    """Codes whole runs from bit `first` on into at most `room` bytes. Empty only at the end of the bitmap."""
    pointer = readable(bits)
    _assert_bits(bits, first, bit_count)
    assert bit_count <= _RUN_BITS_MAX
    assert room >= 8, f"a run may need 8 bytes, and there are {room}"
    out, position, numbers = bytearray(room), new("uint64_t *"), new("uint32_t[2]")
    used = lib.pydrbd_vli_encode(pointer, bit_count, first, writable(out), room, position, numbers, numbers + 1)
    return VliCode(bytes(out[:used]), position[0], numbers[0], numbers[1])


def vli_decode(
    bits: WritableBuffer, bit_count: int, first: int, code: Buffer, pad: int, polarity: int
) -> tuple[int, int]:
    """ORs the coded runs into the bitmap; the position after them, and how many bits are newly set.

    The position is E_CODE for a code that is empty, ends inside of a run's code, or runs past the end of the bitmap;
    what came before is set then, which is harmless: more is out of sync.
    """
    pointer, source = writable(bits), readable(code)
    _assert_bits(bits, first, bit_count)
    assert 0 <= pad <= 7 and polarity in (0, 1), f"{pad} bits of padding, polarity {polarity}"
    newly_set = new("uint64_t *")
    position: int = lib.pydrbd_vli_decode(pointer, bit_count, first, source, len(code), pad, polarity, newly_set)
    return position, newly_set[0]
