"""One target's inputs, in a process of their own: what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.fuzz.engine import Campaign, Finding, rss_bytes
from tests.fuzz.targets import TARGETS

__all__ = ["GROWTH_BYTES_MAX", "Share", "play"]

SLICE: Final = 5000
"""Inputs between two looks at the memory."""
GROWTH_BYTES_MAX: Final = 64 << 20
"""What a process may grow after its first slice, beyond its corpus and what it has seen."""


@dataclass(frozen=True)
class Share:
    """What one process has done for one target."""

    target: str
    inputs: int
    corpus: int
    places: int
    spent_s: float
    slowest_s: float
    grown_bytes: int
    findings: tuple[Finding, ...]


def play(name: str, seed: int, inputs: int) -> Share:
    """One target in this process."""
    campaign = Campaign(next(target for target in TARGETS if target.name == name), seed)
    campaign.go_on(min(SLICE, inputs))
    before = rss_bytes()
    while campaign.inputs < inputs and len(campaign.findings) < 10:
        campaign.go_on(min(SLICE, inputs - campaign.inputs))
    grown = rss_bytes() - before
    return Share(
        name, campaign.inputs, len(campaign.corpus), campaign.places, campaign.spent_s, campaign.slowest_s, grown,
        tuple(campaign.findings),
    )  # fmt: skip
