"""Twins of records.c: one record is one object, and a mask is a question to each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydrbd.units import BIT_SIZE_BYTES, EXTENT_SIZE_BYTES

__all__ = [
    "Record",
    "chosen",
    "mask_where",
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
    "touched_bits",
]


@dataclass(slots=True)
class Record:
    """The fields of struct pydrbd_record (native/pydrbd.h)."""

    offset: int = 0
    id: int = 0
    data: int = 0
    length: int = 0
    seq: int = 0
    flags: int = 0
    command: int = 0
    volume: int = 0
    digest: int = 0
    block: int = 0

    @property
    def end(self) -> int:
        """One past the last byte on the device."""
        return self.offset + self.length


def chosen(records: Sequence[Record], mask: int) -> list[tuple[int, Record]]:
    """The masked members with their index, ascending."""
    return [(index, record) for index, record in enumerate(records) if mask >> index & 1]


def mask_where(records: Sequence[Record], mask: int, condition: Callable[[Record], bool]) -> int:
    """The members for which the condition holds."""
    return sum(1 << index for index, record in chosen(records, mask) if condition(record))


def records_out_of_bounds(records: Sequence[Record], mask: int, capacity_bytes: int) -> int:
    """The members that end after the device does."""
    return mask_where(records, mask, lambda record: record.end > capacity_bytes)


def records_unaligned(records: Sequence[Record], mask: int, alignment_bytes: int) -> int:
    """The members whose offset or length is not a multiple."""
    return mask_where(
        records, mask, lambda record: record.offset % alignment_bytes != 0 or record.length % alignment_bytes != 0
    )


def records_longer(records: Sequence[Record], mask: int, length: int) -> int:
    """The members that are longer than this."""
    return mask_where(records, mask, lambda record: record.length > length)


def records_empty(records: Sequence[Record], mask: int) -> int:
    """The members of length 0."""
    return mask_where(records, mask, lambda record: record.length == 0)


def records_with_command(records: Sequence[Record], mask: int, command: int) -> int:
    """The members with this command."""
    return mask_where(records, mask, lambda record: record.command == command)


def records_with_flags(records: Sequence[Record], mask: int, flags: int) -> int:
    """The members with any of these flags."""
    return mask_where(records, mask, lambda record: record.flags & flags != 0)


def records_length_sum(records: Sequence[Record], mask: int) -> int:
    """The members' lengths together."""
    return sum(record.length for _, record in chosen(records, mask))


def _share_a_byte(one: Record, other: Record) -> bool:
    return max(one.offset, other.offset) < min(one.end, other.end)


def records_overlap(live: Sequence[Record], live_mask: int, records: Sequence[Record], mask: int) -> int:
    """The members that share a byte with any of the live ones."""
    others = [record for _, record in chosen(live, live_mask)]
    return mask_where(records, mask, lambda record: any(_share_a_byte(record, other) for other in others))


def records_overlap_self(records: Sequence[Record], mask: int) -> int:
    """The members that share a byte with an earlier one of the mask."""
    members = chosen(records, mask)
    return sum(
        1 << index
        for index, record in members
        if any(_share_a_byte(record, other) for earlier, other in members if earlier < index)
    )


def _touched(record: Record, unit_bytes: int) -> range:
    return range(record.offset // unit_bytes, -(-record.end // unit_bytes)) if record.length else range(0)


def records_extents(records: Sequence[Record], mask: int) -> list[int]:
    """The 4 MiB extents that the members touch, ascending."""
    return sorted({extent for _, record in chosen(records, mask) for extent in _touched(record, EXTENT_SIZE_BYTES)})


def touched_bits(record: Record, bit_count: int) -> set[int]:
    """The bits, below `bit_count`, of the 4 KiB blocks that a record touches."""
    blocks = _touched(record, BIT_SIZE_BYTES)
    return set(range(min(blocks.start, bit_count), min(blocks.stop, bit_count)))


def records_dirty(bits: bytes | bytearray, bit_count: int, records: Sequence[Record], mask: int) -> int:
    """The members that touch a block whose bit is set."""
    return mask_where(
        records, mask, lambda record: any(bits[bit // 8] >> bit % 8 & 1 for bit in touched_bits(record, bit_count))
    )


def records_zero(buffer: bytes, records: Sequence[Record], mask: int) -> int:
    """The members whose payload is nothing but zeroes."""
    return mask_where(records, mask, lambda record: not any(buffer[record.data : record.data + record.length]))


def records_lay_out(
    records: Sequence[Record], mask: int, first_bytes: int, gap_bytes: int
) -> tuple[list[Record], int]:
    """The members' places and names once more, with their data one behind the other; and where that ends."""
    laid_out: list[Record] = []
    place = first_bytes
    for _index, record in chosen(records, mask):
        laid_out.append(
            Record(
                offset=record.offset, id=record.id, data=place, length=record.length,
                command=record.command, volume=record.volume,
            )
        )  # fmt: skip
        place += record.length + gap_bytes
    return laid_out, place
