"""The lab's own network: a namespace with a bridge and a tap for each guest. Nothing leaves it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from tests.lab.waiting import wait_until

PREFIX = "10.77.0"
BRIDGE = "br0"
HOST_ADDRESS = f"{PREFIX}.1"
TOKEN_BUCKET = ("tbf", "burst", "64kb", "latency", "1s")
"""tc's words for a slow line."""

_COMMAND_TIMEOUT_S = 60.0


class LabFailed(Exception):
    """The lab itself does not work; the message says which command, and what it said."""


def system(*argv: str) -> str:
    """Run a command of the host that must succeed; its output. Raises LabFailed."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_COMMAND_TIMEOUT_S,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabFailed(f"{' '.join(argv)} failed ({done.returncode}): {done.stdout.strip()}")
    return done.stdout


class Network:
    """A network namespace; `open` makes it, `close` removes it and all that is in it."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def open(self) -> None:
        """Make the namespace and the bridge. Raises LabFailed."""
        system("ip", "netns", "add", self.namespace)
        self._ip("link", "set", "lo", "up")
        self._ip("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
        self._ip("addr", "add", f"{HOST_ADDRESS}/24", "dev", BRIDGE)
        self._ip("link", "set", BRIDGE, "up")

    def close(self) -> None:
        """End the processes that are still in it, then remove it. Raises LabFailed, LabTimeout."""
        if self.namespace not in namespaces():
            return
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self._pids(), f"the processes in {self.namespace} to end", why_not=self._pids)
        system("ip", "netns", "del", self.namespace)

    def _pids(self) -> list[int]:
        return [int(word) for word in system("ip", "netns", "pids", self.namespace).split()]

    def _ip(self, *words: str) -> None:
        system("ip", "-n", self.namespace, *words)

    def add_address(self, address: str) -> None:
        """One more address of the host's side, for a node that runs outside of the guests."""
        self._ip("addr", "add", f"{address}/24", "dev", BRIDGE)

    def add_bridge(self, bridge: str) -> None:
        """Another network, apart from the first one; the host has no part in it."""
        self._ip("link", "add", bridge, "type", "bridge", "forward_delay", "0")
        self._ip("link", "set", bridge, "up")

    def add_tap(self, tap: str, bridge: str = BRIDGE) -> None:
        """A tap device for one guest, on the bridge."""
        system("ip", "netns", "exec", self.namespace, "ip", "tuntap", "add", tap, "mode", "tap")
        self.restore(tap, bridge)
        self._ip("link", "set", tap, "up")

    def cut(self, tap: str) -> None:
        """Nothing comes or goes by this tap any more; nobody is told, and no device changes its state."""
        self._ip("link", "set", tap, "nomaster")

    def restore(self, tap: str, bridge: str = BRIDGE) -> None:
        """The opposite of `cut`."""
        self._ip("link", "set", tap, "master", bridge)

    def isolate(self, tap: str, isolated: bool) -> None:
        """Two isolated taps of a bridge don't reach each other; all others reach them."""
        self._ip("link", "set", tap, "type", "bridge_slave", "isolated", "on" if isolated else "off")

    def slow(self, tap: str, rate: str) -> None:
        """What goes to this tap's guest takes its time; what comes from it does not."""
        system("tc", "-n", self.namespace, "qdisc", "replace", "dev", tap, "root", *TOKEN_BUCKET, "rate", rate)

    def full_speed(self, tap: str) -> None:
        """The opposite of `slow`, also if it is not slow."""
        system("tc", "-n", self.namespace, "qdisc", "replace", "dev", tap, "root", "pfifo")

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in this network, until we end, however we do.

        The kernel counts the thread that starts it as its parent: start it from one that lives as long as it should.
        """
        return ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace, *argv]


def namespaces() -> list[str]:
    """The names of all network namespaces of this machine that have one."""
    return [line.split()[0] for line in system("ip", "netns", "list").splitlines() if line.strip()]
