"""Twins of crc32c.c, bitmap.c and vli.c: a bit at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pydrbd.reference.records import Record, chosen, touched_bits
from pydrbd.units import BIT_SIZE_BYTES, MIB

__all__ = [
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
    "crc32c_raw",
    "vli_code",
    "vli_decode",
    "vli_encode",
]

_PIECE_EXTENT_BYTES = 16 * MIB

CASTAGNOLI = 0x82F63B78

# The classes of the run-length code (WIRE 11.2): prefix (in the order of transmission), data bits, shortest run.
VLI_CLASSES = (
    ("0", 1, 1),
    ("10", 1, 3),
    ("110", 2, 5),
    ("1110", 3, 9),
    ("11110", 5, 17),
    ("111110", 8, 49),
    ("11111100", 13, 305),
    ("11111110", 21, 8497),
    ("11111101", 34, 2105649),
    ("11111111", 56, 17181974833),
)


def crc32c_raw(data: bytes | bytearray, crc: int = 0) -> int:
    """The register after the data, without inversions."""
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CASTAGNOLI if crc & 1 else 0)
    return crc


def crc32c(data: bytes | bytearray) -> int:
    """The standard CRC-32C."""
    return crc32c_raw(data, 0xFFFFFFFF) ^ 0xFFFFFFFF


# --- bitmaps ---


def _bit(bits: bytes | bytearray, index: int) -> int:
    return bits[index // 8] >> index % 8 & 1


def _change(bits: bytearray, indices: Iterable[int], value: int) -> int:
    changed = 0
    for index in indices:
        if _bit(bits, index) != value:
            bits[index // 8] ^= 1 << index % 8
            changed += 1
    return changed


def bitmap_set(bits: bytearray, first: int, count: int) -> int:
    """Sets a range; how many bits changed."""
    return _change(bits, range(first, first + count), 1)


def bitmap_clear(bits: bytearray, first: int, count: int) -> int:
    """Clears a range; how many bits changed."""
    return _change(bits, range(first, first + count), 0)


def bitmap_count(bits: bytes | bytearray, first: int, count: int) -> int:
    """How many bits of a range are set."""
    return sum(_bit(bits, index) for index in range(first, first + count))


def bitmap_find_set(bits: bytes | bytearray, first: int, end: int) -> int:
    """The first set bit, or `end`."""
    return next((index for index in range(first, end) if _bit(bits, index)), end)


def bitmap_find_clear(bits: bytes | bytearray, first: int, end: int) -> int:
    """The first clear bit, or `end`."""
    return next((index for index in range(first, end) if not _bit(bits, index)), end)


def bitmap_merge(into: bytearray, source: bytes | bytearray) -> int:
    """ORs one bitmap into another; how many bits are newly set."""
    return _change(into, (index for index in range(8 * len(into)) if _bit(source, index)), 1)


def bitmap_set_records(bits: bytearray, bit_count: int, records: Sequence[Record], mask: int) -> int:
    """Sets the bit of every block that the members touch; how many are newly set."""
    return sum(_change(bits, touched_bits(record, bit_count), 1) for _, record in chosen(records, mask))


def bitmap_clear_records(
    bits: bytearray, bit_count: int, capacity_bytes: int, records: Sequence[Record], mask: int
) -> int:
    """Clears the bit of every block that a member covers whole, or up to the device's end; how many changed."""
    return sum(
        _change(bits, [block for block in range(bit_count) if _covers(record, block, capacity_bytes)], 0)
        for _, record in chosen(records, mask)
    )


def _covers(record: Record, block: int, capacity_bytes: int) -> bool:
    end = min((block + 1) * BIT_SIZE_BYTES, capacity_bytes)
    return record.offset <= block * BIT_SIZE_BYTES and end <= record.end


def bitmap_pieces(
    bits: bytes, bit_count: int, capacity_bytes: int, first: int, most: int, room: int, count: int
) -> tuple[list[tuple[int, int]], int]:
    """(offset, length) of runs of set bits, and the bit after the last of them."""
    pieces: list[tuple[int, int]] = []
    while room > 0 and len(pieces) < count and (start := bitmap_find_set(bits, first, bit_count)) < bit_count:
        first = start + 1
        while (
            first < bit_count
            and _bit(bits, first)
            and (first + 1 - start) * BIT_SIZE_BYTES <= most
            and first % (_PIECE_EXTENT_BYTES // BIT_SIZE_BYTES)
            and (not start or first - start < start & -start)
        ):
            first += 1
        offset = start * BIT_SIZE_BYTES
        pieces.append((offset, min(first * BIT_SIZE_BYTES, capacity_bytes) - offset))
        room -= pieces[-1][1]
    return pieces, first


# --- the run-length code: a code word is a string of "0" and "1" in the order of transmission ---


def vli_code(run: int) -> str:
    """The code word of one run length. Raises ValueError if it has none."""
    for prefix, data_bits, shortest in VLI_CLASSES:
        if shortest <= run < shortest + (1 << data_bits):
            return prefix + format(run - shortest, f"0{data_bits}b")[::-1]
    raise ValueError(f"a run of {run} bits has no code")


def _runs(bits: bytes | bytearray, bit_count: int, first: int) -> Iterator[int]:
    while first < bit_count:
        find = bitmap_find_clear if _bit(bits, first) else bitmap_find_set
        end = find(bits, first, bit_count)
        yield end - first
        first = end


def vli_encode(bits: bytes | bytearray, bit_count: int, first: int, room: int) -> tuple[bytes, int, int, int]:
    """(code, next, pad, polarity) of as many whole runs as fit."""
    polarity = _bit(bits, first) if first < bit_count else 0
    stream = ""
    for run in _runs(bits, bit_count, first):
        word = vli_code(run)
        if len(stream) + len(word) > 8 * room:
            break
        stream += word
        first += run
    pad = -len(stream) % 8
    stream += "0" * pad
    code = bytes(int(stream[at : at + 8][::-1], 2) for at in range(0, len(stream), 8))
    return code, first, pad, polarity


def vli_decode(
    bits: bytearray, bit_count: int, first: int, code: bytes | bytearray, pad: int, polarity: int
) -> tuple[int | None, int]:
    """(position after the runs, newly set bits); None for a code that is wrong."""
    stream = "".join(format(byte, "08b")[::-1] for byte in code)
    stream = stream[: len(stream) - pad]
    newly_set = 0
    if not stream:
        return None, newly_set
    while stream:
        for prefix, data_bits, shortest in VLI_CLASSES:
            if stream.startswith(prefix) and len(stream) >= len(prefix) + data_bits:
                word, stream = stream[: len(prefix) + data_bits], stream[len(prefix) + data_bits :]
                run = shortest + int(word[len(prefix) :][::-1], 2)
                break
        else:
            return None, newly_set
        if first + run > bit_count:
            return None, newly_set
        if polarity:
            newly_set += bitmap_set(bits, first, run)
        first += run
        polarity = 1 - polarity
    return first, newly_set
