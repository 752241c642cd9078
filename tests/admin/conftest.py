"""What the tests of the command line use: `run` it in this process, a configuration, a process that only pretends."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pydrbd.admin.cli import main
from tests.admin.snapshots import a_snapshot

DISK_BYTES = 8 << 20


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def complains(self, code: int, *words: str) -> None:
        """It ended with `code`, one line `pydrbd: ...` that has all of `words`, and no traceback."""
        assert self.code == code, f"exit {self.code}: {self.err}"
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("pydrbd: "), self.err
        for word in words:
            assert word in lines[0], lines[0]


@dataclass
class Place:
    """A configuration with two nodes on this machine, in a directory of its own."""

    directory: Path
    config: Path
    run_dir: Path
    run: object

    def __call__(self, verb: str, *words: str, node: str = "alpha") -> Result:
        """Run a verb as this node; `words` are its options and names."""
        return self.run(verb, "-c", self.config, "--node", node, "--run-dir", self.run_dir, *words)

    def disk(self, node: str, volume: int = 0) -> Path:
        return self.directory / f"{node}{volume}.img"


class FakeProcess:
    """Answers on a control socket as it is told, and remembers what it was asked."""

    def __init__(self, path: Path):
        self.asked = []
        self.answers = {"status": {"code": 1, "text": "", "data": a_snapshot()}}
        self.raw = None
        """Bytes to send instead of any answer; b"" hangs up."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def answer(self, verb: str, code: int = 1, text: str = "", data: object = None) -> None:
        self.answers[verb] = {"code": code, "text": text, "data": data}

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                request = json.loads(connection.makefile("rb").readline())
                self.asked.append((request["verb"], request["arguments"]))
                if self.raw is not None:
                    with suppress(ConnectionError):  # it may not want to hear the end of it
                        connection.sendall(self.raw)
                    continue
                answer = self.answers.get(request["verb"], {"code": 1, "text": "", "data": None})
                answer = answer(request["arguments"]) if callable(answer) else answer
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def run(capsys, monkeypatch):
    """`run("status", "r0", ...)` runs the command line here; its `Result`."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")

    def execute(*words: object) -> Result:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return execute


def config_text(directory: Path, ports: tuple[int, int] = (17701, 17702), volumes: int = 1) -> str:
    """A resource r0 on alpha and beta, both here, with file-backed disks."""
    hosts = []
    for name, port in zip(("alpha", "beta"), ports, strict=True):
        parts = [
            f"volume {vnr} {{ device minor {vnr}; disk {directory}/{name}{vnr}.img; meta-disk internal; }}"
            for vnr in range(volumes)
        ]
        hosts.append(f"on {name} {{ {' '.join(parts)} address ipv4 127.0.0.1:{port}; }}")
    return "global { usage-count no; }\nresource r0 {\n" + "\n".join(hosts) + "\n}\n"


@pytest.fixture
def place(short_tmp, run):
    """A `Place` with a resource r0 of one volume, and empty disks."""
    run_dir = short_tmp / "run"
    run_dir.mkdir()
    made = Place(short_tmp, short_tmp / "r0.res", run_dir, run)
    made.config.write_text(config_text(short_tmp))
    for node in ("alpha", "beta"):
        with made.disk(node).open("wb") as disk:
            disk.truncate(DISK_BYTES)
    return made


@pytest.fixture
def process(place):
    """A `FakeProcess` that runs as r0 in `place`."""
    fake = FakeProcess(place.run_dir / "r0.ctl.sock")
    yield fake
    fake.close()


@pytest.fixture
def ports():
    """Two TCP ports that nobody uses."""
    with socket.socket() as one, socket.socket() as two:
        for sock in (one, two):
            sock.bind(("127.0.0.1", 0))
        found = one.getsockname()[1], two.getsockname()[1]
    return found


@pytest.fixture
def node(place, ports, processes, monkeypatch):
    """`place` on free ports, its processes accounted for: none is left when the test ends."""
    from tests.conftest import MARK

    monkeypatch.setenv(MARK, processes.mark)
    place.config.write_text(config_text(place.directory, ports))
    yield place
    for name in ("alpha", "beta"):
        place("down", "--force", "r0", node=name)
