"""The numbers of the DRBD 8.4 wire protocol: packets, sockets, versions, flags, policies.

Each packet belongs to one of the two sockets of a connection and has a fixed payload part; some have a variable tail
behind it (a digest, data, a name). `PACKET_SPECS` holds that for every packet that this side accepts. A number without
an entry (reserved, DRBD 9 only, or P_WSAME, which today's kernel module refuses too) is a protocol error.

Fields of packets are plain integers, not the flag types below: a peer may set any of 32 bits, and every new combination
would stay in the enum's cache for ever. Test them as `field & DpFlag.FUA`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from pydrbd.limits import BITMAP_PACKET_BYTES_MAX, DRBD_IO_BYTES_MAX

__all__ = [
    "APV_BEFORE_FEATURES",
    "DIGEST_BYTES_MAX",
    "FEATURES_KERNEL",
    "ID_SYNCER",
    "NAME_BYTES_MAX",
    "OV_IN_SYNC",
    "OV_OUT_OF_SYNC",
    "PACKET_SPECS",
    "PRO_VERSION_MAX",
    "AfterSb",
    "ConnFlag",
    "DdsFlag",
    "DpFlag",
    "Feature",
    "Packet",
    "PacketSpec",
    "SocketKind",
    "UuidFlag",
    "WireProtocol",
    "packet_name",
]

PRO_VERSION_MAX: Final = 101
APV_BEFORE_FEATURES: Final = 80
"""What the agreed protocol version counts as until both P_CONNECTION_FEATURES were exchanged."""

ID_SYNCER: Final = 0xFFFF_FFFF_FFFF_FFFF
"""The block_id of resync and verify; never that of an application request."""
OV_IN_SYNC: Final = 4711
"""The block_id of a P_OV_RESULT for equal blocks: a big-endian number, unlike every other id."""
OV_OUT_OF_SYNC: Final = 4712
"""The block_id of a P_OV_RESULT for different blocks."""

NAME_BYTES_MAX: Final = 64
"""The name of an algorithm on the wire, with its NUL."""
DIGEST_BYTES_MAX: Final = 64
"""The longest digest in use (sha512)."""
_AUTH_BYTES_MAX: Final = 256
"""More than any legal challenge (128) or response: too long ones reach the decoder, whose words say more."""


class SocketKind(IntFlag):
    """Which TCP connection: NEW is an accepted one before its first packet said what it is."""

    DATA = 1
    META = 2
    NEW = 4


class Packet(IntEnum):
    """Packet numbers with the kernel's names."""

    P_DATA = 0x00
    P_DATA_REPLY = 0x01
    P_RS_DATA_REPLY = 0x02
    P_BARRIER = 0x03
    P_BITMAP = 0x04
    P_BECOME_SYNC_TARGET = 0x05
    P_BECOME_SYNC_SOURCE = 0x06
    P_UNPLUG_REMOTE = 0x07
    P_DATA_REQUEST = 0x08
    P_RS_DATA_REQUEST = 0x09
    P_SYNC_PARAM = 0x0A
    P_PROTOCOL = 0x0B
    P_UUIDS = 0x0C
    P_SIZES = 0x0D
    P_STATE = 0x0E
    P_SYNC_UUID = 0x0F
    P_AUTH_CHALLENGE = 0x10
    P_AUTH_RESPONSE = 0x11
    P_STATE_CHG_REQ = 0x12
    P_PING = 0x13
    P_PING_ACK = 0x14
    P_RECV_ACK = 0x15
    P_WRITE_ACK = 0x16
    P_RS_WRITE_ACK = 0x17
    P_SUPERSEDED = 0x18
    P_NEG_ACK = 0x19
    P_NEG_DREPLY = 0x1A
    P_NEG_RS_DREPLY = 0x1B
    P_BARRIER_ACK = 0x1C
    P_STATE_CHG_REPLY = 0x1D
    P_OV_REQUEST = 0x1E
    P_OV_REPLY = 0x1F
    P_OV_RESULT = 0x20
    P_CSUM_RS_REQUEST = 0x21
    P_RS_IS_IN_SYNC = 0x22
    P_SYNC_PARAM89 = 0x23
    P_COMPRESSED_BITMAP = 0x24
    P_DELAY_PROBE = 0x27
    P_OUT_OF_SYNC = 0x28
    P_RS_CANCEL = 0x29
    P_CONN_ST_CHG_REQ = 0x2A
    P_CONN_ST_CHG_REPLY = 0x2B
    P_RETRY_WRITE = 0x2C
    P_PROTOCOL_UPDATE = 0x2D
    P_TRIM = 0x31
    P_RS_THIN_REQ = 0x32
    P_RS_DEALLOCATED = 0x33
    P_WSAME = 0x34
    P_ZEROES = 0x36
    P_INITIAL_META = 0xFFF1
    P_INITIAL_DATA = 0xFFF2
    P_CONNECTION_FEATURES = 0xFFFE


