"""The door to the C code of native/: its contract in Python's words, and the checks that C leaves to its caller.

`Batch` is the unit of work: a buffer, up to 64 records that say what is where in it, and masks that name members of it
(bit i is record i). Every function has a slow, plain twin in `pydrbd.reference`, and the tests hold the two together.

What a stranger got wrong is an error that the function's docstring names; what the caller got wrong is an assertion.
Every call lets other threads run meanwhile: the buffers it was given must stay as they are.
"""

from __future__ import annotations

from typing import Final

from pydrbd._native import ffi, lib
from pydrbd.limits import BATCH_RECORDS_MAX
from pydrbd.native.batch import (
    E_CODE,
    E_LENGTH,
    E_MAGIC,
    Batch,
    Buffer,
    WritableBuffer,
    indices,
    new_records,
    single_read,
    single_request,
)
from pydrbd.native.bits import (
    VliCode,
    bitmap_clear,
    bitmap_clear_records,
    bitmap_count,
    bitmap_find_clear,
    bitmap_find_set,
    bitmap_merge,
    bitmap_pieces,
    bitmap_set,
    bitmap_set_records,
    crc32c,
    crc32c_is_hardware,
    crc32c_raw,
    crc32c_table,
    vli_decode,
    vli_encode,
)
from pydrbd.native.channel import Channel, keep_thread
from pydrbd.native.direct import DirectMemory
from pydrbd.native.frames import (
    NbdCommands,
    drbd_acks,
    drbd_data_headers,
    drbd_reply_headers,
    drbd_requests,
    drbd_split,
    nbd_commands,
    nbd_read_header_bytes,
    nbd_read_replies,
    nbd_replies,
    nbd_split,
)
from pydrbd.native.lane import (
    LANE_DISK,
    LANE_FOREIGN,
    LANE_GROUPS,
    LANE_IDLE,
    LANE_LOST,
    LANE_SLICE,
    LANE_SPILL,
    ClientLane,
    PeerLane,
)
from pydrbd.native.lane_parts import LaneFlush, LaneFlushed, LaneGroup, LaneLog, LaneStream
from pydrbd.native.records import (
    pread_records,
    pwrite_records,
    records_dirty,
    records_empty,
    records_extents,
    records_lay_out,
    records_length_sum,
    records_longer,
    records_out_of_bounds,
    records_overlap,
    records_overlap_self,
    records_unaligned,
    records_with_command,
    records_with_flags,
    records_zero,
)

__all__ = [
    "E_CODE",
    "E_LENGTH",
    "E_MAGIC",
    "LANE_DISK",
    "LANE_FOREIGN",
    "LANE_GROUPS",
    "LANE_IDLE",
    "LANE_LOST",
    "LANE_SLICE",
    "LANE_SPILL",
    "Batch",
    "Buffer",
    "Channel",
    "ClientLane",
    "DirectMemory",
    "LaneFlush",
    "LaneFlushed",
    "LaneGroup",
    "LaneLog",
    "LaneStream",
    "NbdCommands",
    "PeerLane",
    "VliCode",
    "WritableBuffer",
    "bitmap_clear",
    "bitmap_clear_records",
    "bitmap_count",
    "bitmap_find_clear",
    "bitmap_find_set",
    "bitmap_merge",
    "bitmap_pieces",
    "bitmap_set",
    "bitmap_set_records",
    "crc32c",
    "crc32c_is_hardware",
    "crc32c_raw",
    "crc32c_table",
    "drbd_acks",
    "drbd_data_headers",
    "drbd_reply_headers",
    "drbd_requests",
    "drbd_split",
    "indices",
    "keep_thread",
    "nbd_commands",
    "nbd_read_header_bytes",
    "nbd_read_replies",
    "nbd_replies",
    "nbd_split",
    "new_records",
    "pread_records",
    "pwrite_records",
    "records_dirty",
    "records_empty",
    "records_extents",
    "records_lay_out",
    "records_length_sum",
    "records_longer",
    "records_out_of_bounds",
    "records_overlap",
    "records_overlap_self",
    "records_unaligned",
    "records_with_command",
    "records_with_flags",
    "records_zero",
    "single_read",
    "single_request",
    "vli_decode",
    "vli_encode",
]

NATIVE_VERSION: Final = 1


def _self_test() -> None:
    """The extension is the one this package was written for, and computes what the world computes."""
    assert lib.PYDRBD_NATIVE_VERSION == NATIVE_VERSION, (
        f"pydrbd._native is version {lib.PYDRBD_NATIVE_VERSION}, not {NATIVE_VERSION}: run python native/build.py"
    )
    assert lib.PYDRBD_BATCH_MAX == BATCH_RECORDS_MAX
    assert ffi.sizeof("struct pydrbd_record") == 48
    zeros = bytes(4096)
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(zeros) == crc32c_table(zeros, 0xFFFFFFFF) ^ 0xFFFFFFFF == 0x98F94189


_self_test()
