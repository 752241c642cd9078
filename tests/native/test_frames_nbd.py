"""NBD frames: C against its twin on any bytes, cut anywhere, and the rules of splitting one by one."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd import native, reference
from pydrbd.errors import ClientProtocolError
from tests.native.strategies import (
    COMMANDS,
    batch_of,
    exact,
    masks,
    record_lists,
    records,
    records_of,
    u16,
    u64,
    within,
)

LENGTH_MAX = 4096


def request(command=1, length=5, payload=None, magic=0x25609513, flags=0, cookie=7, offset=4096):
    header = struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length)
    return header + (bytes(length) if payload is None and command == 1 else payload or b"")


requests = st.builds(
    request,
    command=COMMANDS,
    length=st.one_of(st.integers(0, 60), st.integers(LENGTH_MAX - 1, LENGTH_MAX + 2)),
    magic=st.sampled_from([0x25609513] * 20 + [0x25609514]),
    flags=u16,
    cookie=u64,
    offset=u64,
)


def split_both(buffer, start, end, length_max=LENGTH_MAX):
    """What C and twin make of it, after checking that they agree; None for a refusal."""
    try:
        batch, consumed, need = native.nbd_split(exact(buffer), start, end, length_max)
        ours = records_of(batch), consumed, need
    except ClientProtocolError:
        ours = None
    try:
        twins = reference.nbd_split(buffer, start, end, length_max)
    except ClientProtocolError:
        twins = None
    assert ours == twins
    return ours


@given(st.lists(requests, max_size=8), st.binary(max_size=40), st.integers(0, 30), st.integers(0, 400))
def test_any_bytes_split_as_by_the_twin(parts, tail, start, cut):
    """Requests good and bad, garbage behind them, from any place to any place."""
    buffer = b"".join(parts) + tail
    end = max(len(buffer) - cut, 0)
    split_both(buffer, min(start, end), end)
    split_both(buffer, 0, end)


@given(st.lists(requests, min_size=1, max_size=100), st.integers(1, 200))
def test_requests_are_the_same_however_they_arrive(parts, step):
    """Fed in pieces of any size, as a connection does it, a stream gives the same requests, up to the first bad one."""
    stream = b"".join(parts)
    start, end, seen, need = 0, 0, [], 28
    while end < len(stream):
        end = min(max(end + step, start + need), len(stream))
        try:
            batch, consumed, need = native.nbd_split(bytearray(stream), start, end, LENGTH_MAX)
        except ClientProtocolError:
            break
        seen += records_of(batch)
        start += consumed
    expected, place = [], 0
    for part in parts:
        magic, flags, command, cookie, offset, length = struct.unpack_from(">IHHQQI", part)
        if magic != 0x25609513 or (command == 1 and length > LENGTH_MAX):
            break
        expected.append((cookie, offset, length, command, flags, place + 28))
        place += len(part)
    found = [(r.id, r.offset, r.length, r.command, r.flags, r.data) for r in seen]
    assert found == expected[: len(found)]
    assert len(found) == len(expected) or start + need > end or len(found) % 64 == 0


def test_a_request_is_incomplete_until_its_last_byte():
    """`need` counts the whole request as soon as its header is there, and just the header before that."""
    data = request(length=100)
    assert split_both(data, 0, 0) == ([], 0, 0)
    assert split_both(data, 0, 1) == split_both(data, 0, 27) == ([], 0, 28)
    assert split_both(data, 0, 28) == split_both(data, 0, 127) == ([], 0, 128)
    assert len(split_both(data, 0, 128)[0]) == 1


def test_what_is_good_comes_before_the_error():
    """The requests in front of a bad one are delivered; only then is the error."""
    good = request(command=0)
    assert len(split_both(good * 3 + request(magic=1), 0, 112 + 5)[0]) == 3
    assert split_both(good + request(length=LENGTH_MAX + 1), 0, 28 + 28 + 10) == split_both(good + bytes(28), 0, 56)
    assert split_both(request(length=LENGTH_MAX + 1), 0, 28) is None
    assert split_both(request(length=LENGTH_MAX), 0, 28) == ([], 0, 28 + LENGTH_MAX)


@pytest.mark.parametrize(
    ("bad", "words"),
    [(bytes(28), "magic number: 0000"), (request(length=LENGTH_MAX + 1), "more than 4096 bytes to write: 25609513")],
)
def test_the_error_says_what_is_wrong(bad, words):
    """And shows the bytes."""
    with pytest.raises(ClientProtocolError, match=words):
        native.nbd_split(bytearray(bad), 0, len(bad), LENGTH_MAX)


def test_a_batch_is_full_at_64():
    """The rest waits for the next call, and nothing is said about it."""
    batch, consumed, need = native.nbd_split(bytearray(request(command=3) * 65), 0, 65 * 28, LENGTH_MAX)
    assert (batch.count, batch.all, consumed, need) == (64, 2**64 - 1, 64 * 28, 0)


def test_only_a_write_has_a_payload():
    """Lengths of other commands are not limited here, and their bytes are not waited for."""
    for command in (0, 2, 3, 4, 5, 6, 7, 999):
        members, consumed, need = split_both(request(command=command, length=2**32 - 1), 0, 28)
        assert (members[0].length, consumed, need) == (2**32 - 1, 28, 0)


@given(record_lists(), masks, st.sampled_from([0, 5]) | st.integers(0, 2**32 - 1), st.booleans())
def test_replies_are_the_twins(members, mask, error, structured):
    """Structured ones to READs, simple ones to all others."""
    mask, batch = within(mask, members), batch_of(members)
    batch.structured = structured
    wanted = reference.nbd_replies(members, mask, error, structured=structured)
    assert native.nbd_replies(batch, mask, error) == wanted
    assert native.nbd_commands(batch, mask) == reference.nbd_commands(members, mask)


@given(record_lists(records(lengths=st.integers(0, 50))), masks, st.booleans())
def test_read_replies_are_the_twins(members, mask, structured):
    """Headers, room, and where the room is."""
    mask, batch = within(mask, members), batch_of(members)
    batch.structured = structured
    wanted = reference.nbd_read_replies(members, mask, structured=structured)
    assert native.nbd_read_replies(batch, mask) == wanted
    first = next(native.indices(mask), None)
    assert first is None or members[first].data == native.nbd_read_header_bytes(batch)
    assert records_of(batch) == members
