"""A machine of the cluster: a guest with a root that it keeps, two networks, and systemd."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from pathlib import Path

from tests.lab.guest import Guest, GuestFailed
from tests.lab.lab import Lab
from tests.lab.network import BRIDGE, LabFailed, system
from tests.lab.waiting import wait_until

WIRE = "br1"
"""The bridge that only the replication goes over."""

URGENT = ("chrt", "--rr", "1")
ROOT_BYTES = 1 << 30
START_TIMEOUT_S = 120.0
NAMES = ("alpha", "beta", "witness")
"""In the order of their addresses: 10.77.0.11 and on, on the wire 10.78.0.11 and on."""


@functools.cache
def may_be_urgent() -> bool:
    """Whether real-time priority is to be had here."""
    return subprocess.run([*URGENT, "true"], capture_output=True, timeout=10, check=False).returncode == 0


class Machine(Guest):
    """Its first disk is the cluster's, its second one its own."""

    memory = "1G"
    installed = Path()
    init = (str(Path(__file__).with_name("machine_init.py")),)

    def command_line(self, fd: int) -> list[str]:
        """On one processor, before other work: watchdogs, tokens and time-outs tick in it, busy or not."""
        return [*(URGENT if may_be_urgent() else []), *self.on_one_processor(), *super().command_line(fd)]

    @property
    def taps(self) -> list[str]:
        return [self.tap, self.wire_tap]

    @property
    def wire_tap(self) -> str:
        return f"{self.tap}-w"

    @property
    def wire_address(self) -> str:
        return f"10.78.0.{self.number}"

    @property
    def addresses(self) -> list[str]:
        return [f"{self.address}/24", f"{self.wire_address}/24"]

    @property
    def words(self) -> list[str]:
        """A machine that resets itself ends: `start_again` is the mainboard. (It reaches the init as a word, too.)"""
        return ["noreboot", f"LAB_INSTALLED={self.installed}"]

    def start_again(self) -> None:
        """Boot it after it has lost power, or has reset itself."""
        self.power_off()
        self.start()

    def wait_started(self) -> None:
        """Wait until systemd has started all that it starts at boot."""
        wait_until(self._has_started, f"{self.name} to be started", START_TIMEOUT_S, self.console)

    def _has_started(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).output.strip()
        return state in ("running", "degraded")

    def cut_wire(self) -> None:
        """Nothing is replicated any more; nobody is told."""
        self.network.cut(self.wire_tap)

    def mend(self) -> None:
        """All its networks are whole."""
        self.network.restore(self.tap, BRIDGE)
        self.network.restore(self.wire_tap, WIRE)
        self.network.isolate(self.tap, False)

    def split(self) -> None:
        """It reaches the witness, and no other machine that is split off, too."""
        self.cut_wire()
        self.network.isolate(self.tap, True)

    def hang(self) -> None:
        """Every process stops, and only the kernel goes on: it is not asked anything until it boots again."""
        with contextlib.suppress(GuestFailed):
            self.run("sh", "-c", "kill -STOP -1", timeout_s=2.0, check=False)


def add_machine(lab: Lab, name: str, disk_bytes: int, installed: Path) -> Machine:
    """A machine with nothing but the host's software, and the tree of `installed`; `start` boots it."""
    files = [lab.new_disk(f"{name}.disk0", disk_bytes), lab.new_disk(f"{name}.root", ROOT_BYTES)]
    system("mkfs.ext4", "-q", "-F", str(files[1]))
    number = 11 + len(lab.guests)
    machine = Machine(lab.network, lab.directory, name, f"{lab.name}-{name}", number, files)
    machine.installed = installed
    lab.network.add_tap(machine.tap)
    lab.network.add_tap(machine.wire_tap, WIRE)
    lab.guests[name] = machine
    return machine


def start(*machines: Machine) -> None:
    """Boot them side by side."""
    for machine in machines:
        machine.begin_start()
    for machine in machines:
        machine.finish_start()
    for machine in machines:
        machine.wait_started()


__all__ = ["NAMES", "WIRE", "LabFailed", "Machine", "add_machine", "start"]
