"""Twins of frames_nbd.c and frames_drbd.c: one request, one packet at a time, with `struct`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from pydrbd.errors import ClientProtocolError, PeerProtocolError
from pydrbd.limits import BATCH_RECORDS_MAX
from pydrbd.reference.records import Record, chosen, mask_where, records_with_command
from pydrbd.units import SECTOR_SIZE_BYTES

__all__ = [
    "drbd_acks",
    "drbd_data_headers",
    "drbd_reply_headers",
    "drbd_requests",
    "drbd_split",
    "nbd_commands",
    "nbd_read_replies",
    "nbd_replies",
    "nbd_split",
]

Bytes = bytes | bytearray
Split = tuple[list[Record], int, int]

READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FLAG_FUA, FLAG_NO_HOLE = 1, 2
DP_FUA, DP_DISCARD, DP_ZEROES = 16, 64, 1024

_DATA: Final = {0x00, 0x01, 0x02}
_TRIM, _WSAME, _ZEROES = 0x31, 0x34, 0x36
_ACKS: Final = {*range(0x15, 0x1C), 0x20, 0x22, 0x29, 0x2C}
_REQUESTS: Final = {0x08, 0x09, 0x1E, 0x32}
_REQUESTS_WITH_DIGEST: Final = {0x1F, 0x21}
_DESCRIPTIONS: Final = {0x28, 0x33}


class _Incomplete(Exception):
    def __init__(self, need: int) -> None:
        self.need = need


def _split(read_one: Callable[[int], tuple[Record, int]], start: int, end: int, room: int) -> Split:
    """Reads records until one is incomplete, or wrong: then that is raised, if it is the first."""
    records: list[Record] = []
    at = start
    while at < end and len(records) < room:
        try:
            record, size = read_one(at)
        except _Incomplete as incomplete:
            return records, at - start, incomplete.need
        except (ClientProtocolError, PeerProtocolError):
            if not records:
                raise
            break
        records.append(record)
        at += size
    return records, at - start, 0


# --- NBD ---


def nbd_split(buffer: Bytes, start: int, end: int, length_max: int) -> Split:
    """(records, consumed, need) of buffer[start:end]. Raises ClientProtocolError."""

    def read_one(at: int) -> tuple[Record, int]:
        if end - at < 28:
            raise _Incomplete(28)
        magic, flags, command, cookie, offset, length = struct.unpack_from(">IHHQQI", buffer, at)
        if magic != 0x25609513:
            raise ClientProtocolError("magic")
        payload = length if command == WRITE else 0
        if payload > length_max:
            raise ClientProtocolError("length")
        if end - at < 28 + payload:
            raise _Incomplete(28 + payload)
        record = Record(offset=offset, id=cookie, data=at + 28, length=length, flags=flags, command=command)
        return record, 28 + payload

    return _split(read_one, start, end, BATCH_RECORDS_MAX)


def _nbd_chunk(record: Record, type: int, payload: bytes, more_bytes: int = 0) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, 1, type, record.id, len(payload) + more_bytes) + payload


def _nbd_reply(record: Record, error: int, structured: bool) -> bytes:
    if not structured or record.command != READ:
        return struct.pack(">IIQ", 0x67446698, error, record.id)
    return _nbd_chunk(record, 32769, struct.pack(">IH", error, 0)) if error else _nbd_chunk(record, 0, b"")


def nbd_replies(records: Sequence[Record], mask: int, error: int = 0, *, structured: bool = False) -> bytes:
    """The replies without data for these members."""
    return b"".join(_nbd_reply(record, error, structured) for _, record in chosen(records, mask))


def nbd_read_replies(records: Sequence[Record], mask: int, *, structured: bool = False) -> bytes:
    """The good replies with room for their data; the records learn where that is."""
    out = b""
    for _index, record in chosen(records, mask):
        offset = struct.pack(">Q", record.offset)
        out += _nbd_chunk(record, 1, offset, record.length) if structured else _nbd_reply(record, 0, False)
        record.data = len(out)
        out += bytes(record.length)
    return out


def nbd_commands(records: Sequence[Record], mask: int) -> tuple[int, ...]:
    """The masks of native.NbdCommands."""
    known = [records_with_command(records, mask, command) for command in (READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES)]
    fua = mask_where(records, mask, lambda record: record.flags & FLAG_FUA != 0)
    return (*known, mask & ~sum(known), fua)


# --- DRBD, receiving ---


def _need(condition: bool) -> None:
    if not condition:
        raise PeerProtocolError("length")


def _header(buffer: Bytes, at: int, format: int) -> tuple[Record, int, int]:
    """A record with command and volume, the header's size, the payload's length."""
    if format == 100:
        magic, volume, command, length, zero = struct.unpack_from(">IHHII", buffer, at)
        if magic == 0x8620EC20 and zero == 0:
            return Record(volume=volume, command=command), 16, length
    else:
        magic, command, length = struct.unpack_from(">IHH", buffer, at)
        if magic == 0x83740267:
            return Record(command=command), 8, length
        short_magic, command, length = struct.unpack_from(">HHI", buffer, at)
        if short_magic == 0x835A:
            return Record(command=command), 8, length
    raise PeerProtocolError("magic")


def _read_payload(record: Record, payload: bytes, digest_size: int) -> None:
    """Fills the record from its packet's payload; `data` counts from there."""
    command, sector, rest = record.command, 0, len(payload)
    if command in _DATA:
        rest -= 24 + digest_size
        _need(rest >= 0)
        sector, record.id, record.seq, record.flags = struct.unpack_from(">QQII", payload)
        record.digest, record.data, record.length = digest_size, 24 + digest_size, rest
    elif command in {_TRIM, _ZEROES, _WSAME}:
        digest_size = digest_size if command == _WSAME else 0
        rest -= 28 + digest_size
        _need(rest > 0 and rest % SECTOR_SIZE_BYTES == 0 if command == _WSAME else rest == 0)
        sector, record.id, record.seq, record.flags, record.length = struct.unpack_from(">QQIII", payload)
        record.digest, record.data, record.block = digest_size, 28 + digest_size, rest
    elif command in _ACKS:
        _need(rest == 24)
        sector, record.id, record.length, record.seq = struct.unpack(">QQII", payload)
        record.data = 24
    elif command in _REQUESTS | _REQUESTS_WITH_DIGEST:
        _need(rest >= 24 if command in _REQUESTS_WITH_DIGEST else rest == 24)
        sector, record.id, record.length = struct.unpack_from(">QQI", payload)
        record.data, record.digest = 24, rest - 24
    elif command in _DESCRIPTIONS:
        _need(rest == 16)
        sector, record.length = struct.unpack_from(">QI", payload)
        record.data = 16
    else:
        record.length = rest
        return
    _need(command in _ACKS or record.length % SECTOR_SIZE_BYTES == 0)
    record.offset = sector * SECTOR_SIZE_BYTES
    _need(record.offset < 1 << 64)


