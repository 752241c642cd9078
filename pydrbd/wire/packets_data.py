"""The packets that move and acknowledge blocks: writes, reads, resync, verify, barriers.

All integers are big-endian; a sector has 512 bytes. block_id and barrier are opaque to the receiver: read and echoed as
big-endian numbers whatever their sender meant. A decoded value keeps every byte: `X.decode(b).encode() == b`.

The hot path does not come through here: native.drbd_split reads many packets at once. These classes are for everything
else, and say what the bytes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Self

from pydrbd.limits import DISCARD_BYTES_MAX, DRBD_IO_BYTES_MAX
from pydrbd.wire.packet_numbers import DIGEST_BYTES_MAX, Packet
from pydrbd.wire.payload import Buffer, check_size, malformed, unpack_exact

__all__ = [
    "Barrier",
    "BarrierAck",
    "BlockAck",
    "BlockDesc",
    "BlockReq",
    "Data",
    "DigestReq",
    "Trim",
]


@dataclass(frozen=True, slots=True)
class Data:
    """P_DATA, P_DATA_REPLY, P_RS_DATA_REPLY.

       0   8  sector
       8   8  block_id
      16   4  seq_num     0 in replies
      20   4  dp_flags    DpFlag; 0 in replies
      24   d  digest      if data-integrity-alg is set
    24+d   n  data        whole sectors, up to 1 MiB
    """

    sector: int
    block_id: int
    seq_num: int
    dp_flags: int
    data: bytes
    digest: bytes = b""

    LAYOUT: ClassVar = Struct(">QQII")

    def encode(self) -> bytes:
        fixed = self.LAYOUT.pack(self.sector, self.block_id, self.seq_num, self.dp_flags)
        return b"".join((fixed, self.digest, self.data))

    @classmethod
    def decode(cls, payload: Buffer, digest_size: int = 0, packet: Packet = Packet.P_DATA) -> Self:
        """`digest_size`: of the peer's data-integrity-alg, 0 without. An empty P_DATA is allowed (an empty flush)."""
        data_start = cls.LAYOUT.size + digest_size
        if len(payload) < data_start:
            raise malformed(packet, "payload length in bytes", f"{data_start} or more", len(payload))
        zero_allowed = packet == Packet.P_DATA
        check_size(packet, len(payload) - data_start, DRBD_IO_BYTES_MAX, zero_allowed=zero_allowed)
        digest, data = bytes(payload[cls.LAYOUT.size : data_start]), bytes(payload[data_start:])
        return cls(*(*cls.LAYOUT.unpack_from(payload), data, digest))


@dataclass(frozen=True, slots=True)
class Trim:
    """P_TRIM and P_ZEROES: never with a digest.

     0   8  sector
     8   8  block_id
    16   4  seq_num
    20   4  dp_flags    DpFlag.DISCARD, or ZEROES with or without DISCARD
    24   4  size        bytes, up to 128 MiB
    """

    sector: int
    block_id: int
    seq_num: int
    dp_flags: int
    size: int

    LAYOUT: ClassVar = Struct(">QQIII")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.sector, self.block_id, self.seq_num, self.dp_flags, self.size)

    @classmethod
    def decode(cls, payload: Buffer, packet: Packet = Packet.P_TRIM) -> Self:
        trim = cls(*unpack_exact(packet, cls.LAYOUT, payload))
        check_size(packet, trim.size, DISCARD_BYTES_MAX)
        return trim


@dataclass(frozen=True, slots=True)
class BlockReq:
    """P_DATA_REQUEST, P_RS_DATA_REQUEST, P_RS_THIN_REQ, P_OV_REQUEST.

     0   8  sector
     8   8  block_id    ID_SYNCER except in P_DATA_REQUEST
    16   4  blksize     bytes, up to 1 MiB
    20   4  pad         a kernel leaves rubbish in it
    """

    sector: int
    block_id: int
    blksize: int
    pad: int = 0

    LAYOUT: ClassVar = Struct(">QQII")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.sector, self.block_id, self.blksize, self.pad)

    @classmethod
    def decode(cls, payload: Buffer, packet: Packet = Packet.P_DATA_REQUEST) -> Self:
        request = cls(*unpack_exact(packet, cls.LAYOUT, payload))
        check_size(packet, request.blksize, DRBD_IO_BYTES_MAX)
        return request


