"""Two nodes and a witness, made into a cluster by the commands of docs/cluster.md."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

from tests.cluster import document
from tests.cluster.judge import CONTROL, STATUS, Judge, role_of
from tests.cluster.machine import NAMES, WIRE, Machine, add_machine, start
from tests.lab.guest import GuestFailed, Running
from tests.lab.lab import Lab
from tests.lab.lab import why_not as lab_why_not
from tests.lab.waiting import wait_until

DISK_BYTES = 128 << 20
STEP_TIMEOUT_S = 300.0
WHOLE_TIMEOUT_S = 400.0
STATUS_TIMEOUT_S = 10.0
LOOK_S = 1.0
ROOT = Path(__file__).resolve().parents[2]
LEDGER = Path(__file__).with_name("ledger.py")

_COMMANDS = {
    "corosync": "corosync",
    "pacemakerd": "pacemaker",
    "crm_mon": "pacemaker-cli-utils",
    "crm": "crmsh",
    "fence_sbd": "fence-agents",
    "ocf-tester": "resource-agents",
    "nbd-client": "nbd-client",
    "nbdkit": "nbdkit",
    "mkfs.ext4": "e2fsprogs",
    "/lib/systemd/systemd": "systemd",
    "dbus-daemon": "dbus",
}
"""What the machines need on the host, and the Debian package that has it."""

PREPARE = f"""
cat >/usr/local/bin/ledger <<'END_OF_LEDGER'
{LEDGER.read_text()}
END_OF_LEDGER
chmod 755 /usr/local/bin/ledger
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -s /lib/systemd/system/corosync.service /lib/systemd/system/pacemaker.service \\
    /etc/systemd/system/multi-user.target.wants/
