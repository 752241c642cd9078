"""The hot path reads and writes the recorded streams like the packet classes do: native.drbd_split and drbd_acks."""

from __future__ import annotations

import pytest

from pydrbd import native
from pydrbd.limits import BATCH_RECORDS_MAX, DRBD_PAYLOAD_BYTES_MAX
from pydrbd.wire.framing import stream_format
from pydrbd.wire.packet_numbers import Packet
from pydrbd.wire.packets import AnyPacket, BlockAck, BlockDesc, BlockReq, Data, DigestReq, Trim
from tests.wire.pcap import capture_paths
from tests.wire.sessions import Seen, capture_name, session_of

PATHS = {capture_name(path): path for path in capture_paths()}
SECTOR = 512

Fields = tuple[int, int, int, int, int, int]


def expected_fields(value: AnyPacket) -> Fields:
    """offset, id, seq, flags, length and digest size of a record, from the decoded value."""
    match value:
        case Data(sector, block_id, seq_num, dp_flags, data, digest):
            return sector * SECTOR, block_id, seq_num, dp_flags, len(data), len(digest)
        case Trim(sector, block_id, seq_num, dp_flags, size):
            return sector * SECTOR, block_id, seq_num, dp_flags, size, 0
        case BlockAck(sector, block_id, blksize, seq_num):
            return sector * SECTOR, block_id, seq_num, 0, blksize, 0
        case BlockReq(sector, block_id, blksize):
            return sector * SECTOR, block_id, 0, 0, blksize, 0
        case DigestReq(sector, block_id, blksize, digest):
            return sector * SECTOR, block_id, 0, 0, blksize, len(digest)
        case BlockDesc(sector, blksize):
            return sector * SECTOR, 0, 0, 0, blksize, 0
        case _:
            return 0, 0, 0, 0, len(value.encode()), 0


def streams(name: str) -> list[tuple[bytearray, list[Seen]]]:
    """Each direction of each connection from where the new headers begin: its bytes and its packets."""
    session = session_of(PATHS[name])
    by_stream: dict[tuple[int, str], list[Seen]] = {}
    for one in session.packets():
        by_stream.setdefault((one.connection, one.sender), []).append(one)
    result = []
    for (number, endpoint), stream in session.streams.items():
        packets = by_stream[number, endpoint[0]]
        skipped = sum(len(one.encode()) for one in packets if one.apv < 100)
        result.append((stream.received[skipped:], [one for one in packets if one.apv >= 100]))
    return result


@pytest.mark.parametrize("name", PATHS)
def test_batches_have_the_fields_of_the_packets(name):
    """The stream split 64 packets at a time: command, volume and every number like in the decoded values."""
    for content, packets in streams(name):
        digest_size = packets[-1].context.integrity_digest_size if packets else 0
        at, found = 0, 0
        while at < len(content):
            batch, consumed, _need = native.drbd_split(
                content, at, len(content), stream_format(101), digest_size, DRBD_PAYLOAD_BYTES_MAX
            )
            assert 0 < batch.count <= BATCH_RECORDS_MAX
            for index in range(batch.count):
                record, seen = batch.records[index], packets[found + index]
                assert (record.command, record.volume) == (seen.command, seen.raw.volume)
                fields = (record.offset, record.id, record.seq, record.flags, record.length, record.digest)
                assert fields == expected_fields(seen.value), seen.command.name
                if isinstance(seen.value, Data):
                    assert batch.data(index) == seen.value.data
            at += consumed
            found += batch.count
        assert found == len(packets)


@pytest.mark.parametrize("name", [name for name in PATHS if name[:2] in ("01", "02", "08", "10")])
def test_acks_are_built_as_the_kernel_builds_them(name):
    """drbd_acks makes from each record of a recorded acknowledgement the recorded bytes."""
    built = 0
    for content, packets in streams(name):
        at = 0
        for one in packets:
            size = len(one.encode())
            if isinstance(one.value, BlockAck):
                batch, _consumed, _need = native.drbd_split(content, at, at + size, 100, 0, DRBD_PAYLOAD_BYTES_MAX)
                ack = native.drbd_acks(batch, 1, format=100, packet=one.command, first_seq=one.value.seq_num)
                assert ack == content[at : at + size]
                built += 1
            at += size
    assert built > 0


def test_digest_ends_where_the_data_begins():
    """A record's data comes right behind its digest, which is the CRC-32C of the data."""
    checked = 0
    for content, packets in streams("08-auth-sha1-digests-full-sync"):
        at = 0
        for one in packets:
            size = len(one.encode())
            if one.command == Packet.P_DATA:
                batch, _consumed, _need = native.drbd_split(content, at, at + size, 100, 4, DRBD_PAYLOAD_BYTES_MAX)
                record = batch.records[0]
                digest = bytes(content[record.data - record.digest : record.data])
                assert digest == native.crc32c(batch.data(0)).to_bytes(4, "little") == one.value.digest
                checked += 1
            at += size
    assert checked == 8
