"""DRBD frames: C against its twin on any bytes, WIRE's own bytes, and the rules of splitting one by one."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd import native, reference
from pydrbd.errors import PeerProtocolError
from pydrbd.native import Batch
from pydrbd.reference import Record
from tests.native.strategies import (
    batch_of,
    exact,
    masks,
    near_offsets,
    record_lists,
    records,
    records_of,
    u16,
    u32,
    u64,
    within,
)

PAYLOAD_MAX = 70_000
FORMATS = st.sampled_from([80, 95, 100])
ACKS = [*range(0x15, 0x1C), 0x20, 0x22, 0x29, 0x2C]
REQUESTS = [0x08, 0x09, 0x1E, 0x32]
packet_numbers = st.one_of(st.integers(0, 0x37), st.sampled_from([0x28, 0x31, 0x33, 0x34, 0x36, 0xFFF1, 0xFFFE]), u16)


def packet(command, payload, format=100, volume=0, zero=0, magic=None):
    if format == 100:
        return struct.pack(">IHHII", magic or 0x8620EC20, volume, command, len(payload), zero) + payload
    if format == 95:
        return struct.pack(">HHI", magic or 0x835A, command, len(payload)) + payload
    return struct.pack(">IHH", magic or 0x83740267, command, len(payload)) + payload


def block(sector=8, block_id=7, a=4096, b=1):
    """p_data, p_block_ack and p_block_req have the same shape."""
    return struct.pack(">QQII", sector, block_id, a, b)


sectors = st.one_of(st.integers(0, 2**40), st.integers(2**55 - 1, 2**55 + 1))
sizes = st.one_of(st.integers(0, 3).map(lambda n: n * 512), u32)
blocks = st.builds(block, sectors, u64, sizes, u32)
payloads = st.one_of(
    st.binary(max_size=60),
    blocks,
    st.builds(lambda head, n: head + bytes(n), blocks, st.sampled_from([0, 4, 20, 512, 532, 1024])),
    st.builds(
        lambda head, size, n: head + struct.pack(">I", size) + bytes(n), blocks, sizes, st.sampled_from([0, 512])
    ),
    st.builds(lambda sector, size: struct.pack(">QII", sector, size, 9), sectors, sizes),
)


@st.composite
def packet_streams(draw):
    """Packets of one format (or of both 8-byte ones), some of them wrong in one way."""
    format = draw(FORMATS)
    parts = draw(st.lists(st.tuples(packet_numbers, payloads), max_size=6))
    headers = st.just(100) if format == 100 else st.sampled_from([80, 95])
    stream = b"".join(packet(number, payload, draw(headers), draw(u16)) for number, payload in parts)
    return format, stream + draw(st.sampled_from([b"", b"", packet(3, b"", 100, zero=1), packet(3, b"", magic=1)]))


def split_both(buffer, format, digest_size=0, start=0, end=None, payload_max=PAYLOAD_MAX, room=64):
    """What C and twin make of it, after checking that they agree; None for a refusal."""
    end = len(buffer) if end is None else end
    try:
        batch, consumed, need = native.drbd_split(exact(buffer), start, end, format, digest_size, payload_max, room)
        ours = records_of(batch), consumed, need
    except PeerProtocolError:
        ours = None
    try:
        twins = reference.drbd_split(buffer, start, end, format, digest_size, payload_max, room)
    except PeerProtocolError:
        twins = None
    assert ours == twins
    return ours


@given(packet_streams(), st.sampled_from([0, 4, 20, 64]), st.integers(0, 30), st.integers(0, 100), st.booleans())
def test_any_bytes_split_as_by_the_twin(stream, digest_size, start, cut, strict):
    """Packets good and bad, from any place to any place, with any size of digest and limit."""
    format, buffer = stream
    end = max(len(buffer) - cut, 0)
    payload_max = 536 if strict else PAYLOAD_MAX
    split_both(buffer, format, digest_size, min(start, end), end, payload_max)
    split_both(buffer, format, digest_size, 0, end, payload_max)
    split_both(buffer, format, digest_size)


@given(st.lists(st.tuples(packet_numbers, payloads), min_size=1, max_size=3), FORMATS, st.data())
def test_one_wrong_byte_is_handled_as_by_the_twin(parts, format, data):
    """A flipped byte anywhere, most of all in headers and lengths."""
    stream = bytearray(b"".join(packet(number, payload, format) for number, payload in parts))
    place = data.draw(st.one_of(st.integers(0, min(40, len(stream) - 1)), st.integers(0, len(stream) - 1)))
    stream[place] = data.draw(st.integers(0, 255))
    split_both(bytes(stream), format, data.draw(st.sampled_from([0, 4])))


def only(buffer, format=100, digest_size=0):
    (record,), consumed, need = split_both(buffer, format, digest_size)
    assert (consumed, need) == (len(buffer), 0)
    return record


@pytest.mark.parametrize("number", [0x00, 0x01, 0x02])
def test_a_data_packet_is_place_digest_and_data(number):
    """P_DATA, P_DATA_REPLY and P_RS_DATA_REPLY (WIRE 9.2)."""
    record = only(packet(number, block(8, 2**64 - 1, 33, 256 | 2) + b"sumx" + bytes(1024), volume=3), digest_size=4)
    assert (record.offset, record.id, record.seq, record.flags) == (4096, 2**64 - 1, 33, 258)
    assert (record.digest, record.data, record.length, record.volume) == (4, 16 + 28, 1024, 3)


@pytest.mark.parametrize("number", [0x31, 0x36])
def test_a_discard_has_a_size_and_no_digest(number):
    """P_TRIM and P_ZEROES carry none, whatever data packets do (WIRE 9.3)."""
    record = only(packet(number, block() + struct.pack(">I", 1 << 20)), digest_size=20)
    assert (record.offset, record.length, record.digest, record.data, record.block) == (4096, 1 << 20, 0, 44, 0)
    assert split_both(packet(number, block() + struct.pack(">I", 512) + b"x"), 100) is None


def test_write_same_has_a_size_and_one_block():
    """P_WSAME: p_data, size, digest, one block that stands for all."""
    record = only(packet(0x34, block() + struct.pack(">I", 1 << 20) + b"sumx" + bytes(512)), digest_size=4)
    assert (record.length, record.digest, record.data, record.block) == (1 << 20, 4, 16 + 32, 512)
    assert split_both(packet(0x34, block() + struct.pack(">I", 512)), 100) is None


@pytest.mark.parametrize("number", ACKS)
def test_an_acknowledgement_is_exactly_24_bytes(number):
    """p_block_ack: sector, id, size, sequence number."""
    record = only(packet(number, block(8, 9, 4096, 77), format=95), 95)
    assert (record.offset, record.id, record.length, record.seq) == (4096, 9, 4096, 77)
    assert split_both(packet(number, block() + b"x"), 100) is None
    assert split_both(packet(number, block()[:-1]), 100) is None


@pytest.mark.parametrize("number", [*REQUESTS, 0x1F, 0x21])
def test_a_request_may_carry_a_digest_where_it_has_one(number):
    """p_block_req, whose last field is ignored; the digest is that of verify or of checksums, and of any size."""
    record = only(packet(number, block(8, 9, 4096, 0xDEADBEEF)), digest_size=20)
    assert (record.offset, record.id, record.length, record.seq, record.digest) == (4096, 9, 4096, 0, 0)
    longer = packet(number, block() + bytes(16))
    if number in REQUESTS:
        assert split_both(longer, 100) is None
    else:
        assert (only(longer).digest, only(longer).data) == (16, 16 + 24)


@pytest.mark.parametrize("number", [0x28, 0x33])
def test_a_block_description_is_exactly_16_bytes(number):
    """P_OUT_OF_SYNC and P_RS_DEALLOCATED."""
    record = only(packet(number, struct.pack(">QII", 8, 4096, 123)))
    assert (record.offset, record.length, record.id, record.seq) == (4096, 4096, 0, 0)
    assert split_both(packet(number, block()), 100) is None


@pytest.mark.parametrize("number", [0x03, 0x04, 0x0B, 0x0D, 0x13, 0x24, 0x25, 0x40, 0x100, 0xFFFE])
def test_every_other_packet_is_handed_on_whole(number):
    """Also those that nobody knows: what to do about them depends on the socket."""
    record = only(packet(number, b"anything", format=80), 80)
    assert (record.command, record.data, record.length, record.offset) == (number, 8, 8, 0)


@pytest.mark.parametrize(
    ("bytes_", "format", "words"),
    [
        (packet(0x13, b"", 100, zero=1), 100, "wrong header: 8620ec2000000013"),
        (packet(0x13, b"", 80) + bytes(8), 100, "wrong header: 83740267"),
        (packet(0x13, b"", 100), 95, "wrong header"),
        (packet(0x0B, bytes(PAYLOAD_MAX + 1))[:16], 100, "wrong payload length or range"),
        (packet(0x00, block()[:-1]), 100, "wrong payload"),
        (packet(0x00, block() + bytes(511)), 100, "wrong payload"),
        (packet(0x00, block(sector=2**55) + bytes(512)), 100, "wrong payload"),
        (packet(0x08, block(a=4095)), 100, "wrong payload"),
    ],
)
def test_the_error_says_what_is_wrong(bytes_, format, words):
    """And shows the bytes. A length that is too long is refused as soon as its header is there."""
    with pytest.raises(PeerProtocolError, match=words):
        native.drbd_split(bytearray(bytes_), 0, len(bytes_), format, 0, PAYLOAD_MAX)


def test_both_short_headers_are_taken_at_any_time():
    """Below protocol 100 (WIRE 2)."""
    stream = packet(0x13, b"", 80) + packet(0x00, block() + bytes(66048), 95) + packet(0x13, b"", 95)
    for format in (80, 95):
        members, consumed, need = split_both(stream, format)
        assert ([record.command for record in members], consumed, need) == ([0x13, 0x00, 0x13], len(stream), 0)


@pytest.mark.parametrize("room", [1, 2, 3, 64])
def test_no_more_packets_are_taken_than_were_asked_for(room):
    """One at a time while a packet may change how the next one is read: not even its header is looked at."""
    stream = packet(0x13, b"", 80) * 2 + packet(0x13, b"", 100)
    members, consumed, need = split_both(stream, 80, room=room)
    assert (len(members), consumed, need) == (min(room, 2), 8 * min(room, 2), 0)


def test_the_bytes_of_the_specification():
    """Headers that WIRE 19 gives."""
    assert only(bytes.fromhex("8620ec20000000130000000000000000")).command == 0x13
    assert only(bytes.fromhex("83740267fff20000"), 80).command == 0xFFF2
    features = only(bytes.fromhex("83740267fffe0048000000560000000f00000065") + bytes(60), 80)
    assert (features.command, features.data, features.length) == (0xFFFE, 8, 72)


aligned = st.builds(lambda n: n * 512, st.integers(0, 2**40))
aligned_records = records(aligned, st.integers(0, 200).map(lambda n: n * 512))


@given(record_lists(aligned_records), masks, FORMATS, u16, st.integers(0, 2**64 - 65), u32, u32, st.integers(0, 64))
def test_data_headers_are_the_twins(members, mask, format, volume, first_id, first_seq, dp_flags, digest_size):
    """For every command, flag, header format, and for numbers that wrap around."""
    mask = within(mask, members)
    if format == 80:
        mask &= sum(1 << index for index, record in enumerate(members) if record.length <= 32768)
    words = {
        "format": format,
        "volume": volume,
        "first_id": first_id,
        "first_seq": first_seq,
        "dp_flags": dp_flags,
        "digest_size": digest_size,
    }
    headers = native.drbd_data_headers(batch_of(members), mask, **words)
    assert headers == reference.drbd_data_headers(members, mask, **words)


@given(record_lists(records(near_offsets.map(lambda offset: offset * 512))), masks, FORMATS, u16, u32)
def test_acknowledgements_are_the_twins(members, mask, format, number, first_seq):
    """And what was written can be read."""
    mask = within(mask, members)
    words = {"format": format, "packet": number, "first_seq": first_seq}
    acks = native.drbd_acks(batch_of(members), mask, **words)
    assert acks == reference.drbd_acks(members, mask, **words)
    if number in ACKS:
        batch, consumed, _ = native.drbd_split(acks, 0, len(acks), format, 0, PAYLOAD_MAX)
        assert consumed == len(acks)
        wanted = [(r.offset, r.id, r.length) for index, r in enumerate(members) if mask >> index & 1]
        assert [(r.offset, r.id, r.length) for r in records_of(batch)] == wanted


@given(record_lists(records()), masks, st.sampled_from([80, 95, 100]), u16, u16, u64)
def test_requests_are_the_twins(members, mask, format, volume, number, block_id):
    """p_block_req for each member's place."""
    mask, words = within(mask, members), {"format": format, "volume": volume, "packet": number, "block_id": block_id}
    assert native.drbd_requests(batch_of(members), mask, **words) == reference.drbd_requests(members, mask, **words)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=8), masks, st.sampled_from([80, 100]), u16, u64)
