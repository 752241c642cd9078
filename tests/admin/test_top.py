"""top: what is in the picture, and a real terminal that shows it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import pytest
from rich.console import Console

from pydrbd.admin.top import frame, rates
from tests.admin.snapshots import COUNTERS, a_snapshot, a_volume, alone, syncing

LOG = {"slot_count": 100, "hot_count": 95}


def shown(*found, speed=None, columns=160):
    console = Console(width=columns, file=open(os.devnull, "w"), record=True)  # noqa: SIM115, PTH123
    with console.file:
        console.print(frame(list(found), speed or {}, title="pydrbd on alpha", width=columns))
    return console.export_text()


def counted(**counters):
    return a_snapshot(a_volume(counters=dict.fromkeys(COUNTERS, 0) | counters))


def test_a_healthy_pair():
    """Both nodes: roles and disks, the link, how full the activity log is."""
    text = shown(a_snapshot(a_volume(activity_log=LOG)))
    row = next(line for line in text.splitlines() if line.startswith("r0 "))
    assert row.split()[:6] == ["r0", "Primary", "UpToDate", "beta", "Secondary", "UpToDate"]
    assert "Established" in row and row.split()[-2:] == ["0/0/0", "95%"]


def test_a_resync_has_a_bar():
    """How much, and how long still."""
    text = shown(syncing())
    assert "SyncSource" in text and "25% 6.0 s" in text and "300 KiB" in text


def test_what_needs_somebody_stands_below():
    """In words, with the command that says more; nothing if all is well."""
    split = {"volume": 0, "my_bits": 1, "peer_bits": 1, "my_role": "Primary", "peer_role": "Primary"}
    assert "r0: split brain; 'pydrbd doctor r0' says more" in shown(alone("StandAlone") | {"split_brain": split})
    assert "stands alone: wrong secret" in shown(alone("StandAlone") | {"connection_reason": "wrong secret"})
    assert "held back (fencing)" in shown(a_snapshot(suspended_reasons=["fencing"]))
    assert "doctor" not in shown(a_snapshot()) and "No resource is running here." in shown()


def test_a_narrow_terminal_shows_less():
    """80 columns: states and the bar, whole."""
    text = shown(syncing(), columns=80)
    assert "out of sync" not in text and "busy" not in text and "…" not in text
    assert "SyncSource" in text and "25% 6.0 s" in text


def test_volumes_have_a_line_each():
    assert [line.split()[0] for line in shown(a_snapshot(a_volume(), a_volume(1))).splitlines()[2:4]] == ["r0", "r0/1"]


def test_rates_are_differences():
    """Bytes a second; a process that has begun anew, or was not there, counts as 0."""
    speed = rates([counted(written=8)], [counted(written=24, read=4)], 2.0)
    assert speed["r0", 0] == {"read": 1024.0, "written": 4096.0, "sent": 0.0, "received": 0.0}
    assert rates([counted(written=8)], [counted()], 2.0)["r0", 0]["written"] == 0
    assert rates([], [counted(written=8)], 2.0)["r0", 0]["written"] == 0
    assert "4.0 KiB" in shown(counted(), speed=speed)


def test_once_is_a_picture_for_a_pipe(place, process):
    """Without colours and keys; -n is for the others."""
    text = place("top", "--once").out
    assert "pydrbd on alpha" in text and "UpToDate" in text and "\x1b" not in text
    assert place("top", "-n", "5").out.splitlines()[1:] == text.splitlines()[1:]
    place("top", "-n", "never").complains(64, "--interval")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, processes, words):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))
        processes.env["TERM"] = "xterm-256color"
        self.process = processes.start(words, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.text = ""

    def until(self, words: str) -> None:
        """Read until it has been shown."""
        deadline = time.monotonic() + 30
        while words not in self.text:
            assert select.select([self._master], [], [], max(0, deadline - time.monotonic()))[0], self.text
            self.text += os.read(self._master, 65536).decode(errors="replace")

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def is_cooked(self) -> bool:
        """Whether what is typed is shown and edited again, as before."""
        flags = termios.tcgetattr(self._master)[3]
        return bool(flags & termios.ECHO and flags & termios.ICANON)

    def close(self) -> None:
        os.close(self._master)


@pytest.fixture
def terminal(place, processes):
    """`pydrbd top` on a real terminal."""
    words = [sys.executable, "-m", "pydrbd", "top", "-n", "0.05", "--run-dir", place.run_dir, "--node", "alpha"]
    made = Terminal(processes, words)
    yield made
    made.close()


def test_on_a_real_terminal(process, terminal):
    """It draws, follows what changes, ends at q, and leaves the terminal as it was."""
    terminal.until("UpToDate")
    assert "\x1b[?1049h" in terminal.text and not terminal.is_cooked()
    process.answer("status", data=syncing())
    terminal.until("SyncSource")
    terminal.press(b"x")
    terminal.until("25%")
    terminal.press(b"q")
    terminal.until("\x1b[?1049l")
    assert terminal.process.wait(20) == 0 and terminal.is_cooked()


def test_a_signal_leaves_the_terminal_as_it_was(process, terminal):
    """Control-C is 130."""
    terminal.until("UpToDate")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("\x1b[?1049l")
    assert terminal.process.wait(20) == 130 and terminal.is_cooked()


def test_processes_that_end_are_no_error(place):
    """Nothing runs."""
    assert "No resource is running here." in place("top", "--once").out