"""
"""The service's program (the host's /tmp, where this checkout may be, is not the guests'), and what apt-get did when it
installed the cluster's software (the guests have the host's)."""


def why_not() -> str | None:
    """Why there can be no cluster here; None if nothing speaks against it."""
    if reason := lab_why_not():
        return reason
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    missing = sorted(package for command, package in _COMMANDS.items() if shutil.which(command, path=path) is None)
    return f"not installed: {', '.join(missing)} (make cluster installs it as root)" if missing else None


class Cluster:
    """`alpha`, `beta` and `witness`, from bare machines to a service that runs."""

    def __init__(self, lab: Lab, say: Callable[[str], object]) -> None:
        self.lab = lab
        self.say = say
        lab.network.add_bridge(WIRE)
        self.installed = lab.directory / "installed"
        self.machines = {name: add_machine(lab, name, DISK_BYTES, self.installed) for name in NAMES}
        self.nodes = [self.machines["alpha"], self.machines["beta"]]

    def build(self) -> None:
        """Boot, install, and do what the document says. Raises GuestFailed, LabTimeout."""
        began = time.monotonic()
        self._install()
        self.say(f"pydrbd is installed after {time.monotonic() - began:.1f} s")
        start(*self.machines.values())
        self.say(f"three machines are started after {time.monotonic() - began:.1f} s")
        self.together([machine.begin("sh", "-ec", PREPARE) for machine in self.nodes])
        for step in document.steps(document.DOCUMENT.read_text()):
            begun = [
                self.machines[name].begin("sh", "-ec", step.script, timeout_s=STEP_TIMEOUT_S) for name in step.machines
            ]
            self.together(begun)
            self.say(f"{step.heading}, {' '.join(step.machines)}: done after {time.monotonic() - began:.1f} s")
        self.wait_whole()
        self.say(f"the cluster is whole after {time.monotonic() - began:.1f} s")

    def _install(self) -> None:
        """`make install`, into a tree that each machine then finds in its own root."""
        with (self.lab.directory / "install.log").open("w+") as log:
            words = ["make", "-C", str(ROOT), "install", f"DESTDIR={self.installed}"]
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=900, check=False)
            log.seek(0)
            assert done.returncode == 0, log.read()[-3000:]

    @staticmethod
    def together(begun: list[Running]) -> None:
        """Wait for commands that run side by side."""
        for running in begun:
            running.wait()

    # --- how it is ---

    def volume(self, node: Machine) -> dict[str, object]:
        """What pydrbd says there of its volume. Raises GuestFailed, ValueError."""
        answer = json.loads(node.ask_socket(CONTROL, STATUS, STATUS_TIMEOUT_S))
        found: dict[str, object] = answer["data"]["volumes"][0]
        return found

    def why_not_whole(self) -> str:
        """What is missing of: both nodes in, both copies in sync, one Primary, the service on it; empty if nothing."""
        for node in self.nodes:
            if not node.runs:
                return f"{node.name} is off"
            try:
                volume = self.volume(node)
            except (GuestFailed, ValueError, KeyError, TypeError, IndexError) as error:
                return f"pydrbd on {node.name}: {str(error).splitlines()[0]}"
            states = [str(volume[key]) for key in ("cstate", "disk", "peer_disk")]
            if states != ["Connected", "UpToDate", "UpToDate"]:
                return f"{node.name} is {' '.join(states)}"
        roles = sorted(role_of(node, STATUS_TIMEOUT_S) for node in self.nodes)
        if roles != ["Primary", "Secondary"]:
            return f"the roles are {roles}"
        return self._why_not_managed()

    def _why_not_managed(self) -> str:
        for node in self.nodes:
            done = node.run("crm_mon", "--output-as=xml", "-1", check=False)
            try:
                status = ET.fromstring(done.output)
            except ET.ParseError:
                return f"{node.name}: {done.output.strip()[:200]}"
            members = {member.get("name"): member for member in status.iterfind("./nodes/node")}
            if any(members.get(other.name, ET.Element("x")).get("online") != "true" for other in self.nodes):
                return f"{node.name} does not see both nodes online"
            if any(member.get("pending") == "true" for member in members.values()):
                return f"{node.name} sees a pending node"
        resources = list(status.iter("resource"))
        stopped = [str(entry.get("id")) for entry in resources if entry.get("role") == "Stopped"]
        wrong = [str(entry.get("id")) for entry in resources if entry.get("failed") == "true"]
        if len(resources) < 7 or stopped or wrong:
            return f"stopped: {stopped}, failed: {wrong}"
        return ""

    def wait_whole(self, timeout_s: float = WHOLE_TIMEOUT_S) -> None:
        """Wait until nothing is missing. Raises LabTimeout, with what is."""
        pause = threading.Event()  # a look is work for the nodes
        wait_until(
            lambda: not (self.why_not_whole() and not pause.wait(LOOK_S)),
            "the cluster to be whole",
            timeout_s,
            lambda: f"{self.why_not_whole()}\n{self.describe()}",
        )

    def primary(self) -> Machine:
        """The node whose pydrbd is Primary; there must be one."""
        found = [node for node in self.nodes if role_of(node, STATUS_TIMEOUT_S) == "Primary"]
        assert len(found) == 1, f"{len(found)} Primaries"
        return found[0]

    def other(self, node: Machine) -> Machine:
        """The other one of the two."""
        return self.nodes[1 - self.nodes.index(node)]

    def describe(self) -> str:
        """All that helps to see what went wrong."""
        pieces = []
        for machine in self.nodes:
            pieces.append(f"--- {machine.name}: {'runs' if machine.runs else 'is off'}")
            if machine.runs:
                try:
                    script = "timeout 20 crm_mon -1rnf; timeout 20 pydrbd status r0; tail -n 20 /run/pydrbd/r0.log"
                    pieces.append(machine.run("sh", "-c", script, timeout_s=60.0, check=False).output)
                except GuestFailed as error:
                    pieces.append(str(error))
            pieces.append("\n".join(machine.console_path.read_text(errors="replace").splitlines()[-60:]))
        return "\n".join(pieces)

    # --- for the cases ---

    def judge(self) -> Judge:
        """A judge for one case."""
        return Judge(self.lab.network.namespace, self.nodes, self.describe)

    def mend(self) -> None:
        """Whole networks, all machines on, old failures and constraints forgotten; the cluster does the rest."""
        for node in self.nodes:
            node.mend()
        off = [node for node in self.nodes if not node.runs]
        for node in off:  # it may have ended by itself
            node.power_off()
        start(*off)

    def assert_identical(self) -> None:
        """Both disks hold the same, byte for byte, where the data is: the service is quiet, its files are written."""
        self.primary().run("sync")
        volume = self.volume(self.primary())
        size = int(str(volume["size_sectors"])) * 512
        wait_until(lambda: self._data(0, size) == self._data(1, size), "identical copies", 30.0, self.describe)

    def _data(self, number: int, size: int) -> bytes:
        with self.nodes[number].disks[0].open("rb") as disk:
            return disk.read(size)
