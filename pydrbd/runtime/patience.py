"""On a machine with one processor: whether we run as soon as we are woken, or let whoever woke us finish first.

A client that hands in its requests one by one is stopped after the first few, if to wake us is to hand us the
processor: we answer those, sleep again, and every request costs two changes of processes. With SCHED_BATCH the client
goes on until it has no more to send, and a peer's kernel until it has no more to deliver. That pays where many requests
are under way; a lone one is answered soonest by the usual policy, above all beside a program that never sleeps.
"""

from __future__ import annotations

import logging
import os
from typing import Final

__all__ = ["REQUESTS_MIN", "Patience"]

REQUESTS_MIN: Final = 16
"""Fewer requests of one lane say nothing about how many are under way at a time."""

_log = logging.getLogger(__name__)
_PARAMETER = os.sched_param(0)


class Patience:
    """The policy of the thread that calls `learn`. An operator's own choice, real time or idle, stays."""

    def __init__(self) -> None:
        self._chosen = os.SCHED_OTHER
        self._may_choose = True

    def learn(self, requests: int, wakeups: int) -> None:
        """So many requests came with so many reads of a socket: choose the policy for the next ones."""
        if requests < REQUESTS_MIN or not self._may_choose:
            return
        wanted = os.SCHED_BATCH if requests >= 2 * wakeups else os.SCHED_OTHER
        if wanted != self._chosen and (wanted == os.SCHED_OTHER or len(os.sched_getaffinity(0)) == 1):
            self._choose(wanted)

    def _choose(self, policy: int) -> None:
        try:
            if os.sched_getscheduler(0) != self._chosen:
                self._may_choose = False
            else:
                os.sched_setscheduler(0, policy, _PARAMETER)
                self._chosen = policy
        except OSError as error:
            _log.info("the scheduler's policy stays: %s", error.strerror)
            self._may_choose = False
