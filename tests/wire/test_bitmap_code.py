"""Bitmaps cut into packets: mandatory lengths, the terminator, compression where it pays, and merging."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd import native
from pydrbd.errors import PeerProtocolError
from pydrbd.limits import BITMAP_PACKET_BYTES_MAX
from pydrbd.wire.bitmap_code import BitmapReceiver, encode_bitmap
from pydrbd.wire.packet_numbers import Packet
from pydrbd.wire.packets import CompressedBitmap

H80, H100 = 8, 16
PLAIN, RLE = Packet.P_BITMAP, Packet.P_COMPRESSED_BITMAP


def empty(bit_count: int) -> bytearray:
    return bytearray(-(-bit_count // 64) * 8)


def with_runs(*runs: int, polarity: int = 0) -> tuple[bytearray, int]:
    """A bitmap of runs of alternating polarity."""
    bits, first = empty(sum(runs)), 0
    for run in runs:
        if polarity:
            native.bitmap_set(bits, first, run)
        first, polarity = first + run, 1 - polarity
    return bits, first


def alternating(bit_count: int) -> bytearray:
    """Every other bit: what a run-length code can't shorten."""
    return bytearray(b"\x55" * len(empty(bit_count)))


def received(packets, bit_count: int, header_size: int = H100, into: bytearray | None = None) -> bytearray:
    """What a receiver makes of the packets; it must be complete with the last one and not before."""
    bits = empty(bit_count) if into is None else into
    before = native.bitmap_count(bits, 0, bit_count)
    receiver = BitmapReceiver(bits, bit_count, header_size)
    answers = [receiver.receive(command, payload) for command, payload in packets]
    assert answers == [False] * (len(answers) - 1) + [True]
    assert receiver.newly_set == native.bitmap_count(bits, 0, bit_count) - before
    return bits


