"""cpu-mask: which processors a resource's process may use."""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["parse_mask", "use_processors"]

_log = logging.getLogger(__name__)


def parse_mask(text: str) -> frozenset[int] | None:
    """The processors of a mask in DRBD's words: hexadecimal, 32 bits a group, groups separated by commas.

    Empty (and 0) is all processors; None if it is no mask.
    """
    groups = text.split(",") if text else []
    if not all(0 < len(group) <= 8 and all(digit in "0123456789abcdefABCDEF" for digit in group) for group in groups):
        return None
    number = 0
    for group in groups:
        number = number << 32 | int(group, 16)
    return frozenset(bit for bit in range(number.bit_length()) if number >> bit & 1)


def use_processors(mask: str, usual: frozenset[int]) -> None:
    """Move every thread of this process to the processors of a mask; `usual` are those without one."""
    chosen = parse_mask(mask)
    if chosen is None:
        _log.warning("cpu-mask %r is no mask: 32 bits in hexadecimal, or several groups of them with commas", mask)
        return
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(thread.name), chosen or usual)
        except ProcessLookupError:
            continue  # it has just ended
        except OSError as error:
            _log.warning("cpu-mask %s can't be had: %s: is there such a processor?", mask, error.strerror)
            return
