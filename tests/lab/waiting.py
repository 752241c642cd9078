"""Waiting for what other programs do: nobody tells us, so we look again and again, in bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

POLL_S = 0.05


class LabTimeout(Exception):
    """Something did not come within its time."""


def wait_until(
    condition: Callable[[], object],
    what: str,
    timeout_s: float = 30.0,
    why_not: Callable[[], object] = str,
    *,
    poll_s: float = POLL_S,
) -> None:
    """Look until `condition()` is true. Raises LabTimeout, with what `why_not()` says at the end."""
    deadline = time.monotonic() + timeout_s
    never = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise LabTimeout(f"waited {timeout_s:g} s for {what}\n{why_not()}")
        never.wait(poll_s)