def test_reply_headers_are_put_before_the_data(lengths, mask, format, volume, offset):
    """In place, and nothing else of the buffer changes; what has no room is the caller's bug."""
    members, position = [], 40
    for length in lengths:
        members.append(Record(offset=offset // 512 * 512, id=offset, data=position, length=length * 512))
        position += length * 512 + 40
    ours, twins = bytearray(b"d" * position), bytearray(b"d" * position)
    batch, mask = Batch(ours, batch_of(members).records, len(members)), within(mask, members)
    native.drbd_reply_headers(batch, mask, format=format, volume=volume, packet=9)
    reference.drbd_reply_headers(twins, members, mask, format=format, volume=volume, packet=9)
    assert ours == twins
    batch.records[0].data = 23
    with pytest.raises(AssertionError, match="no room"):
        native.drbd_reply_headers(batch, 1, format=format, volume=volume, packet=9)


def test_a_client_write_becomes_the_packet_that_the_peer_reads():
    """From an NBD request to the record on the other node: FUA is kept, the id names the member."""
    write = struct.pack(">IHHQQI", 0x25609513, 1, 1, 5, 8192, 512) + b"w" * 512
    batch, _, _ = native.nbd_split(bytearray(write), 0, len(write), 4096)
    header = native.drbd_data_headers(
        batch, batch.all, format=100, volume=2, first_id=640, first_seq=9, dp_flags=256, digest_size=4
    )
    record = only(bytes(header) + b"sumx" + batch.data(0), digest_size=4)
    assert (record.volume, record.id, record.offset, record.seq, record.flags) == (2, 640, 8192, 9, 256 | 16)


@pytest.mark.parametrize("place", [{"offset": 4097}, {"length": 100}])
def test_a_write_of_a_part_of_a_sector_has_no_packet(place):
    """DRBD counts in sectors: to round would be to write somewhere else."""
    batch = batch_of([reference.Record(command=1, **place)])
    with pytest.raises(AssertionError, match="whole number of sectors"):
        native.drbd_data_headers(batch, 1, format=100, volume=0, first_id=0, first_seq=0, dp_flags=0)
