"""Twins of what lane.c and lane_peer.c decide: how many of the first members of a batch may pass. The rest is I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydrbd.reference.records import Record
from pydrbd.units import EXTENT_SIZE_BYTES, SECTOR_SIZE_BYTES

__all__ = ["lane_passing", "peer_lane_passing"]

_READ, _WRITE, _P_DATA = 0, 1, 0


def lane_passing(
    requests: Sequence[Record],
    *,
    length_max: int,
    capacity_bytes: int,
    hot: Iterable[int],
    under_way: Iterable[tuple[int, int]],
) -> int:
    """How many of the first requests are of the first one's kind, READ or WRITE, and may pass.

    `hot`: the 4 MiB extents that may be written; `under_way`: (offset, end) in bytes of the writes under way.
    """
    taken = list(under_way)
    allowed = set(hot)
    for count, request in enumerate(requests):
        extents = range(request.offset // EXTENT_SIZE_BYTES, (request.end - 1) // EXTENT_SIZE_BYTES + 1)
        passes = (
            request.command == requests[0].command
            and request.command in (_READ, _WRITE)
            and request.flags == 0
            and 0 < request.length <= length_max
            and request.offset % SECTOR_SIZE_BYTES == request.length % SECTOR_SIZE_BYTES == 0
            and request.end <= capacity_bytes
            and not any(request.offset < end and offset < request.end for offset, end in taken)
            and (request.command == _READ or allowed.issuperset(extents))
        )
        if not passes:
            return count
        if request.command == _WRITE:
            taken.append((request.offset, request.end))
    return len(requests)


def peer_lane_passing(packets: Sequence[Record], *, volume: int, dp_flags: int, capacity_bytes: int) -> int:
    """How many of the first packets are plain writes to this volume."""
    for count, packet in enumerate(packets):
        passes = (
            packet.command == _P_DATA
            and packet.volume == volume
            and packet.flags == dp_flags
            and packet.length > 0
            and packet.end <= capacity_bytes
        )
        if not passes:
            return count
    return len(packets)
