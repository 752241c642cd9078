"""A resync's work in pieces that the processor's caches hold: what is read, or written, together."""

from __future__ import annotations

from collections.abc import Iterator

from pydrbd import native
from pydrbd.limits import (
    BATCH_RECORDS_MAX,
    RESYNC_HEAD_BYTES_MAX,
    RESYNC_IN_FLIGHT_BYTES_MAX,
    RESYNC_PIECE_BYTES,
)
from pydrbd.native import Batch

__all__ = ["PieceBuffers", "read_groups"]

_KEPT_BYTES = RESYNC_PIECE_BYTES + (BATCH_RECORDS_MAX + 1) * RESYNC_HEAD_BYTES_MAX


class PieceBuffers:
    """Memory for what is read, taken again when nobody looks at it any more: fresh memory costs more than the read.

    Who uses it is not counted but asked: a bytearray that somebody has a view of refuses to change its length.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: list[bytearray] = []

    def read_batch(self, batch: Batch, mask: int, head_bytes: int = 0) -> tuple[Batch, bytearray]:
        """A batch of its own for these requests, and the buffer that they are read into: of their length or longer.

        There are `head_bytes` of room before each of them, at most RESYNC_HEAD_BYTES_MAX.
        """
        assert head_bytes <= RESYNC_HEAD_BYTES_MAX
        first = RESYNC_HEAD_BYTES_MAX if head_bytes else 0
        records, end = native.records_lay_out(batch, mask, first, head_bytes)
        buffer = self._take(end)
        return Batch(buffer, records, mask.bit_count()), buffer

    def _take(self, length: int) -> bytearray:
        if not RESYNC_PIECE_BYTES // 8 <= length <= _KEPT_BYTES:
            return bytearray(length)
        for buffer in self._kept:  # the first ones again and again: they are in the caches still
            if not _has_views(buffer):
                return buffer
        buffer = bytearray(_KEPT_BYTES)
        if len(self._kept) < RESYNC_IN_FLIGHT_BYTES_MAX // RESYNC_PIECE_BYTES:
            self._kept.append(buffer)
        return buffer


def read_groups(batch: Batch, mask: int) -> Iterator[int]:
    """The members in groups that are read, or written, together: of one piece's length, or one member alone."""
    if native.records_length_sum(batch, mask) <= RESYNC_PIECE_BYTES:
        yield mask
        return
    members = taken = 0
    for index in native.indices(mask):
        length = batch.records[index].length
        if members and taken + length > RESYNC_PIECE_BYTES:
            yield members
            members = taken = 0
        members |= 1 << index
        taken += length
    yield members


def _has_views(buffer: bytearray) -> bool:
    try:
        buffer.append(buffer.pop())
    except BufferError:
        return True
    return False