@pytest.mark.parametrize(
    ("bit_count", "header_size", "lengths"),
    [
        (153586, H100, [4080, 4080, 4080, 4080, 2880, 0]),
        (510 * 64, H100, [4080, 0]),
        (510 * 64 + 1, H100, [4080, 8, 0]),
        (511 * 64 + 1, H80, [4088, 8, 0]),
        (1, H100, [8, 0]),
        (0, H100, [0]),
    ],
)
def test_plain_packets_have_the_mandatory_lengths(bit_count, header_size, lengths):
    """As many words as fit 4096 bytes with the header, then the rest, then nothing as the end."""
    packets = list(encode_bitmap(alternating(bit_count), bit_count, header_size, use_rle=False))
    assert [(command, len(payload)) for command, payload in packets] == [(PLAIN, length) for length in lengths]
    assert native.bitmap_count(received(packets, bit_count, header_size), 0, bit_count) == -(-bit_count // 2)


@pytest.mark.parametrize(
    ("runs", "code", "pad_bits"),
    [
        ([32768], "7fcf5e00", 3),
        ([262127], "7fbede03", 3),
        ([4096, 28672], "3fcfeeefd90900", 6),
        ([100, 1, 2, 3, 32662], "df0ce6afcc0b00", 6),
    ],
)
@pytest.mark.parametrize("polarity", [0, 1])
def test_runs_have_the_documented_code(runs, code, pad_bits, polarity):
    """The vectors that were made with the kernel's own code; a last compressed packet needs no terminator."""
    bits, bit_count = with_runs(*runs, polarity=polarity)
    expected = CompressedBitmap(bytes.fromhex(code), pad_bits, polarity).encode()
    assert list(encode_bitmap(bits, bit_count, H100, use_rle=True)) == [(RLE, expected)]
    assert received([(RLE, expected)], bit_count) == bits


def test_clean_device_is_five_bytes():
    """128 MiB without a dirty block: 0x32 and the code; fully dirty: 0xb2 and the same."""
    clean, dirty = empty(32768), bytearray(b"\xff" * 4096)
    assert list(encode_bitmap(clean, 32768, H100, use_rle=True)) == [(RLE, bytes.fromhex("327fcf5e00"))]
    assert list(encode_bitmap(dirty, 32768, H100, use_rle=True)) == [(RLE, bytes.fromhex("b27fcf5e00"))]


def test_what_does_not_compress_travels_plain():
    """Alternating bits need two code bits each: plain packets although compression is on, with the terminator."""
    packets = list(encode_bitmap(alternating(40000), 40000, H100, use_rle=True))
    assert [(command, len(payload)) for command, payload in packets] == [(PLAIN, 4080), (PLAIN, 920), (PLAIN, 0)]


@pytest.mark.parametrize(("bit_count", "commands"), [(7, [PLAIN, PLAIN]), (8, [RLE])])
def test_compression_pays_if_the_code_is_no_longer_than_the_bits(bit_count, commands):
    """One run of 5 to 8 bits is one byte of code: as long as 8 bits, longer than 7."""
    packets = list(encode_bitmap(empty(bit_count), bit_count, H100, use_rle=True))
    assert [command for command, _payload in packets] == commands


def test_plain_packet_after_a_compressed_one_starts_at_a_whole_word():
    """The position is rounded down to 64 bits on both sides: some bits travel twice, none is lost."""
    bit_count = 100_000 + 40_000 + 200_000
    bits = empty(bit_count)
    bits[100_000 // 8 : 140_000 // 8] = b"\x55" * 5000
    packets = list(encode_bitmap(bits, bit_count, H100, use_rle=True))
    assert [command for command, _payload in packets] == [RLE, PLAIN, RLE]
    assert packets[1][1][:8] != bytes(8)
    assert received(packets, bit_count) == bits


def test_bits_past_the_end_are_neither_sent_nor_taken():
    """A last word that is not full: rubbish behind the end stays where it is, on both sides."""
    packets = list(encode_bitmap(b"\xff" * 8, 13, H100, use_rle=False))
    assert packets == [(PLAIN, b"\xff\x1f" + bytes(6)), (PLAIN, b"")]
    assert received([(PLAIN, b"\xff" * 8), (PLAIN, b"")], 13) == b"\xff\x1f" + bytes(6)
    assert received([(PLAIN, b"\xff" * 8), (PLAIN, b"")], 13, into=bytearray(2)) == b"\xff\x1f"


bit_counts = st.integers(1, 3000) | st.integers(32000, 80000)


@st.composite
def bitmaps(draw):
    """A bitmap of long runs, and places that don't compress."""
    bit_count = draw(bit_counts)
    bits = empty(bit_count)
    for _ in range(draw(st.integers(0, 12))):
        first = draw(st.integers(0, bit_count - 1))
        count = draw(st.integers(1, bit_count - first))
        if draw(st.booleans()):
            native.bitmap_set(bits, first, count)
        else:
            for bit in range(first, min(first + count, first + 2000), 2):
                native.bitmap_set(bits, bit, 1)
    return bits, bit_count


@given(bitmaps(), bitmaps(), st.sampled_from([H80, H100]), st.booleans())
def test_receiver_ends_with_both_bitmaps_merged(ours, theirs, header_size, use_rle):
    """Whatever the bits, the header and the mixture of packets: OR, and every packet fits 4096 bytes."""
    (bits, bit_count), (theirs_bits, theirs_count) = ours, theirs
    into = empty(bit_count)
    if theirs_count <= bit_count:
        into[: len(theirs_bits)] = theirs_bits
    merged = int.from_bytes(into, "little") | int.from_bytes(bits, "little")
    packets = list(encode_bitmap(bits, bit_count, header_size, use_rle))
    assert all(len(payload) + header_size <= BITMAP_PACKET_BYTES_MAX for _command, payload in packets)
    assert int.from_bytes(received(packets, bit_count, header_size, into), "little") == merged


@given(st.lists(st.tuples(st.sampled_from([PLAIN, RLE, 0]), st.binary(max_size=40)), max_size=6), st.integers(1, 400))
def test_any_packets_are_taken_or_refused(packets, bit_count):
    """Rubbish never writes behind the bitmap, never goes backwards, and raises nothing but PeerProtocolError."""
    bits = bytearray(-(-bit_count // 8))
    receiver = BitmapReceiver(bits, bit_count, H100)
    try:
        for command, payload in packets:
            receiver.receive(command, payload)
            assert 0 <= receiver.position <= bit_count
    except PeerProtocolError:
        pass
    assert len(bits) == -(-bit_count // 8)
    assert int.from_bytes(bits, "little").bit_length() <= bit_count
    assert receiver.newly_set == native.bitmap_count(bits, 0, bit_count)


@pytest.mark.parametrize("length", [0, 8, 4072, 4088])
def test_plain_packet_of_another_length_is_refused(length):
    """Both sides must agree on the size of the device, or the words would land elsewhere."""
    receiver = BitmapReceiver(empty(40000), 40000, H100)
    with pytest.raises(PeerProtocolError, match=f"P_BITMAP: .*bit 0 of 40000: expected 4080, got {length}"):
        receiver.receive(PLAIN, bytes(length))


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        (b"\x02", "payload length"),
        (b"\x01\x00", "code: expected 2"),
        (b"\x02\xff\xff", "expected run lengths"),
        (bytes.fromhex("327fcf5e00"), "up to bit 32767"),
        (b"\x02" + bytes(4080), "code length in bytes: expected 4079 or less"),
    ],
)
def test_wrong_code_is_refused(payload, what):
    """No code, another code, a code that is cut off, a run behind the end, more than fits a packet."""
    with pytest.raises(PeerProtocolError, match=f"P_COMPRESSED_BITMAP: .*{what}"):
        BitmapReceiver(empty(32767), 32767, H100).receive(RLE, payload)


def test_nothing_may_stand_between_or_behind_the_packets():
    """Bitmap packets of a volume are contiguous, and end with the last one."""
    receiver = BitmapReceiver(empty(64), 64, H100)
    with pytest.raises(PeerProtocolError, match="P_STATE in the middle of its bitmap, at bit 0 of 64"):
        receiver.receive(Packet.P_STATE, bytes(4))
    assert not receiver.receive(PLAIN, bytes(8))
    with pytest.raises(PeerProtocolError, match="P_COMPRESSED_BITMAP"):
        receiver.receive(RLE, b"\x02\x00")
    assert receiver.receive(PLAIN, b"")
    with pytest.raises(PeerProtocolError, match="behind the end"):
        receiver.receive(PLAIN, b"")
