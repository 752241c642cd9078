"""A node that is pydrbd: `pydrbd serve` as a process in the lab's network."""

from __future__ import annotations

import abc
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydrbd
from pydrbd.admin.control_client import Answer, ControlClient
from pydrbd.admin.nbd_client import NbdClient
from pydrbd.errors import NotRunningError
from pydrbd.wire.nbd import Command, CommandFlag
from tests.lab.load import Op, Plan
from tests.lab.network import LabFailed, Network, system
from tests.lab.nodes import RESOURCE, STRESS, Generations, Node, Refused, States
from tests.lab.waiting import wait_until

_STOP_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 60.0
_REQUESTS = {"discard": Command.TRIM, "zero": Command.WRITE_ZEROES}
_HARMLESS = "has no effect in pydrbd yet"
_BAD = re.compile(r"WARNING|ERROR|CRITICAL|Traceback|AssertionError|ProtocolError|NetworkFailure|Timeout|BrokenPipe")


class PydrbdVerbs(Node):
    """What pydrbd is asked on its control socket, wherever its process is."""

    @abc.abstractmethod
    def _ask(self, verb: str, arguments: dict[str, Any]) -> Answer:
        """One question and its answer. Raises NotRunningError."""

    def _grant(self, verb: str, **arguments: object) -> None:
        answer = self._ask(verb, arguments)
        if answer.code < 1:
            raise Refused(f"{self.name}: {verb}: {answer.text} ({answer.code})")

    def primary(self, *, force: bool = False) -> None:
        self._grant("primary", force=force)

    def secondary(self) -> None:
        self._grant("secondary", force=False)

    def connect(self, *, discard_my_data: bool = False, tentative: bool = False) -> None:
        self._grant("connect", discard_my_data=discard_my_data, tentative=tentative)

    def disconnect(self) -> None:
        self._grant("disconnect", force=False)

    def order(self, verb: str) -> None:
        self._grant(verb)

    def all_status(self) -> dict[str, Any]:
        """The resource, as the process shows it. Raises NotRunningError."""
        answer = self._ask("status", {})
        assert answer.code > 0 and answer.data is not None, answer
        return answer.data

    def status(self) -> dict[str, Any]:
        """The same of volume 0."""
        found: dict[str, Any] = self.all_status()["volumes"][0]
        return found

    def states(self) -> States:
        try:
            volume = self.status()
        except NotRunningError:
            self._must_not_have_ended()
            return States("Unconfigured", *["Unknown"] * 4)
        return States(*(volume[name] for name in ("cstate", "role", "peer_role", "disk", "peer_disk")))

    @abc.abstractmethod
    def _must_not_have_ended(self) -> None:
        """Raises LabFailed if the process should be there."""

    def details(self) -> str:
        with contextlib.suppress(NotRunningError):
            return str(self.all_status())
        return ""

    def out_of_sync_kib(self) -> int:
        return int(self.status()["out_of_sync_bits"]) * 4

    def generations(self) -> Generations:
        return Generations.parse(self.status()["gi"])

    def size_bytes(self) -> int:
        return int(self.status()["size_sectors"]) * 512

    def complaints(self, allowed: Sequence[str] = ()) -> list[str]:
        return [
            line
            for line in self.log().splitlines()
            if _BAD.search(line) and _HARMLESS not in line and not any(re.search(pattern, line) for pattern in allowed)
        ]


class PydrbdNode(PydrbdVerbs):
    """A process, its run directory and its disk file."""

    def __init__(self, network: Network, directory: Path, name: str, address: str, disk_path: Path) -> None:
        self.network = network
        self.name = name
        self.address = address
        self.disk_path = disk_path
        self.disk_name = str(disk_path)
        self.run_dir = directory / name
        self.run_dir.mkdir(mode=0o700)
        self.log_path = self.run_dir / "log"
        self.config_path = self.run_dir / f"{RESOURCE}.res"
        self._process: subprocess.Popen[bytes] | None = None
        self._control = ControlClient(RESOURCE, self.run_dir)

    def configure(self, text: str) -> None:
        self.config_path.write_text(text)

    def _command(self, verb: str, *words: str) -> list[str]:
        argv = [sys.executable, "-P", "-m", "pydrbd", verb, *words, "-c", str(self.config_path)]
        return self.network.inside([*argv, "--node", self.name, "--run-dir", str(self.run_dir)])

    def call(self, verb: str, *words: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """A command line as a user types it, the configuration and the node added."""
        if RESOURCE not in words:
            words = (RESOURCE, *words)
        command = self._command(verb, *words)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=_environment(), check=False
        )

    def _start(self, verb: str, *words: str) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                self._command(verb, RESOURCE, *words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(),
            )

    def create_md(self) -> None:
        if self._start("create-md", "--force").wait(_STOP_TIMEOUT_S):
            raise LabFailed(f"{self.name}: create-md failed:\n{self.log()}")

    def boot(self) -> None:
        """Nothing: its machine has not lost power, only its process has."""

    def up(self) -> None:
        self._process = self._start("serve")
        wait_until(self._is_up, f"{self.name} to come up", _STOP_TIMEOUT_S, self.log)

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise LabFailed(f"{self.name} ended by itself ({self._process.returncode}):\n{self.log()[-3000:]}")
        with contextlib.suppress(FileNotFoundError):
            return (self.run_dir / f"{RESOURCE}.pid").read_text().strip() == str(self._process.pid)
        return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise LabFailed(f"{self.name} did not end within {_STOP_TIMEOUT_S:g} s") from None

    def down(self) -> None:
        self._end(signal.SIGTERM)

    def crash(self) -> None:
        self._end(signal.SIGKILL)

    def _ask(self, verb: str, arguments: dict[str, Any]) -> Answer:
        return self._control.ask(verb, arguments, _ANSWER_TIMEOUT_S)

    def _must_not_have_ended(self) -> None:
        if self._process is not None:
            self._is_up()

    @contextlib.contextmanager
    def held_open(self) -> Iterator[None]:
        with NbdClient.connect(self.run_dir / f"{RESOURCE}.nbd.sock", RESOURCE, depth=1):
            yield

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def unfreeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def load(self, plan: Plan) -> None:
        with NbdClient.connect(self.run_dir / f"{RESOURCE}.nbd.sock", RESOURCE, depth=1) as client:
            for op in plan:
                do_nbd(client, op)

    def stress(self, seconds: int = 3) -> None:
        uri = f"nbd+unix:///{RESOURCE}?socket={self.run_dir / RESOURCE}.nbd.sock"
        system("fio", *STRESS, f"--runtime={seconds}", "--ioengine=nbd", f"--uri={uri}")

    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(errors="replace")
        return "(no log)"

    def forget_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.log_path, 0)  # the process appends to it, if there is one


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(pydrbd.__file__).resolve().parent.parent)}


def do_nbd(client: NbdClient, op: Op) -> None:
    """Carry out one operation of a plan. Raises AssertionError, RequestFailed."""
    if op.kind in ("write", "fua"):
        flags = CommandFlag.FUA if op.kind == "fua" else CommandFlag(0)
        client.submit(Command.WRITE, op.offset_bytes, payload=op.content(), flags=flags)
    elif op.kind == "flush":
        client.submit(Command.FLUSH)
    elif op.kind in ("read", "check"):
        assert op.is_right(client.read(op.offset_bytes, op.length_bytes)), f"{op}: read something else"
    else:
        client.submit(_REQUESTS[op.kind], op.offset_bytes, op.length_bytes)
    client.drain()
