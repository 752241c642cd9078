"""All DRBD packets in one place, and one function that decodes any of them.

The classes are in packets_handshake, packets_volume, packets_state and packets_data; the numbers in packet_numbers.
Each class has `encode() -> bytes` (the payload without header) and `decode(payload, ...)`, which raises
PeerProtocolError. Where the bytes depend on what both sides agreed, `decode` takes that as arguments and
`decode_packet` takes them from a `WireContext`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydrbd.errors import PeerProtocolError
from pydrbd.wire.packet_numbers import Feature, Packet, packet_name
from pydrbd.wire.packets_data import Barrier, BarrierAck, BlockAck, BlockDesc, BlockReq, Data, DigestReq, Trim
from pydrbd.wire.packets_handshake import AuthChallenge, AuthResponse, Features, Protocol
from pydrbd.wire.packets_state import (
    BitmapPlain,
    CompressedBitmap,
    DelayProbe,
    Empty,
    State,
    StateChgReply,
    StateChgReq,
    SyncUuid,
)
from pydrbd.wire.packets_volume import QueueLimits, ResyncController, Sizes, SyncParam, Uuids
from pydrbd.wire.payload import Buffer

__all__ = [
    "AnyPacket",
    "AuthChallenge",
    "AuthResponse",
    "Barrier",
    "BarrierAck",
    "BitmapPlain",
    "BlockAck",
    "BlockDesc",
    "BlockReq",
    "CompressedBitmap",
    "Data",
    "DelayProbe",
    "DigestReq",
    "Empty",
    "Features",
    "Packet",
    "Protocol",
    "QueueLimits",
    "ResyncController",
    "Sizes",
    "State",
    "StateChgReply",
    "StateChgReq",
    "SyncParam",
    "SyncUuid",
    "Trim",
    "Uuids",
    "WireContext",
    "decode_packet",
]

AnyPacket = (
    AuthChallenge
    | AuthResponse
    | Barrier
    | BarrierAck
    | BitmapPlain
    | BlockAck
    | BlockDesc
    | BlockReq
    | CompressedBitmap
    | Data
    | DelayProbe
    | DigestReq
    | Empty
    | Features
    | Protocol
    | Sizes
    | State
    | StateChgReply
    | StateChgReq
    | SyncParam
    | SyncUuid
    | Trim
    | Uuids
)


@dataclass(frozen=True, slots=True)
class WireContext:
    """What both sides agreed and the meaning of payloads depends on. Digest sizes in bytes, as the *sender* has them.

    None for verify and csums takes any digest length.
    """

    apv: int
    features: int
    integrity_digest_size: int = 0
    verify_digest_size: int | None = None
    csums_digest_size: int | None = None


_Decoder = Callable[[Buffer, Packet, WireContext], AnyPacket]


def _decoders() -> dict[int, _Decoder]:
    p = Packet
    table: dict[int, _Decoder] = {
        p.P_CONNECTION_FEATURES: lambda payload, _packet, _context: Features.decode(payload),
        p.P_AUTH_CHALLENGE: lambda payload, _packet, _context: AuthChallenge.decode(payload),
        p.P_AUTH_RESPONSE: lambda payload, _packet, _context: AuthResponse.decode(payload),
        p.P_PROTOCOL: lambda payload, packet, context: Protocol.decode(payload, context.apv, packet),
        p.P_PROTOCOL_UPDATE: lambda payload, packet, context: Protocol.decode(payload, context.apv, packet),
        p.P_SYNC_PARAM: _decode_sync_param,
        p.P_SYNC_PARAM89: _decode_sync_param,
        p.P_SIZES: lambda payload, _packet, context: Sizes.decode(
            payload, with_queue_limits=bool(context.features & Feature.WSAME)
        ),
        p.P_UUIDS: lambda payload, _packet, _context: Uuids.decode(payload),
        p.P_STATE: lambda payload, _packet, _context: State.decode(payload),
        p.P_SYNC_UUID: lambda payload, _packet, _context: SyncUuid.decode(payload),
        p.P_DELAY_PROBE: lambda payload, _packet, _context: DelayProbe.decode(payload),
        p.P_BITMAP: lambda payload, _packet, _context: BitmapPlain.decode(payload),
        p.P_COMPRESSED_BITMAP: lambda payload, _packet, _context: CompressedBitmap.decode(payload),
        p.P_BARRIER: lambda payload, _packet, _context: Barrier.decode(payload),
        p.P_BARRIER_ACK: lambda payload, _packet, _context: BarrierAck.decode(payload),
        p.P_OV_REPLY: lambda payload, packet, context: DigestReq.decode(payload, packet, context.verify_digest_size),
        p.P_CSUM_RS_REQUEST: lambda payload, packet, context: DigestReq.decode(
            payload, packet, context.csums_digest_size
        ),
    }
    same: tuple[tuple[Callable[[Buffer, Packet], AnyPacket], tuple[Packet, ...]], ...] = (
        (Empty.decode, (p.P_PING, p.P_PING_ACK, p.P_UNPLUG_REMOTE, p.P_INITIAL_DATA, p.P_INITIAL_META)),
        (StateChgReq.decode, (p.P_STATE_CHG_REQ, p.P_CONN_ST_CHG_REQ)),
        (StateChgReply.decode, (p.P_STATE_CHG_REPLY, p.P_CONN_ST_CHG_REPLY)),
        (Trim.decode, (p.P_TRIM, p.P_ZEROES)),
        (BlockReq.decode, (p.P_DATA_REQUEST, p.P_RS_DATA_REQUEST, p.P_RS_THIN_REQ, p.P_OV_REQUEST)),
        (BlockDesc.decode, (p.P_OUT_OF_SYNC, p.P_RS_DEALLOCATED)),
        (BlockAck.decode, (p.P_RECV_ACK, p.P_WRITE_ACK, p.P_RS_WRITE_ACK, p.P_SUPERSEDED, p.P_NEG_ACK)),
        (BlockAck.decode, (p.P_NEG_DREPLY, p.P_NEG_RS_DREPLY, p.P_OV_RESULT, p.P_RS_IS_IN_SYNC, p.P_RS_CANCEL)),
        (BlockAck.decode, (p.P_RETRY_WRITE,)),
    )
    for decode, packets in same:
        table |= dict.fromkeys(packets, _without_context(decode))
    table |= dict.fromkeys((p.P_DATA, p.P_DATA_REPLY, p.P_RS_DATA_REPLY), _decode_data)
    return table


def _without_context(decode: Callable[[Buffer, Packet], AnyPacket]) -> _Decoder:
    return lambda payload, packet, _context: decode(payload, packet)


def _decode_data(payload: Buffer, packet: Packet, context: WireContext) -> AnyPacket:
    return Data.decode(payload, context.integrity_digest_size, packet)


def _decode_sync_param(payload: Buffer, packet: Packet, context: WireContext) -> AnyPacket:
    expected = SyncParam.packet_for(context.apv)
    if packet != expected:
        raise PeerProtocolError(
            f"the peer sent {packet.name}, which does not belong to protocol version {context.apv}: "
            f"expected {expected.name}"
        )
    return SyncParam.decode(payload, context.apv)


_DECODERS: Final = _decoders()


def decode_packet(command: int, payload: Buffer, context: WireContext) -> AnyPacket:
    """The value of any packet; raises PeerProtocolError if it is malformed or of a kind that nobody may send."""
    decoder = _DECODERS.get(command)
    if decoder is None:
        raise PeerProtocolError(f"the peer sent {packet_name(command)}, which this side has no use for")
    return decoder(payload, Packet(command), context)
