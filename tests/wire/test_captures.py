"""What two kernel nodes said to each other decodes, encodes to the same bytes, and means what we think it means."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from functools import cache

import pytest

from pydrbd import native
from pydrbd.units import SECTORS_PER_BIT, bits_for_sectors, bytes_to_sectors
from pydrbd.wire.bitmap_code import BitmapReceiver, encode_bitmap
from pydrbd.wire.framing import header_size
from pydrbd.wire.packet_numbers import (
    ID_SYNCER,
    OV_IN_SYNC,
    AfterSb,
    DpFlag,
    Packet,
    SocketKind,
    UuidFlag,
    WireProtocol,
)
from pydrbd.wire.packets import BlockAck, CompressedBitmap
from tests.wire.pcap import capture_paths
from tests.wire.sessions import MIDDLE_OF_A_SESSION, Seen, capture_name, session_of

PATHS = {capture_name(path): path for path in capture_paths()}
NODE_A, NODE_B = "10.77.0.11", "10.77.0.12"
SECRET = b"s3cret-for-tests"
CRC32C_OF_ZERO_BLOCK = bytes.fromhex("8941f998")
WRITES = (Packet.P_DATA, Packet.P_TRIM, Packet.P_ZEROES)
WFConnection = 8
PACKET_COUNTS = {
    "01-initial-full-sync": 413,
    "02-writes-and-barriers": 88,
    "03-demote-promote-other": 36,
    "04-reconnect-bitmap-resync": 39,
    "05-online-verify-clean": 6121,
    "06-graceful-disconnect": 2,
    "07-diskless-primary-reads-and-writes": 237,
    "08-auth-sha1-digests-full-sync": 338,
    "09-checksum-resync": 284,
    "10-verify-with-digests": 6121,
    "11-crashed-primary-returns": 218,
    "12-split-brain": 18,
}
WITH_BITMAPS = [name for name in PATHS if name[:2] in ("01", "04", "07", "08", "09", "11")]
WITH_WRITES = [name for name in PATHS if name[:2] in ("02", "03", "07", "08")]

each_capture = pytest.mark.parametrize("name", PATHS)
each_with_bitmaps = pytest.mark.parametrize("name", WITH_BITMAPS)
each_with_writes = pytest.mark.parametrize("name", WITH_WRITES)


@cache
def seen(name: str) -> tuple[Seen, ...]:
    return tuple(session_of(PATHS[name]).packets())


def only(name: str, *commands: Packet, sender: str | None = None) -> list[Seen]:
    return [one for one in seen(name) if one.command in commands and sender in (None, one.sender)]


def the_other(node: str) -> str:
    return NODE_A if node == NODE_B else NODE_B


def test_all_captures_are_there():
    """A capture that is lost, or a new one that nobody counted, is noticed."""
    assert set(PATHS) == set(PACKET_COUNTS)


@each_capture
def test_every_packet_encodes_to_the_bytes_of_the_capture(name):
    """Both directions of all connections, headers included: what was decoded gives the same stream again."""
    session = session_of(PATHS[name])
    encoded: dict[tuple[int, str], bytearray] = {}
    packets = list(session.packets())
    for one in packets:
        assert one.value.encode() == one.raw.payload, one.command.name
        encoded.setdefault((one.connection, one.sender), bytearray()).extend(one.encode())
    streams = {(number, endpoint[0]): stream for (number, endpoint), stream in session.streams.items()}
    assert encoded.keys() == streams.keys()
    for key, stream in streams.items():
        assert stream.reader.is_between_packets, f"{key} ends inside of a packet"
        assert encoded[key] == stream.received
    assert len(packets) == PACKET_COUNTS[name] > 0
    print(name, len(packets), dict(Counter(one.command.name for one in packets)))


@each_capture
def test_every_packet_is_on_the_socket_where_it_belongs(name):
    """Each capture has both sockets, whichever node opened them."""
    assert {one.socket for one in seen(name)} - {SocketKind.NEW} == {SocketKind.DATA, SocketKind.META}


@pytest.mark.parametrize("name", [name for name in PATHS if name not in MIDDLE_OF_A_SESSION])
def test_handshake_starts_with_what_the_specification_says(name):
    """Protocol 86 to 101, all four features, zeros in the reserved bytes; the first P_STATE says WFConnection."""
    for node in (NODE_A, NODE_B):
        features = only(name, Packet.P_CONNECTION_FEATURES, sender=node)[0].value
        assert (features.protocol_min, features.feature_flags, features.protocol_max) == (86, 0xF, 101)
        assert not any(features.reserved)
        protocol = only(name, Packet.P_PROTOCOL, sender=node)[0].value
        assert (protocol.protocol, protocol.after_sb_0pri) == (WireProtocol.C, AfterSb.DISCONNECT)
        assert only(name, Packet.P_STATE, sender=node)[0].value.word >> 4 & 0x1F == WFConnection
        sizes = only(name, Packet.P_SIZES, sender=node)[0].value
        assert sizes.queue_limits.logical_block_size == 512


@pytest.mark.parametrize("name", ["08-auth-sha1-digests-full-sync", "09-checksum-resync"])
def test_auth_response_is_the_hmac_of_the_peers_challenge(name):
    """HMAC-SHA1 with the shared secret as the key, over the whole challenge of the other node."""
    challenges = {one.sender: one.value.challenge for one in only(name, Packet.P_AUTH_CHALLENGE)}
    responses = {one.sender: one.value.response for one in only(name, Packet.P_AUTH_RESPONSE)}
    assert set(challenges) == set(responses) == {NODE_A, NODE_B}
    for node, response in responses.items():
        assert response == hmac.digest(SECRET, challenges[the_other(node)], hashlib.sha1)


def test_data_carries_a_crc32c_over_its_data():
    """The digest of data-integrity-alg crc32c is the little-endian CRC-32C of the data alone."""
    assert native.crc32c(bytes(4096)).to_bytes(4, "little") == CRC32C_OF_ZERO_BLOCK
    checked = 0
    for name in ("08-auth-sha1-digests-full-sync", "09-checksum-resync"):
        for one in only(name, Packet.P_DATA, Packet.P_DATA_REPLY, Packet.P_RS_DATA_REPLY):
            assert one.value.digest == native.crc32c(one.value.data).to_bytes(4, "little")
            checked += 1
    assert checked == 10


@each_with_writes
def test_barrier_ack_counts_the_writes_of_its_epoch(name):
    """Epochs are acknowledged in order, each with the number of writes since the barrier before."""
    for writer in (NODE_A, NODE_B):
        epochs, write_count = [], 0
        for one in only(name, *WRITES, Packet.P_BARRIER, sender=writer):
            if one.command == Packet.P_BARRIER:
                epochs.append((one.value.barrier, write_count))
                write_count = 0
            else:
                write_count += 1
        acks = [(one.value.barrier, one.value.set_size) for one in only(name, Packet.P_BARRIER_ACK)]
        if epochs:
            assert acks == epochs
    assert only(name, Packet.P_BARRIER)


@each_with_writes
def test_each_write_is_acknowledged_with_its_place_id_and_size(name):
    """P_WRITE_ACK echoes sector, block_id and size of the write; protocol C asks for it by flag 256."""
    writes = only(name, *WRITES)
    for one in writes:
        assert one.value.dp_flags & DpFlag.SEND_WRITE_ACK
        assert one.value.block_id != ID_SYNCER
    sizes = [one.value.size if one.command == Packet.P_TRIM else len(one.value.data) for one in writes]
    places = [(one.value.sector, one.value.block_id, size) for one, size in zip(writes, sizes, strict=True)]
    acks = [(one.value.sector, one.value.block_id, one.value.blksize) for one in only(name, Packet.P_WRITE_ACK)]
    assert sorted(acks) == sorted(places) != []


@each_capture
def test_sequence_numbers_have_no_gap(name):
    """One counter per direction for writes and block acks together; it starts with 1 when the connection is new."""
    for node in (NODE_A, NODE_B):
        mine = [one for one in seen(name) if one.sender == node]
        numbers = sorted(one.value.seq_num for one in mine if one.command in WRITES or isinstance(one.value, BlockAck))
        if numbers:
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert numbers[0] == 1 or name in MIDDLE_OF_A_SESSION


def bitmaps(name: str) -> dict[str, tuple[bytearray, list[tuple[Packet, bytes]], int]]:
    """Of each node: the bitmap that it sent, its packets, and the number of bits."""
    sectors = [one.value.c_size or one.value.d_size for one in only(name, Packet.P_SIZES)]
    bit_count = bits_for_sectors(min(sectors))
    result = {}
    for node in (NODE_A, NODE_B):
        sent = only(name, Packet.P_BITMAP, Packet.P_COMPRESSED_BITMAP, sender=node)
        bits = bytearray(-(-bit_count // 64) * 8)
        receiver = BitmapReceiver(bits, bit_count, header_size(101))
        results = [receiver.receive(one.command, one.raw.payload) for one in sent]
        assert results == [False] * (len(sent) - 1) + [True]
        assert receiver.newly_set == native.bitmap_count(bits, 0, bit_count)
        result[node] = bits, [(one.command, one.raw.payload) for one in sent], bit_count
    return result


def source_and_target(name: str) -> tuple[str, str]:
    """The nodes' roles in the resync: the source sends P_SYNC_UUID."""
    (packet,) = only(name, Packet.P_SYNC_UUID)
    return packet.sender, the_other(packet.sender)


