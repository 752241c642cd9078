"""Packets as values: the documented bytes, nothing lost in between, and refusals that say what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd.errors import PeerProtocolError
from pydrbd.limits import DISCARD_BYTES_MAX, DRBD_IO_BYTES_MAX
from pydrbd.wire.packet_numbers import (
    FEATURES_KERNEL,
    ID_SYNCER,
    OV_OUT_OF_SYNC,
    PACKET_SPECS,
    DpFlag,
    Packet,
    SocketKind,
    packet_name,
)
from pydrbd.wire.packets import (
    AuthChallenge,
    AuthResponse,
    Barrier,
    BarrierAck,
    BitmapPlain,
    BlockAck,
    BlockDesc,
    BlockReq,
    CompressedBitmap,
    Data,
    DelayProbe,
    DigestReq,
    Empty,
    Features,
    Protocol,
    QueueLimits,
    ResyncController,
    Sizes,
    State,
    StateChgReply,
    StateChgReq,
    SyncParam,
    SyncUuid,
    Trim,
    Uuids,
    WireContext,
    decode_packet,
)

NOW = WireContext(apv=101, features=FEATURES_KERNEL)
CONTROLLER = ResyncController(20, 10, 100, 102400)
SYNC_PARAM = SyncParam(250, "crc32c", "sha1", CONTROLLER)
PROTOCOL = Protocol(3, 0, 1, 2, 1, 0, "crc32c")
LIMITS = QueueLimits(4096, 512, 0, 512, 1024, 1)

DOCUMENTED = [
    (Packet.P_CONNECTION_FEATURES, Features(86, 0xF, 101), "00000056 0000000f 00000065" + "00" * 60),
    (Packet.P_AUTH_CHALLENGE, AuthChallenge(bytes(range(64))), bytes(range(64)).hex()),
    (Packet.P_AUTH_RESPONSE, AuthResponse(b"\x07" * 20), "07" * 20),
    (
        Packet.P_PROTOCOL,
        PROTOCOL,
        "00000003 00000000 00000001 00000002 00000001 00000000 637263333263 00",
    ),
    (Packet.P_PROTOCOL_UPDATE, Protocol(1, 0, 0, 0, 0, 1, ""), "00000001" + "00" * 19 + "01" + "00"),
    (
        Packet.P_SYNC_PARAM89,
        SYNC_PARAM,
        "000000fa 637263333263" + "00" * 58 + "73686131" + "00" * 60 + "00000014 0000000a 00000064 00019000",
    ),
    (
        Packet.P_SIZES,
        Sizes(0x1000, 0x2000, 0x3000, 130560, 0, 2, LIMITS),
        "0000000000001000 0000000000002000 0000000000003000 0001fe00 0000 0002"
        "00001000 00000200 00000000 00000200 00000400 01 00 00 00",
    ),
    (
        Packet.P_UUIDS,
        Uuids(4, 5, 6, 7, 8, 2),
        "0000000000000004 0000000000000005 0000000000000006 0000000000000007 0000000000000008 0000000000000002",
    ),
    (Packet.P_STATE, State(0x000110A9), "000110a9"),
    (Packet.P_SYNC_UUID, SyncUuid(0x1122334455667788), "1122334455667788"),
    (Packet.P_STATE_CHG_REQ, StateChgReq(3, 1), "00000003 00000001"),
    (Packet.P_CONN_ST_CHG_REQ, StateChgReq(0x1F0, 0x10), "000001f0 00000010"),
    (Packet.P_STATE_CHG_REPLY, StateChgReply(-19), "ffffffed"),
    (Packet.P_CONN_ST_CHG_REPLY, StateChgReply(1), "00000001"),
    (Packet.P_DELAY_PROBE, DelayProbe(1, 2), "00000001 00000002"),
    (Packet.P_BITMAP, BitmapPlain(b"\x01" + bytes(7)), "0100000000000000"),
    (Packet.P_COMPRESSED_BITMAP, CompressedBitmap(bytes.fromhex("7fcf5e00"), 3, 0), "32 7fcf5e00"),
    (Packet.P_COMPRESSED_BITMAP, CompressedBitmap(bytes.fromhex("7fcf5e00"), 3, 1), "b2 7fcf5e00"),
    (
        Packet.P_DATA,
        Data(0x10, 0x20, 0x30, DpFlag.FUA | DpFlag.SEND_WRITE_ACK, b"\xaa" * 512),
        "0000000000000010 0000000000000020 00000030 00000110" + "aa" * 512,
    ),
    (
        Packet.P_TRIM,
        Trim(8, 9, 1, DpFlag.DISCARD, 4096),
        "0000000000000008 0000000000000009 00000001 00000040 00001000",
    ),
    (Packet.P_ZEROES, Trim(8, 9, 1, 1088, 512), "0000000000000008 0000000000000009 00000001 00000440 00000200"),
    (Packet.P_DATA_REQUEST, BlockReq(8, 9, 4096, 7), "0000000000000008 0000000000000009 00001000 00000007"),
    (Packet.P_OV_REQUEST, BlockReq(8, ID_SYNCER, 512), "0000000000000008 ffffffffffffffff 00000200 00000000"),
    (
        Packet.P_CSUM_RS_REQUEST,
        DigestReq(8, ID_SYNCER, 4096, bytes.fromhex("8941f998"), 5),
        "0000000000000008 ffffffffffffffff 00001000 00000005 8941f998",
    ),
    (Packet.P_WRITE_ACK, BlockAck(8, 9, 4096, 3), "0000000000000008 0000000000000009 00001000 00000003"),
    (Packet.P_OV_RESULT, BlockAck(8, OV_OUT_OF_SYNC, 4096, 3), "0000000000000008 0000000000001268 00001000 00000003"),
    (Packet.P_OUT_OF_SYNC, BlockDesc(8, 4096, 1), "0000000000000008 00001000 00000001"),
    (Packet.P_BARRIER, Barrier(0x01020304), "01020304 00000000"),
    (Packet.P_BARRIER_ACK, BarrierAck(0x01020304, 7), "01020304 00000007"),
    (Packet.P_PING, Empty(Packet.P_PING), ""),
    (Packet.P_UNPLUG_REMOTE, Empty(Packet.P_UNPLUG_REMOTE), ""),
]


@pytest.mark.parametrize(("packet", "value", "text"), DOCUMENTED)
def test_packet_has_the_documented_bytes(packet, value, text):
    """Each field stands where the specification says, big-endian; decoding gives the value back."""
    assert value.encode().hex() == text.replace(" ", "")
    assert decode_packet(packet, value.encode(), NOW) == value


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_decoded_values_own_their_bytes(kind):
    """A payload may be a view into a receive buffer that is used again."""
    payload = bytearray(Data(0, 1, 1, 0, b"\x01" * 512, b"dgst").encode())
    value = Data.decode(kind(payload), digest_size=4)
    payload[:] = bytes(len(payload))
    assert (value.data, value.digest) == (b"\x01" * 512, b"dgst")


contexts = st.builds(
    WireContext,
    apv=st.sampled_from([86, 87, 88, 89, 94, 95, 99, 100, 101]),
    features=st.integers(0, 15),
    integrity_digest_size=st.sampled_from([0, 4, 20]),
    verify_digest_size=st.sampled_from([None, 4, 20]),
    csums_digest_size=st.sampled_from([None, 4, 20]),
)


@st.composite
def packets_with_payload(draw):
    """A packet number and a payload of about the right length; small numbers so that sizes are often legal."""
    command = draw(st.sampled_from(sorted(PACKET_SPECS)))
    spec = PACKET_SPECS[command]
    length = spec.fixed + draw(st.sampled_from([0, 0, 1, 4, 8, 16, 20, 24, 512, 516, 532]))
    parts = st.sampled_from([bytes(8), b"\0\0\x10\0\0\0\x02\0", b"crc32c\0\0", b"\xff" * 8]) | st.binary(
        min_size=8, max_size=8
    )
    return command, b"".join(draw(st.lists(parts, min_size=-(-length // 8), max_size=-(-length // 8))))[:length]


@given(packets_with_payload(), contexts)
def test_decoding_keeps_every_byte_or_refuses(packet, context):
    """Whatever the bytes: either PeerProtocolError, or a value that encodes to the same bytes."""
    command, payload = packet
    try:
        value = decode_packet(command, payload, context)
    except PeerProtocolError:
        return
    assert value.encode() == payload


@pytest.mark.parametrize("command", sorted(PACKET_SPECS))
def test_refusal_names_the_packet(command):
    """A payload that is longer than any packet is refused by each packet, by name."""
    with pytest.raises(PeerProtocolError, match=Packet(command).name):
        decode_packet(command, bytes(2 * DRBD_IO_BYTES_MAX + 1), NOW)


@pytest.mark.parametrize("command", [Packet.P_WSAME, Packet.P_BECOME_SYNC_TARGET, 0x25, 0x2E, 0x100, 0x40])
def test_packet_without_a_use_is_refused(command):
    """Reserved numbers, those of DRBD 9 and P_WSAME are errors."""
    with pytest.raises(PeerProtocolError, match=packet_name(command)):
        decode_packet(command, b"", NOW)


@pytest.mark.parametrize(
    ("apv", "length"), [(86, 4), (87, 4), (88, 4 + 7), (89, 132), (94, 132), (95, 148), (100, 148), (101, 148)]
)
def test_sync_param_carries_what_the_protocol_version_has(apv, length):
    """P_SYNC_PARAM grew: rate; rate and verify-alg; both names padded; the controller's numbers."""
    value = SYNC_PARAM.for_apv(apv)
    payload = value.encode()
    assert len(payload) == length
    assert SyncParam.decode(payload, apv) == value
    assert decode_packet(SyncParam.packet_for(apv), payload, WireContext(apv, 0)) == value
    for wrong in (payload[:-1], payload + b"\0"):
        with pytest.raises(PeerProtocolError, match="P_SYNC_PARAM"):
            SyncParam.decode(wrong, apv)


