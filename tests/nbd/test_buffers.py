"""The receive buffer: nothing that somebody can still see is written again, and nothing is lost on the way."""

from __future__ import annotations

import gc
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pydrbd import native
from pydrbd.limits import NBD_REQUEST_BYTES_MAX, RECEIVE_BUFFER_BYTES
from pydrbd.runtime.buffers import ReceiveBuffer
from pydrbd.wire.nbd import Command, encode_request

KIB = 1024


def fill(buffer, data):
    """What a socket would do."""
    room = buffer.room()
    taken = min(len(data), len(room))
    room[:taken] = data[:taken]
    buffer.end += taken
    return data[taken:]


def test_a_quiet_buffer_uses_the_same_memory_again():
    """Nobody holds a batch: one piece of memory serves a stream of any length."""
    buffer = ReceiveBuffer()
    first = buffer.memory
    for _ in range(100):
        buffer.make_room(100 * KIB)
        assert fill(buffer, bytes(100 * KIB)) == b""
        buffer.start = buffer.end
    assert buffer.memory is first


def test_memory_in_view_is_left_alone_until_the_view_is_gone():
    """A slice held for long pins its memory, not the stream; let go of, the memory comes back into use."""
    buffer = ReceiveBuffer()
    fill(buffer, b"held" + bytes(RECEIVE_BUFFER_BYTES - 4))
    held = memoryview(buffer.memory)[:4]
    pinned = buffer.memory
    seen = []
    for _ in range(20):
        buffer.start = buffer.end
        buffer.make_room(28)
        fill(buffer, b"\xff" * RECEIVE_BUFFER_BYTES)
        seen.append(buffer.memory)
    assert held == b"held"
    assert all(memory is not pinned for memory in seen)
    assert len({id(memory) for memory in seen}) == 1
    other = memoryview(buffer.memory)
    del held
    buffer.start = buffer.end
    buffer.make_room(28)
    assert buffer.memory is pinned
    assert other[:1] == b"\xff"


def test_a_batch_pins_its_memory_by_itself():
    """The batch's own pointer counts as a view, also when nobody has looked at the payload yet."""
    buffer = ReceiveBuffer()
    fill(buffer, encode_request(Command.WRITE, 1, 0, 5) + b"hello")
    batch, consumed, _ = native.nbd_split(buffer.memory, buffer.start, buffer.end, NBD_REQUEST_BYTES_MAX)
    fill(buffer, bytes(RECEIVE_BUFFER_BYTES))
    buffer.start = buffer.end
    buffer.make_room(28)
    fill(buffer, b"\xff" * RECEIVE_BUFFER_BYTES)
    assert consumed == 33
    assert bytes(memoryview(batch.buffer)[28:33]) == b"hello"


def test_an_unfinished_request_moves_along_whatever_its_length():
    """The longest request begins at the end of a buffer: what is there of it is copied, the rest follows it."""
    buffer = ReceiveBuffer()
    fill(buffer, bytes(RECEIVE_BUFFER_BYTES - 10) + b"0123456789")
    pinned = memoryview(buffer.memory)
    buffer.start = buffer.end - 10
    buffer.make_room(NBD_REQUEST_BYTES_MAX)
    assert len(buffer.room()) >= NBD_REQUEST_BYTES_MAX - 10
    assert bytes(buffer.memory[buffer.start : buffer.end]) == b"0123456789"
    assert pinned[-10:] == b"0123456789"


def test_batches_in_reference_cycles_are_collected():
    """What an exception's traceback does to a batch must not hurt: the garbage collector takes batch and memory."""
    for _ in range(10):
        buffer = ReceiveBuffer()
        fill(buffer, encode_request(Command.WRITE, 1, 0, 4) + b"data")
        batch, _, _ = native.nbd_split(buffer.memory, 0, 32, NBD_REQUEST_BYTES_MAX)
        cycle = [batch, memoryview(batch.buffer)[28:], buffer]
        cycle.append(cycle)
        del buffer, batch, cycle
        gc.collect()


@given(st.integers(0, 2**32), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_any_stream_comes_out_as_it_went_in(seed, held_max):
    """Requests of all lengths, read in pieces of all lengths, some batches held for long: every payload is right."""
    draw = random.Random(seed)
    sizes = [draw.choice([1, 100, 4 * KIB, 60 * KIB, 300 * KIB, 1500 * KIB]) for _ in range(30)]
    stream = b"".join(
        encode_request(Command.WRITE, number, 0, size) + bytes([number]) * size for number, size in enumerate(sizes)
    )
    buffer, held, need, at, numbers = ReceiveBuffer(), [], 28, 0, []
    while at < len(stream):
        buffer.make_room(need)
        piece = min(draw.choice([1, 27, 5000, 100 * KIB, 10**7]), len(buffer.room()), len(stream) - at)
        assert piece
        fill(buffer, stream[at : at + piece])
        at += piece
        need = 28
        while buffer.start != buffer.end:
            batch, consumed, need = native.nbd_split(buffer.memory, buffer.start, buffer.end, NBD_REQUEST_BYTES_MAX)
            if not batch.count:
                break
            buffer.start += consumed
            held.append(batch)
            need = need or 28
        while len(held) > held_max:
            numbers += check(held.pop(draw.randrange(len(held))), sizes)
    for batch in held:
        numbers += check(batch, sizes)
    assert sorted(numbers) == list(range(30))


def check(batch, sizes):
    """Every payload is that of its request; their numbers."""
    numbers = []
    for record in batch.records[0 : batch.count]:
        payload = memoryview(batch.buffer)[record.data : record.data + record.length]
        assert payload == bytes([record.id]) * sizes[record.id]
        numbers.append(record.id)
    return numbers
