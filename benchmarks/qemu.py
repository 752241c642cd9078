"""What one would pick in user space today: QEMU's synchronous copies, a disk of its own to a second daemon's.

    mirror   blockdev-mirror, copy-mode write-blocking: answers when both have it; a FLUSH reaches the first disk only
    quorum   the quorum driver over both, vote-threshold 2: a FLUSH reaches both; no resync, no degraded mode

Both daemons are qemu-storage-daemon on files in the page cache (or past it, with `direct`), joined by a Unix socket:
over TCP, QEMU 7.2 waits for delayed acknowledgements.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.outcome import Outcome
from benchmarks.rows import Row
from benchmarks.servers import Server, ServerError, fill, forget, scribble, wait_for_socket
from benchmarks.single import NbdPeer

__all__ = ["QemuMirror", "QemuQuorum"]

_DAEMON = "qemu-storage-daemon"
_READY_TIMEOUT_S = 120.0
_POLL_S = 0.01
_CHUNK_BYTES = 1 << 20
_JOB = "m"


class _QemuPair(NbdPeer):
    """Two daemons: the second serves its file, the first writes to both; `words` say how it does that."""

    def __init__(self, directory: Path, size_bytes: int, stack: ExitStack, direct: bool = False) -> None:
        """`direct`: past the page cache."""
        self._direct = direct
        peer_socket, socket_path = directory / "b.sock", directory / "a.sock"
        super().__init__(directory, size_bytes, f"nbd+unix:///disk?socket={socket_path}")
        self._files = (directory / "a.img", directory / "b.img")
        for file in self._files:
            fill(file, size_bytes, random.Random(0))
        self._forget()
        words = [*_file("b", self._files[1], direct), *_nbd_server(peer_socket), "--export", _export("b")]
        second = stack.enter_context(Server([_DAEMON, *words], directory / "b.log", directory))
        wait_for_socket(peer_socket, second)
        remote = f"driver=nbd,node-name=rb,server.type=unix,server.path={peer_socket},export=disk,reconnect-delay=10"
        words = [*_file("a", self._files[0], direct), "--blockdev", remote, *_nbd_server(socket_path)]
        words += self._words(directory)
        first = stack.enter_context(Server([_DAEMON, *words], directory / "a.log", directory))
        wait_for_socket(socket_path, first)
        self._servers = (first, second)
        self._begin(stack)

    def _forget(self) -> None:
        for file in self._files if self._direct else ():
            forget(file)

    def _words(self, directory: Path) -> list[str]:
        raise AssertionError("a pair of this kind says what it exports")

    def _begin(self, stack: ExitStack) -> None:
        """What is left to be done once both run. Raises ServerError."""

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(server.pid for server in self._servers)

    def verify(self, row: Row, counted: Mapping[str, int], writes: int) -> None:
        """Both run, and after a row that wrote anything both files are the same."""
        for server in self._servers:
            server.check()
        if row.pattern != "randread":
            a, b = (file.open("rb") for file in self._files)
            with a, b:
                while here := a.read(_CHUNK_BYTES):
                    if here != b.read(_CHUNK_BYTES):
                        raise ServerError(f"WRONG: after {row.name} QEMU's copies differ before byte {a.tell()}")
            self._forget()


class QemuQuorum(_QemuPair):
    """Writes go to both at once."""

    def _words(self, directory: Path) -> list[str]:
        quorum = {
            "driver": "quorum", "node-name": "q", "vote-threshold": 2, "read-pattern": "fifo", "children": ["a", "rb"],
        }  # fmt: skip
        return ["--blockdev", json.dumps(quorum), "--export", _export("q")]


class QemuMirror(_QemuPair):
    """Writes go to the first, then to the second."""

    def _words(self, directory: Path) -> list[str]:
        monitor = [
            "--chardev",
            f"socket,id=c,path={directory / 'qmp.sock'},server=on,wait=off",
            "--monitor",
            "chardev=c",
        ]
        return ["--export", _export("a"), *monitor]

    def _begin(self, stack: ExitStack) -> None:
        path = self.directory / "qmp.sock"
        wait_for_socket(path, self._servers[0])
        self._monitor = stack.enter_context(_Monitor(path))
        self._copy()

    def prepare_resync(self, row: Row, seed: int) -> None:
        """End the job, which leaves two equal copies, and spoil the second."""
        self._monitor.ask("block-job-cancel", device=_JOB)
        self._wait(lambda: not self._monitor.ask("query-block-jobs"), "the end of its job")
        scribble(self._files[1], self.size_bytes, random.Random(seed))

    def resync(self, row: Row) -> Outcome:
        return self._copy()

    def _copy(self) -> Outcome:
        """Begin the job, and wait until it says that both are the same."""
        begun = time.monotonic()
        words = {"job-id": _JOB, "device": "a", "target": "rb", "sync": "full", "copy-mode": "write-blocking"}
        self._monitor.ask("blockdev-mirror", **words)
        curve = [(0.0, 0.0)]

        def is_ready() -> bool:
            (job,) = self._monitor.ask("query-block-jobs")
            share = 1.0 if job["ready"] else min(1.0, job["offset"] / max(1, job["len"]))
            curve.append((time.monotonic() - begun, share))
            return bool(job["ready"])

        self._wait(is_ready, "the copy")
        return Outcome(self.size_bytes // 4096, self.size_bytes, curve[-1][0], curve=curve)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                raise ServerError(f"QEMU's mirror: waited {_READY_TIMEOUT_S:.0f} s for {what}")
            time.sleep(_POLL_S)


class _Monitor:
    """QMP in few words: one JSON object a line, events skipped."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_READY_TIMEOUT_S)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("r")

    def __enter__(self) -> _Monitor:
        self._lines.readline()
        self.ask("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, command: str, **arguments: object) -> Any:
        """The answer's `return`. Raises ServerError for an error."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while line := self._lines.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise ServerError(f"QEMU refuses {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise ServerError(f"QEMU has gone while it was asked to {command}")


def _file(name: str, path: Path, direct: bool) -> list[str]:
    how = "cache.direct=on,aio=native" if direct else "cache.direct=off,aio=threads"
    protocol = f"driver=file,node-name={name}f,filename={path},{how}"
    return ["--blockdev", protocol, "--blockdev", f"driver=raw,node-name={name},file={name}f"]


def _nbd_server(path: Path) -> list[str]:
    return ["--nbd-server", f"addr.type=unix,addr.path={path},max-connections=0"]


def _export(node: str) -> str:
    return f"type=nbd,id=e,node-name={node},name=disk,writable=on"
