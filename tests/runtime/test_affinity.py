"""cpu-mask: DRBD's words, and a process that keeps to it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pydrbd.runtime.affinity import parse_mask

CASES = [
    ("", set()),
    ("0", set()),
    ("3", {0, 1}),
    ("F0", {4, 5, 6, 7}),
    ("1,00000002", {1, 32}),
    ("x", None),
    ("123456789", None),
    ("1,,2", None),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_masks(text: str, expected: set[int] | None) -> None:
    """Hexadecimal, groups of 32 bits, the last one lowest."""
    assert parse_mask(text) == expected


def test_every_thread_is_moved_and_back() -> None:
    """Those that are there already; an empty mask is all that the process had; a bad one changes nothing."""
    one = min(os.sched_getaffinity(0))
    code = f"""
import os, threading
from pydrbd.runtime.affinity import use_processors
usual, end = frozenset(os.sched_getaffinity(0)), threading.Event()
thread = threading.Thread(target=end.wait)
thread.start()
def now():
    return [set(os.sched_getaffinity(tid)) for tid in (0, thread.native_id)]
use_processors("{1 << one:x}", usual)
assert now() == [{{{one}}}] * 2, now()
use_processors("nonsense", usual)
use_processors("80000000,00000000,00000000", usual)
assert now() == [{{{one}}}] * 2, now()
use_processors("", usual)
assert now() == [set(usual)] * 2, now()
end.set()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "is no mask" in done.stderr and "is there such a processor" in done.stderr
