"""Batches from bytes, and bytes from batches: frames_nbd.c and frames_drbd.c."""

from __future__ import annotations

from typing import Final, NamedTuple

from pydrbd._native import lib
from pydrbd.errors import ClientProtocolError, PeerProtocolError
from pydrbd.limits import BATCH_RECORDS_MAX
from pydrbd.native.batch import E_MAGIC, Batch, WritableBuffer, indices, new, new_records, writable
from pydrbd.native.records import records_length_sum, records_unaligned
from pydrbd.units import SECTOR_SIZE_BYTES

__all__ = [
    "NbdCommands",
    "drbd_acks",
    "drbd_data_headers",
    "drbd_reply_headers",
    "drbd_requests",
    "drbd_split",
    "nbd_commands",
    "nbd_read_header_bytes",
    "nbd_read_replies",
    "nbd_replies",
    "nbd_split",
]

_NBD_REPLY_SIZE: Final = 16
_NBD_CHUNK_SIZE: Final = 20
_NBD_ERROR_CHUNK_SIZE: Final = _NBD_CHUNK_SIZE + 6
_DATA_HEADER_SIZE_MAX: Final = 16 + 28
_ACK_SIZE_MAX: Final = 16 + 24
_DIGEST_BYTES_MAX: Final = 64
_H80_DATA_MAX: Final = 0xFFFF - 24 - _DIGEST_BYTES_MAX
_FORMATS: Final = frozenset({80, 95, 100})


def nbd_split(buffer: WritableBuffer, start: int, end: int, length_max: int) -> tuple[Batch, int, int]:
    """Splits buffer[start:end] into NBD requests: (batch, consumed, need).

    The batch holds the complete requests, at most 64; `consumed` is how many bytes they take. `need` is how many bytes
    the next one takes in all, as far as is known, if it is incomplete (0: nothing is left over, or it was not looked at
    because the batch is full or an error comes next). Raises ClientProtocolError for a wrong magic number or a WRITE of
    more than `length_max` bytes: not before all that is good in front of it was returned.
    """
    records, sizes = new_records(), new("size_t[2]")
    batch = Batch(buffer, records, 0)
    assert 0 <= start <= end <= batch.size_bytes, f"{start} to {end} of {batch.size_bytes} bytes"
    count = lib.pydrbd_nbd_split(batch.pointer, start, end, length_max, records, BATCH_RECORDS_MAX, sizes, sizes + 1)
    if count < 0:
        what = "a wrong magic number" if count == E_MAGIC else f"more than {length_max} bytes to write"
        raise ClientProtocolError(f"a request with {what}: {bytes(buffer[start : start + 28]).hex()}")
    batch.resize(count)
    return batch, sizes[0], sizes[1]


def nbd_replies(batch: Batch, mask: int, error: int = 0) -> bytearray:
    """The replies without data for these members; structured ones for READs, if their client wants them."""
    assert 0 <= mask <= batch.all
    size = _NBD_ERROR_CHUNK_SIZE if batch.structured else _NBD_REPLY_SIZE
    out = bytearray(size * mask.bit_count())
    used = lib.pydrbd_nbd_replies(batch.records, batch.count, mask, error, batch.structured, writable(out))
    return out[:used] if batch.structured else out


def nbd_read_header_bytes(batch: Batch) -> int:
    """How many bytes stand before the data in the answer to a READ."""
    return _NBD_CHUNK_SIZE + 8 if batch.structured else _NBD_REPLY_SIZE


def nbd_read_replies(batch: Batch, mask: int) -> bytearray:
    """The good replies for these READs, each with room for its data; each record's `data` then says where that is."""
    assert 0 <= mask <= batch.all
    out = bytearray(nbd_read_header_bytes(batch) * mask.bit_count() + records_length_sum(batch, mask))
    lib.pydrbd_nbd_read_replies(batch.records, batch.count, mask, batch.structured, writable(out))
    return out


class NbdCommands(NamedTuple):
    """Masks: which members are which NBD command, and which of them have the flag FUA."""

    read: int
    write: int
    disc: int
    flush: int
    trim: int
    zeroes: int
    other: int
    fua: int


def nbd_commands(batch: Batch, mask: int) -> NbdCommands:
    """Sorts these members by command."""
    out = new("struct pydrbd_nbd_commands *")
    lib.pydrbd_nbd_commands(batch.records, batch.count, mask, out)
    return NbdCommands(out.read, out.write, out.disc, out.flush, out.trim, out.zeroes, out.other, out.fua)


