"""Follows a recorded session packet by packet, and learns from the packets themselves how to read the next ones.

What the header looks like follows from P_CONNECTION_FEATURES of both nodes; how long digests are from P_PROTOCOL and
P_SYNC_PARAM89. A capture that begins in the middle of a session needs a `Sides` that says what was agreed before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydrbd.wire.framing import PacketReader, RawPacket, encode_packet
from pydrbd.wire.packet_numbers import (
    APV_BEFORE_FEATURES,
    FEATURES_KERNEL,
    PACKET_SPECS,
    PRO_VERSION_MAX,
    Packet,
    SocketKind,
)
from pydrbd.wire.packets import AnyPacket, Features, Protocol, SyncParam, WireContext, decode_packet
from tests.wire.pcap import Arrival, Endpoint, read_arrivals

DIGEST_SIZES = {"": 0, "crc32c": 4, "md5": 16, "sha1": 20, "sha256": 32}
H100_COMMAND = slice(6, 8)


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet of a capture: who sent it on which socket, as bytes, as a value, and under which rules."""

    time_us: int
    connection: int
    sender: str
    socket: SocketKind
    raw: RawPacket
    value: AnyPacket
    apv: int
    context: WireContext

    @property
    def command(self) -> Packet:
        return self.raw.command

    def encode(self) -> bytes:
        """The packet with its header, made from the decoded value."""
        return encode_packet(self.command, self.value.encode(), apv=self.apv, volume=self.raw.volume)


@dataclass(slots=True)
class Sides:
    """What the two nodes have told each other so far in one session; keys are addresses."""

    apv_assumed: int = APV_BEFORE_FEATURES
    integrity_assumed: str = ""
    features: dict[str, Features] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)
    sync_params: dict[str, SyncParam] = field(default_factory=dict)

    @property
    def apv(self) -> int:
        if len(self.features) == 2:
            return min(features.highest for features in self.features.values())
        return self.apv_assumed

    def context(self, sender: str) -> WireContext:
        flags = FEATURES_KERNEL
        for features in self.features.values():
            flags &= features.feature_flags
        protocol, sync_param = self.protocols.get(sender), self.sync_params.get(sender)
        integrity = protocol.integrity_alg if protocol else self.integrity_assumed
        verify_size = DIGEST_SIZES[sync_param.verify_alg] if sync_param else None
        csums_size = DIGEST_SIZES[sync_param.csums_alg] if sync_param else None
        return WireContext(self.apv, flags, DIGEST_SIZES[integrity], verify_size, csums_size)

    def learn(self, sender: str, value: AnyPacket) -> None:
        if isinstance(value, Features):
            assert sender not in self.features, "a new connection begins with new Sides"
            self.features[sender] = value
        elif isinstance(value, Protocol):
            self.protocols[sender] = value
        elif isinstance(value, SyncParam):
            self.sync_params[sender] = value


@dataclass(slots=True)
class Stream:
    """One direction of a TCP connection with its reader; keeps all bytes to compare with in the end."""

    reader: PacketReader
    received: bytearray = field(default_factory=bytearray)


class Session:
    """All connections of one capture. After `packets` ran dry, `streams` has every byte of every direction."""

    def __init__(self, path: Path, sides: Sides) -> None:
        self.path = path
        self.sides = sides
        self.streams: dict[tuple[int, Endpoint], Stream] = {}
        self._kinds: dict[int, SocketKind] = {}

    def packets(self) -> Iterator[Seen]:
        for arrival in read_arrivals(self.path):
            stream = self._stream_of(arrival)
            stream.received += arrival.data
            stream.reader.feed(arrival.data)
            yield from self._read(arrival, stream.reader)

    def _stream_of(self, arrival: Arrival) -> Stream:
        key = (arrival.connection, arrival.sender)
        if key not in self.streams:
            if arrival.opened_by == arrival.sender:
                kind = SocketKind.NEW
            elif arrival.connection not in self._kinds:  # the capture began later: the first packet tells
                kind = PACKET_SPECS[int.from_bytes(arrival.data[H100_COMMAND], "big")].sockets
                self._kinds[arrival.connection] = kind
            else:
                kind = self._kinds[arrival.connection]
            self.streams[key] = Stream(PacketReader(kind))
        return self.streams[key]

    def _read(self, arrival: Arrival, reader: PacketReader) -> Iterator[Seen]:
        sender = arrival.sender[0]
        while True:
            is_initial = reader.socket == SocketKind.NEW
            reader.apv = APV_BEFORE_FEATURES if is_initial else self.sides.apv
            raw = reader.next_packet()
            if raw is None:
                return
            context = self.sides.context(sender)
            value = decode_packet(raw.command, raw.payload, context)
            yield Seen(arrival.time_us, arrival.connection, sender, reader.socket, raw, value, reader.apv, context)
            self.sides.learn(sender, value)
            if is_initial:
                if raw.command == Packet.P_INITIAL_DATA:
                    self.sides = Sides()  # nothing of an earlier connection holds for this one
                kind = SocketKind.DATA if raw.command == Packet.P_INITIAL_DATA else SocketKind.META
                reader.socket = self._kinds[arrival.connection] = kind


MIDDLE_OF_A_SESSION = {
    "02-writes-and-barriers": "",
    "03-demote-promote-other": "",
    "05-online-verify-clean": "",
    "06-graceful-disconnect": "",
    "07-diskless-primary-reads-and-writes": "",
    "10-verify-with-digests": "crc32c",
}
"""Captures that begin after the handshake, with the data-integrity-alg that was agreed in it."""


def session_of(path: Path) -> Session:
    """The session in a capture, with what was agreed before the capture began."""
    integrity = MIDDLE_OF_A_SESSION.get(capture_name(path))
    return Session(path, Sides() if integrity is None else Sides(PRO_VERSION_MAX, integrity))


def capture_name(path: Path) -> str:
    return path.name.removesuffix(".pcap.xz")
