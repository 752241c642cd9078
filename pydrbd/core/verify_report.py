"""What the last online verify of a volume has found, as plain values: for `check`, which lists and draws it.

    volumes [ vnr, size_bytes, report {} | null ]
    report    running, complete (it came to its end, and every block could be read), start_bytes, end_bytes (up to
              where it got), compared_blocks, different_blocks, skipped_blocks (the peer could not read them),
              marked_blocks (out of sync by now, whoever found that), ranges [[offset_bytes, length_bytes]] that differ,
              ranges_complete, map (a letter for each part of the device)

A map's part is `!` if any block of it differs, else `?` if any was not compared, else `=`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydrbd.core.verify_group import VerifyProgress
from pydrbd.limits import VERIFY_RANGES_MAX
from pydrbd.units import BIT_SIZE_BYTES

if TYPE_CHECKING:
    from pydrbd.core.node import Node
    from pydrbd.core.volume import Volume

__all__ = ["DIFFERENT", "NOT_COMPARED", "SAME", "verify_report"]

SAME: Final = "="
DIFFERENT: Final = "!"
NOT_COMPARED: Final = "?"


def verify_report(node: Node, cells: int) -> dict[str, Any]:
    """The reports of all volumes; each map has `cells` letters, or one a block for a smaller device."""
    return {
        "volumes": [
            {"vnr": volume.vnr, "size_bytes": volume.size_bytes, "report": _report(node, volume, cells)}
            for volume in node.volumes.values()
        ]
    }


def _report(node: Node, volume: Volume, cells: int) -> dict[str, Any] | None:
    progress, running = node.verify.last(volume), node.verify.running(volume) is not None
    if progress is None:
        return None
    start, end = progress.start_bit or 0, progress.next_bit
    skipped = progress.skipped_bits
    ranges, ranges_complete = _ranges(progress, volume.size_bytes)
    return {
        "running": running,
        "complete": not running and not progress.left_bits and not skipped,
        "start_bytes": start * BIT_SIZE_BYTES,
        "end_bytes": min(end * BIT_SIZE_BYTES, volume.size_bytes),
        "compared_blocks": progress.settled_bits,
        "different_blocks": progress.found_bits,
        "skipped_blocks": skipped,
        "marked_blocks": volume.out_of_sync_bits,
        "ranges": ranges,
        "ranges_complete": ranges_complete,
        "map": _map(progress, cells),
    }


def _ranges(progress: VerifyProgress, size_bytes: int) -> tuple[list[list[int]], bool]:
    """The first of those that differ, and whether they are all."""
    ranges: list[list[int]] = []
    for first, count in progress.found.runs():
        if len(ranges) == VERIFY_RANGES_MAX:
            return ranges, False
        offset = first * BIT_SIZE_BYTES
        ranges.append([offset, min(count * BIT_SIZE_BYTES, size_bytes - offset)])
    return ranges, True


def _map(progress: VerifyProgress, cells: int) -> str:
    """The device in parts as equal as they can be."""
    bits = progress.device_bits
    count = min(cells, bits)
    letters = []
    for cell in range(count):
        first, end = cell * bits // count, (cell + 1) * bits // count
        if progress.found.count_bits(first, end - first):
            letters.append(DIFFERENT)
        elif _was_compared(progress, first, end):
            letters.append(SAME)
        else:
            letters.append(NOT_COMPARED)
    return "".join(letters)


def _was_compared(progress: VerifyProgress, first: int, end: int) -> bool:
    """Whether all of these blocks have their results, which come in order."""
    inside = (progress.start_bit or 0) <= first and end <= progress.next_bit
    return inside and not progress.skipped.count_bits(first, end - first)