def drbd_split(
    buffer: Bytes,
    start: int,
    end: int,
    format: int,
    digest_size: int,
    payload_max: int,
    room: int = BATCH_RECORDS_MAX,
) -> Split:
    """(records, consumed, need) of buffer[start:end]. Raises PeerProtocolError."""

    def read_one(at: int) -> tuple[Record, int]:
        if end - at < (16 if format == 100 else 8):
            raise _Incomplete(16 if format == 100 else 8)
        record, header_size, length = _header(buffer, at, format)
        _need(length <= payload_max)
        if end - at < header_size + length:
            raise _Incomplete(header_size + length)
        _read_payload(record, bytes(buffer[at + header_size : at + header_size + length]), digest_size)
        record.data += at + header_size
        return record, header_size + length

    return _split(read_one, start, end, room)


# --- DRBD, sending ---


def _encode_header(format: int, volume: int, command: int, length: int) -> bytes:
    if format == 100:
        return struct.pack(">IHHII", 0x8620EC20, volume, command, length, 0)
    if format == 95 and length > 32768:
        return struct.pack(">HHI", 0x835A, command, length)
    return struct.pack(">IHH", 0x83740267, command, length)


def drbd_data_headers(
    records: Sequence[Record],
    mask: int,
    *,
    format: int,
    volume: int,
    first_id: int,
    first_seq: int,
    dp_flags: int,
    digest_size: int = 0,
) -> bytes:
    """P_DATA, P_TRIM and P_ZEROES for NBD WRITE, TRIM and WRITE_ZEROES, without digests and data."""
    out = b""
    for index, record in chosen(records, mask):
        flags = dp_flags | (DP_FUA if record.flags & FLAG_FUA else 0)
        if record.command == WRITE:
            out += _encode_header(format, volume, 0x00, 24 + digest_size + record.length)
        elif record.command == TRIM:
            flags |= DP_DISCARD
            out += _encode_header(format, volume, _TRIM, 28)
        elif record.command == WRITE_ZEROES:
            flags |= DP_ZEROES | (0 if record.flags & FLAG_NO_HOLE else DP_DISCARD)
            out += _encode_header(format, volume, _ZEROES, 28)
        else:
            continue
        out += struct.pack(">QQII", record.offset // SECTOR_SIZE_BYTES, first_id + index, first_seq, flags)
        if record.command != WRITE:
            out += struct.pack(">I", record.length)
        first_seq = (first_seq + 1) % (1 << 32)
    return out


def drbd_acks(records: Sequence[Record], mask: int, *, format: int, packet: int, first_seq: int) -> bytes:
    """p_block_ack packets that echo these members."""
    out = b""
    for position, (_, record) in enumerate(chosen(records, mask)):
        seq = (first_seq + position) % (1 << 32)
        out += _encode_header(format, record.volume, packet, 24)
        out += struct.pack(">QQII", record.offset // SECTOR_SIZE_BYTES, record.id, record.length, seq)
    return out


def drbd_requests(
    records: Sequence[Record], mask: int, *, format: int, volume: int, packet: int, block_id: int
) -> bytes:
    """p_block_req packets for these members' places."""
    out = b""
    for _, record in chosen(records, mask):
        out += _encode_header(format, volume, packet, 24)
        out += struct.pack(">QQII", record.offset // SECTOR_SIZE_BYTES, block_id, record.length, 0)
    return out


def drbd_reply_headers(
    buffer: bytearray, records: Sequence[Record], mask: int, *, format: int, volume: int, packet: int
) -> None:
    """A reply's header and p_data right before each member's payload."""
    for _, record in chosen(records, mask):
        header = _encode_header(format, volume, packet, 24 + record.length)
        header += struct.pack(">QQQ", record.offset // SECTOR_SIZE_BYTES, record.id, 0)
        buffer[record.data - len(header) : record.data] = header
