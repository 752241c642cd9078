"""top: a picture of all that runs here, refreshed until q is pressed."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from pydrbd.admin.context import Context
from pydrbd.admin.running import names_here
from pydrbd.admin.top import frame, rates
from pydrbd.errors import PydrbdError

__all__ = ["top"]

_HINT: Final = (
    "q ends it.  busy: requests of clients / at the disk / at the peer.  log: how full the activity log is."
)
_PIPE_COLUMNS: Final = 140
_QUIT: Final = b"qQ\x04"


def top(context: Context, *, interval_s: float, once: bool) -> int:
    """Show it, on a terminal until somebody ends it; elsewhere, or with `once`, one picture."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_COLUMNS)
    if once or not (console.is_terminal and sys.stdin.isatty()):
        console.print(frame(_snapshots(context), {}, title=_title(context), width=console.width))
        return 0
    with _keys() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        before, then = _snapshots(context), time.monotonic()
        speed: dict[tuple[str, int], dict[str, float]] = {}
        while True:
            picture = frame(before, speed, title=_title(context), width=console.width, hint=_HINT)
            live.update(picture, refresh=True)
            if select.select([keyboard], [], [], interval_s)[0]:
                pressed = os.read(keyboard, 64)
                if not pressed or set(pressed) & set(_QUIT):
                    return 0
            found, now = _snapshots(context), time.monotonic()
            speed = rates(before, found, now - then)
            before, then = found, now


def _title(context: Context) -> str:
    return f"pydrbd on {context.node}, {time.strftime('%H:%M:%S')}"


def _snapshots(context: Context) -> list[dict[str, Any]]:
    """Of each process that answers."""
    found = []
    for name in names_here(context.run_dir):
        try:
            data = context.running(name)
        except (PydrbdError, OSError):
            continue  # it is not shown; whoever asks for its status hears why
        if data is not None:
            found.append(data)
    return found


@contextmanager
def _keys() -> Iterator[int]:
    """The keyboard, key by key and without echo; as it was before, afterwards."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        yield keyboard
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
