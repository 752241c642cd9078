"""DirectMemory on files in memory: as pwrite_records and pread_records, whatever follows what on the disk."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd import native
from pydrbd.native import DirectMemory
from pydrbd.reference import Record
from tests.native.strategies import batch_of

BASE = 4096
BLOCK = 512
ROOM = 64 * 16 * BLOCK


def transfer(memory, descriptor, base, batch, mask, payload, *, is_write):
    """Begin, look whether it is done yet, end."""
    memory.begin(descriptor, base, batch, mask, payload, is_write=is_write)
    memory.wait(batch, mask, 1000)
    return memory.end(batch, mask, payload, is_write=is_write)


def laid_out(places, gap=3):
    """Records for (first block, blocks), their payloads one after the other with gaps, and the buffer's contents."""
    members, at = [], 0
    for first, count in places:
        members.append(Record(offset=first * BLOCK, length=count * BLOCK, data=at + gap))
        at += gap + count * BLOCK
    return members, bytes(index % 251 + 1 for index in range(at))


@st.composite
def places(draw):
    """Up to 64 disjoint places in any order; many follow the one before."""
    at, found = 0, []
    steps = st.tuples(st.sampled_from([0, 0, 1, 7]), st.integers(0, 16))
    for gap, count in draw(st.lists(steps, min_size=1, max_size=64)):
        found.append((at + gap, count))
        at += gap + count
    return draw(st.permutations(found)) if draw(st.booleans()) else found


@pytest.mark.parametrize("at_once", [True, False])
@given(places(), st.integers(0, 2**64 - 1))
def test_what_was_written_is_read_back(at_once, found, mask):
    """The masked members and nothing else, byte for byte what pwrite_records writes and pread_records reads."""
    members, content = laid_out(found)
    mask &= (1 << len(members)) - 1
    memory = DirectMemory(ROOM)
    if not at_once:
        memory._disk.context = 0
    disks = [os.memfd_create("disk"), os.memfd_create("twin")]
    try:
        for descriptor in disks:
            os.ftruncate(descriptor, BASE + max(first + count for first, count in found) * BLOCK)
        batch = batch_of(members, content)
        view = memoryview(batch.buffer)
        assert transfer(memory, disks[0], BASE, batch, mask, view, is_write=True) == (0, 0)
        assert native.pwrite_records(disks[1], BASE, batch, mask) == (0, 0)
        size = os.fstat(disks[1]).st_size
        assert os.pread(disks[0], size + 1, 0) == os.pread(disks[1], size + 1, 0)
        mine, twin = bytearray(len(content)), bytearray(len(content))
        assert transfer(memory, disks[0], BASE, batch, mask, memoryview(mine), is_write=False) == (0, 0)
        assert native.pread_records(disks[1], BASE, batch, mask, twin) == (0, 0)
        assert mine == twin
    finally:
        for descriptor in disks:
            os.close(descriptor)


@pytest.mark.parametrize("at_once", [True, False])
def test_who_fails_is_named_though_it_was_part_of_a_run(at_once):
    """Three members that follow each other, the disk ends in the second: the first is read, the others are EIO."""
    memory = DirectMemory(ROOM)
    if not at_once:
        memory._disk.context = 0
    descriptor = os.memfd_create("disk")
    try:
        os.pwrite(descriptor, b"x" * (BLOCK + 100), 0)
        members, content = laid_out([(0, 1), (1, 1), (2, 1), (40, 0)])
        batch, found = batch_of(members, content), bytearray(len(content))
        ended = transfer(memory, descriptor, 0, batch, batch.all, memoryview(found), is_write=False)
        assert ended == (0b0110, errno.EIO)
        assert found == bytes(3) + b"x" * BLOCK + bytes(2 * BLOCK + 9), "nothing of those that failed"
        payload = memoryview(batch.buffer)
        assert transfer(memory, -1, 0, batch, 0b0111, payload, is_write=True) == (0b0111, errno.EBADF)
        assert transfer(memory, -1, 0, batch, 0, payload, is_write=True) == (0, 0)
    finally:
        os.close(descriptor)


def test_more_than_fits_is_the_callers_bug():
    """Asserted before C sees it: a payload outside of the buffer, and more bytes than the memory has."""
    members, content = laid_out([(0, 2)])
    with pytest.raises(AssertionError, match="don't fit"):
        DirectMemory(BLOCK).begin(-1, 0, batch_of(members, content), 1, memoryview(content), is_write=True)
    with pytest.raises(AssertionError, match="payload outside"):
        DirectMemory(ROOM).begin(-1, 0, batch_of(members, content), 1, memoryview(content)[:-1], is_write=True)
