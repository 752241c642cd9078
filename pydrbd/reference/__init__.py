"""What native/ computes, written a second time: slow, plain Python to hold the C code against. No I/O.

Here a batch is a list of `Record`, and members are addressed by the same masks. For tests only.
"""

from __future__ import annotations

from pydrbd.reference.bits import (
    bitmap_clear,
    bitmap_count,
    bitmap_find_clear,
    bitmap_find_set,
    bitmap_merge,
    bitmap_set,
    bitmap_set_records,
    crc32c,
    crc32c_raw,
    vli_code,
    vli_decode,
    vli_encode,
)
from pydrbd.reference.frames import (
    drbd_acks,
    drbd_data_headers,
    drbd_split,
    nbd_commands,
    nbd_read_replies,
    nbd_replies,
    nbd_split,
)
from pydrbd.reference.records import (
    Record,
    records_dirty,
    records_empty,
    records_extents,
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
    "Record",
    "bitmap_clear",
    "bitmap_count",
    "bitmap_find_clear",
    "bitmap_find_set",
    "bitmap_merge",
    "bitmap_set",
    "bitmap_set_records",
    "crc32c",
    "crc32c_raw",
    "drbd_acks",
    "drbd_data_headers",
    "drbd_split",
    "nbd_commands",
    "nbd_read_replies",
    "nbd_replies",
    "nbd_split",
    "records_dirty",
    "records_empty",
    "records_extents",
    "records_length_sum",
    "records_longer",
    "records_out_of_bounds",
    "records_overlap",
    "records_overlap_self",
    "records_unaligned",
    "records_with_command",
    "records_with_flags",
    "records_zero",
    "vli_code",
    "vli_decode",
    "vli_encode",
]
