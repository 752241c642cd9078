"""Two nodes on this machine: a directory with a configuration, two disk files, two `pydrbd serve` processes.

    pair = LocalPair(directory, size_bytes=256 * MIB)
    pair.create_meta_data()
    for node in pair: node.start()

What is killed here is killed for good (SIGKILL), as a crash would; `stop_all` leaves no process behind.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydrbd.admin.control_client import Answer, ControlClient
from pydrbd.admin.demo_compare import Comparison, compare_files
from pydrbd.admin.exit_codes import CommandFailed, WaitTimedOut
from pydrbd.admin.nbd_client import NbdClient
from pydrbd.errors import NotRunningError

__all__ = [
    "PROGRAM",
    "RESOURCE",
    "LocalNode",
    "LocalPair",
    "Spawn",
    "default_spawn",
    "free_port",
    "node_environment",
]

RESOURCE: Final = "r0"
PROGRAM: Final = (sys.executable, "-P", "-m", "pydrbd")
"""-P keeps the current directory out of the search for modules."""

_WAIT_S: Final = 60.0
_POLL_S: Final = 0.02
_LOG_LINES: Final = 15
_PORTS: Final = range(17000, 32000)
"""Below the ports that the system hands out itself: nothing takes one while its node is down."""

Spawn = Callable[[Sequence[str], Path], "subprocess.Popen[bytes]"]
"""Starts a command with its output appended to a file."""


def default_spawn(argv: Sequence[str], log_path: Path) -> subprocess.Popen[bytes]:
    """Start a process that a Ctrl-C of ours does not reach."""
    with log_path.open("ab") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=node_environment(),
        )


def node_environment() -> dict[str, str]:
    """The environment in which PROGRAM is the same pydrbd as this one, wherever we are."""
    package = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": search}


def free_port(taken: Sequence[int] = ()) -> int:
    """A TCP port that nobody listens on now. Raises CommandFailed."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in taken:
                return port
    raise CommandFailed("100 ports of 127.0.0.1 were tried, and none is free")


class LocalNode:
    """One node: its disk file, its run directory, its process if there is one."""

    def __init__(self, pair: LocalPair, name: str) -> None:
        self.name = name
        self.disk_path = pair.directory / f"{name}.img"
        self.run_dir = pair.directory / name
        self.log_path = self.run_dir / f"{RESOURCE}.log"
        self.nbd_socket = self.run_dir / f"{RESOURCE}.nbd.sock"
        self._pid_path = self.run_dir / f"{RESOURCE}.pid"
        self.process: subprocess.Popen[bytes] | None = None
        self._pair = pair
        self.config_path = pair.config_path
        self._control = ControlClient(RESOURCE, self.run_dir)

    def words(self, verb: str, *more: str) -> list[str]:
        """What follows `pydrbd` on the command line of a verb on this node."""
        options = ["-c", str(self.config_path), "--node", self.name, "--run-dir", str(self.run_dir)]
        return [verb, RESOURCE, *more, *options]

    def command(self, verb: str, *more: str) -> list[str]:
        """The whole command line, which works wherever we are."""
        return [*PROGRAM, *self.words(verb, *more)]

    def start(self) -> None:
        """Start `pydrbd serve` and wait until it is up with its disk. Raises CommandFailed with the end of its log."""
        assert self.process is None, f"{self.name} runs already"
        self.process = self._pair.spawn(self.command("serve"), self.log_path)
        self._pair.wait_until(self.is_up, f"{self.name} to come up")
        if self.volume()["disk"] == "Diskless":
            raise CommandFailed(f"{self.name} has no disk: it could not be attached; its log says:\n{self.log_end()}")

    def is_up(self) -> bool:
        """Whether the process has attached its disk and looks for its peer: it writes its pid file then."""
        with contextlib.suppress(FileNotFoundError):
            return self.process is not None and self._pid_path.read_text().strip() == str(self.process.pid)
        return False

    def check(self) -> None:
        """Raise CommandFailed if the process should be there and is not."""
        if self.process is not None and self.process.poll() is not None:
            code = self.process.returncode
            raise CommandFailed(f"{self.name} ended by itself (exit code {code}); its log says:\n{self.log_end()}")

    @property
    def runs(self) -> bool:
        return self.process is not None

    @property
    def pid(self) -> int:
        """Of the process, which must be there."""
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL: the process has no chance to tidy up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, an orderly stop; SIGKILL if that takes too long."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_end(self) -> str:
        """The last lines of the log."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        return "(no log)"

    # --- talking to it ---

    def ask(self, verb: str, **arguments: object) -> Answer:
        """A verb's answer, refusals too."""
        return self._control.ask(verb, arguments)

    def grant(self, verb: str, **arguments: object) -> None:
        """A verb that must be granted. Raises StateRefused, CommandFailed."""
        self._control.grant(verb, arguments)

    def status(self) -> dict[str, Any]:
        """What the process says of itself. Raises NotRunningError."""
        return self._control.status()

    def volume(self) -> dict[str, Any]:
        """Its volume 0: cstate, disk, peer_disk, role, counters, resync..."""
        found: dict[str, Any] = self.status()["volumes"][0]
        return found

    def connect_client(self, depth: int = 16) -> NbdClient:
        """A client of its export. Raises ExportRefused, ConnectionLost."""
        return NbdClient.connect(self.nbd_socket, RESOURCE, depth=depth, timeout_s=_WAIT_S)

    def __repr__(self) -> str:
        return self.name