def test_sync_param_under_the_wrong_number_is_refused():
    """P_SYNC_PARAM ended with protocol 88, P_SYNC_PARAM89 began with 89."""
    for command, apv in ((Packet.P_SYNC_PARAM, 89), (Packet.P_SYNC_PARAM89, 88)):
        with pytest.raises(PeerProtocolError, match=f"version {apv}"):
            decode_packet(command, SYNC_PARAM.for_apv(apv).encode(), WireContext(apv, 0))


def test_protocol_has_no_name_before_87():
    """At protocol 86 the payload is exactly 24 bytes; one byte too many derails a kernel's stream."""
    old = PROTOCOL.for_apv(86)
    assert len(old.encode()) == 24
    assert Protocol.decode(old.encode(), 86) == old
    assert PROTOCOL.for_apv(87) == PROTOCOL
    for payload, apv in ((PROTOCOL.encode(), 86), (old.encode(), 87)):
        with pytest.raises(PeerProtocolError, match="P_PROTOCOL: payload length"):
            Protocol.decode(payload, apv)


@pytest.mark.parametrize("name", [b"crc32c", b"crc32c\0\0", b"crc\0x\0", b"\xffcrc\0", b"a" * 64 + b"\0"])
def test_name_that_is_not_a_name_is_refused(name):
    """A name is printable ASCII with exactly one NUL at its end, 64 bytes at most."""
    with pytest.raises(PeerProtocolError, match="P_PROTOCOL"):
        Protocol.decode(Protocol(3, 0, 0, 0, 0, 0, None).encode() + name, 101)


