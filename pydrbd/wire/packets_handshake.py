"""The packets of the handshake that are about the connection: features, authentication, the agreed protocol.

All integers are big-endian. A decoded value keeps every byte, reserved ones too: `X.decode(b).encode() == b`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import ClassVar, Final, Self

from pydrbd.wire.packet_numbers import DIGEST_BYTES_MAX, NAME_BYTES_MAX, Packet
from pydrbd.wire.payload import Buffer, check_length, malformed, pack_name, unpack_exact, unpack_name

__all__ = [
    "AUTH_CHALLENGE_BYTES",
    "AuthChallenge",
    "AuthResponse",
    "Features",
    "Protocol",
]

AUTH_CHALLENGE_BYTES: Final = 64
"""What we send, like the kernel; up to twice as much is accepted."""
_FEATURES_RESERVED_BYTES: Final = 60
_APV_INTEGRITY_NAME: Final = 87


@dataclass(frozen=True, slots=True)
class Features:
    """P_CONNECTION_FEATURES, exactly 72 bytes. The flags stand between minimum and maximum.

     0   4  protocol_min
     4   4  feature_flags   Feature
     8   4  protocol_max    0 means: the same as the minimum (see `highest`)
    12  60  reserved        zeros from a kernel 8.4, which also ignores them
    """

    protocol_min: int
    feature_flags: int
    protocol_max: int
    reserved: bytes = bytes(_FEATURES_RESERVED_BYTES)

    LAYOUT: ClassVar = Struct(f">III{_FEATURES_RESERVED_BYTES}s")

    @property
    def highest(self) -> int:
        """The highest protocol version that the sender speaks."""
        return self.protocol_max or self.protocol_min

    def encode(self) -> bytes:
        assert len(self.reserved) == _FEATURES_RESERVED_BYTES
        return self.LAYOUT.pack(self.protocol_min, self.feature_flags, self.protocol_max, self.reserved)

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        return cls(*unpack_exact(Packet.P_CONNECTION_FEATURES, cls.LAYOUT, payload))


@dataclass(frozen=True, slots=True)
class AuthChallenge:
    """P_AUTH_CHALLENGE: 64 (the kernel's choice) to 128 random bytes, the whole payload."""

    challenge: bytes

    def encode(self) -> bytes:
        assert AUTH_CHALLENGE_BYTES <= len(self.challenge) <= 2 * AUTH_CHALLENGE_BYTES
        return self.challenge

    @classmethod
    def decode(cls, payload: Buffer) -> Self:
        if not AUTH_CHALLENGE_BYTES <= len(payload) <= 2 * AUTH_CHALLENGE_BYTES:
            expected = f"{AUTH_CHALLENGE_BYTES} to {2 * AUTH_CHALLENGE_BYTES}"
            raise malformed(Packet.P_AUTH_CHALLENGE, "payload length in bytes", expected, len(payload))
        return cls(bytes(payload))


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """P_AUTH_RESPONSE: the HMAC over the peer's whole challenge, the whole payload."""

    response: bytes

    def encode(self) -> bytes:
        return self.response

    @classmethod
    def decode(cls, payload: Buffer, digest_size: int | None = None) -> Self:
        """`digest_size`: the length of our own HMAC, which the peer's must have; None to take any."""
        if digest_size is not None:
            check_length(Packet.P_AUTH_RESPONSE, payload, digest_size)
        elif not 0 < len(payload) <= DIGEST_BYTES_MAX:
            raise malformed(Packet.P_AUTH_RESPONSE, "payload length in bytes", f"1 to {DIGEST_BYTES_MAX}", len(payload))
        return cls(bytes(payload))


@dataclass(frozen=True, slots=True)
class Protocol:
    """P_PROTOCOL and P_PROTOCOL_UPDATE: what both sides must have configured alike.

     0   4  protocol              WireProtocol
     4   4  after_sb_0pri         AfterSb
     8   4  after_sb_1pri         AfterSb
    12   4  after_sb_2pri         AfterSb
    16   4  conn_flags            ConnFlag
    20   4  two_primaries         0 or 1
    24   n  integrity_alg         with one NUL; at most 64 bytes; absent (None here) at apv 86
    """

    protocol: int
    after_sb_0pri: int
    after_sb_1pri: int
    after_sb_2pri: int
    conn_flags: int
    two_primaries: int
    integrity_alg: str | None

    LAYOUT: ClassVar = Struct(">6I")

    def for_apv(self, apv: int) -> Self:
        """The same without what this protocol version cannot carry."""
        return self if apv >= _APV_INTEGRITY_NAME else replace(self, integrity_alg=None)

    def encode(self) -> bytes:
        numbers = (self.after_sb_0pri, self.after_sb_1pri, self.after_sb_2pri, self.conn_flags, self.two_primaries)
        fixed = self.LAYOUT.pack(self.protocol, *numbers)
        if self.integrity_alg is None:
            return fixed
        assert len(self.integrity_alg) < NAME_BYTES_MAX
        return fixed + pack_name(self.integrity_alg, len(self.integrity_alg) + 1)

    @classmethod
    def decode(cls, payload: Buffer, apv: int, packet: Packet = Packet.P_PROTOCOL) -> Self:
        fixed_size = cls.LAYOUT.size
        if apv < _APV_INTEGRITY_NAME:
            return cls(*(*unpack_exact(packet, cls.LAYOUT, payload), None))
        if not 1 <= len(payload) - fixed_size <= NAME_BYTES_MAX:
            expected = f"{fixed_size + 1} to {fixed_size + NAME_BYTES_MAX}"
            raise malformed(packet, "payload length in bytes", expected, len(payload))
        name = bytes(payload[fixed_size:])
        integrity_alg = unpack_name(packet, "data-integrity-alg", name)
        if len(integrity_alg) + 1 != len(name):
            raise malformed(packet, "data-integrity-alg", "one NUL at its end", repr(name))
        return cls(*(*cls.LAYOUT.unpack_from(payload), integrity_alg))


assert Features.LAYOUT.size == 72
assert Protocol.LAYOUT.size == 24
