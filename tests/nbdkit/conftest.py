"""A pair whose one node, `a`, lives in nbdkit; the other one is a process of pydrbd."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pydrbd.admin.control_client import ControlClient
from pydrbd.admin.nbd_client import NbdClient
from pydrbd.errors import NotRunningError
from tests.lab.waiting import wait_until
from tests.runtime.test_rendezvous import free_ports

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "pydrbd/nbdkit_plugin.py"
SIZE = 64 << 20
LIMIT_S = 60


@pytest.fixture(scope="session")
def nbdkit_command():
    """nbdkit with its plugin for Python, of the version that pydrbd is built for here."""
    try:
        said = subprocess.run(["nbdkit", "python", "--dump-plugin"], capture_output=True, text=True, timeout=LIMIT_S)
    except FileNotFoundError:
        pytest.skip("not installed: nbdkit (make test installs it as root)")
    version = re.search(r"^python_version=(\d+\.\d+)", said.stdout, re.MULTILINE)
    if version is None:
        pytest.skip("not installed: nbdkit-plugin-python (make test installs it as root)")
    if version[1] != f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"nbdkit embeds Python {version[1]}")
    return "nbdkit"


class NbdkitPair:
    """Two formatted nodes that are known to be equal."""

    def __init__(self, directory, processes, nbdkit):
        self.directory = directory
        self._processes = processes
        self._nbdkit = nbdkit
        self.config = directory / "r0.res"
        self.socket = directory / "nbdkit.sock"
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self.log = directory / "nbdkit.log"
        self.env = {**processes.env, "PYTHONPATH": sysconfig.get_path("purelib")}
        hosts = "".join(
            f"on {node} {{ device minor {minor}; disk {directory}/{node}.img; meta-disk internal;"
            f" address 127.0.0.1:{port}; }}\n"
            for minor, (node, port) in enumerate(zip("ab", free_ports(2), strict=True))
        )
        self.config.write_text(
            f"resource r0 {{ net {{ ping-int 1; connect-int 1; timeout 20; }}\n{hosts}}}\n"
        )
        for node in "ab":
            self.image(node).write_bytes(b"")
            os.truncate(self.image(node), SIZE)
            self.call(node, "create-md")
        self.call("b", "up")

    def image(self, node):
        return self.directory / f"{node}.img"

    def run_dir(self, node):
        return self.directory / node

    def call(self, node, verb, *words, code=0):
        """A verb of the command line; what it says."""
        argv = [sys.executable, "-m", "pydrbd", verb, "r0", *words]
        argv += ["-c", self.config, "--node", node, "--run-dir", self.run_dir(node)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT)
        assert done.returncode == code, (verb, done)
        return done.stdout + done.stderr

    def nbdkit_words(self, *parameters, options=()):
        """The command line of nbdkit with node `a`."""
        plugin = ["python", str(PLUGIN), f"config={self.config}", "resource=r0", "node=a"]
        return [self._nbdkit, "-f", *options, *plugin, f"run-dir={self.run_dir('a')}", *parameters]

    def start(self, *parameters, options=()):
        """nbdkit in the foreground; returns when its node answers. An earlier one has left its socket."""
        self.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            process = self._processes.start(
                self.nbdkit_words(*parameters, options=("-U", str(self.socket), *options)),
                env=self.env, stdout=log, stderr=log, cwd=ROOT,
            )  # fmt: skip
        wait_until(lambda: process.poll() is not None or self._answers("a"), "the node in nbdkit to answer")
        assert process.poll() is None, self.log.read_text()
        return process

    def start_primary(self, *parameters, options=()):
        """The same, connected and Primary: nothing has to be synced."""
        process = self.start(*parameters, options=options)
        self.call("a", "wait-connect")
        self.call("a", "new-current-uuid", "--clear-bitmap")
        self.call("a", "primary")
        return process

    def _answers(self, node):
        with contextlib.suppress(NotRunningError):
            ControlClient("r0", self.run_dir(node)).status()
            return True
        return False

    def run(self, *argv, code=0):
        """A client; what it says."""
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=LIMIT_S, env=self._processes.env, cwd=self.directory
        )
        assert done.returncode == code, (argv, done, self.log.read_text()[-2000:] if self.log.exists() else "")
        return done.stdout + done.stderr

    def client(self):
        """A connection of our own."""
        return NbdClient.connect(self.socket, timeout_s=LIMIT_S)

    def end(self, process, code=0):
        """SIGTERM, and the exit code."""
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == code, self.log.read_text()[-3000:]

    def same(self, length):
        """Whether both disks hold the same from the beginning on."""
        first, second = (self.image(node).read_bytes()[:length] for node in "ab")
        return first == second


@pytest.fixture
def pair(nbdkit_command, short_tmp, processes):
    pair = NbdkitPair(short_tmp, processes, nbdkit_command)
    yield pair
    pair.call("b", "down", "--force")