@each_with_bitmaps
def test_our_encoder_makes_the_kernels_bitmap_packets(name):
    """From the bitmap that a node sent come the very bytes that it sent."""
    for bits, packets, bit_count in bitmaps(name).values():
        assert list(encode_bitmap(bits, bit_count, header_size(101), use_rle=True)) == packets


@each_with_bitmaps
def test_target_answers_with_the_merged_bitmap(name):
    """The target's bitmap has all bits of the source's; without bits of its own it is the same one."""
    source, target = source_and_target(name)
    by_node = bitmaps(name)
    bits, _packets, bit_count = by_node[source]
    merged = bytearray(by_node[target][0])
    assert native.bitmap_merge(merged, bits) == 0
    announced = {node: only(name, Packet.P_UUIDS, sender=node)[0].value.dirty_bits for node in (source, target)}
    merged_count = native.bitmap_count(merged, 0, bit_count)
    if announced[source]:  # else both set all bits after P_UUIDS
        assert native.bitmap_count(bits, 0, bit_count) == announced[source]
        assert max(announced.values()) <= merged_count <= sum(announced.values())
    else:
        assert merged_count == bit_count


@each_with_bitmaps
def test_resync_asks_for_exactly_the_set_bits(name):
    """The requests of the target cover each bit of the merged bitmap once and no other; one answer for each."""
    _source, target = source_and_target(name)
    bits, _packets, bit_count = bitmaps(name)[target]
    requests = only(name, Packet.P_RS_DATA_REQUEST, Packet.P_CSUM_RS_REQUEST, sender=target)
    asked = bytearray(len(bits))
    for one in requests:
        assert one.value.block_id == ID_SYNCER
        first = one.value.sector // SECTORS_PER_BIT
        count = bits_for_sectors(bytes_to_sectors(one.value.blksize))
        assert native.bitmap_set(asked, first, count) == count, "asked twice"
    assert native.bitmap_count(asked, 0, bit_count) > 0
    assert asked == bits
    assert len(only(name, Packet.P_RS_DATA_REPLY, Packet.P_RS_IS_IN_SYNC)) == len(requests)
    assert len(only(name, Packet.P_RS_WRITE_ACK)) == len(only(name, Packet.P_RS_DATA_REPLY))


