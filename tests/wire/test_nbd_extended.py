"""Extended headers byte by byte: what a client's requests become, and what becomes of the replies to them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydrbd.errors import ClientProtocolError
from pydrbd.limits import NBD_EXTENDED_PIECE_BYTES, NBD_REQUEST_BYTES_MAX
from pydrbd.units import GIB, MIB
from pydrbd.wire.nbd import ChunkType, Command, CommandFlag, NbdError, encode_block_status
from pydrbd.wire.nbd_extended import PIECE_BYTES_MAX, ExtendedTranslator

SIZE_BYTES = 20 * GIB
PAYLOAD = int(CommandFlag.PAYLOAD_LEN)


def translator() -> ExtendedTranslator:
    return ExtendedTranslator(SIZE_BYTES, 512, [1, 2])


def request(command: int, cookie: int, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b"") -> bytes:
    return struct.pack(">IHHQQQ", 0x21E41C71, flags, command, cookie, offset, length or len(data)) + data


REQUESTS = st.builds(
    lambda command, offset, length, flags, data: request(command, 5, offset, length, flags, data),
    st.integers(0, 8),
    st.sampled_from([0, 512, 513, 4 * GIB, SIZE_BYTES, 2**64 - 1]),
    st.sampled_from([0, 0, 512, 5 * GIB, SIZE_BYTES, 2**64 - 512]),
    st.sampled_from([0, 1, PAYLOAD]),
    st.binary(max_size=40),
)


def compact(data: bytes) -> list[tuple[int, int, int, int, int]]:
    """(flags, command, cookie, offset, length) of requests without payload."""
    return [fields[1:] for fields in struct.iter_unpack(">IHHQQI", data) if fields[0] == 0x25609513]


def simple(cookie: int, error: int = 0) -> bytes:
    return struct.pack(">IIQ", 0x67446698, error, cookie)


def reply(kind: int, cookie: int, offset: int, payload: bytes = b"", flags: int = 1) -> bytes:
    return struct.pack(">IHHQQQ", 0x6E8A278C, flags, kind, cookie, offset, len(payload)) + payload


def refusal(cookie: int, offset: int, error: int) -> bytes:
    return reply(ChunkType.ERROR, cookie, offset, struct.pack(">IH", error, 0))


@pytest.mark.parametrize("flags", [PAYLOAD, pytest.param(0, id="as QEMU 10.0")])
def test_a_session_cut_anywhere_says_the_same(flags: int) -> None:
    """WRITE with its payload, READ, FLUSH, and their replies: whole, or byte by byte."""
    said = request(Command.WRITE, 7, 512, flags=flags | CommandFlag.FUA, data=b"x" * 512)
    said += request(Command.READ, 8, 1024, 512) + request(Command.FLUSH, 7)
    heard = struct.pack(">IHHQQI", 0x25609513, 1, 1, 1, 512, 512) + b"x" * 512
    heard += struct.pack(">IHHQQI", 0x25609513, 0, 0, 2, 1024, 512) + struct.pack(">IHHQQI", 0x25609513, 0, 3, 3, 0, 0)
    answered = simple(1) + simple(3, NbdError.EIO)
    answered += struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, 2, 8 + 512, 1024) + b"y" * 512
    expected = reply(ChunkType.NONE, 7, 512) + refusal(7, 0, NbdError.EIO)
    expected += reply(ChunkType.OFFSET_DATA, 8, 1024, struct.pack(">Q", 1024) + b"y" * 512)
    for step in (1, 33, len(said) + len(answered)):
        one = translator()
        assert b"".join(one.requests(said[at : at + step]) for at in range(0, len(said), step)) == heard
        assert b"".join(one.replies(answered[at : at + step]) for at in range(0, len(answered), step)) == expected
        assert not one.refusals()


@pytest.mark.parametrize("command", [Command.TRIM, Command.WRITE_ZEROES, Command.CACHE])
@pytest.mark.parametrize("failing", [None, 1, 3])
def test_a_long_range_goes_on_in_pieces_and_is_answered_once(command: int, failing: int | None) -> None:
    """Without gaps, on the borders of what is carried out at once; the first error of any piece counts."""
    one, length = translator(), 15 * GIB
    pieces = compact(one.requests(request(command, 9, 4 * GIB, length, CommandFlag.FUA)))
    assert not one.requests(b"")
    assert [offset for *_, offset, _ in pieces] == [4 * GIB + at * PIECE_BYTES_MAX for at in range(len(pieces))]
    assert sum(length for *_, length in pieces) == length and {flags for flags, *_ in pieces} == {1}
    cookies = [cookie for _, _, cookie, _, _ in pieces]
    replies = [one.replies(simple(cookie, 5 if at == failing else 0)) for at, cookie in enumerate(cookies)]
    good = reply(ChunkType.NONE, 9, 4 * GIB)
    assert replies == [b""] * (len(pieces) - 1) + [good if failing is None else refusal(9, 4 * GIB, 5)]


def test_a_few_bytes_that_ask_for_very_much_are_taken_bit_by_bit() -> None:
    """A thousand TRIMs of a whole disk of 1 PiB: what they become does not lie in memory all at once."""
    size_bytes = 1 << 50
    one = ExtendedTranslator(size_bytes, 512, [])
    said = request(Command.TRIM, 1, 0, size_bytes) * 1000 + request(Command.FLUSH, 2)
    pieces = 0
    for _ in range(100):
        some = one.requests(said)
        assert NBD_EXTENDED_PIECE_BYTES <= len(some) <= NBD_EXTENDED_PIECE_BYTES + 28
        pieces += len(some) // 28
        said = b""
    assert pieces > 900_000


@given(st.lists(st.one_of(st.binary(max_size=40), REQUESTS), max_size=8), st.integers(1, 64))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_harm(parts: list[bytes], step: int) -> None:
    """However they are cut, they are the same requests, or the same error; and there is an end."""
    said = b"".join(parts)

    def outcome(step: int) -> tuple[bytes, bytes, str]:
        one, heard, what = translator(), b"", ""
        try:
            for at in range(0, len(said), step):
                data = said[at : at + step]
                while some := one.requests(data):
                    heard, data = heard + some, b""
        except ClientProtocolError as error:
            what = str(error)
        return heard if not what else b"", one.refusals(), what

    assert outcome(step) == outcome(len(said) + 1)


def test_block_status_has_64_bits_and_may_be_for_some_contexts() -> None:
    """Of a range that is too long for a compact request the beginning is told of; the last chunk has the flag DONE."""
    one = translator()
    choice = struct.pack(">QI", 10 * GIB, 2)
    said = request(Command.BLOCK_STATUS, 1, 0, 10 * GIB)
    said += request(Command.BLOCK_STATUS, 2, 0, flags=PAYLOAD, data=choice)
    assert [fields[1:] for fields in compact(one.requests(said))] == [
        (Command.BLOCK_STATUS, 1, 0, PIECE_BYTES_MAX),
        (Command.BLOCK_STATUS, 2, 0, PIECE_BYTES_MAX),
    ]
    extents = [(MIB, 3), (GIB, 0)]
    said = b"".join(encode_block_status(1, context, extents, done=context == 2) for context in (1, 2))
    said += b"".join(encode_block_status(2, context, extents, done=context == 2) for context in (1, 2))
    first, second = (struct.pack(">IIQQQQ", context, 2, MIB, 3, GIB, 0) for context in (1, 2))
    kind = ChunkType.BLOCK_STATUS_EXT
    assert one.replies(said) == reply(kind, 1, 0, first, 0) + reply(kind, 1, 0, second) + reply(kind, 2, 0, second)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (request(Command.FLUSH, 3, 512, flags=PAYLOAD, data=b"x" * 99), NbdError.EINVAL),
        (request(Command.READ, 3, 512, 5 * GIB), NbdError.EINVAL),
        (request(Command.TRIM, 3, 512, 5 * GIB + 1), NbdError.EINVAL),
        (request(Command.TRIM, 3, 512, SIZE_BYTES), NbdError.ENOSPC),
        (request(Command.WRITE_ZEROES, 3, 512, 2**64 - 512), NbdError.ENOSPC),
        (request(Command.BLOCK_STATUS, 3, 512, SIZE_BYTES), NbdError.EINVAL),
        (request(Command.BLOCK_STATUS, 3, 512, flags=PAYLOAD, data=struct.pack(">Q", 512)), NbdError.EINVAL),
        (request(Command.BLOCK_STATUS, 3, 512, flags=PAYLOAD, data=struct.pack(">QI", 512, 3)), NbdError.EINVAL),
        (request(Command.BLOCK_STATUS, 3, 512, flags=PAYLOAD, data=struct.pack(">QII", 512, 1, 1)), NbdError.EINVAL),
        (request(Command.BLOCK_STATUS, 3, 512, flags=PAYLOAD, data=bytes(MIB)), NbdError.EINVAL),
    ],
)
def test_what_is_refused_here_leaves_the_stream_in_step(said: bytes, error: int) -> None:
    """One error for it, and nothing of it goes on; the request behind it does."""
    one = translator()
    behind = compact(one.requests(said + request(Command.FLUSH, 4)))
    assert [fields[1] for fields in behind] == [Command.FLUSH]
    assert one.refusals() == refusal(3, 512, error) and not one.refusals()


def test_a_refusal_does_not_come_in_the_middle_of_a_reply() -> None:
    """It waits for the end of the chunk that is on its way."""
    one = translator()
    one.requests(request(Command.READ, 1, 0, 512))
    chunk = struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, 1, 8 + 512, 0) + b"y" * 512
    begun = one.replies(chunk[:100])
    one.requests(request(Command.READ, 3, 512, 5 * GIB))
    assert begun and not one.refusals()
    assert begun + one.replies(chunk[100:]) == reply(1, 1, 0, bytes(8) + b"y" * 512) + refusal(3, 512, NbdError.EINVAL)


@pytest.mark.parametrize(
    "said", [b"\xff" * 32, request(Command.WRITE, 1, 0, NBD_REQUEST_BYTES_MAX + 1, PAYLOAD), bytes(32)]
)
def test_what_can_not_be_understood_ends_the_connection(said: bytes) -> None:
    """A wrong magic number, and more payload than was announced as the most."""
    with pytest.raises(ClientProtocolError):
        translator().requests(said)
