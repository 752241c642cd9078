"""The scheduler's policy where there is one processor (runtime/patience.py), with the real system calls."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pydrbd.runtime.patience import REQUESTS_MIN, Patience

_MANY = REQUESTS_MIN


def _alone(function: Callable[[], list[int]], processors: int = 1) -> list[int]:
    """Call it in a thread of its own that may use the first so many processors."""

    def run() -> list[int]:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])
        return function()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def _policies(*learnt: tuple[int, int]) -> Callable[[], list[int]]:
    def run() -> list[int]:
        patience, found = Patience(), []
        for requests, wakeups in learnt:
            patience.learn(requests, wakeups)
            found.append(os.sched_getscheduler(0))
        return found

    return run


def test_with_one_processor_many_requests_at_a_time_let_the_client_finish() -> None:
    """And lone ones are answered at once again; a handful says nothing."""
    learnt = _policies((4 * _MANY, _MANY), (_MANY - 1, _MANY - 1), (_MANY, _MANY), (2 * _MANY, _MANY))
    assert _alone(learnt) == [os.SCHED_BATCH, os.SCHED_BATCH, os.SCHED_OTHER, os.SCHED_BATCH]


def test_with_more_than_one_processor_the_policy_stays() -> None:
    """Whoever wakes us need not stop for us there."""
    found = _alone(_policies((4 * _MANY, _MANY)), processors=2)
    assert found == [os.SCHED_BATCH if len(os.sched_getaffinity(0)) == 1 else os.SCHED_OTHER]


def test_an_operators_own_policy_stays() -> None:
    """Whoever has made the process idle wants it so."""

    def run() -> list[int]:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return _policies((4 * _MANY, _MANY), (_MANY, _MANY))()

    assert _alone(run) == [os.SCHED_IDLE, os.SCHED_IDLE]
