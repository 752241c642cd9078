"""A client that writes while something else happens, and knows what was answered."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from tests.endurance.expected import Expected
from tests.lab import load
from tests.lab.load import Op
from tests.lab.nodes import Node

LONGEST_BYTES = 256 * 1024

_PLAN = 16
_STOP_TIMEOUT_S = 150.0


class Writer:
    """One write after the other, from `start` to `stop`."""

    def __init__(self, node: Node, seed: int, size_bytes: int) -> None:
        self._node, self._seed, self._size_bytes = node, seed, size_bytes
        self._done: list[Op] = []
        self._failed: tuple[Op, Exception] | None = None
        self._stopped = threading.Event()
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """It has written something already when this returns."""
        self._thread.start()
        self._began.wait(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        for seed in itertools.count(self._seed):
            for op in load.draw(seed, self._size_bytes, _PLAN, longest_bytes=LONGEST_BYTES, discards=True):
                if self._stopped.is_set():
                    return
                try:
                    self._node.load([op])
                except Exception as error:  # whatever it is: the one who stops us knows whether it had to come
                    self._failed = op, error
                    self._began.set()
                    return
                self._done.append(op)
                self._began.set()

    def stop(self, expected: Expected, may_fail: bool) -> int:
        """End it, and say what it did; how many writes were answered. Raises what it met, unless that may be."""
        self._stopped.set()
        self._thread.join(_STOP_TIMEOUT_S)
        if self._thread.is_alive():
            raise TimeoutError(f"{self._node.name}: a write is not answered: number {len(self._done)}")
        for op in self._done:
            expected.done(op)
        if self._failed is not None:
            op, error = self._failed
            if not may_fail:
                raise error
            expected.perhaps_done(op)
        return len(self._done)


def play(node: Node, plan: load.Plan, note: Callable[[Op], None]) -> None:
    """Carry out a plan while nothing happens: all of it is answered."""
    node.load(plan)
    for op in plan:
        note(op)