class LocalPair:
    """Both nodes and what they share."""

    def __init__(
        self,
        directory: Path,
        *,
        size_bytes: int,
        names: tuple[str, str] = ("alpha", "beta"),
        net: str = "protocol C;",
        disk: str = "",
        handlers: str = "",
        io: str = "auto",
        spawn: Spawn = default_spawn,
    ) -> None:
        self.directory = directory
        self.spawn = spawn
        self.config_path = directory / f"{RESOURCE}.res"
        self.nodes = (LocalNode(self, names[0]), LocalNode(self, names[1]))
        ports = [free_port()]
        ports.append(free_port(ports))
        hosts = "".join(
            f"    on {node.name} {{\n        device    minor {minor};\n        disk      \"{node.disk_path}\";\n"
            f"        meta-disk internal;\n        address   127.0.0.1:{port};\n    }}\n"
            for minor, (node, port) in enumerate(zip(self.nodes, ports, strict=True))
        )
        written = (("net", net), ("disk", disk), ("handlers", handlers))
        sections = "".join(f"    {name} {{ {text} }}\n" for name, text in written if text)
        self.config_path.write_text(f"resource {RESOURCE} {{\n{sections}{hosts}}}\n")
        if io != "auto":
            (directory / "pydrbd.toml").write_text(f'[resource.{RESOURCE}]\nio = "{io}"\n')
        for node in self.nodes:
            node.run_dir.mkdir(mode=0o700)
            with node.disk_path.open("xb") as disk_file:
                disk_file.truncate(size_bytes)

    def __iter__(self) -> Iterator[LocalNode]:
        return iter(self.nodes)

    def other(self, node: LocalNode) -> LocalNode:
        """The peer of a node."""
        return self.nodes[1] if node is self.nodes[0] else self.nodes[0]

    def create_meta_data(self) -> None:
        """`create-md` on both. Raises CommandFailed."""
        for node in self:
            process = self.spawn(node.command("create-md"), node.log_path)
            if process.wait(_WAIT_S):
                raise CommandFailed(
                    f"create-md failed on {node.name} (exit code {process.returncode}):\n{node.log_end()}"
                )

    def stop_all(self, *, orderly: bool = False) -> None:
        """End both processes."""
        for node in self:
            if orderly:
                node.stop()
            else:
                node.kill()

    # --- waiting ---

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = _WAIT_S) -> None:
        """Look again and again. Raises WaitTimedOut with both nodes' states, CommandFailed if a node has died."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            for node in self:
                node.check()
            if time.monotonic() > deadline:
                raise WaitTimedOut(f"waited {timeout_s:g} s for {what}\n{self.describe()}")
            time.sleep(_POLL_S)

    def in_sync(self) -> bool:
        """Whether both nodes say that they are connected and have the same, good data."""
        return all(
            volume["cstate"] == "Connected" and volume["disk"] == volume["peer_disk"] == "UpToDate"
            for volume in (node.volume() for node in self)
        )

    def describe(self) -> str:
        """Both nodes' states and the ends of their logs, for an error message."""
        parts = []
        for node in self:
            try:
                state: Mapping[str, Any] | str = node.volume() if node.runs else "not running"
            except (NotRunningError, CommandFailed) as error:
                state = str(error)
            parts.append(f"--- {node.name}: {state}\n{node.log_end()}")
        return "\n".join(parts)

    # --- the data ---

    def compare(self, size_bytes: int) -> Comparison:
        """Compare the first `size_bytes` of both disk files, byte for byte; the nodes must be quiet."""
        return compare_files(self.nodes[0].disk_path, self.nodes[1].disk_path, size_bytes)
