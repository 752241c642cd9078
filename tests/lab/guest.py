"""One guest: a user-mode Linux kernel as a process of this machine, with disks that are files."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.network import TOKEN_BUCKET, LabFailed, Network

KERNEL = "linux.uml"
INIT = Path(__file__).with_name("guest_init.py")
PYTHON = "/usr/bin/python3"
BOOT_TIMEOUT_S = 120.0
COMMAND_TIMEOUT_S = 120.0
"""For what takes a second; a machine on which everybody tests at once takes its time."""

MEMORY = "256M"
MODULES = Path("/usr/lib/uml/modules")

_KILL_TIMEOUT_S = 10.0
_ANSWER_GRACE_S = 60.0
_CONSOLE_LINES = 40
_STACK = re.compile(r" *\[<[0-9a-f]+>\]")


class GuestFailed(LabFailed):
    """A guest could not be started, has died, or a command in it failed."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command in a guest ended; `code` None: it was killed after its time limit."""

    code: int | None
    output: str


class Guest:
    """`start`, `run` commands, `power_off`; `start` again finds the same disks."""

    memory = MEMORY
    init = (PYTHON, str(INIT))
    """The first process's program, and its words."""

    def __init__(
        self, network: Network, directory: Path, name: str, umid: str, number: int, disks: Sequence[Path]
    ) -> None:
        self.network = network
        self.name = name
        self.umid = umid
        self.number = number
        self.address = f"10.77.0.{number}"
        self.tap = f"tap-{name}"
        self.disks = list(disks)
        self.console_path = directory / f"{name}.console"
        self.share = directory / name
        self.share.mkdir()
        self.release = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._line: _Line | None = None

    @property
    def pid(self) -> int:
        """Its kernel's process here, which leads the session of all its processes; it must run."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Boot, and wait until its init answers. Raises GuestFailed with the end of its console."""
        self.begin_start()
        self.finish_start()

    def begin_start(self) -> None:
        """The first half of `start`: several guests may boot side by side."""
        assert self._process is None, f"{self.name} runs already"
        remove_umid(self.umid)
        ours, theirs = socket.socketpair()
        self._line = _Line(ours, self.share)  # before the guest: it clears the folder
        with theirs, self.console_path.open("ab") as console:
            self._process = subprocess.Popen(
                self.network.inside(self.command_line(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )

    def finish_start(self) -> None:
        """The second half."""
        try:
            self.release = self._open_line().wait(0, BOOT_TIMEOUT_S)["output"]
        except LabFailed as error:
            console = self.console()
            self.power_off()
            raise GuestFailed(f"guest {self.name} did not start: {error}\n{console}") from error

    def command_line(self, fd: int) -> list[str]:
        """linux.uml's command line; the serial line to our side is the open file `fd`."""
        disks = [f"ubd{index}={path}" for index, path in enumerate(self.disks)]
        return [
            KERNEL, f"mem={self.memory}", "rootfstype=hostfs", "rootflags=/", "ro", f"init={self.init[0]}",
            "con=null", "con0=null,fd:1", "ssl=null", f"ssl0=fd:{fd},fd:{fd}", *disks,
            *(f"vec{index}:transport=tap,ifname={tap},depth=128,gro=1,mac=02:00:00:00:{77 + index}:{self.number:02x}"
              for index, tap in enumerate(self.taps)),
            f"umid={self.umid}", f"LAB_NAME={self.name}", f"LAB_ADDRESS={','.join(self.addresses)}",
            f"LAB_SHARE={self.share}", *self.words, "--", *self.init[1:],
        ]  # fmt: skip

    def on_one_processor(self) -> list[str]:
        """What goes before its command line to keep it on one processor of this machine.

        User-mode Linux is several processes that wait for each other at every system call: where each of them has to
        wait for a processor, too, it is many times slower.
        """
        processors = sorted(os.sched_getaffinity(0))
        return ["taskset", "--cpu-list", str(processors[self.number % len(processors)])]

    @property
    def taps(self) -> list[str]:
        """Its network devices on the host's side: vec0, vec1, ..."""
        return [self.tap]

    @property
    def addresses(self) -> list[str]:
        """One for each of them, as in 10.77.0.11/24."""
        return [f"{self.address}/24"]

    @property
    def words(self) -> list[str]:
        """More of the kernel's command line."""
        return []

    # --- commands ---

    def run(self, *argv: str, text: str = "", timeout_s: float = COMMAND_TIMEOUT_S, check: bool = True) -> Done:
        """Run a command and wait for its end. Raises GuestFailed if it fails and `check`, or nobody answers."""
        return self.begin(*argv, text=text, timeout_s=timeout_s).wait(check=check)

    def begin(self, *argv: str, text: str = "", timeout_s: float = COMMAND_TIMEOUT_S) -> Running:
        """Start a command; several may run at a time."""
        line = self._open_line()
        request = line.ask({"argv": argv, "input": text, "timeout_s": timeout_s})
        return Running(self, line, request, " ".join(argv), timeout_s)

    def shell(self, script: str, timeout_s: float = COMMAND_TIMEOUT_S, check: bool = True) -> str:
        """Run a shell script, stopped by its first failing command; its output."""
        return self.run("sh", "-ec", script, timeout_s=timeout_s, check=check).output

    def write_file(self, path: str, text: str) -> None:
        """Put a file into the guest, on what it has mounted as its own."""
        self._ask({"write": path, "text": text})

    def read_file(self, path: str) -> str:
        """A file of the guest; cheaper than a command."""
        return self._ask({"read": path})

    def play(self, device: str, text: str, timeout_s: float = 90.0) -> None:
        """Carry out a plan of load.py on a block device of the guest."""
        self._ask({"play": device, "text": text}, timeout_s)

    def ask_socket(self, path: str, line: str, timeout_s: float, grace_s: float = _ANSWER_GRACE_S) -> str:
        """Say a line to a Unix socket of the guest; the line that comes back. Raises GuestFailed."""
        return self._ask({"socket": path, "text": line}, timeout_s, grace_s)

    def _ask(self, request: Mapping[str, str], timeout_s: float = 0.0, grace_s: float = _ANSWER_GRACE_S) -> str:
        line = self._open_line()
        what = str(request)[:200]
        try:
            answer = line.wait(line.ask(request), timeout_s + grace_s)
        except LabFailed as error:
            raise GuestFailed(f"guest {self.name}: {what}: {error}\n{self.console()}") from error
        if answer["code"]:
            raise GuestFailed(f"guest {self.name}: {what}: {answer['output']}")
        return str(answer["output"])

    def load(self, *modules: str) -> None:
        """insmod the modules (after what they need), by their names without `.ko`."""
        loaded = {line.split()[0] for line in self.read_file("/proc/modules").splitlines()}
        for module in modules:
            if module.replace("-", "_") not in loaded:
                found = sorted((MODULES / self.release).rglob(f"{module}.ko"))
                if not found:
                    raise GuestFailed(f"there is no {module}.ko in {MODULES / self.release}")
                self.run("insmod", str(found[0]))

    def dmesg(self) -> str:
        """The kernel's log since its boot."""
        return self.run("dmesg").output

    def console(self) -> str:
        """The end of what it printed since the lab was opened; a panic's stack would push the reason out of sight."""
        with contextlib.suppress(FileNotFoundError):
            lines = self.console_path.read_text(errors="replace").splitlines()
            return "\n".join([line for line in lines if not _STACK.match(line)][-_CONSOLE_LINES:])
        return "(it printed nothing)"

    def _open_line(self) -> _Line:
        if self._line is None:
            raise GuestFailed(f"guest {self.name} is not running")
        return self._line

    # --- the end ---

    def cut(self) -> None:
        """Cut it from the network."""
        self.network.cut(self.tap)

    def restore(self) -> None:
        """Put it on the network again."""
        self.network.restore(self.tap)

    def slow(self, rate: str) -> None:
        """Its line takes this much and no more, either way: as in `16mbit`. Needs sch_tbf."""
        self.network.slow(self.tap, rate)
        self.run("tc", "qdisc", "replace", "dev", "vec0", "root", *TOKEN_BUCKET, "rate", rate)

    def full_speed(self) -> None:
        """The opposite of `slow`, also if it is not slow."""
        self.network.full_speed(self.tap)
        if self.runs:
            self.run("tc", "qdisc", "replace", "dev", "vec0", "root", "pfifo_fast")

    def freeze(self) -> None:
        """The kernel stops; `unfreeze` lets it go on. (Its own processes must not be stopped: it would see that.)"""
        self._signal(signal.SIGSTOP)

    def unfreeze(self) -> None:
        """The opposite of `freeze`, also if it is not frozen."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def power_off(self) -> None:
        """What a power failure does: SIGKILL. Its disks keep what the kernel had written to them."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_KILL_TIMEOUT_S)
        line, self._line = self._line, None
        if line is not None:
            line.close()
        remove_umid(self.umid)


class Running:
    """A command that was begun in a guest."""

    def __init__(self, guest: Guest, line: _Line, request: int, words: str, timeout_s: float) -> None:
        self._guest, self._line, self._request, self._words = guest, line, request, words
        self._timeout_s = timeout_s

    def wait(self, check: bool = True) -> Done:
        """Its end. Raises GuestFailed if it failed and `check`, or nobody answers."""
        who = f"guest {self._guest.name}: {self._words}"
        try:
            answer = self._line.wait(self._request, self._timeout_s + _ANSWER_GRACE_S)
        except LabFailed as error:
            raise GuestFailed(f"{who}: {error}\n{self._guest.console()}") from error
        done = Done(answer["code"], answer["output"])
        if check and done.code != 0:
            how = f"not finished after {self._timeout_s:g} s" if done.code is None else f"exit code {done.code}"
            raise GuestFailed(f"{who}: {how}: {done.output.strip()}")
        return done


class _Line:
    """Our end of the serial line and the shared folder (guest_init says how); a thread sorts the answers."""

    def __init__(self, sock: socket.socket, share: Path) -> None:
        self._sock = sock
        self._share = share
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[bool]] = {0: queue.SimpleQueue()}
        self._lock = threading.Lock()
        self._ended = False
        for left in share.iterdir():
            left.unlink()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, request: Mapping[str, Any]) -> int:
        """Send a request; its number."""
        with self._lock:
            number = next(self._numbers)
            self._answers[number] = queue.SimpleQueue()
            if self._ended:
                self._answers[number].put(False)
            else:
                (self._share / f"{number}.request").write_text(json.dumps(request))
                with contextlib.suppress(OSError):
                    self._sock.sendall(b"%d\n" % number)
        return number

    def wait(self, number: int, timeout_s: float) -> dict[str, Any]:
        """The answer to a request. Raises LabFailed."""
        try:
            answered = self._answers[number].get(timeout=timeout_s)
        except queue.Empty:
            raise LabFailed(f"no answer within {timeout_s:g} s") from None
        if not answered:
            raise LabFailed("the guest is gone")
        del self._answers[number]
        answer: dict[str, Any] = json.loads((self._share / f"{number}.answer").read_text())
        return answer

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            for line in self._sock.makefile("rb"):
                if line.strip().isdigit() and int(line) in self._answers:
                    self._answers[int(line)].put(True)
        with self._lock:
            self._ended = True
            for waiting in self._answers.values():
                waiting.put(False)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def remove_umid(umid: str) -> None:
    """Forget a guest that was killed: the next one of that name would refuse to start."""
    shutil.rmtree(Path.home() / ".uml" / umid, ignore_errors=True)
