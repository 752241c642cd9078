"""Batches for both: the records as objects for the twins, and the same ones in memory for C."""

import random
from dataclasses import fields

from hypothesis import strategies as st

from pydrbd.native import Batch, new_records
from pydrbd.native.batch import ffi
from pydrbd.reference import Record

U16, U32, U64 = 2**16 - 1, 2**32 - 1, 2**64 - 1

u16 = st.integers(0, U16)
u32 = st.integers(0, U32)
u64 = st.integers(0, U64)
masks = u64

COMMANDS = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 77])

near_offsets = st.integers(0, 40 * 4096)
far_offsets = st.one_of(near_offsets, u64, st.integers(U64 - 2**33, U64))
near_lengths = st.one_of(st.integers(0, 3 * 4096), st.sampled_from([0, 512, 4096, 1 << 20, 5 << 20]))
far_lengths = st.one_of(near_lengths, u32)


def records(offsets=near_offsets, lengths=near_lengths, commands=COMMANDS):
    """Records with anything in them."""
    return st.builds(
        Record,
        offset=offsets,
        id=u64,
        data=st.integers(0, 100),
        length=lengths,
        seq=u32,
        flags=st.one_of(st.sampled_from([0, 1, 2, 3]), u32),
        command=commands,
        volume=u16,
        digest=st.integers(0, 64),
        block=u32,
    )


def record_lists(record=None, max_size=64):
    """The members of a batch: a few usually, else 64 that mix the fields of a few and lie near them."""
    record = records() if record is None else record
    few = st.lists(record, max_size=4)
    many = st.builds(_mixed, st.lists(record, min_size=2, max_size=4), st.integers(0, U32), st.just(max_size))
    return st.one_of(few, many)


def _mixed(members, seed, count):
    chance = random.Random(seed)

    def one():
        record = Record(**{field.name: getattr(chance.choice(members), field.name) for field in fields(Record)})
        record.offset = min(record.offset + 512 * chance.randrange(64), U64)
        return record

    return [one() for _ in range(count)]


def batch_of(members, buffer=b""):
    """The same records in memory."""
    memory = new_records()
    for index, member in enumerate(members):
        for field in fields(Record):
            setattr(memory[index], field.name, getattr(member, field.name))
    return Batch(bytearray(buffer), memory, len(members))


def records_of(batch):
    """The records in memory as objects."""
    return [Record(**{f.name: getattr(batch.records[i], f.name) for f in fields(Record)}) for i in range(batch.count)]


def exact(data):
    """The same bytes in memory that ends with them: a bytearray has one byte more, which would hide a mistake."""
    memory = memoryview(ffi.buffer(ffi.new("uint8_t[]", len(data)))) if data else memoryview(bytearray())
    memory[:] = bytes(data)
    return memory


def within(mask, members):
    """The part of a mask that names members."""
    return mask & ((1 << len(members)) - 1)