def drbd_split(
    buffer: WritableBuffer,
    start: int,
    end: int,
    format: int,
    digest_size: int,
    payload_max: int,
    room: int = BATCH_RECORDS_MAX,
) -> tuple[Batch, int, int]:
    """Splits buffer[start:end] into at most `room` DRBD packets: (batch, consumed, need), as nbd_split.

    A format of 100 takes h100 headers; 80 and 95 take h80 and h95. `digest_size` is that of data packets on this
    connection. Raises PeerProtocolError for a wrong header, and for a payload that is too short for its packet, too
    long for it or for `payload_max`, or covers no whole number of sectors. Whether a packet number is known, and fits
    the socket, is not looked at.
    """
    records, sizes = new_records(), new("size_t[2]")
    batch = Batch(buffer, records, 0)
    assert 0 <= start <= end <= batch.size_bytes, f"{start} to {end} of {batch.size_bytes} bytes"
    assert format in _FORMATS and 0 <= digest_size <= _DIGEST_BYTES_MAX and 0 < room <= BATCH_RECORDS_MAX
    count = lib.pydrbd_drbd_split(
        batch.pointer, start, end, format, digest_size, payload_max, records, room, sizes, sizes + 1
    )
    if count < 0:
        what = "header" if count == E_MAGIC else "payload length or range"
        raise PeerProtocolError(f"a packet with a wrong {what}: {bytes(buffer[start : min(start + 44, end)]).hex()}")
    batch.resize(count)
    return batch, sizes[0], sizes[1]


def drbd_data_headers(
    batch: Batch,
    mask: int,
    *,
    format: int,
    volume: int,
    first_id: int,
    first_seq: int,
    dp_flags: int,
    digest_size: int = 0,
) -> bytearray:
    """The P_DATA, P_TRIM and P_ZEROES packets for NBD WRITE, TRIM and WRITE_ZEROES, without digests and data.

    They come one after the other: header and 24 bytes for P_DATA, header and 28 bytes for the others. A member's
    block_id is first_id + its index in the batch; seq_num counts up from first_seq; dp_flags of the command and FUA
    are added. Other commands are left out. Members must be aligned to sectors.
    """
    assert 0 <= mask <= batch.all and format in _FORMATS and 0 <= digest_size <= _DIGEST_BYTES_MAX
    assert not records_unaligned(batch, mask, SECTOR_SIZE_BYTES), "a write that is no whole number of sectors"
    assert format != 80 or all(batch.records[i].length <= _H80_DATA_MAX for i in indices(mask))
    out = bytearray(_DATA_HEADER_SIZE_MAX * mask.bit_count())
    used = lib.pydrbd_drbd_data_headers(
        batch.records, batch.count, mask, format, volume, first_id, first_seq, dp_flags, digest_size, writable(out)
    )
    return out[:used]


def drbd_acks(batch: Batch, mask: int, *, format: int, packet: int, first_seq: int) -> bytearray:
    """Acknowledgement packets (p_block_ack) that echo these members' place, id, length and volume."""
    assert 0 <= mask <= batch.all and format in _FORMATS
    out = bytearray(_ACK_SIZE_MAX * mask.bit_count())
    used = lib.pydrbd_drbd_acks(batch.records, batch.count, mask, format, packet, first_seq, writable(out))
    return out[:used]


def drbd_requests(batch: Batch, mask: int, *, format: int, volume: int, packet: int, block_id: int) -> bytearray:
    """Requests (p_block_req) for these members' places."""
    assert 0 <= mask <= batch.all and format in _FORMATS
    out = bytearray(_ACK_SIZE_MAX * mask.bit_count())
    used = lib.pydrbd_drbd_requests(batch.records, batch.count, mask, format, volume, packet, block_id, writable(out))
    return out[:used]


def drbd_reply_headers(batch: Batch, mask: int, *, format: int, volume: int, packet: int) -> None:
    """Puts a reply's header and p_data right before each member's payload, into the batch's buffer."""
    assert 0 <= mask <= batch.all and format in _FORMATS
    without_room = lib.pydrbd_drbd_reply_headers(
        batch.records, batch.count, mask, format, volume, packet, batch.pointer, batch.size_bytes
    )
    assert not without_room, f"no room before members {without_room:#x} of {batch!r}"
