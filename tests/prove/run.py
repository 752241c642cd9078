"""Rungs of proof, each fed with seeds for its share of the time: what was tried, what failed, and how to play it again.

A rung is a function of a seed that counts what it has done into a Counter: "checked B1" for promises by their id,
"sometimes ..." for situations, anything else as a figure. What it raises is a failure; Broken says of which promise.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.harness.situations import SOMETIMES

__all__ = ["Broken", "Failure", "Outcome", "Rung", "run", "run_in_processes"]

FAILURES_MAX = 50
"""Of one process: whoever has so many has seen enough."""
CHECKED = "checked "

Work = Callable[[int, "Counter[str]"], None]


class Broken(AssertionError):
    """A promise does not hold: its id, what happened, and the command that plays it again."""

    def __init__(self, promise: str, text: str, replay: str) -> None:
        super().__init__(f"{promise}: {text}")
        self.promise, self.text, self.replay = promise, text, replay


@dataclass(frozen=True)
class Rung:
    """`weight`: its share of the time, beside the others'."""

    name: str
    weight: float
    work: Work


@dataclass(frozen=True)
class Failure:
    rung: str
    seed: int
    promise: str
    text: str
    replay: str


@dataclass
class Outcome:
    """What all rungs have done."""

    seconds: Counter[str] = field(default_factory=Counter)
    seeds: Counter[str] = field(default_factory=Counter)
    figures: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0
    """What the processors have spent on it: where others work, too, that is less than the time that has gone by."""
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        for mine, theirs in ((self.seconds, other.seconds), (self.seeds, other.seeds), (self.figures, other.figures)):
            mine.update(theirs)
        self.failures += other.failures
        self.cpu_s += other.cpu_s

    def checked(self) -> dict[str, int]:
        """Promise id to how often it was checked."""
        found = {name[len(CHECKED) :]: count for name, count in self.figures.items() if name.startswith(CHECKED)}
        return dict(sorted(found.items(), key=lambda item: (item[0][0], int(item[0].strip("ABCD+")))))

    def as_json(self, **about: Any) -> str:
        """RELIABILITY.json."""
        failed = Counter(failure.promise for failure in self.failures)
        figures = {name: n for name, n in self.figures.items() if not name.startswith((CHECKED, SOMETIMES))}
        names = sorted(self.checked().keys() | failed.keys())
        report = {
            **about,
            "python": platform.python_version(),
            "cpu_seconds": round(self.cpu_s),
            "rungs": {
                name: {"seeds": self.seeds[name], "seconds": round(self.seconds[name], 1)} for name in self.seeds
            },
            "promises": {name: {"checked": self.checked().get(name, 0), "failed": failed[name]} for name in names},
            "figures": dict(sorted(figures.items())),
            "failures": [vars(failure) for failure in self.failures],
        }
        return json.dumps(report, indent=1) + "\n"


def run(rungs: Sequence[Rung], seconds: float, first: int, step: int = 1) -> Outcome:
    """Seeds `first`, `first + step` ... for that long, one at least: what is most behind its share comes next."""
    outcome = Outcome()
    following = dict.fromkeys((rung.name for rung in rungs), first)
    began, spent = time.monotonic(), time.process_time()
    gc.freeze()
    gc.disable()  # a seed's worlds are full of circles: they are taken away when it is over, and not while it runs
    try:
        while not outcome.seeds or (time.monotonic() - began < seconds and len(outcome.failures) < FAILURES_MAX):
            rung = min(rungs, key=lambda one: outcome.seconds[one.name] / one.weight)
            seed = following[rung.name]
            following[rung.name] += step
            _work(rung, seed, outcome)
    finally:
        gc.enable()
        gc.unfreeze()
    outcome.cpu_s = time.process_time() - spent
    return outcome


def _work(rung: Rung, seed: int, outcome: Outcome) -> None:
    """One seed of one rung, with all that it takes."""
    start = time.monotonic()
    try:
        rung.work(seed, outcome.figures)
    except Exception as error:  # each is a finding, and the run goes on
        outcome.failures.append(_failure(rung.name, seed, error))
        print(f"FAIL {outcome.failures[-1].promise} {outcome.failures[-1].replay}", file=sys.stderr, flush=True)
    gc.collect()
    outcome.seconds[rung.name] += time.monotonic() - start  # type: ignore[assignment]
    outcome.seeds[rung.name] += 1


def _failure(rung: str, seed: int, error: Exception) -> Failure:
    if isinstance(error, Broken):
        return Failure(rung, seed, error.promise, error.text.splitlines()[0], error.replay)
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return Failure(rung, seed, "D1", text, f"python -m tests.prove --only {rung!r} --seed {seed} --once")


def run_in_processes(rungs: Sequence[Rung], seconds: float, first: int, jobs: int) -> Outcome:
    """The same by `jobs` processes, which share the seeds."""
    if jobs == 1:
        return run(rungs, seconds, first)
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        parts = [pool.apply_async(run, (rungs, seconds, first + index, jobs)) for index in range(jobs)]
        outcome = Outcome()
        for part in parts:
            outcome.add(part.get())
    return outcome
