"""The headers around DRBD packets: three formats, and a reader that finds packets in a stream of bytes.

    h80   0  4  0x83740267     h95   0  2  0x835a       h100   0  4  0x8620ec20
          4  2  command              2  2  command             4  2  volume
          6  2  length               4  4  length              6  2  command
                                                               8  4  length
                                                              12  4  0

All integers are big-endian; length counts the payload only. Which format is sent follows from the agreed protocol
version (apv): h100 from 100 on; below it h80, or h95 if the payload is longer than 32768 bytes and apv is at least 95.
A receiver below 100 takes both short formats. Until the features are agreed apv counts as 80, and only h80 is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from pydrbd.errors import PeerProtocolError
from pydrbd.limits import DRBD_PAYLOAD_BYTES_MAX
from pydrbd.wire.packet_numbers import APV_BEFORE_FEATURES, PACKET_SPECS, Packet, SocketKind, packet_name
from pydrbd.wire.payload import Buffer

__all__ = [
    "HeaderFormat",
    "PacketReader",
    "RawPacket",
    "encode_header",
    "encode_packet",
    "header_format",
    "header_size",
    "stream_format",
]

_MAGIC_80: Final = 0x8374_0267
_MAGIC_95: Final = 0x835A
_MAGIC_100: Final = 0x8620_EC20
_H80: Final = Struct(">IHH")
_H95: Final = Struct(">HHI")
_H100: Final = Struct(">IHHII")
_H80_PAYLOAD_MAX: Final = 0xFFFF
_H95_PAYLOAD_ABOVE: Final = 32768
_APV_H95: Final = 95
_APV_H100: Final = 100
_HANDSHAKE_ONLY: Final = frozenset({Packet.P_INITIAL_DATA, Packet.P_INITIAL_META, Packet.P_CONNECTION_FEATURES})

assert (_H80.size, _H95.size, _H100.size) == (8, 8, 16)


class HeaderFormat(IntEnum):
    """The header formats by the protocol version that brought them."""

    H80 = 80
    H95 = 95
    H100 = 100


@dataclass(frozen=True, slots=True)
class RawPacket:
    """One packet off the stream: its payload still as bytes."""

    volume: int
    command: Packet
    payload: bytes


def stream_format(apv: int) -> HeaderFormat:
    """What native.drbd_split and its sisters take as the format of a whole stream: H95 mixes h80 and h95."""
    if apv >= _APV_H100:
        return HeaderFormat.H100
    return HeaderFormat.H95 if apv >= _APV_H95 else HeaderFormat.H80


def header_format(apv: int, payload_length: int = 0) -> HeaderFormat:
    """Which header a packet of this payload length is sent with."""
    chosen = stream_format(apv)
    if chosen is HeaderFormat.H95 and payload_length <= _H95_PAYLOAD_ABOVE:
        return HeaderFormat.H80
    return chosen


def header_size(apv: int) -> int:
    """The length of every header at this protocol version."""
    return _H100.size if apv >= _APV_H100 else _H80.size


def encode_header(command: int, payload_length: int, *, apv: int, volume: int = 0) -> bytes:
    """The header of a packet; `apv` is APV_BEFORE_FEATURES until the features are agreed."""
    assert volume == 0 or apv >= _APV_H100, "only the header of protocol 100 carries a volume"
    chosen = header_format(apv, payload_length)
    if chosen is HeaderFormat.H100:
        return _H100.pack(_MAGIC_100, volume, command, payload_length, 0)
    if chosen is HeaderFormat.H95:
        return _H95.pack(_MAGIC_95, command, payload_length)
    assert payload_length <= _H80_PAYLOAD_MAX
    return _H80.pack(_MAGIC_80, command, payload_length)


def encode_packet(command: int, payload: Buffer = b"", *, apv: int, volume: int = 0) -> bytes:
    """A whole packet: header and payload."""
    return encode_header(command, len(payload), apv=apv, volume=volume) + payload


class PacketReader:
    """Finds packets in the bytes of one socket; for handshakes and tests (native.drbd_split is for the rest).

    `feed` takes bytes in any pieces; `next_packet` gives one packet, or None if its end has not arrived. A packet is
    refused as soon as its header is there: PeerProtocolError, and the same again from then on. Between two packets the
    owner may change `socket` and `apv`: bytes that were fed before are read under the new rules. The reader holds at
    most what was fed, and if every feed is followed by next_packet until None, less than one packet more than that.

    Accepted before the features are agreed (apv 80): h80; on a NEW connection only P_INITIAL_*, else only
    P_CONNECTION_FEATURES and, on a meta socket, nothing. Afterwards: the packets of the socket, except those three.
    """

    def __init__(
        self, socket: SocketKind, *, apv: int = APV_BEFORE_FEATURES, payload_max: int = DRBD_PAYLOAD_BYTES_MAX
    ) -> None:
        self.socket = socket
        self.apv = apv
        self._payload_max = payload_max
        self._buffer = bytearray()
        self._header: tuple[int, Packet, int] | None = None
        self._error: PeerProtocolError | None = None

    @property
    def wanted(self) -> int:
        """How many bytes are missing to the end of the current header or payload: reading no more never over-reads."""
        whole = header_size(self.apv) if self._header is None else self._header[2]
        return max(0, whole - len(self._buffer))

    @property
    def is_between_packets(self) -> bool:
        """Whether nothing of a further packet has arrived: the only place for an orderly end of the stream."""
        return self._header is None and not self._buffer

    def feed(self, data: Buffer) -> None:
        """Take bytes off the socket."""
        self._buffer += data

    def take_rest(self) -> bytes:
        """The bytes behind the last packet, which the reader forgets: for whoever reads on after it."""
        assert self._header is None, "the header of the next packet is already consumed"
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def next_packet(self) -> RawPacket | None:
        """The next whole packet or None; raises PeerProtocolError."""
        if self._error is not None:
            raise self._error
        try:
            if self._header is None and not self._read_header():
                return None
        except PeerProtocolError as error:
            self._error = error
            self._buffer.clear()
            raise
        assert self._header is not None
        volume, command, length = self._header
        if len(self._buffer) < length:
            return None
        payload = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        self._header = None
        return RawPacket(volume, command, payload)

    def packets(self) -> Iterator[RawPacket]:
        """The whole packets that were fed, lazily; raises PeerProtocolError."""
        while (packet := self.next_packet()) is not None:
            yield packet

    def _read_header(self) -> bool:
        size = header_size(self.apv)
        if len(self._buffer) < size:
            return False
        volume, number, length = self._split_header(bytes(self._buffer[:size]))
        command = self._check_command(number)
        self._check_length(command, length)
        del self._buffer[:size]
        self._header = volume, command, length
        return True

    def _split_header(self, header: bytes) -> tuple[int, int, int]:
        """Volume, command and length of a header in a format that is allowed now."""
        if self.apv >= _APV_H100:
            magic, volume, command, length, pad = _H100.unpack(header)
            if magic == _MAGIC_100 and pad == 0:
                return volume, command, length
            expected = "the header of protocol 100 (magic 8620ec20, last word 0)"
        else:
            magic, command, length = _H80.unpack(header)
            if magic == _MAGIC_80:
                return 0, command, length
            expected = "the header of protocol 80 (magic 83740267)"
            if self.apv > APV_BEFORE_FEATURES:
                magic, command, length = _H95.unpack(header)
                if magic == _MAGIC_95:
                    return 0, command, length
                expected = "a header of protocol 80 or 95 (magic 83740267 or 835a)"
        raise PeerProtocolError(f"the peer sent a wrong packet header: expected {expected}, got {header.hex(' ', 4)}")

    def _check_command(self, number: int) -> Packet:
        spec = PACKET_SPECS.get(number)
        is_handshake = self.apv <= APV_BEFORE_FEATURES or self.socket == SocketKind.NEW
        if spec is None or not spec.sockets & self.socket or is_handshake != (number in _HANDSHAKE_ONLY):
            phase = " before the features are agreed" if is_handshake else ""
            place = "a new connection" if self.socket == SocketKind.NEW else f"the {self.socket.name} socket"
            raise PeerProtocolError(f"the peer sent {packet_name(number)}, which does not belong on {place}{phase}")
        return Packet(number)

    def _check_length(self, command: Packet, length: int) -> None:
        spec = PACKET_SPECS[command]
        longest = min(spec.payload_max, self._payload_max)
        if not spec.fixed <= length <= longest:
            expected = str(spec.fixed) if spec.fixed == longest else f"{spec.fixed} to {longest}"
            raise PeerProtocolError(
                f"the peer sent {command.name} with a payload of {length} bytes: expected {expected}"
            )
