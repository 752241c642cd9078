"""Whose memory it is: buffers stay as they are while C may look at them, and nothing is left behind."""

import gc
import mmap

import pytest

from pydrbd import native
from pydrbd.native import Batch, new_records


@pytest.mark.parametrize("function", [native.bitmap_set, native.bitmap_clear])
def test_memory_that_is_read_only_is_not_written(function):
    """A constant stays one."""
    for constant in (bytes(8), memoryview(bytes(8))):
        with pytest.raises(BufferError):
            function(constant, 0, 1)
    with pytest.raises(BufferError):
        Batch(memoryview(bytes(8)), new_records(), 0)


def test_a_buffer_keeps_its_size_while_a_batch_of_it_lives():
    """Records point into it; afterwards it is free again."""
    buffer = bytearray(100)
    batch = Batch(buffer, new_records(), 0)
    with pytest.raises(BufferError):
        buffer.extend(b"more")
    del batch
    buffer.extend(b"more")
    native.crc32c(buffer)
    native.crc32c(memoryview(buffer))
    buffer.clear()


def test_mapped_memory_is_in_use_as_long_as_a_batch_of_it_lives():
    """A receive buffer asks the mapping whether anyone still looks at it."""
    memory = mmap.mmap(-1, 4096)
    batch = Batch(memoryview(memory), new_records(), 0)
    with pytest.raises(BufferError):
        memory.resize(4096)
    del batch
    memory.resize(4096)


class Knot:
    """Something that refers to itself, as an exception's traceback does."""


def test_batches_in_cycles_are_collected():
    """CPython 3.11 crashed here when a batch held on to a memoryview through cffi (see native.batch)."""
    for make in (
        lambda: memoryview(mmap.mmap(-1, 4096)),
        lambda: bytearray(4096),
        lambda: memoryview(bytearray(9))[1:],
    ):
        for _ in range(20):
            knot = Knot()
            knot.itself, knot.buffer = knot, make()
            knot.batch = Batch(knot.buffer, new_records(), 0)
            knot.pointers = [native.batch.readable(knot.buffer), native.batch.writable(knot.buffer)]
    del knot
    assert gc.collect() > 0


def test_a_view_of_wider_items_is_refused():
    """Sizes are counted in bytes everywhere."""
    with pytest.raises(AssertionError):
        native.crc32c(memoryview(bytearray(8)).cast("I"))


def test_the_extension_must_be_the_one_that_was_built_for_this_code(monkeypatch):
    """A stale build is told apart at import, with what to do."""
    monkeypatch.setattr(native, "NATIVE_VERSION", native.NATIVE_VERSION + 1)
    with pytest.raises(AssertionError, match=r"run python native/build\.py"):
        native._self_test()
