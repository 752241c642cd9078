"""pwrite_records and pread_records on real files: every byte where it belongs, every failure with its member."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd import native
from pydrbd.native import Batch
from pydrbd.reference import Record
from tests.native.strategies import batch_of

BASE = 4096


@pytest.fixture
def descriptor():
    """An empty file in memory."""
    number = os.memfd_create("disk")
    yield number
    os.close(number)


def laid_out(lengths, offsets, gap=3):
    """Records one after the other in a buffer, and the buffer's contents."""
    members, at = [], 0
    for length, offset in zip(lengths, offsets, strict=True):
        members.append(Record(offset=offset, length=length, data=at + gap))
        at += gap + length
    return members, bytes(index % 251 + 1 for index in range(at))


@given(st.lists(st.integers(0, 9000), min_size=1, max_size=64), st.integers(0, 2**64 - 1))
def test_what_was_written_is_read_back(lengths, mask):
    """The masked members and nothing else, at base + offset; then the same through another buffer."""
    offsets = [index * 10_000 for index in range(len(lengths))]
    members, content = laid_out(lengths, offsets)
    mask &= (1 << len(members)) - 1
    disk = bytearray(BASE + 10_000 * len(lengths))
    for index in native.indices(mask):
        member = members[index]
        start = BASE + member.offset
        disk[start : start + member.length] = content[member.data : member.data + member.length]
    descriptor = os.memfd_create("disk")
    try:
        os.ftruncate(descriptor, len(disk))
        batch = batch_of(members, content)
        assert native.pwrite_records(descriptor, BASE, batch, mask) == (0, 0)
        assert os.pread(descriptor, len(disk) + 1, 0) == disk
        other = bytearray(len(content))
        assert native.pread_records(descriptor, BASE, batch, mask, other) == (0, 0)
        expected = bytearray(len(content))
        for index in native.indices(mask):
            place = slice(members[index].data, members[index].data + members[index].length)
            expected[place] = content[place]
        assert other == expected and batch.buffer == content
        assert native.pread_records(descriptor, BASE, Batch(bytearray(other), batch.records, batch.count), mask) == (
            0,
            0,
        )
    finally:
        os.close(descriptor)


def test_reading_past_the_end_of_the_file_is_an_error(descriptor):
    """A disk that became shorter says EIO, not zeros; the members before it are read."""
    os.pwrite(descriptor, b"d" * 1000, 0)
    members, content = laid_out([500, 500, 500, 0], [0, 700, 2000, 3000])
    batch = batch_of(members, bytes(len(content)))
    assert native.pread_records(descriptor, 0, batch, batch.all) == (0b0110, errno.EIO)
    assert bytes(batch.data(0)) == b"d" * 500


def test_a_full_disk_fails_the_members_that_did_not_fit():
    """A short write is carried on with, and ends in the disk's own word."""
    members, content = laid_out([100, 200], [0, 100])
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        assert native.pwrite_records(descriptor, 0, batch_of(members, content), 0b11) == (0b11, errno.ENOSPC)
    finally:
        os.close(descriptor)


def test_the_first_errno_is_reported(descriptor):
    """A place that no file has, then a wrong descriptor."""
    members, content = laid_out([10, 10, 10], [0, 2**63 - 5, 2**64 - 1])
    batch = batch_of(members, content)
    assert native.pwrite_records(descriptor, 0, batch, 0b111) == (0b110, errno.EINVAL)
    assert native.pread_records(descriptor, 2**63, batch, 0b001) == (0b001, errno.EINVAL)
    assert native.pwrite_records(descriptor, 4096, batch, 0b100) == (0b100, errno.EINVAL)
    assert os.fstat(descriptor).st_size == 10, "a sum that wraps around is not a place near the beginning"
    assert native.pwrite_records(-1, 0, batch, 0b111) == (0b111, errno.EBADF)
    assert native.pread_records(-1, 0, batch, 0b001) == (0b001, errno.EBADF)
    assert native.pread_records(-1, 0, batch, 0) == (0, 0)


def test_a_pipe_is_no_disk():
    """ESPIPE comes through as it is."""
    reader, writer = os.pipe()
    try:
        members, content = laid_out([10], [0])
        assert native.pwrite_records(writer, 0, batch_of(members, content), 1) == (1, errno.ESPIPE)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    "place", [{"data": 6, "length": 5}, {"data": 11, "length": 0}, {"data": 2**64 - 1, "length": 2}]
)
def test_payload_outside_of_the_buffer_is_the_callers_bug(descriptor, place):
    """Nothing reaches the system call that would read or write other memory."""
    batch = batch_of([Record(**place)], bytes(10))
    with pytest.raises(AssertionError, match="payload outside"):
        native.pwrite_records(descriptor, 0, batch, 1)
    with pytest.raises(AssertionError, match="payload outside"):
        native.pread_records(descriptor, 0, batch, 1)
    with pytest.raises(AssertionError, match="payload outside"):
        native.pread_records(descriptor, 0, batch_of([Record(length=5)], bytes(10)), 1, bytearray(4))
