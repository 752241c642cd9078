"""The runs: every peer in turn on one row, row after row, again and again, so that a drift of the machine hits all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import fio
from benchmarks.cpu import Clock
from benchmarks.fio import FioResult
from benchmarks.peers import Peer
from benchmarks.rows import Row

__all__ = ["NOISY_SHARE", "Plan", "Run", "measure", "run_once"]

NOISY_SHARE = 0.15
"""A run during which others used more of the processors than this is marked."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and how often and long."""

    rows: tuple[Row, ...]
    peers: tuple[str, ...]
    seconds: float
    repeat: int
    size_bytes: int

    @property
    def run_count(self) -> int:
        return len(self.rows) * len(self.peers) * self.repeat


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one row on one peer. `counted`: the peer's own counters, over the run."""

    row: str
    peer: str
    repetition: int
    fio: FioResult
    server_cpu_s: float
    other_cpu_s: float
    counted: Mapping[str, int]

    @property
    def cpu_us_per_request(self) -> float:
        return self.server_cpu_s / self.fio.requests * 1e6

    @property
    def noisy(self) -> bool:
        """Whether others had a good part of the machine (the kernel's own threads count as others)."""
        return self.other_cpu_s > NOISY_SHARE * self.fio.seconds * (os.cpu_count() or 1)


def run_once(row: Row, name: str, peer: Peer, plan: Plan, repetition: int, directory: Path) -> Run:
    """One run, and the proof that its answers were right. Raises FioError, ServerError, OSError."""
    before = peer.counters()
    clock = Clock.start(peer.pids)
    result, fio_s = fio.run(row, peer.uri, plan.size_bytes, plan.seconds, repetition + 1, directory)
    server_s, machine_s = clock.since()
    after = peer.counters()
    counted = {key: after[key] - before[key] for key in after}
    peer.verify(row, counted, result.writes)
    return Run(row.name, name, repetition, result, server_s, max(0.0, machine_s - server_s - fio_s), counted)


def measure(plan: Plan, peers: Mapping[str, Peer], directory: Path, on_run: Callable[[Run], None]) -> list[Run]:
    """All runs of a plan; `on_run` hears of each as it ends."""
    runs = []
    for row, repetition, name in order(plan.rows, plan.peers, plan.repeat):
        run = run_once(row, name, peers[name], plan, repetition, directory)
        runs.append(run)
        on_run(run)
    return runs


def order(rows: Sequence[Row], peers: Sequence[str], repeat: int) -> Iterator[tuple[Row, int, str]]:
    """Peers side by side, and each as often first as last."""
    for repetition in range(repeat):
        turn = peers if repetition % 2 == 0 else tuple(reversed(peers))
        for row in rows:
            for name in turn:
                yield row, repetition, name
