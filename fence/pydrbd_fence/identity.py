"""Which life of this node this is, and how much it is worth.

A *boot* is the kernel's boot id and the age of process 1: the second tells lives apart where nodes are containers.
The *priority* is what other programs say of this node: each file in a directory (one a resource, say) holds a number,
and their sum counts. `echo 100 >/run/pydrbd-sbd/priority/r0` on the Primary with UpToDate data is all that is needed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["PRIORITY_MAX", "boot_of_this_node", "priority_of_this_node"]

PRIORITY_MAX = (1 << 32) - 1
START_TIME_FIELD = 19
"""Field 22 of /proc/PID/stat, counted from the one after the command's name."""


def boot_of_this_node(proc: Path = Path("/proc")) -> bytes:
    """16 bytes that are another ones after every boot."""
    boot_id = (proc / "sys/kernel/random/boot_id").read_bytes().strip()
    started = (proc / "1/stat").read_bytes().rpartition(b")")[2].split()[START_TIME_FIELD]
    return hashlib.sha256(boot_id + b" " + started).digest()[:16]


def priority_of_this_node(directory: str) -> int:
    """The sum of the numbers in the directory's files; what is no number counts nothing."""
    total = 0
    try:
        files = list(Path(directory).iterdir())
    except OSError:
        return 0
    for file in files:
        try:
            text = file.read_bytes()[:20].strip()
        except OSError:
            continue
        total += int(text) if text.isdigit() else 0
    return min(total, PRIORITY_MAX)