class Feature(IntFlag):
    """P_CONNECTION_FEATURES flags; WSAME also makes P_SIZES longer and discards up to 128 MiB."""

    TRIM = 1
    THIN_RESYNC = 2
    WSAME = 4
    WZEROES = 8


FEATURES_KERNEL: Final = Feature.TRIM | Feature.THIN_RESYNC | Feature.WSAME | Feature.WZEROES


class DpFlag(IntFlag):
    """dp_flags of P_DATA, P_TRIM and P_ZEROES."""

    HARDBARRIER = 1
    RW_SYNC = 2
    MAY_SET_IN_SYNC = 4
    UNPLUG = 8
    FUA = 16
    FLUSH = 32
    DISCARD = 64
    SEND_RECEIVE_ACK = 128
    SEND_WRITE_ACK = 256
    WSAME = 512
    ZEROES = 1024


class UuidFlag(IntFlag):
    """The last word of P_UUIDS."""

    DISCARD_MY_DATA = 1
    CRASHED_PRIMARY = 2
    INCONSISTENT = 4
    SKIP_INITIAL_SYNC = 8


class ConnFlag(IntFlag):
    """conn_flags of P_PROTOCOL."""

    DISCARD_MY_DATA = 1
    DRY_RUN = 2


class DdsFlag(IntFlag):
    """dds_flags of P_SIZES."""

    FORCED = 1
    NO_RESYNC = 2


class WireProtocol(IntEnum):
    """The replication protocol as a number in P_PROTOCOL."""

    A = 1
    B = 2
    C = 3


class AfterSb(IntEnum):
    """After-split-brain policies as numbers in P_PROTOCOL."""

    DISCONNECT = 0
    DISCARD_YOUNGER_PRIMARY = 1
    DISCARD_OLDER_PRIMARY = 2
    DISCARD_ZERO_CHANGES = 3
    DISCARD_LEAST_CHANGES = 4
    DISCARD_LOCAL = 5
    DISCARD_REMOTE = 6
    CONSENSUS = 7
    DISCARD_SECONDARY = 8
    CALL_PRI_LOST_AFTER_SB = 9
    VIOLENTLY_AS0P = 10


@dataclass(frozen=True, slots=True)
class PacketSpec:
    """Where a packet may appear and how long its payload is: at least `fixed`, at most `fixed + tail_max` bytes."""

    sockets: SocketKind
    fixed: int
    tail_max: int = 0

    @property
    def payload_max(self) -> int:
        return self.fixed + self.tail_max


_DATA_BYTES: Final = 24
_TRIM_BYTES: Final = 28
_ACK_BYTES: Final = 24
_REQUEST_BYTES: Final = 24
_DESC_BYTES: Final = 16


