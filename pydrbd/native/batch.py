"""The unit of work, and how Python's memory is handed to C."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from pydrbd._native import ffi, lib
from pydrbd.limits import BATCH_RECORDS_MAX

__all__ = [
    "E_CODE",
    "E_LENGTH",
    "E_MAGIC",
    "Batch",
    "Buffer",
    "WritableBuffer",
    "indices",
    "new",
    "new_records",
    "readable",
    "single_read",
    "single_request",
    "writable",
]

Buffer: TypeAlias = bytes | bytearray | memoryview
WritableBuffer: TypeAlias = bytearray | memoryview

E_MAGIC: Final[int] = lib.PYDRBD_E_MAGIC
E_LENGTH: Final[int] = lib.PYDRBD_E_LENGTH
E_CODE: Final[int] = lib.PYDRBD_E_CODE

new = ffi.new
_from_buffer = ffi.from_buffer
_release = ffi.release
_BYTES = ffi.typeof("uint8_t[]")
_RECORDS = ffi.typeof("struct pydrbd_record[]")


def readable(data: Buffer) -> Any:
    """A buffer's memory for C, to read, as long as the caller keeps the buffer itself."""
    memory = _from_buffer(_BYTES, data)
    return _bare(memory, data) if type(data) is memoryview else memory


def writable(data: WritableBuffer) -> Any:
    """As readable, for C to write into. A buffer that is read-only is an error."""
    memory = _from_buffer(_BYTES, data, True)
    return _bare(memory, data) if type(data) is memoryview else memory


def _bare(memory: Any, view: memoryview) -> Any:
    """The address alone. CPython 3.11 crashes when it collects a cycle (say, of a traceback) with a memoryview whose
    memory cffi still holds; the view itself holds what is under it, and our callers hold the view."""
    assert view.itemsize == 1
    address = memory + 0
    _release(memory)
    return address


def new_records(count: int = BATCH_RECORDS_MAX) -> Any:
    """Zeroed memory for up to 64 records: `records[i].offset` and so on (native/pydrbd.h names the fields)."""
    assert 0 < count <= BATCH_RECORDS_MAX, f"{count} records don't fit a batch"
    return new(_RECORDS, count)


def indices(mask: int) -> Iterator[int]:
    """The members that a mask names, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


class Batch:
    """Up to 64 requests or packets inside one buffer; `all` is the mask of all of them.

    The buffer is writable, can't change its size while the batch lives, and must not be reused before.
    """

    __slots__ = ("all", "buffer", "count", "pointer", "records", "size_bytes", "structured", "view")

    def __init__(self, buffer: WritableBuffer, records: Any, count: int) -> None:
        assert 0 <= count <= len(records) <= BATCH_RECORDS_MAX, f"{count} of {len(records)} records"
        self.buffer = buffer
        self.records = records
        self.view = memoryview(buffer)
        self.pointer = writable(self.view)
        self.size_bytes = len(self.view)
        self.structured = False
        """NBD requests: whether their client wants structured replies."""
        self.resize(count)

    def resize(self, count: int) -> None:
        """How many of the records are members, from the first on."""
        self.count = count
        self.all = (1 << count) - 1

    def data(self, index: int) -> memoryview:
        """One member's payload, in place."""
        record = self.records[index]
        return self.view[record.data : record.data + record.length]

    def __repr__(self) -> str:
        return f"<Batch of {self.count} in {self.size_bytes} bytes>"


def single_request(command: int, flags: int, offset_bytes: int, length: int) -> Batch:
    """A batch of one request without payload, as if a client had sent it."""
    records = new_records(1)
    record = records[0]
    record.command, record.flags, record.offset, record.length = command, flags, offset_bytes, length
    return Batch(bytearray(), records, 1)


def single_read(offset_bytes: int, length: int) -> tuple[Batch, bytearray]:
    """A batch of one, to read a range of the disk into the buffer that comes with it."""
    buffer, records = bytearray(length), new_records(1)
    records[0].offset, records[0].length = offset_bytes, length
    return Batch(buffer, records, 1), buffer
