"""The fixtures that all tests rest on: each is run inside of a small pytest of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.fixture
def run_inner(tmp_path):
    """Runs pytest on one file of tests with our conftest; gives its output and exit code."""

    def run(text, *options):
        (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -ra\n")
        (tmp_path / "test_inner.py").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        return done.stdout + done.stderr, done.returncode

    return run


def test_a_failure_prints_the_line_that_replays_it(run_inner):
    """The seed is printed on failure, and --seed gives the same number again."""
    text = "def test_it(seed, rounds):\n    assert seed is None, f'drew {seed} for {rounds}'\n"
    output, code = run_inner(text)
    drawn = output.split("AssertionError: drew ")[1].split()[0]
    assert code == 1
    assert f"replay: pytest test_inner.py::test_it --seed {drawn} --rounds 3" in output
    assert "drew 77 for 9" in run_inner(text, "--seed", "77", "--rounds", "9")[0]


def test_a_long_test_says_how_far_it_is_when_asked(run_inner):
    """--progress: the replay line at the beginning, and each line as it comes; nothing of it otherwise."""
    text = "def test_it(seed, progress):\n    progress('round 1 of 2')\n"
    output, code = run_inner(text, "--progress", "--seed", "77")
    assert code == 0 and "begins; replay: pytest test_inner.py::test_it --seed 77\n" in output
    assert "round 1 of 2" in output
    assert "round" not in run_inner(text)[0]


@pytest.mark.parametrize(("words", "count"), [((), 1), (("--seed", "draw"), 2)])
def test_seeds_differ_from_run_to_run_only_when_drawn(run_inner, words, count):
    """A change is not judged by luck; the long runs explore new ground."""
    text = "def test_it(seed):\n    assert False, f'drew {seed}.'\n"
    seeds = {run_inner(text, *words)[0].split("AssertionError: drew ")[1].split(".")[0] for _ in range(2)}
    assert len(seeds) == count


def test_a_missing_command_skips_with_its_name(run_inner):
    """The reason says what is missing; a command that is there comes back as a path."""
    output, code = run_inner(
        "def test_it(need):\n    assert need('sh').endswith('/sh')\n    assert need('sh', 'no-such-command')\n"
    )
    assert code == 0
    assert "1 skipped" in output
    assert "not installed: no-such-command" in output


def test_a_process_that_ends_on_sigterm_is_stopped_quietly(processes):
    """What a test leaves running is no longer there after the fixture."""
    process = processes.start(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b"there\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"there\n"  # before that, its environment may not be in /proc yet
    assert process.pid in processes.left()
    assert processes.stop() == []
    assert process.returncode == -signal.SIGTERM
    assert processes.left() == {}


DAEMON = """
import os, signal, subprocess, sys

code = "import os, signal; os.fork() and os._exit(0); os.setsid(); print(os.getpid(), flush=True); signal.pause()"

def test_it(processes):
    process = processes.start([sys.executable, "-c", code], stdout=subprocess.PIPE)
    line = process.stdout.readline()
    process.wait(10)
    with open("pid", "wb") as file:
        file.write(line)
"""


def test_a_daemon_that_stays_behind_fails_the_test_and_is_killed(run_inner, tmp_path):
    """A grandchild in a session of its own is found too."""
    output, code = run_inner(DAEMON)
    pid = int((tmp_path / "pid").read_text())
    assert code == 1
    assert f"still there: pid {pid}: " in output
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or ") Z " in state.read_text()


def test_a_short_directory_has_room_for_socket_names(short_tmp):
    """107 bytes is all that a Unix socket's path may have."""
    assert short_tmp.is_dir()
    assert len(os.fsencode(short_tmp)) < 60
