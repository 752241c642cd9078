"""Plans of device operations: drawn from a seed, carried out by either kind of node, and known beforehand.

A plan is a list of operations in order; `apply` says what the device holds afterwards. Contents come from the
operation's seed, so a plan is small wherever it is sent to. Standard library only: guests run this module too
(guest_init.py does).
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import random
import struct
import zlib
from dataclasses import asdict, dataclass

SECTOR = 512
_REQUESTS = {"discard": 0x1277, "zero": 0x127F}
"""BLKDISCARD and BLKZEROOUT."""

_BUFFER_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Op:
    """`kind`: write, fua (write that is durable when answered), read, check, flush, discard, zero.

    A read compares with what a write of that seed writes; a check's seed is the CRC-32 of what must be there.
    """

    kind: str
    offset_bytes: int = 0
    length_bytes: int = 0
    seed: int = 0

    def content(self) -> bytes:
        """What a write writes."""
        return random.Random(self.seed).randbytes(self.length_bytes)

    def is_right(self, found: bytes | memoryview) -> bool:
        """Whether a read or a check has read what it must."""
        return zlib.crc32(found) == self.seed if self.kind == "check" else found == self.content()


Plan = list[Op]


def draw(seed: int, size_bytes: int, count: int, *, longest_bytes: int = 1 << 20, discards: bool = False) -> Plan:
    """`count` operations of 512 bytes to `longest_bytes`, many of them overlapping earlier ones."""
    rng = random.Random(seed)
    kinds = ["write"] * 10 + ["fua"] * 2 + ["flush"] * 2 + (["discard", "zero"] if discards else [])
    plan: Plan = []
    for _ in range(count):
        kind = rng.choice(kinds)
        if kind == "flush":
            plan.append(Op("flush"))
            continue
        length = SECTOR << rng.randrange((longest_bytes // SECTOR).bit_length())
        length = rng.randrange(length // 2 + SECTOR, length + SECTOR, SECTOR) if length > SECTOR else SECTOR
        if plan and rng.random() < 0.3:
            near = rng.choice(plan).offset_bytes + rng.randrange(-16, 17) * SECTOR
        else:
            near = rng.randrange(0, size_bytes, SECTOR)
        offset = max(0, min(near, size_bytes - length))
        plan.append(Op(kind, offset, length, rng.getrandbits(32)))
    return plan


def apply(plan: Plan, image: bytearray) -> None:
    """What the device holds after the plan. A discard leaves what reads as zeroes on every node of the lab."""
    for op in plan:
        end = op.offset_bytes + op.length_bytes
        if op.kind in ("write", "fua"):
            image[op.offset_bytes : end] = op.content()
        elif op.kind in ("discard", "zero"):
            image[op.offset_bytes : end] = bytes(op.length_bytes)


def to_text(plan: Plan) -> str:
    return json.dumps([asdict(op) for op in plan])


def from_text(text: str) -> Plan:
    return [Op(**fields) for fields in json.loads(text)]


class BlockDevice:
    """Carries out a plan on a block device, past the page cache."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self._durable = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
        self._buffer = mmap.mmap(-1, _BUFFER_BYTES)  # aligned, as O_DIRECT wants it

    def do(self, op: Op) -> None:
        if op.kind in ("write", "fua"):
            self._buffer[: op.length_bytes] = op.content()
            with memoryview(self._buffer)[: op.length_bytes] as view:
                written = os.pwrite(self._fd if op.kind == "write" else self._durable, view, op.offset_bytes)
            if written != op.length_bytes:
                raise OSError(f"{op}: {written} bytes written")
        elif op.kind == "flush":
            os.fsync(self._fd)
        elif op.kind in ("read", "check"):
            with memoryview(self._buffer)[: op.length_bytes] as view:
                if os.preadv(self._fd, [view], op.offset_bytes) != op.length_bytes or not op.is_right(view):
                    raise OSError(f"{op}: read something else")
        else:
            fcntl.ioctl(self._fd, _REQUESTS[op.kind], struct.pack("QQ", op.offset_bytes, op.length_bytes))


    def close(self) -> None:
        os.close(self._fd)
        os.close(self._durable)
        self._buffer.close()


def play(path: str, text: str) -> None:
    """Carry out a plan (as text) on a block device. Raises OSError that names the operation."""
    device = BlockDevice(path)
    try:
        for number, operation in enumerate(from_text(text)):
            try:
                device.do(operation)
            except OSError as error:
                raise OSError(f"operation {number}, {operation}: {error}") from error
    finally:
        device.close()
