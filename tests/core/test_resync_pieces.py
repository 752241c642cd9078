"""What a resync reads or writes together, and the memory for it."""

from __future__ import annotations

from pydrbd.core.resync_pieces import PieceBuffers, read_groups
from pydrbd.limits import RESYNC_PIECE_BYTES
from pydrbd.native import Batch, new_records


def batch_of(*lengths: int) -> Batch:
    """Records of these lengths, one behind the other."""
    records, offset = new_records(len(lengths)), 0
    for record, length in zip(records, lengths, strict=True):
        record.offset, record.length = offset, length
        offset += length
    return Batch(bytearray(), records, len(lengths))


def test_groups_are_a_piece_long_at_most_or_one_member() -> None:
    """Neighbours go together as long as they fit; what is longer than a piece goes alone."""
    half = RESYNC_PIECE_BYTES // 2
    batch = batch_of(half, half, half, 2 * RESYNC_PIECE_BYTES, 4096)
    assert list(read_groups(batch, batch.all)) == [0b00011, 0b00100, 0b01000, 0b10000]
    assert list(read_groups(batch, 0b10100)) == [0b10100]


def test_memory_is_taken_again_only_when_nobody_looks_at_it() -> None:
    """Neither while its batch lives, nor while a part of it is on its way to the peer."""
    buffers, batch = PieceBuffers(), batch_of(RESYNC_PIECE_BYTES)
    first, memory = buffers.read_batch(batch, 1)
    _second, other = buffers.read_batch(batch, 1)
    assert other is not memory
    on_its_way = first.data(0)[10:20]
    del first
    assert buffers.read_batch(batch, 1)[1] is not memory
    del on_its_way
    assert buffers.read_batch(batch, 1)[1] is memory


def test_small_and_long_requests_have_memory_of_their_own_length() -> None:
    """A block of 4 KiB must not keep a whole piece from being used, and 1 MiB must fit."""
    buffers = PieceBuffers()
    for length in (4096, 2 * RESYNC_PIECE_BYTES):
        assert len(buffers.read_batch(batch_of(length), 1)[1]) == length


def test_there_is_room_before_each_block_for_its_header() -> None:
    """Header, data, header, data: neighbours leave as one part."""
    request, memory = PieceBuffers().read_batch(batch_of(4096, 8192, 4096), 0b111, 40)
    places = [(request.records[index].data, request.records[index].length) for index in range(3)]
    assert places == [(64, 4096), (64 + 4096 + 40, 8192), (64 + 4096 + 8192 + 80, 4096)]
    assert len(memory) >= 64 + 4096 + 8192 + 80 + 4096
