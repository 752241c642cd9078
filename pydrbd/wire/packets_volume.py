"""The packets of the handshake that are about one volume: resync parameters, sizes, generation uuids.

All integers are big-endian. A decoded value keeps every byte, reserved ones too: `X.decode(b).encode() == b`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import ClassVar, Final, Self

from pydrbd.wire.packet_numbers import NAME_BYTES_MAX, Packet
from pydrbd.wire.payload import Buffer, check_length, malformed, pack_name, unpack_exact, unpack_name

__all__ = ["QueueLimits", "ResyncController", "Sizes", "SyncParam", "Uuids"]

_APV_VERIFY_NAME: Final = 88
_APV_SYNC_PARAM89: Final = 89
_APV_CONTROLLER: Final = 95


@dataclass(frozen=True, slots=True)
class ResyncController:
    """The last 16 bytes of P_SYNC_PARAM89 (apv >= 95): the parameters of the resync rate controller.

     0   4  c_plan_ahead     0.1 s
     4   4  c_delay_target   0.1 s
     8   4  c_fill_target    sectors
    12   4  c_max_rate       KiB/s
    """

    c_plan_ahead: int
    c_delay_target: int
    c_fill_target: int
    c_max_rate: int

    LAYOUT: ClassVar = Struct(">4I")


@dataclass(frozen=True, slots=True)
class SyncParam:
    """P_SYNC_PARAM (apv < 89) and P_SYNC_PARAM89: what the resync and verify of both sides must agree on.

      0   4  resync_rate      KiB/s
      4   -  verify_alg       apv 88: to the end, with one NUL; absent (None) below
      4  64  verify_alg       apv >= 89: padded with NULs
     68  64  csums_alg        apv >= 89: padded with NULs; absent (None) below
    132  16  controller       apv >= 95; absent (None) below
    """

    resync_rate: int
    verify_alg: str | None
    csums_alg: str | None
    controller: ResyncController | None

    LAYOUT: ClassVar = Struct(">I")
    LAYOUT_89: ClassVar = Struct(f">I{NAME_BYTES_MAX}s{NAME_BYTES_MAX}s")

    @staticmethod
    def packet_for(apv: int) -> Packet:
        """Under which number this goes at a protocol version."""
        return Packet.P_SYNC_PARAM89 if apv >= _APV_SYNC_PARAM89 else Packet.P_SYNC_PARAM

    def for_apv(self, apv: int) -> Self:
        """The same without what this protocol version cannot carry."""
        if apv >= _APV_CONTROLLER:
            return self
        if apv >= _APV_SYNC_PARAM89:
            return replace(self, controller=None)
        verify_alg = self.verify_alg if apv >= _APV_VERIFY_NAME else None
        return replace(self, verify_alg=verify_alg, csums_alg=None, controller=None)

    def encode(self) -> bytes:
        if self.csums_alg is None:
            assert self.controller is None
            rate = self.LAYOUT.pack(self.resync_rate)
            return rate if self.verify_alg is None else rate + pack_name(self.verify_alg, len(self.verify_alg) + 1)
        assert self.verify_alg is not None
        names = (pack_name(self.verify_alg, NAME_BYTES_MAX), pack_name(self.csums_alg, NAME_BYTES_MAX))
        fixed = self.LAYOUT_89.pack(self.resync_rate, *names)
        c = self.controller
        if c is None:
            return fixed
        return fixed + c.LAYOUT.pack(c.c_plan_ahead, c.c_delay_target, c.c_fill_target, c.c_max_rate)

    @classmethod
    def decode(cls, payload: Buffer, apv: int) -> Self:
        """From a payload of the packet that belongs to `apv`; raises PeerProtocolError."""
        if apv < _APV_SYNC_PARAM89:
            return cls._decode_old(payload, apv)
        packet, fixed_size = Packet.P_SYNC_PARAM89, cls.LAYOUT_89.size
        controller = None
        if apv < _APV_CONTROLLER:
            check_length(packet, payload, fixed_size)
        else:
            check_length(packet, payload, fixed_size + ResyncController.LAYOUT.size)
            controller = ResyncController(*ResyncController.LAYOUT.unpack_from(payload, fixed_size))
        rate, verify_field, csums_field = cls.LAYOUT_89.unpack_from(payload)
        verify_alg = unpack_name(packet, "verify-alg", verify_field)
        return cls(rate, verify_alg, unpack_name(packet, "csums-alg", csums_field), controller)

    @classmethod
    def _decode_old(cls, payload: Buffer, apv: int) -> Self:
        packet, rate_size = Packet.P_SYNC_PARAM, cls.LAYOUT.size
        if apv < _APV_VERIFY_NAME:
            return cls(*(*unpack_exact(packet, cls.LAYOUT, payload), None, None, None))
        if not 1 <= len(payload) - rate_size <= NAME_BYTES_MAX:
            expected = f"{rate_size + 1} to {rate_size + NAME_BYTES_MAX}"
            raise malformed(packet, "payload length in bytes", expected, len(payload))
        name = bytes(payload[rate_size:])
        verify_alg = unpack_name(packet, "verify-alg", name)
        if len(verify_alg) + 1 != len(name):
            raise malformed(packet, "verify-alg", "one NUL at its end", repr(name))
        return cls(*(*cls.LAYOUT.unpack_from(payload), verify_alg, None, None))


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The last 24 bytes of P_SIZES when feature WSAME is agreed; a kernel 8.4.11 only parses them.

    32   4  physical_block_size     bytes, like all of the first five
    36   4  logical_block_size
    40   4  alignment_offset
    44   4  io_min
    48   4  io_opt
    52   1  discard_enabled
    53   1  discard_zeroes_data
    54   1  write_same_capable
    55   1  pad
    """

    physical_block_size: int
    logical_block_size: int
    alignment_offset: int
    io_min: int
    io_opt: int
    discard_enabled: int
    discard_zeroes_data: int = 0
    write_same_capable: int = 0
    pad: int = 0

    LAYOUT: ClassVar = Struct(">5I4B")

    def encode(self) -> bytes:
        flags = (self.discard_enabled, self.discard_zeroes_data, self.write_same_capable, self.pad)
        sizes = (self.physical_block_size, self.logical_block_size, self.alignment_offset, self.io_min, self.io_opt)
        return self.LAYOUT.pack(*sizes, *flags)


