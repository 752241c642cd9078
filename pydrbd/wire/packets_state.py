"""The packets of states, cluster-wide state changes and bitmaps, and those without a payload.

All integers are big-endian. A decoded value keeps every byte: `X.decode(b).encode() == b`.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Self

from pydrbd.wire.packet_numbers import Packet
from pydrbd.wire.payload import Buffer, check_length, malformed, unpack_exact

__all__ = [
    "RLE_VLI_BITS",
    "WORD_BYTES",
    "BitmapPlain",
    "CompressedBitmap",
    "DelayProbe",
    "Empty",
    "State",
    "StateChgReply",
    "StateChgReq",
    "SyncUuid",
]

RLE_VLI_BITS: Final = 2
"""The only bitmap code in use: run lengths as variable-length integers."""
WORD_BYTES: Final = 8
"""A bitmap travels in words of 64 bits."""


@dataclass(frozen=True, slots=True)
class Empty:
    """P_PING, P_PING_ACK, P_UNPLUG_REMOTE, P_INITIAL_DATA, P_INITIAL_META: no payload."""

    packet: Packet

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, payload: Buffer, packet: Packet) -> Self:
        check_length(packet, payload, 0)
        return cls(packet)


@dataclass(frozen=True, slots=True)
class State:
    """P_STATE: the sender's state word.

    0   4  word
    """

    word: int

    LAYOUT: ClassVar = Struct(">I")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.word)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        return cls(*unpack_exact(Packet.P_STATE, cls.LAYOUT, payload))


@dataclass(frozen=True, slots=True)
class SyncUuid:
    """P_SYNC_UUID: the generation that a resync makes.

    0   8  uuid
    """

    uuid: int

    LAYOUT: ClassVar = Struct(">Q")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.uuid)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        return cls(*unpack_exact(Packet.P_SYNC_UUID, cls.LAYOUT, payload))


@dataclass(frozen=True, slots=True)
class StateChgReq:
    """P_STATE_CHG_REQ, P_CONN_ST_CHG_REQ: state words in the sender's perspective.

    0   4  mask   the bits to change
    4   4  value  what they become
    """

    mask: int
    value: int

    LAYOUT: ClassVar = Struct(">II")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.mask, self.value)

    @classmethod
    def decode(cls, payload: Buffer, packet: Packet = Packet.P_STATE_CHG_REQ) -> Self:
        return cls(*unpack_exact(packet, cls.LAYOUT, payload))


@dataclass(frozen=True, slots=True)
class StateChgReply:
    """P_STATE_CHG_REPLY, P_CONN_ST_CHG_REPLY: granted if >= 1, else why not (SS_...).

    0   4  retcode   signed
    """

    retcode: int

    LAYOUT: ClassVar = Struct(">i")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.retcode)

    @classmethod
    def decode(cls, payload: Buffer, packet: Packet = Packet.P_STATE_CHG_REPLY) -> Self:
        return cls(*unpack_exact(packet, cls.LAYOUT, payload))


@dataclass(frozen=True, slots=True)
class DelayProbe:
    """P_DELAY_PROBE: accepted on both sockets and ignored.

    0   4  seq_num
    4   4  offset
    """

    seq_num: int
    offset: int

    LAYOUT: ClassVar = Struct(">II")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.seq_num, self.offset)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        return cls(*unpack_exact(Packet.P_DELAY_PROBE, cls.LAYOUT, payload))


@dataclass(frozen=True, slots=True)
class BitmapPlain:
    """P_BITMAP: little-endian 64-bit words, that is the bitmap's bytes in order; empty at the end of a bitmap.

    How many words each packet carries is fixed, see bitmap_code.
    """

    words: bytes

    def encode(self) -> bytes:
        return self.words

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        if len(payload) % WORD_BYTES:
            raise malformed(Packet.P_BITMAP, "payload length in bytes", f"a multiple of {WORD_BYTES}", len(payload))
        return cls(bytes(payload))


@dataclass(frozen=True, slots=True)
class CompressedBitmap:
    """P_COMPRESSED_BITMAP: run lengths of alternating polarity, coded (native.vli_decode).

    0   1  encoding   bits 0-3: 2, the code; bits 4-6: pad_bits; bit 7: polarity
    1   n  code       at least one byte; the last pad_bits bits of the last byte are unused
    """

    code: bytes
    pad_bits: int
    polarity: int

    def encode(self) -> bytes:
        assert 0 <= self.pad_bits < 8 and self.polarity in (0, 1) and self.code
        return bytes([self.polarity << 7 | self.pad_bits << 4 | RLE_VLI_BITS]) + self.code

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        if len(payload) < 2:
            raise malformed(Packet.P_COMPRESSED_BITMAP, "payload length in bytes", "2 or more", len(payload))
        encoding = payload[0]
        if encoding & 0xF != RLE_VLI_BITS:
            raise malformed(Packet.P_COMPRESSED_BITMAP, "code", RLE_VLI_BITS, encoding & 0xF)
        return cls(bytes(payload[1:]), pad_bits=encoding >> 4 & 7, polarity=encoding >> 7)


assert State.LAYOUT.size == 4
assert SyncUuid.LAYOUT.size == 8
assert StateChgReq.LAYOUT.size == 8
assert StateChgReply.LAYOUT.size == 4
assert DelayProbe.LAYOUT.size == 8
