"""Progress of something that takes long: a bar on a terminal; elsewhere a plain line a second, and soon fewer.

    with Progress("r0 resync", total_bytes) as progress:
        progress.update(done_bytes)

A terminal shows `r0 resync  [=====>    ]  52.1%  1.2/2.3 GiB  210 MiB/s  5 s left`. The rate is that of the last few
seconds, so that it follows a disk that becomes slow.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

__all__ = ["Progress", "format_bytes", "format_duration"]

_WINDOW_S: Final = 5.0
_REDRAW_S: Final = 0.1
_LINE_EVERY_S: Final = (1.0, 60.0)
_LINE_GROWTH: Final = 1.25
"""The first lines tell that it moves; each one lets the next come later, so that a log of hours stays short."""

_BAR_COLUMNS: Final = 30
_COLUMNS_MIN: Final = 40
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Progress:
    """One thing that goes from 0 to `total_bytes`; the total may change on the way."""

    def __init__(
        self,
        title: str,
        total_bytes: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = title
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._started = clock()
        self._samples: deque[tuple[float, int]] = deque()
        self._first_bytes = 0
        self._next_draw = self._started
        self._line_every_s = _LINE_EVERY_S[0]
        self._drawn_columns = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_error: object) -> None:
        self.clear()

    def update(self, done_bytes: int, total_bytes: int | None = None) -> None:
        """Take up how much is done, and show it if the last showing is long enough ago."""
        if total_bytes is not None:
            self.total_bytes = total_bytes
        self.done_bytes = done_bytes
        now = self._clock()
        if not self._samples:
            self._first_bytes = done_bytes  # it may have begun long before somebody looked
        self._samples.append((now, done_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        if now >= self._next_draw:
            self._next_draw = now + (_REDRAW_S if self._is_terminal else self._line_every_s)
            self._line_every_s = min(self._line_every_s * _LINE_GROWTH, _LINE_EVERY_S[1])
            self._draw()

    def finish(self, text: str = "") -> None:
        """Replace the bar by one last line: `text`, or how much is done, and how quickly it went."""
        self.clear()
        elapsed_s = self._clock() - self._started
        moved = self.done_bytes - self._first_bytes
        rate = f", {format_bytes(moved / elapsed_s)}/s" if elapsed_s > 0 and moved > 0 else ""
        done = f"{self.title}: {format_bytes(self.done_bytes)} done{rate}"
        print(text or done, file=self._stream, flush=True)

    def clear(self) -> None:
        """Take the bar off the terminal, so that something else can be printed."""
        if self._drawn_columns:
            print("\r" + " " * self._drawn_columns + "\r", end="", file=self._stream, flush=True)
            self._drawn_columns = 0

    @property
    def bytes_per_s(self) -> float:
        """The rate of the last seconds."""
        if not self._samples:
            return 0.0
        (first_time, first_bytes), (last_time, last_bytes) = self._samples[0], self._samples[-1]
        elapsed_s = last_time - first_time
        return max(0.0, (last_bytes - first_bytes) / elapsed_s) if elapsed_s > 0 else 0.0

    @property
    def percent(self) -> float:
        return min(100.0, 100.0 * self.done_bytes / self.total_bytes) if self.total_bytes > 0 else 100.0

    def line(self) -> str:
        """The numbers without the bar."""
        rate = self.bytes_per_s
        speed = ""
        if rate > 0:
            left_s = max(0, self.total_bytes - self.done_bytes) / rate
            speed = f"  {format_bytes(rate)}/s  {format_duration(left_s)} left"
        return f"{self.percent:5.1f}%  {format_bytes(self.done_bytes)} of {format_bytes(self.total_bytes)}{speed}"

    def _draw(self) -> None:
        if not self._is_terminal:
            print(f"{self.title}: {self.line().strip()}", file=self._stream, flush=True)
            return
        columns = max(_COLUMNS_MIN, shutil.get_terminal_size().columns) - 1
        text = self.line()
        room = min(_BAR_COLUMNS, columns - len(self.title) - len(text) - 6)
        bar = ""
        if room >= 5:
            filled = int(room * self.percent / 100)
            bar = f"  [{('=' * filled + '>')[:room]:<{room}}]"
        shown = f"{self.title}{bar}  {text}"[:columns]
        print("\r" + shown.ljust(self._drawn_columns), end="", file=self._stream, flush=True)
        self._drawn_columns = max(self._drawn_columns, len(shown))


def format_bytes(size_bytes: float) -> str:
    """A size in the largest unit that leaves a number of at least 1: `1.5 GiB`, `812 KiB`."""
    size, unit = float(size_bytes), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.1f} {_UNITS[unit]}" if unit and size < 100 else f"{size:.0f} {_UNITS[unit]}"


def format_duration(seconds: float) -> str:
    """A time for humans: `0.4 s`, `42 s`, `3:20 min`, `2:05:00 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