def test_name_field_without_a_nul_is_refused():
    """A padded name has at least one NUL, and nothing behind it."""
    for field in (b"a" * 64, b"a\0b".ljust(64, b"\0")):
        with pytest.raises(PeerProtocolError, match="P_SYNC_PARAM89: csums-alg"):
            SyncParam.decode(bytes(68) + field + bytes(16), 101)


def test_sizes_length_follows_the_agreed_feature():
    """56 bytes with feature WSAME, 32 without; never the other."""
    short, long = Sizes(1, 2, 3, 4096), Sizes(1, 2, 3, 4096, queue_limits=LIMITS)
    assert Sizes.decode(short.encode(), with_queue_limits=False) == short
    assert Sizes.decode(long.encode(), with_queue_limits=True) == long
    with pytest.raises(PeerProtocolError, match="P_SIZES: payload length in bytes: expected 32, got 56"):
        Sizes.decode(long.encode(), with_queue_limits=False)
    with pytest.raises(PeerProtocolError, match="P_SIZES: payload length in bytes: expected 56, got 32"):
        Sizes.decode(short.encode(), with_queue_limits=True)


def test_highest_version_is_the_lowest_if_it_is_missing():
    """A protocol_max of 0 means that the peer speaks protocol_min only; it is kept as sent."""
    assert Features(86, 0, 101).highest == 101
    old = Features.decode(Features(86, 0, 0).encode())
    assert (old.highest, old.protocol_max) == (86, 0)


def test_reserved_bytes_are_kept():
    """Nodes of ours may know each other by the reserved bytes of the features."""
    payload = Features(86, 15, 101).encode()[:12] + bytes(range(60))
    assert Features.decode(payload).reserved == bytes(range(60))
    assert Features.decode(payload).encode() == payload


@pytest.mark.parametrize("length", [0, 63, 129, 200])
def test_challenge_of_a_wrong_length_is_refused(length):
    """64 to 128 bytes are accepted."""
    with pytest.raises(PeerProtocolError, match=f"P_AUTH_CHALLENGE.*64 to 128, got {length}"):
        AuthChallenge.decode(bytes(length))
    assert len(AuthChallenge.decode(bytes(128)).challenge) == 128


