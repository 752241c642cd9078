"""The runs: every peer in turn on one row, row after row, again and again, so that a drift of the machine hits all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cpu import Clock
from benchmarks.outcome import Outcome, joined
from benchmarks.peers import Peer, can
from benchmarks.rows import Row

__all__ = ["NOISY_SHARE", "Plan", "Run", "measure", "run_once"]

NOISY_SHARE = 0.15
"""A run during which others used more of the processors than this is marked."""

_RESYNC_SHARE = 0.4
_RESYNCS_MAX = 8


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
        return self.repeat * sum(can(name, row) for row in self.rows for name in self.peers)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one row on one peer. `counted`: the peer's own counters, over the run."""

    row: str
    peer: str
    repetition: int
    outcome: Outcome
    server_cpu_s: float
    other_cpu_s: float
    counted: Mapping[str, int]

    @property
    def cpu_us_per_request(self) -> float:
        return self.server_cpu_s / self.outcome.requests * 1e6

    @property
    def noisy(self) -> bool:
        """Whether others had a good part of the machine (the kernel's own threads count as others)."""
        return self.other_cpu_s > NOISY_SHARE * self.outcome.seconds * (os.cpu_count() or 1)


def run_once(row: Row, name: str, peer: Peer, plan: Plan, repetition: int) -> Run:
    """One run, and the proof that its answers were right. Raises FioError, ServerError, OSError."""
    before = peer.counters()
    if not row.has_clients:
        outcome, server_s, other_s = _resyncs(row, peer, plan.seconds, repetition)
    else:
        clock = Clock.start(peer.cpu_seconds)
        outcome, client_s = peer.drive(row, plan.seconds, repetition + 1)
        server_s, machine_s = clock.since()
        other_s = machine_s - server_s - client_s
    after = peer.counters()
    counted = {key: after[key] - before[key] for key in after}
    peer.verify(row, counted, outcome.writes)
    return Run(row.name, name, repetition, outcome, server_s, max(0.0, other_s), counted)


def _resyncs(row: Row, peer: Peer, seconds: float, repetition: int) -> tuple[Outcome, float, float]:
    """One after the other, until together they have taken a good part of `seconds`; CPU of servers and others.

    A single one of a small disk is over in no time.
    """
    outcomes: list[Outcome] = []
    server_s = other_s = 0.0
    while sum(outcome.seconds for outcome in outcomes) < _RESYNC_SHARE * seconds and len(outcomes) < _RESYNCS_MAX:
        peer.prepare_resync(row, repetition * _RESYNCS_MAX + len(outcomes) + 1)
        clock, own_s = Clock.start(peer.cpu_seconds), time.process_time()
        outcomes.append(peer.resync(row))
        servers, machine = clock.since()
        server_s += servers
        other_s += machine - servers - (time.process_time() - own_s)
    return joined(outcomes), server_s, other_s


def measure(plan: Plan, peers: Mapping[str, Peer], on_run: Callable[[Run], None]) -> list[Run]:
    """All runs of a plan; `on_run` hears of each as it ends."""
    runs = []
    for row, repetition, name in order(plan.rows, plan.peers, plan.repeat):
        run = run_once(row, name, peers[name], plan, repetition)
        runs.append(run)
        on_run(run)
    return runs


def order(rows: Sequence[Row], peers: Sequence[str], repeat: int) -> Iterator[tuple[Row, int, str]]:
    """Peers side by side, and each as often first as last."""
    for repetition in range(repeat):
        turn = peers if repetition % 2 == 0 else tuple(reversed(peers))
        for row in rows:
            for name in (name for name in turn if can(name, row)):
                yield row, repetition, name
