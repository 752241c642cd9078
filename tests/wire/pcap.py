"""Reads recorded sessions: a pcap file's Ethernet/IPv4/TCP frames become ordered bytes per direction.

    file    u32 magic 0xa1b2c3d4, u16 2, u16 4, 8 unused, u32 snaplen, u32 link type (1 = Ethernet); little-endian here
    record  u32 seconds, u32 microseconds, u32 captured length, u32 original length; then the frame

Segments that were sent again, or arrive out of order, are sorted out by their sequence numbers.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct

DATA = Path(__file__).resolve().parent.parent / "data"
CAPTURES = DATA / "captures"
"""Two kernels."""

SESSIONS = DATA / "sessions"
"""A kernel and pydrbd: tests/interop/record.py makes them."""

FILE_HEADER = Struct("<IHHIIII")
RECORD_HEADER = Struct("<IIII")
MAGIC = 0xA1B2C3D4
ETHERNET = 1
ETHERNET_BYTES = 14
IPV4 = b"\x08\x00"
TCP = 6
SYN, ACK = 2, 16
SEQUENCE_SPACE = 1 << 32

Endpoint = tuple[str, int]


def capture_paths() -> list[Path]:
    return sorted(CAPTURES.glob("*.pcap.xz"))


@dataclass(frozen=True, slots=True)
class Segment:
    """One TCP segment; `sender` and `receiver` are (address, port)."""

    time_us: int
    sender: Endpoint
    receiver: Endpoint
    sequence: int
    flags: int
    data: bytes

    @property
    def is_opening(self) -> bool:
        """Whether this is the first segment of a connection."""
        return self.flags & (SYN | ACK) == SYN


def read_frames(capture: bytes) -> Iterator[tuple[int, bytes]]:
    """Time in microseconds and bytes of each frame of a pcap file."""
    magic, *_unused, link_type = FILE_HEADER.unpack_from(capture)
    assert magic == MAGIC and link_type == ETHERNET, (hex(magic), link_type)
    at = FILE_HEADER.size
    while at < len(capture):
        seconds, microseconds, length, original_length = RECORD_HEADER.unpack_from(capture, at)
        assert length == original_length, "a frame was cut off by the capture"
        at += RECORD_HEADER.size
        yield seconds * 1_000_000 + microseconds, capture[at : at + length]
        at += length
    assert at == len(capture)


def parse_segment(time_us: int, frame: bytes) -> Segment | None:
    """The TCP segment in a frame, or None."""
    if frame[12:14] != IPV4 or frame[ETHERNET_BYTES + 9] != TCP:
        return None
    packet = frame[ETHERNET_BYTES:]
    packet = packet[: int.from_bytes(packet[2:4], "big")]  # behind it Ethernet may have padding
    segment = packet[4 * (packet[0] & 0xF) :]
    addresses = [".".join(map(str, packet[start : start + 4])) for start in (12, 16)]
    ports = [int.from_bytes(segment[start : start + 2], "big") for start in (0, 2)]
    sender, receiver = zip(addresses, ports, strict=True)
    sequence = int.from_bytes(segment[4:8], "big")
    return Segment(time_us, sender, receiver, sequence, segment[13], segment[4 * (segment[12] >> 4) :])


@dataclass(slots=True)
class Direction:
    """One half of a TCP connection: takes segments in any order, gives bytes in theirs."""

    expected: int | None = None
    waiting: dict[int, bytes] = field(default_factory=dict)

    def take(self, segment: Segment) -> bytes:
        """What has become readable by this segment."""
        sequence = segment.sequence
        if segment.flags & SYN:
            sequence = self.expected = (sequence + 1) % SEQUENCE_SPACE
        if self.expected is None and segment.data:  # the capture began later than the connection
            self.expected = sequence
        if segment.data:
            self.waiting[sequence] = max(segment.data, self.waiting.get(sequence, b""), key=len)
        readable = bytearray()
        while piece := self._next_piece():
            readable += piece
        return bytes(readable)

    def _next_piece(self) -> bytes:
        for sequence in sorted(self.waiting, key=self._distance):
            old = -self._distance(sequence)
            if old < 0:
                return b""
            piece = self.waiting.pop(sequence)[old:]
            if piece:
                self.expected = (self.expected + len(piece)) % SEQUENCE_SPACE
                return piece
        return b""

    def _distance(self, sequence: int) -> int:
        half = SEQUENCE_SPACE // 2
        return (sequence - self.expected + half) % SEQUENCE_SPACE - half


@dataclass(frozen=True, slots=True)
class Arrival:
    """Bytes of a connection in order. `connection` numbers the connections of a capture from 0."""

    time_us: int
    connection: int
    sender: Endpoint
    receiver: Endpoint
    opened_by: Endpoint | None
    data: bytes


def read_arrivals(path: Path) -> Iterator[Arrival]:
    """Everything that was said in a capture, in the order in which it became readable."""
    live: dict[frozenset[Endpoint], int] = {}
    openings: list[Segment] = []
    directions: dict[tuple[int, Endpoint], Direction] = {}
    for time_us, frame in read_frames(lzma.decompress(path.read_bytes())):
        segment = parse_segment(time_us, frame)
        if segment is None:
            continue
        ends = frozenset((segment.sender, segment.receiver))
        is_new = segment.is_opening and segment.sequence not in {old.sequence for old in openings if old.is_opening}
        if ends not in live or is_new:
            live[ends] = len(openings)
            openings.append(segment)
        number = live[ends]
        opener = openings[number].sender if openings[number].is_opening else None
        if data := directions.setdefault((number, segment.sender), Direction()).take(segment):
            yield Arrival(time_us, number, segment.sender, segment.receiver, opener, data)
    gaps = [key for key, direction in directions.items() if direction.waiting]
    assert not gaps, f"bytes are missing in the middle of {gaps}"
