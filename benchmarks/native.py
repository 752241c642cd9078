"""How fast the native code is on this machine: bytes or calls a second, the best of several short rounds.

    python benchmarks/native.py

What is timed is what pydrbd calls: the Python wrapper with its checks, then C.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from typing import Final

from pydrbd import native

ROUND_S: Final = 0.05
ROUNDS: Final = 7
MIB: Final = 1 << 20


def seconds_per_call(function: Callable[[], object]) -> float:
    """The fastest round counts: what disturbs a round only ever makes it slower."""
    best = float("inf")
    for _ in range(ROUNDS):
        calls, start = 0, time.perf_counter()
        end = start
        while end - start < ROUND_S:
            function()
            calls, end = calls + 1, time.perf_counter()
        best = min(best, (end - start) / calls)
    return best


def show_rate(name: str, byte_count: int, function: Callable[[], object]) -> None:
    seconds = seconds_per_call(function)
    print(f"{name:44} {byte_count / seconds / 1e9:8.2f} GB/s {seconds * 1e6:10.2f} us/call")


def show_time(name: str, function: Callable[[], object]) -> None:
    print(f"{name:44} {'':13} {seconds_per_call(function) * 1e6:10.2f} us/call")


def nbd_writes(count: int, length: int) -> bytearray:
    """Consecutive WRITEs as a client sends them."""
    header = struct.Struct(">IHHQQI")
    return bytearray(
        b"".join(header.pack(0x25609513, 0, 1, index, index * length, length) + bytes(length) for index in range(count))
    )


def show_sums() -> None:
    data = os.urandom(MIB)
    print(f"crc32c: {'hardware' if native.crc32c_is_hardware() else 'tables'}")
    for size in (512, 4096, 65536, MIB):
        part = memoryview(data)[:size]
        show_rate(f"crc32c of {size} bytes", size, lambda part=part: native.crc32c(part))  # type: ignore[misc]
    show_rate("crc32c by tables, 65536 bytes", 65536, lambda: native.crc32c_table(data[:65536]))


def show_bitmaps() -> None:
    """A bitmap of 4 MiB stands for 128 GiB of disk."""
    size, bits = 4 * MIB, bytearray(4 * MIB)
    other = bytes(size)
    show_rate("bitmap_count", size, lambda: native.bitmap_count(bits, 0, 8 * size))
    show_rate("bitmap_find_set, nothing set", size, lambda: native.bitmap_find_set(bits, 0, 8 * size))
    show_rate("bitmap_merge", size, lambda: native.bitmap_merge(bits, other))
    show_rate("vli_encode, all clear", size, lambda: native.vli_encode(bits, 8 * size, 0, 4079))
    dirty = bytearray(b"\x11" * 4080)
    code = native.vli_encode(dirty, 8 * len(dirty), 0, 65536)
    show_rate("vli_encode, every fourth bit", 4080, lambda: native.vli_encode(dirty, 8 * 4080, 0, 65536))
    show_rate(
        "vli_decode of that", 4080, lambda: native.vli_decode(dirty, 8 * 4080, 0, code.code, code.pad, code.polarity)
    )


def show_batches(count: int) -> None:
    buffer = nbd_writes(count, 4096)
    batch, _, _ = native.nbd_split(buffer, 0, len(buffer), 4096)
    where = f"{count} x 4 KiB"
    words = {"format": 100, "volume": 0, "first_id": 0, "first_seq": 0, "dp_flags": 256}
    show_time(f"nbd_split, {where}", lambda: native.nbd_split(buffer, 0, len(buffer), 4096))
    show_time(f"nbd_replies, {where}", lambda: native.nbd_replies(batch, batch.all, 0))
    show_time(f"drbd_data_headers, {where}", lambda: native.drbd_data_headers(batch, batch.all, **words))
    acks = native.drbd_acks(batch, batch.all, format=100, packet=0x16, first_seq=0)
    show_time(f"drbd_acks, {where}", lambda: native.drbd_acks(batch, batch.all, format=100, packet=0x16, first_seq=0))
    show_time(f"drbd_split of those, {where}", lambda: native.drbd_split(acks, 0, len(acks), 100, 0, MIB))
    show_time(
        f"records_overlap with itself, {where}", lambda: native.records_overlap(batch, batch.all, batch, batch.all)
    )
    show_time(f"records_overlap_self, {where}", lambda: native.records_overlap_self(batch, batch.all))
    show_time(f"records_extents, {where}", lambda: native.records_extents(batch, batch.all))
    descriptor = os.memfd_create("disk")
    try:
        show_time(f"pwrite_records to memory, {where}", lambda: native.pwrite_records(descriptor, 0, batch, batch.all))
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    show_sums()
    show_bitmaps()
    show_batches(1)
    show_batches(64)
