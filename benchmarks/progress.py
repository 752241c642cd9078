"""How far it is: a bar that moves on a terminal, one line a run elsewhere."""

from __future__ import annotations

import sys
import time

from benchmarks.measure import Run

__all__ = ["Progress"]

_BAR_COLUMNS = 24
_CLEAR_LINE = "\r\033[K"


class Progress:
    """Tells of the runs as they end, on stderr: stdout has the table alone."""

    def __init__(self, run_count: int) -> None:
        self._run_count = run_count
        self._done = 0
        self._begun = time.monotonic()
        self._moves = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """A line of its own."""
        print(f"{_CLEAR_LINE if self._moves else ''}{text}", file=sys.stderr, flush=True)

    def leave_out(self, run_count: int, text: str) -> None:
        """So many runs will not be; why."""
        self._run_count -= run_count
        self.say(text)

    def on_run(self, run: Run) -> None:
        self._done += 1
        noisy = f", others used {run.other_cpu_s:.1f} s CPU" if run.noisy else ""
        self.say(
            f"[{self._done}/{self._run_count}] {run.row:<16} {run.peer:<10} {run.outcome.rate_per_s:>9,.0f}/s "
            f"{run.outcome.bytes_per_s / 1e6:>7,.0f} MB/s {run.cpu_us_per_request:>6.0f} us CPU each{noisy}"
        )
        if self._moves:
            left_s = (time.monotonic() - self._begun) / self._done * (self._run_count - self._done)
            filled = _BAR_COLUMNS * self._done // self._run_count
            bar = "#" * filled + "." * (_BAR_COLUMNS - filled)
            print(f"[{bar}] {left_s / 60:.0f}:{left_s % 60:02.0f} left", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._moves:
            print(_CLEAR_LINE, end="", file=sys.stderr, flush=True)
