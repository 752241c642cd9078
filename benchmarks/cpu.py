"""Processor time: of some processes, and of the whole machine, so that a disturbed run can be told."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "TICKS_PER_S",
    "Clock",
    "busy_seconds",
    "parse_machine_stat",
    "parse_process_stat",
    "parse_session_stat",
    "process_seconds",
    "session_seconds",
]

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def parse_process_stat(text: str) -> int:
    """User and system time of all threads, in ticks, from /proc/PID/stat (the name may hold blanks and brackets)."""
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def parse_machine_stat(text: str) -> int:
    """Ticks of all processors that were not idle, from /proc/stat (guests are counted as user time already)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(word) for word in text.split("\n")[0].split()[1:9])
    return user + nice + system + irq + softirq + steal


def process_seconds(pids: Iterable[int]) -> float:
    """CPU seconds of these processes since they began. Raises OSError for one that is gone."""
    return sum(parse_process_stat(Path(f"/proc/{pid}/stat").read_text()) for pid in pids) / TICKS_PER_S


def parse_session_stat(text: str) -> tuple[int, int]:
    """(session, ticks of all threads and of the children that have ended), from /proc/PID/stat."""
    fields = text.rpartition(")")[2].split()
    return int(fields[3]), sum(int(word) for word in fields[11:15])


def session_seconds(leaders: Container[int]) -> float:
    """CPU seconds of all that is in these sessions or has ended in them (whoever waited for that has its ticks)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may end while we look
            session, used = parse_session_stat(path.read_text())
            ticks += used if session in leaders else 0
    return ticks / TICKS_PER_S


def busy_seconds() -> float:
    """CPU seconds of the machine since it began, whoever used them."""
    return parse_machine_stat(Path("/proc/stat").read_text()) / TICKS_PER_S


@dataclass(frozen=True, slots=True)
class Clock:
    """A moment's readings; `since` tells what servers and machine have used from then on.

    `cpu_seconds`: of the servers since they began; raises OSError for one that is gone.
    """

    cpu_seconds: Callable[[], float]
    servers_s: float
    machine_s: float

    @classmethod
    def start(cls, cpu_seconds: Callable[[], float]) -> Clock:
        return cls(cpu_seconds, cpu_seconds(), busy_seconds())

    def since(self) -> tuple[float, float]:
        """(servers, whole machine) in CPU seconds. Raises OSError if a server has ended."""
        return self.cpu_seconds() - self.servers_s, busy_seconds() - self.machine_s
