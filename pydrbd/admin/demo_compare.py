"""Comparing two disk files, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydrbd.admin.exit_codes import CommandFailed
from pydrbd.units import MIB

__all__ = ["Comparison", "compare_files"]

_BLOCK_BYTES: Final = 4096
_SHOWN_OFFSETS: Final = 10


@dataclass(frozen=True, slots=True)
class Comparison:
    """What comparing two disks found: 4 KiB blocks, and the offsets of the first that differ."""

    block_count: int
    difference_count: int
    first_offsets: tuple[int, ...]


def compare_files(first: Path, second: Path, size_bytes: int) -> Comparison:
    """Compare the first `size_bytes` of two files. Raises CommandFailed if one is shorter."""
    differing: list[int] = []
    with first.open("rb", buffering=0) as one_file, second.open("rb", buffering=0) as two_file:
        for offset in range(0, size_bytes, MIB):
            length = min(MIB, size_bytes - offset)
            one, two = one_file.read(length), two_file.read(length)
            if len(one) != length or len(two) != length:
                raise CommandFailed(f"a disk file is shorter than its device: {offset + length} bytes wanted")
            if one != two:
                differing += (
                    offset + at
                    for at in range(0, length, _BLOCK_BYTES)
                    if one[at : at + _BLOCK_BYTES] != two[at : at + _BLOCK_BYTES]
                )
    return Comparison(-(-size_bytes // _BLOCK_BYTES), len(differing), tuple(differing[:_SHOWN_OFFSETS]))