@dataclass(frozen=True, slots=True)
class DigestReq:
    """P_OV_REPLY (verify-alg) and P_CSUM_RS_REQUEST (csums-alg): a request with a digest over the sender's data.

     0   8  sector
     8   8  block_id    ID_SYNCER
    16   4  blksize     bytes, up to 1 MiB
    20   4  pad         a kernel leaves rubbish in it
    24   n  digest      all zero in P_OV_REPLY: the read failed
    """

    sector: int
    block_id: int
    blksize: int
    digest: bytes
    pad: int = 0

    LAYOUT: ClassVar = BlockReq.LAYOUT

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.sector, self.block_id, self.blksize, self.pad) + self.digest

    @classmethod
    def decode(cls, payload: Buffer, packet: Packet, digest_size: int | None = None) -> Self:
        """`digest_size`: of the algorithm agreed for this packet; None takes whatever is there."""
        fixed_size = cls.LAYOUT.size
        shortest, longest = (1, DIGEST_BYTES_MAX) if digest_size is None else (digest_size, digest_size)
        if not shortest <= len(payload) - fixed_size <= longest:
            raise malformed(packet, "digest length in bytes", f"{shortest} to {longest}", len(payload) - fixed_size)
        sector, block_id, blksize, pad = cls.LAYOUT.unpack_from(payload)
        check_size(packet, blksize, DRBD_IO_BYTES_MAX)
        return cls(sector, block_id, blksize, bytes(payload[fixed_size:]), pad)


@dataclass(frozen=True, slots=True)
class BlockAck:
    """P_RECV_ACK, P_WRITE_ACK, P_RS_WRITE_ACK, P_SUPERSEDED, P_NEG_ACK, P_NEG_DREPLY, P_NEG_RS_DREPLY, P_OV_RESULT,
    P_RS_IS_IN_SYNC, P_RS_CANCEL, P_RETRY_WRITE.

        0   8  sector
        8   8  block_id    echoed; OV_IN_SYNC or OV_OUT_OF_SYNC in P_OV_RESULT; rubbish in P_RS_IS_IN_SYNC
       16   4  blksize     bytes, up to 128 MiB (of a discard)
       20   4  seq_num
    """

    sector: int
    block_id: int
    blksize: int
    seq_num: int

    LAYOUT: ClassVar = Struct(">QQII")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.sector, self.block_id, self.blksize, self.seq_num)

    @classmethod
    def decode(cls, payload: Buffer, packet: Packet = Packet.P_WRITE_ACK) -> Self:
        ack = cls(*unpack_exact(packet, cls.LAYOUT, payload))
        check_size(packet, ack.blksize, DISCARD_BYTES_MAX, zero_allowed=True)
        return ack


@dataclass(frozen=True, slots=True)
class BlockDesc:
    """P_OUT_OF_SYNC and P_RS_DEALLOCATED.

     0   8  sector
     8   4  blksize    bytes, up to 128 MiB
    12   4  pad        a kernel leaves rubbish in it
    """

    sector: int
    blksize: int
    pad: int = 0

    LAYOUT: ClassVar = Struct(">QII")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.sector, self.blksize, self.pad)

    @classmethod
    def decode(cls, payload: Buffer, packet: Packet = Packet.P_OUT_OF_SYNC) -> Self:
        desc = cls(*unpack_exact(packet, cls.LAYOUT, payload))
        check_size(packet, desc.blksize, DISCARD_BYTES_MAX)
        return desc


@dataclass(frozen=True, slots=True)
class Barrier:
    """P_BARRIER: the end of an epoch of writes.

    0   4  barrier    opaque
    4   4  pad        0
    """

    barrier: int
    pad: int = 0

    LAYOUT: ClassVar = Struct(">II")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.barrier, self.pad)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        return cls(*unpack_exact(Packet.P_BARRIER, cls.LAYOUT, payload))


@dataclass(frozen=True, slots=True)
class BarrierAck:
    """P_BARRIER_ACK: all writes of an epoch are done.

    0   4  barrier     echoed
    4   4  set_size    how many writes the epoch had, over all volumes
    """

    barrier: int
    set_size: int

    LAYOUT: ClassVar = Struct(">II")

    def encode(self) -> bytes:
        return self.LAYOUT.pack(self.barrier, self.set_size)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        return cls(*unpack_exact(Packet.P_BARRIER_ACK, cls.LAYOUT, payload))


assert Data.LAYOUT.size == 24
assert Trim.LAYOUT.size == 28
assert BlockReq.LAYOUT.size == 24
assert BlockAck.LAYOUT.size == 24
assert BlockDesc.LAYOUT.size == 16
assert Barrier.LAYOUT.size == 8
assert BarrierAck.LAYOUT.size == 8