def _specs() -> dict[int, PacketSpec]:
    data, meta, new = SocketKind.DATA, SocketKind.META, SocketKind.NEW
    p = Packet
    specs: dict[int, PacketSpec] = {
        p.P_BARRIER: PacketSpec(data, 8),
        p.P_BITMAP: PacketSpec(data, 0, BITMAP_PACKET_BYTES_MAX - 8),
        p.P_COMPRESSED_BITMAP: PacketSpec(data, 1, BITMAP_PACKET_BYTES_MAX - 9),
        p.P_UNPLUG_REMOTE: PacketSpec(data, 0),
        p.P_SYNC_PARAM: PacketSpec(data, 4, NAME_BYTES_MAX),
        p.P_SYNC_PARAM89: PacketSpec(data, 132, 16),
        p.P_PROTOCOL: PacketSpec(data, 24, NAME_BYTES_MAX),
        p.P_PROTOCOL_UPDATE: PacketSpec(data, 24, NAME_BYTES_MAX),
        p.P_UUIDS: PacketSpec(data, 48),
        p.P_SIZES: PacketSpec(data, 32, 24),
        p.P_STATE: PacketSpec(data, 4),
        p.P_SYNC_UUID: PacketSpec(data, 8),
        p.P_AUTH_CHALLENGE: PacketSpec(data, 0, _AUTH_BYTES_MAX),
        p.P_AUTH_RESPONSE: PacketSpec(data, 0, _AUTH_BYTES_MAX),
        p.P_STATE_CHG_REQ: PacketSpec(data, 8),
        p.P_CONN_ST_CHG_REQ: PacketSpec(data, 8),
        p.P_OV_REPLY: PacketSpec(data, _REQUEST_BYTES, DIGEST_BYTES_MAX),
        p.P_CSUM_RS_REQUEST: PacketSpec(data, _REQUEST_BYTES, DIGEST_BYTES_MAX),
        p.P_DELAY_PROBE: PacketSpec(data | meta, 8),
        p.P_OUT_OF_SYNC: PacketSpec(data, _DESC_BYTES),
        p.P_RS_DEALLOCATED: PacketSpec(data, _DESC_BYTES),
        p.P_TRIM: PacketSpec(data, _TRIM_BYTES),
        p.P_ZEROES: PacketSpec(data, _TRIM_BYTES),
        p.P_CONNECTION_FEATURES: PacketSpec(data, 72),
        p.P_INITIAL_DATA: PacketSpec(new, 0),
        p.P_INITIAL_META: PacketSpec(new, 0),
        p.P_PING: PacketSpec(meta, 0),
        p.P_PING_ACK: PacketSpec(meta, 0),
        p.P_BARRIER_ACK: PacketSpec(meta, 8),
        p.P_STATE_CHG_REPLY: PacketSpec(meta, 4),
        p.P_CONN_ST_CHG_REPLY: PacketSpec(meta, 4),
    }
    for packet in (p.P_DATA, p.P_DATA_REPLY, p.P_RS_DATA_REPLY):
        specs[packet] = PacketSpec(data, _DATA_BYTES, DIGEST_BYTES_MAX + DRBD_IO_BYTES_MAX)
    for packet in (p.P_DATA_REQUEST, p.P_RS_DATA_REQUEST, p.P_OV_REQUEST, p.P_RS_THIN_REQ):
        specs[packet] = PacketSpec(data, _REQUEST_BYTES)
    acks = (p.P_RECV_ACK, p.P_WRITE_ACK, p.P_RS_WRITE_ACK, p.P_SUPERSEDED, p.P_NEG_ACK, p.P_NEG_DREPLY)
    for packet in (*acks, p.P_NEG_RS_DREPLY, p.P_OV_RESULT, p.P_RS_IS_IN_SYNC, p.P_RS_CANCEL, p.P_RETRY_WRITE):
        specs[packet] = PacketSpec(meta, _ACK_BYTES)
    return specs


PACKET_SPECS: Final[Mapping[int, PacketSpec]] = _specs()


def packet_name(command: int) -> str:
    """The kernel's name of a packet number, or the number in hex."""
    try:
        return Packet(command).name
    except ValueError:
        return f"packet {command:#06x}"
