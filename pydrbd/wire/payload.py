"""What the packet classes share: the buffer type and the words of a refusal."""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from pydrbd.errors import PeerProtocolError
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire.packet_numbers import packet_name

__all__ = ["Buffer", "check_length", "check_size", "malformed", "pack_name", "unpack_exact", "unpack_name"]

Buffer = bytes | bytearray | memoryview

_ASCII_FIRST: Final = 0x21
_ASCII_LAST: Final = 0x7E


def malformed(packet: int, what: str, expected: object, got: object) -> PeerProtocolError:
    """The error for a packet whose `what` is not as the protocol wants it (returned, for the caller to raise)."""
    return PeerProtocolError(f"the peer sent a malformed {packet_name(packet)}: {what}: expected {expected}, got {got}")


def check_length(packet: int, payload: Buffer, *allowed: int) -> None:
    """Raise PeerProtocolError unless the payload has one of the allowed lengths."""
    if len(payload) not in allowed:
        raise malformed(packet, "payload length in bytes", " or ".join(map(str, allowed)), len(payload))


def unpack_exact(packet: int, layout: Struct, payload: Buffer) -> tuple[Any, ...]:
    """The fields of a payload that must be exactly as long as its layout; raises PeerProtocolError."""
    check_length(packet, payload, layout.size)
    return layout.unpack(payload)


def check_size(packet: int, size_bytes: int, size_max_bytes: int, *, zero_allowed: bool = False) -> None:
    """Raise PeerProtocolError unless a size on the device is whole sectors within the limit."""
    if size_bytes % SECTOR_SIZE_BYTES or size_bytes > size_max_bytes or (size_bytes == 0 and not zero_allowed):
        lowest = 0 if zero_allowed else SECTOR_SIZE_BYTES
        expected = f"a multiple of {SECTOR_SIZE_BYTES} from {lowest} to {size_max_bytes}"
        raise malformed(packet, "size in bytes", expected, size_bytes)


def unpack_name(packet: int, what: str, field: bytes) -> str:
    """The name in a field that is padded with at least one NUL; raises PeerProtocolError.

    What stands behind the first NUL must be NULs too, so that a decoded name encodes to the same bytes again.
    """
    name = field.rstrip(b"\0")
    if len(name) == len(field):
        raise malformed(packet, what, "a NUL at its end", repr(field))
    if any(not _ASCII_FIRST <= byte <= _ASCII_LAST for byte in name):
        raise malformed(packet, what, "printable ASCII and then only NULs", repr(name))
    return name.decode("ascii")


def pack_name(name: str, size_bytes: int) -> bytes:
    """A name padded with NULs, at least one, to `size_bytes`."""
    field = name.encode("ascii")
    assert len(field) < size_bytes, f"the name {name!r} does not fit {size_bytes} bytes with its NUL"
    return field.ljust(size_bytes, b"\0")
