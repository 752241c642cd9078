"""A lab's name says whose it is, so that what a killed one has left can be told from a lab that is in use.

`pydrbd-lab-PID-START-N`: the process, when it started (a pid comes again, a start time does not), and a counter.
Everything that a lab makes bears it: the namespace, the directory, the guests' names for linux.uml.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from pathlib import Path

from tests.lab.network import Network, namespaces

WORKPLACE = Path("/tmp")
"""Paths must stay short: Unix sockets lie below."""

_PATTERN = re.compile(r"(pydrbd-lab-(\d+)-(\d+)-\d+)(-\w+)?")
_counter = itertools.count(1)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks after boot; None if there is no such process."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return None


def new_name() -> str:
    """A name for a lab of this process."""
    return f"pydrbd-lab-{os.getpid()}-{start_time(os.getpid())}-{next(_counter)}"


def lab_of(name: str) -> str | None:
    """The lab that a namespace, directory or guest belongs to; None if it belongs to none."""
    found = _PATTERN.fullmatch(name)
    return found[1] if found else None


def in_use(lab: str) -> bool:
    """Whether the process that made this lab still runs."""
    found = _PATTERN.fullmatch(lab)
    return found is not None and start_time(int(found[2])) == int(found[3])


def guest_directories() -> list[Path]:
    """Where linux.uml keeps a directory for each guest, by its name."""
    home = Path.home() / ".uml"
    return sorted(home.iterdir()) if home.is_dir() else []


def remove(lab: str) -> None:
    """Remove whatever bears this lab's name. Raises LabFailed, LabTimeout."""
    Network(lab).close()
    for directory in guest_directories():
        if lab_of(directory.name) == lab:
            shutil.rmtree(directory, ignore_errors=True)
    shutil.rmtree(WORKPLACE / lab, ignore_errors=True)


def leftovers() -> set[str]:
    """Labs of which something is still there although their process has ended."""
    names = [*namespaces(), *(path.name for path in [*WORKPLACE.glob("pydrbd-lab-*"), *guest_directories()])]
    return {lab for name in names if (lab := lab_of(name)) is not None and not in_use(lab)}


def sweep() -> set[str]:
    """Remove what killed labs have left; their names. Raises LabFailed, LabTimeout."""
    found = leftovers()
    for lab in found:
        remove(lab)
    return found
