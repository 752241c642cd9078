"""Headers and the packet reader: formats by version, the same packets however the bytes arrive, early refusals."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd.errors import PeerProtocolError
from pydrbd.limits import DRBD_PAYLOAD_BYTES_MAX
from pydrbd.wire.framing import (
    HeaderFormat,
    PacketReader,
    RawPacket,
    encode_header,
    encode_packet,
    header_format,
    header_size,
)
from pydrbd.wire.packet_numbers import FEATURES_KERNEL, PACKET_SPECS, Packet, SocketKind
from pydrbd.wire.packets import Features, WireContext, decode_packet
from tests.wire.pcap import CAPTURES
from tests.wire.sessions import Session, session_of

DATA, META, NEW = SocketKind.DATA, SocketKind.META, SocketKind.NEW
HANDSHAKE = {Packet.P_INITIAL_DATA, Packet.P_INITIAL_META, Packet.P_CONNECTION_FEATURES}
FEATURES = Features(86, 15, 101).encode()


def reader_with(data: bytes, socket: SocketKind = DATA, apv: int = 101) -> PacketReader:
    reader = PacketReader(socket, apv=apv)
    reader.feed(data)
    return reader


@pytest.mark.parametrize(
    ("command", "payload", "apv", "text"),
    [
        (Packet.P_INITIAL_DATA, b"", 80, "83740267 fff2 0000"),
        (Packet.P_INITIAL_META, b"", 80, "83740267 fff1 0000"),
        (Packet.P_PING, b"", 101, "8620ec20 0000 0013 00000000 00000000"),
        (Packet.P_PING, b"", 99, "83740267 0013 0000"),
        (Packet.P_CONNECTION_FEATURES, FEATURES, 80, "83740267 fffe 0048 00000056 0000000f 00000065" + "00" * 60),
    ],
)
def test_packet_has_the_documented_header(command, payload, apv, text):
    """The vectors of the specification."""
    assert encode_packet(command, payload, apv=apv).hex() == text.replace(" ", "")


@pytest.mark.parametrize(
    ("apv", "length", "expected"),
    [
        (80, 72, HeaderFormat.H80),
        (94, 32792, HeaderFormat.H80),
        (95, 32768, HeaderFormat.H80),
        (95, 32769, HeaderFormat.H95),
        (99, 130584, HeaderFormat.H95),
        (100, 0, HeaderFormat.H100),
        (101, 1 << 20, HeaderFormat.H100),
    ],
)
def test_header_format_follows_version_and_length(apv, length, expected):
    """h100 from 100 on; h95 only for what is longer than 32 KiB at 95 to 99."""
    assert header_format(apv, length) is expected
    header = encode_header(Packet.P_DATA, length, apv=apv)
    magics = {HeaderFormat.H80: "83740267", HeaderFormat.H95: "835a", HeaderFormat.H100: "8620ec20"}
    assert header.hex().startswith(magics[expected])
    assert len(header) == header_size(apv)


def test_volume_travels_in_the_header():
    """h100 carries the volume number; the short headers have no place for it."""
    (packet,) = reader_with(encode_packet(Packet.P_STATE, bytes(4), apv=101, volume=513)).packets()
    assert packet == RawPacket(513, Packet.P_STATE, bytes(4))
    with pytest.raises(AssertionError):
        encode_header(Packet.P_STATE, 4, apv=99, volume=1)


@st.composite
def streams(draw):
    """Packets for one socket at one version, and their bytes."""
    apv = draw(st.sampled_from([86, 94, 95, 99, 100, 101]))
    socket = draw(st.sampled_from([DATA, META]))
    commands = sorted(c for c, spec in PACKET_SPECS.items() if spec.sockets & socket and c not in HANDSHAKE)
    packets = []
    for command in draw(st.lists(st.sampled_from(commands), max_size=8)):
        spec = PACKET_SPECS[command]
        extra = draw(st.integers(0, min(spec.tail_max, 600)) | st.just(min(spec.tail_max, 40000)))
        volume = draw(st.integers(0, 65535)) if apv >= 100 else 0
        packets.append(RawPacket(volume, Packet(command), bytes([draw(st.integers(0, 255))]) * (spec.fixed + extra)))
    data = b"".join(encode_packet(p.command, p.payload, apv=apv, volume=p.volume) for p in packets)
    return socket, apv, packets, data


@given(streams(), st.data())
def test_packets_are_the_same_however_the_bytes_arrive(stream, data):
    """Whole, in pieces anywhere, or exactly as many bytes as the reader wants: the same packets."""
    socket, apv, packets, content = stream
    assert list(reader_with(content, socket, apv).packets()) == packets

    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=12)))
    reader, found = PacketReader(socket, apv=apv), []
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        reader.feed(content[start:end])
        found += reader.packets()
    assert found == packets
    assert reader.is_between_packets

    reader, found, at = PacketReader(socket, apv=apv), [], 0
    while at < len(content):
        step = reader.wanted
        assert 0 < step <= len(content) - at, "it would have read into the next packet"
        reader.feed(content[at : at + step])
        at += step
        found += reader.packets()
    assert found == packets


@given(streams())
def test_byte_by_byte_gives_the_same_packets(stream):
    """The worst way to cut a stream; nothing comes before its last byte is there."""
    socket, apv, _packets, content = stream
    content = content[:2000]
    reader, found = PacketReader(socket, apv=apv), []
    for index in range(len(content)):
        reader.feed(content[index : index + 1])
        found += reader.packets()
    assert found == list(reader_with(content, socket, apv).packets())


@given(st.binary(max_size=200), st.sampled_from([DATA, META, NEW]), st.sampled_from([80, 86, 95, 101]))
def test_garbage_is_refused_or_incomplete(content, socket, apv):
    """Random bytes never raise anything but PeerProtocolError, whole or byte by byte, and with the same result."""
    results = []
    for step in (1, len(content) or 1):
        reader, found = PacketReader(socket, apv=apv), []
        try:
            for start in range(0, len(content), step):
                reader.feed(content[start : start + step])
                found += reader.packets()
            results.append((found, None))
        except PeerProtocolError as error:
            results.append((found, str(error)))
    assert results[0] == results[1]


@cache
def recorded_session() -> tuple[Session, list]:
    session = session_of(CAPTURES / "12-split-brain.pcap.xz")
    return session, list(session.packets())


@given(st.data())
def test_damaged_recording_is_refused_or_decodes(data):
    """Real packets with a few bytes changed: PeerProtocolError, or values that encode to what was read."""
    session, _packets = recorded_session()
    stream = data.draw(st.sampled_from([bytes(stream.received) for stream in session.streams.values()]))
    content = bytearray(stream[stream.find(b"\x86\x20\xec\x20") :])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    context = WireContext(101, FEATURES_KERNEL)
    for socket in (DATA, META):
        reader = reader_with(bytes(content), socket)
        try:
            for packet in reader.packets():
                assert decode_packet(packet.command, packet.payload, context).encode() == packet.payload
        except PeerProtocolError:
            continue


def test_rules_change_between_two_packets():
    """The handshake in one piece: the reader learns what the socket is, then the version, after all bytes were fed."""
    content = encode_packet(Packet.P_INITIAL_DATA, apv=80) + encode_packet(
        Packet.P_CONNECTION_FEATURES, FEATURES, apv=80
    )
    reader = reader_with(content + encode_packet(Packet.P_STATE, bytes(4), apv=101, volume=1), NEW, 80)
    assert reader.next_packet().command == Packet.P_INITIAL_DATA
    reader.socket = DATA
    assert reader.next_packet().payload == FEATURES
    reader.apv = 101
    assert reader.next_packet() == RawPacket(1, Packet.P_STATE, bytes(4))
    assert reader.next_packet() is None


def test_rest_goes_to_the_next_reader():
    """What was fed behind the last packet is handed on, and forgotten."""
    reader = reader_with(encode_packet(Packet.P_PING, apv=101) + b"rest", META)
    assert reader.next_packet().command == Packet.P_PING
    assert not reader.is_between_packets
    assert reader.take_rest() == b"rest"
    assert reader.is_between_packets


@pytest.mark.parametrize(
    ("apv", "header"),
    [
        (80, "835a 000e 00000004"),
        (80, "8620ec20 0000 000e"),
        (99, "8620ec20 0000 000e"),
        (99, "00000000 000e 0004"),
        (101, "83740267 000e 0004 0000000000000000"),
        (101, "835a 000e 00000004 0000000000000000"),
        (101, "8620ec20 0000 000e 00000004 00000001"),
    ],
)
def test_header_of_another_version_is_refused(apv, header):
    """Each version takes its own headers only; the last word of h100 is zero."""
    with pytest.raises(PeerProtocolError, match="wrong packet header"):
        reader_with(bytes.fromhex(header), DATA, apv).next_packet()


def test_both_short_headers_are_taken_at_any_length():
    """Below 100 a receiver takes h80 and h95, whichever the length would call for."""
    content = bytes.fromhex("835a 000e 00000004 00000000 83740267 000e 0004 00000000")
    assert [packet.command for packet in reader_with(content, DATA, 86).packets()] == [Packet.P_STATE] * 2


@pytest.mark.parametrize(
    ("socket", "apv", "command"),
    [
        (DATA, 101, Packet.P_PING),
        (META, 101, Packet.P_STATE),
        (META, 101, 0x30),
        (DATA, 101, 0x100),
        (DATA, 101, Packet.P_WSAME),
        (DATA, 101, Packet.P_CONNECTION_FEATURES),
        (DATA, 101, Packet.P_INITIAL_DATA),
        (DATA, 80, Packet.P_STATE),
        (META, 80, Packet.P_PING),
        (DATA, 80, Packet.P_INITIAL_DATA),
        (NEW, 80, Packet.P_CONNECTION_FEATURES),
    ],
)
def test_packet_in_the_wrong_place_is_refused(socket, apv, command):
    """The wrong socket, an unknown number, the wrong side of the features exchange."""
    length = PACKET_SPECS[command].fixed if command in PACKET_SPECS else 0
    with pytest.raises(PeerProtocolError, match="does not belong on"):
        reader_with(encode_header(command, length, apv=apv), socket, apv).next_packet()


@pytest.mark.parametrize(
    ("socket", "command", "length", "expected"),
    [
        (DATA, Packet.P_STATE, 3, "4"),
        (DATA, Packet.P_STATE, 8, "4"),
        (DATA, Packet.P_DATA, 23, "24 to 1048664"),
        (DATA, Packet.P_DATA, DRBD_PAYLOAD_BYTES_MAX + 1, "24 to 1048664"),
        (DATA, Packet.P_DATA, 0xFFFFFFFF, "24 to 1048664"),
        (DATA, Packet.P_UNPLUG_REMOTE, 1, "0"),
        (META, Packet.P_WRITE_ACK, 25, "24"),
        (META, Packet.P_PING, 4, "0"),
    ],
)
def test_length_is_refused_with_the_header(socket, command, length, expected):
    """A peer can't make us wait for a payload that the packet does not have."""
    reader = reader_with(encode_header(command, length, apv=101), socket)
    with pytest.raises(
        PeerProtocolError, match=f"{command.name} with a payload of {length} bytes: expected {expected}$"
    ):
        reader.next_packet()


def test_owner_may_lower_the_limit():
    """Before the peer is authenticated a smaller payload limit holds."""
    reader = PacketReader(DATA, apv=101, payload_max=256)
    reader.feed(encode_header(Packet.P_DATA, 4120, apv=101))
    with pytest.raises(PeerProtocolError, match="expected 24 to 256"):
        reader.next_packet()


def test_refusal_is_final():
    """After an error nothing is read any more, whatever comes."""
    reader = reader_with(bytes(16), META)
    for _ in range(2):
        with pytest.raises(PeerProtocolError, match="wrong packet header"):
            reader.next_packet()
        reader.feed(encode_packet(Packet.P_PING, apv=101))
