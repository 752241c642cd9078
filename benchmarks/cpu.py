"""Processor time: of some processes, and of the whole machine, so that a disturbed run can be told."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Clock", "busy_seconds", "parse_machine_stat", "parse_process_stat", "process_seconds"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


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
    return sum(parse_process_stat(Path(f"/proc/{pid}/stat").read_text()) for pid in pids) / _TICKS_PER_S


def busy_seconds() -> float:
    """CPU seconds of the machine since it began, whoever used them."""
    return parse_machine_stat(Path("/proc/stat").read_text()) / _TICKS_PER_S


@dataclass(frozen=True, slots=True)
class Clock:
    """A moment's readings; `since` tells what servers and machine have used from then on."""

    pids: tuple[int, ...]
    servers_s: float
    machine_s: float

    @classmethod
    def start(cls, pids: Iterable[int]) -> Clock:
        pids = tuple(pids)
        return cls(pids, process_seconds(pids), busy_seconds())

    def since(self) -> tuple[float, float]:
        """(servers, whole machine) in CPU seconds. Raises OSError if a server has ended."""
        return process_seconds(self.pids) - self.servers_s, busy_seconds() - self.machine_s
