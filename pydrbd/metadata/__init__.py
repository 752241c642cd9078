"""DRBD 8.4's meta-data on disk ("v08"), pure: bytes in; values, bytes and planned writes out.

    layout           where superblock, activity log and bitmap lie
    superblock       sizes, generation identifiers, flags
    al_transaction   one block of the activity log
    al_replay        what a log says was hot when it was last written
    activity_log     the writer: which extents are hot, which transaction comes next
    bitmap           the out-of-sync bits
    apply_al         replay after a crash, as planned writes
    signatures       what else may live on a disk
    create           new meta-data, and what stands in its way
    dump             the text form

Integers are big-endian everywhere but in the bitmap, which is a little-endian stream of bits.
"""

from __future__ import annotations

__all__: list[str] = []
