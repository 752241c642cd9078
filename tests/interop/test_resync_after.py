"""`resync-after` between two resources whose peer is a kernel: the second one's resync waits for the first one's."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys

import pytest

from tests.interop.conftest import Nodes
from tests.interop.pair import DISK_BYTES, SYNC_TIMEOUT_S
from tests.lab.kernel_node import KernelNode
from tests.lab.nodes import FAST_RESYNC, PORT
from tests.lab.pydrbd_node import PydrbdNode
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

NAMES = ("r0", "r1")


def config(hosts: dict[str, str], disks: dict[str, tuple[str, str]], waits: str) -> str:
    """The .res text: two resources of one volume each; `waits`: what r1 says of r0."""
    text = ""
    for number, name in enumerate(NAMES):
        disk = f"{FAST_RESYNC} {waits if name == 'r1' else ''}"
        on = "".join(
            f"    on {host} {{ address {address}:{PORT + number}; device /dev/drbd{number}; "
            f"disk {disks[host][number]}; meta-disk internal; }}\n"
            for host, address in hosts.items()
        )
        text += f"resource {name} {{\n    net {{ protocol C; verify-alg crc32c; }}\n    disk {{ {disk} }}\n{on}}}\n"
    return text


class Both:
    """Two resources, each of a kernel and a pydrbd process."""

    def __init__(self, nodes: Nodes, waits: dict[str, str]) -> None:
        lab = nodes.lab
        if "two" not in lab.guests:
            lab.add_guest("two", disks=2, disk_bytes=DISK_BYTES)
        self.kernel = KernelNode(lab.guests["two"])
        if not self.kernel.guest.runs:
            self.kernel.boot()
        self.kernel.forget_log()
        directory = lab.directory / f"after-{'-'.join(waits)}"
        directory.mkdir()
        address = lab.host_address(7 if "ours" in waits else 8)
        ours = [PydrbdNode(lab.network, directory, f"ours{n}", address, directory / f"disk{n}") for n in (0, 1)]
        hosts = {self.kernel.name: self.kernel.address, "ours": address}
        disks = {self.kernel.name: ("/dev/ubda", "/dev/ubdb"), "ours": tuple(str(node.disk_path) for node in ours)}
        self.text = {who: config(hosts, disks, waits.get(who, "")) for who in ("kernel", "ours")}
        self.ours = dict(zip(NAMES, ours, strict=True))
        self.run_dir = directory / "run"
        self.run_dir.mkdir(mode=0o700)

    def states(self, name: str) -> tuple[str, str]:
        """The connection state of one resource here and on the kernel."""
        text = self.kernel.guest.read_file("/proc/drbd")
        found = re.search(rf"^ ?{NAMES.index(name)}: cs:(\S+) ", text, re.M)
        done = self.call("cstate", name)
        return done.stdout.strip(), found[1] if found else ""

    def call(self, verb: str, *words: str):
        node = self.ours["r0"]
        argv = [sys.executable, "-P", "-m", "pydrbd", verb, *words, "-c", str(self.run_dir / "two.res")]
        argv = node.network.inside([*argv, "--node", "ours", "--run-dir", str(self.run_dir)])
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def do(self, verb: str, *words: str) -> None:
        done = self.call(verb, *words)
        assert done.returncode == 0, done.stderr

    def adm(self, *words: str) -> None:
        script = f'commands=$(drbdadm --dry-run {" ".join(words)}); eval "$commands"'
        self.kernel.guest.run("sh", "-ec", script, timeout_s=60)

    def start(self) -> None:
        (self.run_dir / "two.res").write_text(self.text["ours"])
        self.kernel.configure(self.text["kernel"])
        for number, path in enumerate(self.kernel.guest.disks):
            os.truncate(path, 0)
            os.truncate(path, DISK_BYTES)
            meta = ("drbdmeta", "--force", str(number), "v08", f"/dev/ubd{'ab'[number]}", "internal", "create-md")
            self.kernel.guest.run(*meta)
        for node in self.ours.values():
            node.disk_path.touch()
            os.truncate(node.disk_path, DISK_BYTES)
        self.do("create-md", "--force", *NAMES)
        self.do("up", *NAMES)
        self.adm("up", *NAMES)
        for name in NAMES:
            self.wait(name, "Connected")
        for number in (0, 1):
            self.kernel.guest.run("drbdsetup", "new-current-uuid", "--clear-bitmap", str(number))
        self.adm("primary", *NAMES)

    def wait(self, name: str, *wanted: str) -> None:
        """Until both are in this state, or ours in the first and the kernel in the second."""
        pair = (wanted[0], wanted[-1])
        wait_until(lambda: self.states(name) == pair, f"{name} to be {pair}", SYNC_TIMEOUT_S, self.report)

    def set_rate(self, rate: str) -> None:
        """How fast the kernel goes through r0."""
        self.kernel.guest.run("drbdsetup", "disk-options", "0", f"--resync-rate={rate}")

    def assert_in_sync(self) -> None:
        """By and by nothing goes on any more, and the disks hold the same."""
        for name in NAMES:
            self.wait(name, "Connected")
        for number, node in enumerate(self.ours.values()):
            ours, theirs = node.disk_path.read_bytes(), self.kernel.guest.disks[number].read_bytes()
            assert ours[: DISK_BYTES // 2] == theirs[: DISK_BYTES // 2]
            assert self.call("dstate", NAMES[number]).stdout.strip() == "UpToDate/UpToDate"

    def report(self) -> str:
        logs = "".join(path.read_text()[-3000:] for path in sorted(self.run_dir.glob("*.log")))
        proc = [self.call("proc").stdout, self.kernel.guest.read_file("/proc/drbd")]
        return "\n".join([str([self.states(name) for name in NAMES]), *proc, logs, self.kernel.log()[-3000:]])

    def stop(self) -> None:
        self.call("down", *NAMES)
        with contextlib.suppress(Exception):
            self.adm("down", *NAMES)


@pytest.fixture(params=[{"ours": "resync-after r0;"}, {"kernel": "resync-after r0;"}], ids=["ours", "kernel"])
def both(request, lab_nodes: Nodes):
    """In sync, the kernel Primary of both; the named node has r1 wait for r0."""
    both = Both(lab_nodes, request.param)
    try:
        both.start()
        yield both
    finally:
        both.stop()


def test_the_second_resync_waits_for_the_first_on_either_side(both):
    """r0 is held in the middle: r1 is paused on both nodes, and goes on to its end when r0 has ended."""
    both.do("pause-sync", "r0")
    both.do("invalidate", "r0")
    both.wait("r0", "PausedSyncT", "PausedSyncS")
    both.do("invalidate", "r1")
    both.wait("r1", "PausedSyncT", "PausedSyncS")
    both.do("resume-sync", "r0")
    both.assert_in_sync()
    # A kernel has it wait for an online verify, too.
    both.set_rate("1M")
    both.kernel.guest.run("drbdsetup", "verify", "0")
    both.do("invalidate", "r1")
    both.wait("r1", "PausedSyncT", "PausedSyncS")
    assert both.states("r0") == ("VerifyT", "VerifyS")
    both.set_rate("500M")
    both.assert_in_sync()