@dataclass(frozen=True, slots=True)
class Sizes:
    """P_SIZES, 32 bytes, or 56 when feature WSAME is agreed. d_size, u_size and c_size count sectors.

     0   8  d_size            what my disk could offer; 0 if diskless
     8   8  u_size            what the user asked for; 0 none
    16   8  c_size            what is exported now; 0 asks for the peer's sizes
    24   4  max_bio_size      bytes
    28   2  queue_order_type  0
    30   2  dds_flags         DdsFlag
    32  24  queue_limits      None if absent
    """

    d_size: int
    u_size: int
    c_size: int
    max_bio_size: int
    queue_order_type: int = 0
    dds_flags: int = 0
    queue_limits: QueueLimits | None = None

    LAYOUT: ClassVar = Struct(">QQQIHH")

    def encode(self) -> bytes:
        sizes = (self.d_size, self.u_size, self.c_size, self.max_bio_size)
        fixed = self.LAYOUT.pack(*sizes, self.queue_order_type, self.dds_flags)
        return fixed if self.queue_limits is None else fixed + self.queue_limits.encode()

    @classmethod
    def decode(cls, payload: Buffer, *, with_queue_limits: bool) -> Self:
        """`with_queue_limits`: whether feature WSAME is agreed."""
        fixed_size = cls.LAYOUT.size
        if not with_queue_limits:
            return cls(*unpack_exact(Packet.P_SIZES, cls.LAYOUT, payload))
        check_length(Packet.P_SIZES, payload, fixed_size + QueueLimits.LAYOUT.size)
        limits = QueueLimits(*QueueLimits.LAYOUT.unpack_from(payload, fixed_size))
        return cls(*(*cls.LAYOUT.unpack_from(payload), limits))


@dataclass(frozen=True, slots=True)
class Uuids:
    """P_UUIDS, 48 bytes: the sender's data generations.

     0   8  current
     8   8  bitmap
    16   8  history_0    the younger
    24   8  history_1    the older
    32   8  dirty_bits   how many bits are set in the sender's bitmap
    40   8  flags        UuidFlag
    """

    current: int
    bitmap: int
    history_0: int
    history_1: int
    dirty_bits: int
    flags: int

    LAYOUT: ClassVar = Struct(">6Q")

    def encode(self) -> bytes:
        generations = (self.current, self.bitmap, self.history_0, self.history_1)
        return self.LAYOUT.pack(*generations, self.dirty_bits, self.flags)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        return cls(*unpack_exact(Packet.P_UUIDS, cls.LAYOUT, payload))


assert SyncParam.LAYOUT_89.size == 132
assert ResyncController.LAYOUT.size == 16
assert Sizes.LAYOUT.size == 32
assert QueueLimits.LAYOUT.size == 24
assert Uuids.LAYOUT.size == 48
