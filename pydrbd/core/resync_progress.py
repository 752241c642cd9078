"""What a node knows of a resync that is going on, on either side."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pydrbd import native
from pydrbd.core.ranges import Hold
from pydrbd.core.resync_pace import Pace, Yielding
from pydrbd.core.uuids import UuidSet
from pydrbd.native import Batch
from pydrbd.wire.digests import DigestAlg

__all__ = ["Request", "ResyncProgress"]


@dataclass(slots=True, eq=False)
class Request:
    """One piece that the target has asked for. `hold`: its range, held since then by a Primary, as this member."""

    offset_bytes: int
    length_bytes: int
    hold: Hold | None = None
    member: int = 0
    void: bool = False
    """Asked for before this node became Primary: a client may have written there since, so the answer is dropped.
    With two Primaries no range is held; somebody has written there."""
    thin: bool = False
    """The source may answer that it has zeroes there (thin_resync.py)."""


@dataclass(slots=True, eq=False)
class ResyncProgress:
    """One volume's resync, on either side. `requests` have no answer yet; `in_flight_bytes` counts until written."""

    total_bits: int
    started: float
    pace: Pace
    """As the target."""
    yielding: Yielding
    """Who else uses the disk; `own_sectors` are what the resync itself has read and written. As the source: `waiting`
    requests, so many bytes, have come while it has to yield."""
    waiting: deque[tuple[Batch, int]] = field(default_factory=deque)
    waiting_bytes: int = 0
    own_sectors: int = 0
    next_bit: int = 0
    failed_bits: int = 0
    in_flight_bytes: int = 0
    csums: DigestAlg | None = None
    """The target asks with digests of what it has (csums.py)."""
    same_bits: int = 0
    served: int = 0
    served_bytes: int = 0
    requests: dict[int, Request] = field(default_factory=dict)
    next_persist: float = 0.0
    unflushed_bytes: int = 0
    flushing: bool = False
    finishing: bool = False
    waits_for_ping: int = 0
    """Number of the ping whose answer ends the resync; an earlier one may be older than our last acknowledgements."""
    notified: bool = False
    tentative: UuidSet | None = None
    """The source's set as soon as it has heard of the target (ResyncSource.on_target_heard)."""

    def void_overlapping(self, batch: Batch, mask: int) -> None:
        """Somebody writes there: what the source has read may be older."""
        for record in (batch.records[index] for index in native.indices(mask)):
            first, end = record.offset, record.offset + record.length
            for request in self.requests.values():
                if request.offset_bytes < end and first < request.offset_bytes + request.length_bytes:
                    request.void = True
