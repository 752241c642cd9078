"""What one run of a row has done, however it was driven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Outcome", "joined"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`latency_us`: percentile -> microseconds from submission to reply (of writes, if there are any; without a flush
    after it); empty for a resync. `curve`: (seconds since its start, share that is done), of a resync only.
    """

    requests: int
    bytes_done: int
    seconds: float
    writes: int = 0
    flushes: int = 0
    latency_us: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[tuple[float, float]] = ()

    @property
    def rate_per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def bytes_per_s(self) -> float:
        return self.bytes_done / self.seconds


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Several resyncs, one after the other, as one; the curve is the first one's."""
    return Outcome(
        requests=sum(outcome.requests for outcome in outcomes),
        bytes_done=sum(outcome.bytes_done for outcome in outcomes),
        seconds=sum(outcome.seconds for outcome in outcomes),
        curve=outcomes[0].curve,
    )
