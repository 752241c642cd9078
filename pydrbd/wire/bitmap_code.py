"""The exchange of out-of-sync bitmaps: one bitmap cut into packets, and put together again.

A bitmap is bytes: bit i is bit (i % 8) of byte (i / 8). It travels from bit 0 to its end in packets of two kinds, which
may be mixed; where a packet starts is not in it, both sides count.

P_BITMAP carries plain 64-bit words. The position is first rounded down to a multiple of 64 bits (some bits then travel
twice). The number of words is not free: as many as fit 4096 bytes with the header, or all that are left. If the end of
the bitmap is reached so, one more P_BITMAP without payload ends the bitmap.

P_COMPRESSED_BITMAP carries run lengths (native.vli_encode). The packet that reaches the end is the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydrbd import native
from pydrbd.errors import PeerProtocolError
from pydrbd.limits import BITMAP_PACKET_BYTES_MAX
from pydrbd.units import ceil_div
from pydrbd.wire.packet_numbers import Packet, packet_name
from pydrbd.wire.packets_state import WORD_BYTES, CompressedBitmap
from pydrbd.wire.payload import Buffer, malformed

__all__ = ["BitmapReceiver", "encode_bitmap"]

_WORD_BITS: Final = 8 * WORD_BYTES
_ENCODING_BYTES: Final = 1


def _words_per_packet(header_size: int) -> int:
    """510 with a header of 16 bytes, 511 with one of 8."""
    return (BITMAP_PACKET_BYTES_MAX - header_size) // WORD_BYTES


def encode_bitmap(
    bits: bytes | bytearray, bit_count: int, header_size: int, use_rle: bool
) -> Iterator[tuple[Packet, bytes]]:
    """The packets (command, payload) that carry a bitmap of `bit_count` bits, the last one included.

    `bits` has at least ceil(bit_count / 8) bytes and is read while the iterator runs; a change of a part that was
    already sent must be told to the peer in another way (P_OUT_OF_SYNC). `use_rle`: compress where it pays.
    """
    assert 8 * len(bits) >= bit_count
    command, position = Packet.P_BITMAP, 0
    while position < bit_count:
        command, payload, position = _packet_at(bits, bit_count, position, header_size, use_rle)
        yield command, payload
    if command == Packet.P_BITMAP:
        yield Packet.P_BITMAP, b""


def _packet_at(
    bits: bytes | bytearray, bit_count: int, position: int, header_size: int, use_rle: bool
) -> tuple[Packet, bytes, int]:
    """The packet that goes out at a position (before bit_count), and the position behind it."""
    if use_rle:
        room = BITMAP_PACKET_BYTES_MAX - header_size - _ENCODING_BYTES
        code, end, pad_bits, polarity = native.vli_encode(bits, bit_count, position, room)
        if end - position >= 8 * len(code):
            return Packet.P_COMPRESSED_BITMAP, CompressedBitmap(code, pad_bits, polarity).encode(), end
    words, end = _plain_words(bits, bit_count, position, header_size)
    return Packet.P_BITMAP, words, end


def _plain_words(bits: bytes | bytearray, bit_count: int, position: int, header_size: int) -> tuple[bytes, int]:
    """The words of the plain packet at a position, and the position behind it. Bits past the end are sent as 0."""
    first_word = position // _WORD_BITS
    count = min(_words_per_packet(header_size), ceil_div(bit_count, _WORD_BITS) - first_word)
    end = min((first_word + count) * _WORD_BITS, bit_count)
    words = bytes(memoryview(bits)[first_word * WORD_BYTES : ceil_div(end, 8)])
    if end % 8:
        words = words[:-1] + bytes([words[-1] & (1 << end % 8) - 1])
    return words.ljust(count * WORD_BYTES, b"\0"), end


class BitmapReceiver:
    """Takes the packets of the peer's bitmap and merges (ORs) it into ours.

    `bits` (at least ceil(bit_count / 8) bytes) is changed in place, packet by packet. `position` counts bits, and
    `newly_set` those that were not set before; both hold after a refusal too. A packet that is refused may have set
    some of its bits: harmless, the bitmap only says more.
    """

    def __init__(self, bits: bytearray, bit_count: int, header_size: int) -> None:
        assert 8 * len(bits) >= bit_count
        self.position = 0
        self.newly_set = 0
        self.is_complete = False
        self._bits = bits
        self._bit_count = bit_count
        self._header_size = header_size

    def receive(self, command: int, payload: Buffer) -> bool:
        """Merge one packet; returns whether the bitmap is complete. Raises PeerProtocolError."""
        if self.is_complete:
            raise PeerProtocolError("the peer sent a bitmap packet behind the end of its bitmap")
        if command == Packet.P_BITMAP:
            self._receive_plain(payload)
        elif command == Packet.P_COMPRESSED_BITMAP:
            self._receive_compressed(payload)
        else:
            place = f"in the middle of its bitmap, at bit {self.position} of {self._bit_count}"
            raise PeerProtocolError(f"the peer sent {packet_name(command)} {place}")
        return self.is_complete

    def _receive_plain(self, payload: Buffer) -> None:
        first_word = self.position // _WORD_BITS if self.position < self._bit_count else None
        words_left = 0 if first_word is None else ceil_div(self._bit_count, _WORD_BITS) - first_word
        expected = min(_words_per_packet(self._header_size), words_left) * WORD_BYTES
        if len(payload) != expected:
            what = f"payload length in bytes at bit {self.position} of {self._bit_count}"
            raise malformed(Packet.P_BITMAP, what, expected, len(payload))
        if first_word is None:
            self.is_complete = True
            return
        end = min(first_word * _WORD_BITS + 8 * expected, self._bit_count)
        self._merge_words(first_word * WORD_BYTES, end, payload)
        self.position = end

    def _merge_words(self, start_byte: int, end: int, payload: Buffer) -> None:
        """OR the payload into the bits from `start_byte` to bit `end`; what it has beyond is ignored."""
        place = slice(start_byte, ceil_div(end, 8))
        before = int.from_bytes(self._bits[place], "little")
        mask = (1 << (end - 8 * start_byte)) - 1
        after = before | (int.from_bytes(payload, "little") & mask)
        self._bits[place] = after.to_bytes(place.stop - place.start, "little")
        self.newly_set += after.bit_count() - before.bit_count()

    def _receive_compressed(self, payload: Buffer) -> None:
        packet = CompressedBitmap.decode(payload)
        code_max = BITMAP_PACKET_BYTES_MAX - self._header_size - _ENCODING_BYTES
        if len(packet.code) > code_max:
            raise malformed(Packet.P_COMPRESSED_BITMAP, "code length in bytes", f"{code_max} or less", len(packet.code))
        end, newly_set = native.vli_decode(
            self._bits, self._bit_count, self.position, packet.code, packet.pad_bits, packet.polarity
        )
        self.newly_set += newly_set
        if end < 0:
            expected = f"run lengths from bit {self.position} up to bit {self._bit_count}"
            raise malformed(Packet.P_COMPRESSED_BITMAP, "code", expected, "none or longer ones")
        self.position = end
        self.is_complete = self.position == self._bit_count
