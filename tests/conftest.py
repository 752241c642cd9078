"""What every test may use: a seed with its replay line, rounds, tools that may be missing, processes, short paths."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROUNDS_DEFAULT = 3
STOP_TIMEOUT_S = 10.0
SHORT_PATH_MAX = 60
"""A Unix socket's path holds 107 bytes: this leaves room for the names below a temporary directory."""

SEED = pytest.StashKey[int]()
MARK = "PYDRBD_TEST_PROCESS"
"""The environment variable by which a test's processes are found again, daemons and grandchildren too."""

# The same examples each time, and no check that asks how fast the machine is: a red run is a fault of the change.
UNHURRIED = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True, suppress_health_check=UNHURRIED)
settings.register_profile("long", parent=settings.get_profile("ci"), derandomize=False, max_examples=5000)
settings.load_profile("ci")  # `--hypothesis-profile=long` chooses the other one


def pytest_configure():
    """Whoever starts the tests in the background may have had SIGINT ignored: what they interrupt must hear it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    group = parser.getgroup("pydrbd")
    group.addoption("--rounds", type=int, default=ROUNDS_DEFAULT, help="rounds of a crash test (default: %(default)s)")
    group.addoption("--progress", action="store_true", help="say how far long tests are, a line a round")
    group.addoption("--seed", default=None, help="the seed of tests that take one: a number, or `draw` for a new one")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and SEED in item.stash:
        report.sections.append(("seed", f"replay: {replay_line(item)}"))
    return report


def replay_line(item):
    """The command that runs a test again with the same seed."""
    words = ["pytest", item.nodeid, "--seed", str(item.stash[SEED])]
    if "rounds" in item.fixturenames:
        words += ["--rounds", str(item.config.getoption("rounds"))]
    return shlex.join(words)


@pytest.fixture
def seed(request):
    """A number for `random.Random`. A failure prints the line that replays it.

    Each test has a seed of its own, the same in every run: a change is judged by what it changes, not by luck. The
    long runs (`make rounds`) draw new ones with `--seed draw`.
    """
    chosen = request.config.getoption("seed")
    if chosen == "draw":
        number = secrets.randbits(32)
    else:
        first = request.node.get_closest_marker("first_seed")
        own = first.args[0] if first else zlib.crc32(request.node.nodeid.encode())
        number = own if chosen is None else int(chosen)
    request.node.stash[SEED] = number
    return number


@pytest.fixture
def rounds(request):
    """How often a crash test goes round: --rounds."""
    return request.config.getoption("rounds")


@pytest.fixture
def progress(request):
    """`progress("line")` tells whoever watches a long run how far it is, if --progress asks for it."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line):
        if request.config.getoption("progress"):
            with capture.global_and_fixture_disabled():
                print(f"\n{time.strftime('%H:%M:%S')} {line}", end="", flush=True)

    if SEED in request.node.stash:
        say(f"begins; replay: {replay_line(request.node)}")
    return say


@pytest.fixture
def need():
    """`need("nbdinfo", "fio")` gives the commands' paths, or skips the test and says which is missing."""

    def find(*commands):
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        found = {command: shutil.which(command, path=path) for command in commands}
        missing = sorted(command for command, place in found.items() if place is None)
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)} (make test installs it as root)")
        return found[commands[0]] if len(commands) == 1 else [found[command] for command in commands]

    return find


@pytest.fixture
def short_tmp():
    """A directory with a path that is short enough for Unix sockets; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="pydrbd-", dir="/tmp") as name:
        assert len(name) < SHORT_PATH_MAX
        yield Path(name)


class Processes:
    """Starts processes and proves at the end that none is left, not even one that made itself a daemon.

    `env` is for those that are started in other ways (`trio.run_process`, `subprocess.run`): with it they count too.
    """

    def __init__(self):
        self.mark = secrets.token_hex(8)
        self.env = {**os.environ, MARK: self.mark}
        self.started = []

    def start(self, argv, **options):
        """`subprocess.Popen` in a session of its own; `env` is added to ours."""
        options["env"] = self.env | options.get("env", {})
        process = subprocess.Popen([os.fspath(word) for word in argv], start_new_session=True, **options)
        self.started.append(process)
        return process

    def left(self):
        """The pids and command lines of all that still runs (zombies don't)."""
        wanted = f"{MARK}={self.mark}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # it ended meanwhile, or it is somebody else's
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def stop(self):
        """SIGTERM to what was started, SIGKILL to what is left; complaints about those that needed the second."""
        running = [process for process in self.started if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
        complaints = [f"still there: pid {pid}: {command}" for pid, command in self.left().items()]
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait(STOP_TIMEOUT_S)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        return complaints


@pytest.fixture
def processes():
    """A `Processes`: what the test leaves running is stopped, and one that SIGTERM does not stop fails the test."""
    group = Processes()
    yield group
    complaints = group.stop()
    assert not complaints, "\n".join(complaints)
