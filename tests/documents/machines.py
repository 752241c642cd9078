"""Two machines on this one, alpha and beta (and gamma for some pages), and a switch between them.

Each has a name, files and a network of its own.

They are namespaces: nothing of the real machine's network, /etc, /run, /srv or /var/lib is changed. Root is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.documents.pages import DOCS, blocks

__all__ = ["BEGIN", "PAIR", "Machine", "Machines", "follow"]

BEGIN = DOCS / "quick-start.md"
ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
PAIR = ("alpha", "beta")
ADDRESSES = {"alpha": "10.77.0.11", "beta": "10.77.0.12", "gamma": "10.77.0.13"}
_OWN = ("/etc", "/run", "/srv", "/var/lib")


class Machine:
    """One of them: a process that does nothing but keep its namespaces."""

    def __init__(self, name: str, directory: Path, processes) -> None:
        self.name = name
        self._directory = directory
        for place in _OWN:
            (directory / place.strip("/").replace("/", "-")).mkdir(parents=True)
        shutil.copytree("/etc", directory / "etc", symlinks=True, dirs_exist_ok=True, ignore=_unreadable)
        (directory / "bin").mkdir()
        command = directory / "bin" / "pydrbd"
        command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m pydrbd "$@"\n')
        command.chmod(0o755)
        mounts = [f"mount --bind {directory}/{place.strip('/').replace('/', '-')} {place}" for place in _OWN]
        # /etc last: until then it says who may do what.
        script = " && ".join([*mounts[1:], mounts[0], f"hostname {name}", "ip link set lo up", "echo ready"])
        self._process = processes.start(
            ["unshare", "--mount", "--uts", "--net", "sh", "-ec", f"{script}; exec sleep infinity"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def path(self) -> str:
        """Where its commands are."""
        return f"{self._directory}/bin:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"

    def run(self, script: str, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Carry out a script, as root of this machine."""
        inside = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--net"]
        return subprocess.run(
            [*inside, "bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=limit_s,
            cwd="/", env={"PATH": self.path, "HOME": "/root", **_mark()},
        )  # fmt: skip

    def write(self, path: str, text: str) -> None:
        """A file; its directories are made."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--mount", "sh", "-ec", 'mkdir -p "${0%/*}"; cat >"$0"', path],
            input=text, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        assert done.returncode == 0


class Machines:
    """All of them, and the switch, which is a third network with a bridge in it."""

    def __init__(self, directory: Path, processes, names: tuple[str, ...] = PAIR) -> None:
        self.by_name = {name: Machine(name, directory / name, processes) for name in names}
        make = "ip link add switch type bridge && ip link set switch up && echo ready && exec sleep infinity"
        self._switch = processes.start(["unshare", "--net", "sh", "-ec", make], stdout=subprocess.PIPE, text=True)
        assert self._switch.stdout.readline() == "ready\n"
        for name, machine in self.by_name.items():
            self._on_switch(f"ip link add {name} type veth peer name eth0 netns {machine.pid}; ip link set {name} up")
            done = machine.run(f"ip address add {ADDRESSES[name]}/24 dev eth0 nodad; ip link set eth0 up")
            assert done.returncode == 0, done.stderr
            self.join(name)

    def join(self, name: str) -> None:
        """Let a machine's port carry something."""
        self._on_switch(f"ip link set {name} master switch")

    def cut(self, name: str) -> None:
        """Nothing comes to a machine nor from it any more, and its interface does not notice."""
        self._on_switch(f"ip link set {name} nomaster")

    def _on_switch(self, script: str) -> None:
        inside = ["nsenter", "--target", str(self._switch.pid), "--net", "sh", "-ec"]
        subprocess.run([*inside, script], check=True, capture_output=True, timeout=LIMIT_S)

    def stop(self) -> None:
        """End what runs on them."""
        for machine in self.by_name.values():
            machine.run("pydrbd down --force all || true")
            machine.run("read pid </run/witness.pid && kill $pid && while kill -0 $pid; do sleep 0.05; done")


def follow(machines: Machines, page: Path) -> None:
    """Carry out a page's blocks in order."""
    shown: dict[str, str] = {}
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.kind == "output":
            assert shown and set(shown.values()) == {block.text}, f"{where}: {shown}"
        elif block.kind == "file":
            *names, path = block.words
            for name in names:
                machines.by_name[name].write(path, block.text)
        else:
            shown = {}
            for name in block.words:
                done = machines.by_name[name].run(block.text)
                assert done.returncode == 0, f"{where}, on {name}: {done.stdout}{done.stderr}"
                shown[name] = done.stdout


def _mark() -> dict[str, str]:
    from tests.conftest import MARK

    return {MARK: os.environ[MARK]} if MARK in os.environ else {}


def _unreadable(directory: str, names: list[str]) -> list[str]:
    paths = [Path(directory) / name for name in names]
    return [path.name for path in paths if not path.is_symlink() and not os.access(path, os.R_OK)]