def test_reconnect_resyncs_what_was_written_meanwhile():
    """20 x 4 KiB and 3 x 64 KiB were written while b was away: P_UUIDS announces as many bits as the bitmap has."""
    name = "04-reconnect-bitmap-resync"
    bits, packets, bit_count = bitmaps(name)[NODE_A]
    assert bit_count == 2038
    assert [command for command, _payload in packets] == [Packet.P_COMPRESSED_BITMAP]
    announced = {one.sender: one.value.dirty_bits for one in only(name, Packet.P_UUIDS)}
    assert announced == {NODE_A: native.bitmap_count(bits, 0, bit_count), NODE_B: 0}


def test_full_sync_is_one_run_of_set_bits():
    """A bitmap with all bits set is a single run: polarity 1."""
    packet = only("01-initial-full-sync", Packet.P_COMPRESSED_BITMAP)[0].value
    assert isinstance(packet, CompressedBitmap)
    assert (packet.polarity, len(packet.code)) == (1, 3)


@pytest.mark.parametrize("name", ["05-online-verify-clean", "10-verify-with-digests"])
def test_verify_asks_for_each_block_and_finds_nothing(name):
    """Request, reply with a crc32c, result 4711 as a big-endian number: one of each for each of 2038 blocks."""
    sectors = [SECTORS_PER_BIT * bit for bit in range(2038)]
    for command in (Packet.P_OV_REQUEST, Packet.P_OV_REPLY, Packet.P_OV_RESULT):
        assert sorted(one.value.sector for one in only(name, command)) == sectors
    assert {len(one.value.digest) for one in only(name, Packet.P_OV_REPLY)} == {4}
    assert {one.value.block_id for one in only(name, Packet.P_OV_RESULT)} == {OV_IN_SYNC}


def test_diskless_primary_reads_from_its_peer():
    """Each P_DATA_REPLY echoes sector and block_id of its request and has as many bytes as were asked for."""
    name = "07-diskless-primary-reads-and-writes"
    asked = [one.value for one in only(name, Packet.P_DATA_REQUEST, sender=NODE_A)]
    replies = [one.value for one in only(name, Packet.P_DATA_REPLY, sender=NODE_B)]
    assert len(replies) == 4
    places = [(reply.sector, reply.block_id, len(reply.data)) for reply in replies]
    assert places == [(request.sector, request.block_id, request.blksize) for request in asked]
    assert {(reply.seq_num, reply.dp_flags) for reply in replies} == {(0, 0)}


def test_crashed_primary_says_so():
    """The node that lost power sets flag 2 in P_UUIDS, the other does not."""
    flags = {one.sender: one.value.flags for one in only("11-crashed-primary-returns", Packet.P_UUIDS)}
    assert sorted(value & UuidFlag.CRASHED_PRIMARY for value in flags.values()) == [0, 2]


def test_split_brain_nodes_share_their_bitmap_uuid():
    """Both wrote alone: different current uuids that come from the same generation (rule 90, bit 0 aside)."""
    first, second = (one.value for one in only("12-split-brain", Packet.P_UUIDS))
    assert first.current | 1 != second.current | 1
    assert first.bitmap | 1 == second.bitmap | 1 != 1


def test_graceful_disconnect_is_granted():
    """P_CONN_ST_CHG_REQ asks for conn = Disconnecting under the mask 31, the reply is 1."""
    request, reply = seen("06-graceful-disconnect")
    assert (request.value.mask, request.value.value) == (31 << 4, 1 << 4)
    assert reply.value.retcode == 1
