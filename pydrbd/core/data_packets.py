"""The packets that carry data, or stand for it: a client's writes, the blocks that the peer has asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.effects import Part, Reply
from pydrbd.core.volume import Volume
from pydrbd.core.write_batch import WriteBatch
from pydrbd.native import Batch
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire import nbd
from pydrbd.wire.framing import encode_packet
from pydrbd.wire.packet_numbers import DpFlag
from pydrbd.wire.packets import BlockDesc, Data, Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = [
    "block_parts",
    "deallocated_parts",
    "failed_reply",
    "out_of_sync_parts",
    "reply_head_bytes",
    "spaced_parts",
    "write_parts",
]

_P_DATA_BYTES = 24
_COMMAND_AT, _DP_FLAGS_AT = 6, 16 + 20  # in a packet of protocol 100 and later, the only ones that we send


def write_parts(node: Node, write: WriteBatch, flags: DpFlag) -> list[Part]:
    """P_DATA, P_TRIM or P_ZEROES for each member of a client's write."""
    volume, batch, mask = write.volume, write.batch, write.mask
    headers = memoryview(
        native.drbd_data_headers(
            batch,
            mask,
            format=node.header_format,
            volume=volume.vnr,
            first_id=write.first_id,
            first_seq=volume.next_seq(mask.bit_count()),
            dp_flags=int(flags),
            digest_size=node.digest_bytes,
        )
    )
    parts: list[Part] = []
    data, integrity = memoryview(batch.buffer), node.integrity
    position = 0
    for record in (batch.records[index] for index in native.indices(mask)):
        if record.command == nbd.Command.WRITE:
            end = position + node.header_bytes + 24
            parts.append(headers[position:end])
            block = data[record.data : record.data + record.length]
            if integrity is not None:
                parts.append(integrity.compute(block))
            parts.append(block)
        else:
            end = position + node.header_bytes + 28
            if not node.zeroes_agreed:
                _make_trim(headers[position:end])
            parts.append(headers[position:end])
        position = end
    return parts


def block_parts(node: Node, packet: Packet, volume: Volume, batch: Batch, mask: int, buffer: bytearray) -> list[Part]:
    """P_DATA_REPLY or P_RS_DATA_REPLY for each member, with its data."""
    parts: list[Part] = []
    data, integrity = memoryview(buffer), node.integrity
    for index in native.indices(mask):
        record = batch.records[index]
        block = data[record.data : record.data + record.length]
        digest = b"" if integrity is None else integrity.compute(block)
        head = Data(record.offset // SECTOR_SIZE_BYTES, record.id, 0, 0, b"", digest).encode()
        header = encode_packet(packet, head, apv=node.apv, volume=volume.vnr)
        parts.append(_with_length(header, node.apv, len(head) + record.length))
        parts.append(block)
    return parts


def reply_head_bytes(node: Node) -> int:
    """What stands before the data in a reply, if it can be put there: room to leave in a buffer; 0 with digests."""
    return node.header_bytes + _P_DATA_BYTES if node.integrity is None else 0


def spaced_parts(node: Node, packet: Packet, volume: Volume, batch: Batch, mask: int) -> list[Part]:
    """As block_parts, of data that has such room in front of each member: neighbours are one part."""
    native.drbd_reply_headers(batch, mask, format=node.header_format, volume=volume.vnr, packet=packet)
    parts: list[Part] = []
    head_bytes, records = reply_head_bytes(node), batch.records
    while mask:
        first = (mask & -mask).bit_length() - 1
        run = mask & ~(mask + (1 << first))  # the ones from the lowest on, without a gap
        last = run.bit_length() - 1
        parts.append(batch.view[records[first].data - head_bytes : records[last].data + records[last].length])
        mask ^= run
    return parts


def out_of_sync_parts(node: Node, volume: Volume, batch: Batch, mask: int) -> list[Part]:
    """P_OUT_OF_SYNC for each member."""
    parts: list[Part] = []
    for index in native.indices(mask):
        record = batch.records[index]
        first = record.offset // SECTOR_SIZE_BYTES
        count = -(-(record.offset + record.length) // SECTOR_SIZE_BYTES) - first
        note = BlockDesc(first, count * SECTOR_SIZE_BYTES)
        parts.append(node.packet(Packet.P_OUT_OF_SYNC, note.encode(), volume.vnr))
    return parts


def deallocated_parts(node: Node, volume: Volume, batch: Batch, mask: int) -> list[Part]:
    """P_RS_DEALLOCATED for each member."""
    parts: list[Part] = []
    for record in (batch.records[index] for index in native.indices(mask)):
        note = BlockDesc(record.offset // SECTOR_SIZE_BYTES, record.length)
        parts.append(node.packet(Packet.P_RS_DEALLOCATED, note.encode(), volume.vnr))
    return parts


def _with_length(packet: bytes, apv: int, length: int) -> bytes:
    """A packet whose header announces more payload than stands here: the data follows by itself."""
    if apv >= 100:
        return packet[:8] + length.to_bytes(4, "big") + packet[12:]
    raise AssertionError("the data of an old protocol must be sent in one piece")


def _make_trim(packet: memoryview) -> None:
    """P_ZEROES or P_TRIM becomes the P_TRIM that means zeroes, as without the feature WZEROES (WIRE 4.1)."""
    packet[_COMMAND_AT : _COMMAND_AT + 2] = int(Packet.P_TRIM).to_bytes(2, "big")
    flags = int.from_bytes(packet[_DP_FLAGS_AT : _DP_FLAGS_AT + 4], "big")
    packet[_DP_FLAGS_AT : _DP_FLAGS_AT + 4] = (flags & ~DpFlag.ZEROES | DpFlag.DISCARD).to_bytes(4, "big")


def failed_reply(reply: Reply) -> Reply:
    """The same clients are told of an error instead."""
    return replace(reply, parts=[native.nbd_replies(reply.batch, reply.mask, nbd.NbdError.EIO)], speaks=False)
