"""The loop: take an input that was worth keeping, change it, run it, keep it if it came where none has been.

Tracing costs ten times what a parser does, so only one input in TRACED_ONE_IN is looked at, and fewer once the first
have found what is near; all are run. Where an input has been is the set of pairs of lines that followed each other,
of our own code. The same seed plays the same inputs.
"""

from __future__ import annotations

import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from tests.fuzz.mutation import mutate

__all__ = ["INPUT_BYTES_MAX", "Campaign", "Finding", "Target", "rss_bytes"]

TRACED_ONE_IN: Final = 8
LATER_ONE_IN: Final = 32
EARLY_INPUTS: Final = 20_000
CORPUS_MAX: Final = 2000
INPUT_BYTES_MAX: Final = 20_000
SLOW_S: Final = 2.0
"""An input that takes so long (of the processor's time) is a hang, or as good as one."""
PACKAGE: Final = str(Path(__file__).resolve().parents[2] / "pydrbd") + "/"


@dataclass(frozen=True)
class Target:
    """`run` takes any bytes, and raises if something is wrong with what comes of them."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    run: Callable[[bytes], object]

    @cache  # noqa: B019 - the targets are there as long as the process
    def kept_seeds(self) -> Sequence[bytes]:
        """What it begins with, made once."""
        return self.seeds()


@dataclass(frozen=True)
class Finding:
    """An input that did what none may."""

    target: str
    content: bytes
    text: str


class Coverage:
    """The pairs of lines that one run goes through."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self._new: set[int] = set()
        self._last = 0
        self._codes: dict[CodeType, int] = {}  # numbers in order of appearance: hashes differ from process to process

    def run(self, work: Callable[[bytes], object], content: bytes) -> bool:
        """Whether it came where none has been."""
        self._new, self._last = set(), 0
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            work(content)
        finally:
            sys.settrace(before)
            fresh = self._new - self.seen
            self.seen |= fresh
        return bool(fresh)

    def _call(self, frame: FrameType, _event: str, _value: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame: FrameType, event: str, _value: Any) -> Any:
        if event == "line":
            here = self._codes.setdefault(frame.f_code, len(self._codes) << 16) + frame.f_lineno
            self._new.add(self._last << 32 | here)
            self._last = here
        return self._line


@dataclass
class Campaign:
    """One target's inputs."""

    target: Target
    seed: int
    inputs: int = 0
    spent_s: float = 0.0
    slowest_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._draw = random.Random(f"{self.target.name}/{self.seed}")
        self._coverage = Coverage()
        self.corpus: list[bytes] = []
        for content in self.target.kept_seeds():
            self._try(content[:INPUT_BYTES_MAX], traced=True, keep=not self.corpus)

    @property
    def places(self) -> int:
        """How many pairs of lines have been seen."""
        return len(self._coverage.seen)

    def go_on(self, count: int) -> None:
        """So many inputs more."""
        began = time.process_time()
        for _ in range(count):
            one_in = TRACED_ONE_IN if self.inputs < EARLY_INPUTS else LATER_ONE_IN
            self._try(self._next(), traced=self.inputs % one_in == 0)
        self.spent_s += time.process_time() - began

    def _next(self) -> bytes:
        draw, corpus = self._draw, self.corpus
        content = corpus[draw.randrange(len(corpus))]
        if draw.random() < 0.1:  # the head of one, the tail of another
            other = corpus[draw.randrange(len(corpus))]
            content = content[: draw.randrange(len(content) + 1)] + other[draw.randrange(len(other) + 1) :]
        return mutate(content, draw)[:INPUT_BYTES_MAX]

    def _try(self, content: bytes, *, traced: bool, keep: bool = False) -> None:
        self.inputs += 1
        began = time.process_time()
        try:
            if traced:
                keep = self._coverage.run(self.target.run, content) or keep
            else:
                self.target.run(content)
        except Exception:
            self.findings.append(Finding(self.target.name, content, traceback.format_exc(limit=-3)))
            return
        took_s = time.process_time() - began
        self.slowest_s = max(self.slowest_s, took_s)
        if took_s > SLOW_S:
            self.findings.append(Finding(self.target.name, content, f"took {took_s:.1f} s"))
        if keep:
            if len(self.corpus) >= CORPUS_MAX:
                del self.corpus[self._draw.randrange(len(self.corpus))]
            self.corpus.append(content)


def rss_bytes(pid: int | str = "self") -> int:
    """What of a process is in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")
