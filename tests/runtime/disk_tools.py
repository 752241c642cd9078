"""Batches for the tests of the disk layer."""

from __future__ import annotations

from collections.abc import Sequence

from pydrbd.native import Batch, new_records

__all__ = ["assert_same", "read_batch", "write_batch"]

GAP_BYTES = 28
"""What lies between payloads in an NBD client's stream; keeps them unaligned in memory, as they are in life."""


def write_batch(writes: Sequence[tuple[int, bytes]]) -> Batch:
    """A batch that writes these (offset in bytes, data)."""
    batch, _ = read_batch([(offset_bytes, len(data)) for offset_bytes, data in writes])
    for index, (_, data) in enumerate(writes):
        start = batch.records[index].data
        memoryview(batch.buffer)[start : start + len(data)] = data
    return batch


def read_batch(ranges: Sequence[tuple[int, int]]) -> tuple[Batch, list[memoryview]]:
    """A batch that reads these (offset, length in bytes) into its own buffer, and where each will stand."""
    buffer = bytearray(sum(GAP_BYTES + length for _, length in ranges))
    records = new_records(max(1, len(ranges)))
    views = []
    at = 0
    for index, (offset_bytes, length) in enumerate(ranges):
        at += GAP_BYTES
        records[index].offset, records[index].length, records[index].data = offset_bytes, length, at
        views.append(memoryview(buffer)[at : at + length])
        at += length
    return Batch(buffer, records, len(ranges)), views


def assert_same(found: bytes, expected: bytes | bytearray) -> None:
    """Equal, or the first difference: pytest's own explanation of long byte strings takes minutes."""
    if found != expected:
        assert len(found) == len(expected)
        place = next(at for at, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other)
        raise AssertionError(f"byte {place} is {found[place]:#x}, expected {expected[place]:#x}")