def test_auth_response_must_have_the_length_of_the_digest():
    """Our HMAC is 20 bytes with sha1: 19 are refused, and nothing is a response of no length."""
    assert AuthResponse.decode(bytes(20), 20).response == bytes(20)
    for length, digest_size in ((19, 20), (0, None), (65, None)):
        with pytest.raises(PeerProtocolError, match="P_AUTH_RESPONSE"):
            AuthResponse.decode(bytes(length), digest_size)


def test_digest_stands_between_header_and_data():
    """With data-integrity-alg the same payload has 4 bytes of digest; P_TRIM and P_ZEROES never have any."""
    value = Data(1, 2, 3, 4, bytes(4096), bytes.fromhex("8941f998"))
    with_digest = WireContext(101, FEATURES_KERNEL, integrity_digest_size=4)
    assert decode_packet(Packet.P_DATA, value.encode(), with_digest) == value
    with pytest.raises(PeerProtocolError, match="P_DATA: size in bytes: expected a multiple of 512"):
        decode_packet(Packet.P_DATA, value.encode(), NOW)
    with pytest.raises(PeerProtocolError, match="P_DATA: payload length in bytes: expected 28 or more, got 27"):
        decode_packet(Packet.P_DATA, bytes(27), with_digest)
    zeroes = Trim(0, 1, 1, 1024, 4096)
    assert decode_packet(Packet.P_ZEROES, zeroes.encode(), with_digest) == zeroes


def test_only_a_write_may_be_empty():
    """P_DATA without data is an empty flush; a reply without data answers nothing."""
    empty = Data(0, 1, 1, DpFlag.FLUSH, b"")
    assert decode_packet(Packet.P_DATA, empty.encode(), NOW) == empty
    for packet in (Packet.P_DATA_REPLY, Packet.P_RS_DATA_REPLY):
        with pytest.raises(PeerProtocolError, match=packet.name):
            decode_packet(packet, empty.encode(), NOW)


@pytest.mark.parametrize(
    ("packet", "value", "limit"),
    [
        (Packet.P_DATA_REQUEST, lambda size: BlockReq(0, 1, size), DRBD_IO_BYTES_MAX),
        (Packet.P_RS_THIN_REQ, lambda size: BlockReq(0, 1, size), DRBD_IO_BYTES_MAX),
        (Packet.P_OV_REPLY, lambda size: DigestReq(0, 1, size, b"1234"), DRBD_IO_BYTES_MAX),
        (Packet.P_TRIM, lambda size: Trim(0, 1, 1, 64, size), DISCARD_BYTES_MAX),
        (Packet.P_OUT_OF_SYNC, lambda size: BlockDesc(0, size), DISCARD_BYTES_MAX),
        (Packet.P_RS_DEALLOCATED, lambda size: BlockDesc(0, size), DISCARD_BYTES_MAX),
    ],
)
def test_size_must_be_whole_sectors_within_the_limit(packet, value, limit):
    """One sector and the limit are taken; nothing, half a sector and a sector more are not."""
    for size in (512, limit):
        assert decode_packet(packet, value(size).encode(), NOW) == value(size)
    for size in (0, 256, limit + 512):
        with pytest.raises(PeerProtocolError, match=f"{packet.name}: size in bytes.*got {size}"):
            decode_packet(packet, value(size).encode(), NOW)


def test_digest_of_another_length_is_refused():
    """verify-alg says how long the digest of P_OV_REPLY is."""
    context = WireContext(101, FEATURES_KERNEL, verify_digest_size=4, csums_digest_size=20)
    value = DigestReq(0, ID_SYNCER, 4096, b"1234")
    assert decode_packet(Packet.P_OV_REPLY, value.encode(), context) == value
    with pytest.raises(PeerProtocolError, match="P_CSUM_RS_REQUEST: digest length in bytes: expected 20 to 20, got 4"):
        decode_packet(Packet.P_CSUM_RS_REQUEST, value.encode(), context)


def test_unknown_bitmap_code_is_refused():
    """2 is the only code there ever was."""
    with pytest.raises(PeerProtocolError, match="P_COMPRESSED_BITMAP: code: expected 2, got 1"):
        CompressedBitmap.decode(b"\x31\x00")


def test_each_packet_has_one_socket_except_the_delay_probe():
    """The sets of the two sockets' packets meet in P_DELAY_PROBE only."""
    both = {command for command, spec in PACKET_SPECS.items() if spec.sockets.bit_count() > 1}
    assert both == {Packet.P_DELAY_PROBE}
    meta = {command for command, spec in PACKET_SPECS.items() if spec.sockets & SocketKind.META}
    assert len(meta) == 17
    assert all(PACKET_SPECS[command].tail_max == 0 for command in meta), "the meta socket wants exact lengths"
