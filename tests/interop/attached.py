"""A guest with both nodes of r0, for what stands on an attached device; and what may happen below it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

from tests.lab.guest import GuestFailed
from tests.lab.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = "/run/r0.res"
DISK_BYTES = 48 << 20
NODES = {"alpha": "/run/alpha", "beta": "/run/beta"}
RES = """resource r0 {
  disk { size 40M; }
  net { ping-int 10; ping-timeout 50; connect-int 1; timeout 60; }
  on alpha { device minor 0; disk /dev/ubda; meta-disk internal; address 127.0.0.1:7788; }
  on beta { device minor 0; disk /dev/ubdb; meta-disk internal; address 127.0.0.1:7789; }
}
"""
DEVICE = "/dev/nbd0"
MOUNT = "/run/files"
LOG = "/run/alpha/r0.attach.log"
LINK = "/dev/drbd/by-res/r0"
FIO = (
    *("fio", "--name=files", f"--directory={MOUNT}", "--rw=randwrite", "--bs=4k", "--size=8M", "--direct=1"),
    *("--iodepth=8", "--ioengine=libaio", "--time_based"),
    *("--fsync=64", "--verify=crc32c", "--do_verify=1"),
    *("--verify_fatal=1", "--output-format=terse"),
)


class Machine:
    """A guest with both nodes of r0."""

    def __init__(self, guest):
        self.guest = guest
        self.config = dict.fromkeys(NODES, CONFIG)
        self.res = RES
        self._old_lines = len(guest.dmesg().splitlines())

    def kernel_log(self):
        """What the kernel has said since this test began."""
        return "\n".join(self.guest.dmesg().splitlines()[self._old_lines :])

    def command(self, node):
        """`pydrbd` for a node; its verb and the verb's words follow."""
        where = ("-c", self.config[node], "--node", node, "--run-dir", NODES[node])
        return ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-P", "-m", "pydrbd", *where]

    def call(self, verb, *words, node="alpha", code=0):
        done = self.guest.run(*self.command(node), verb, *words, check=False)
        assert done.code == code, (verb, words, done)
        return done.output

    def start(self):
        for node in NODES:
            self.guest.write_file(self.config[node], self.res)
            self.call("create-md", "--force", "r0", node=node)
            self.call("up", "r0", node=node)
        self.call("wait-connect", "r0")
        self.call("new-current-uuid", "--clear-bitmap", "r0")
        self.call("primary", "r0")

    def promote(self, node):
        """A peer that is lost in this moment, on a machine that has other work, is no reason to give up."""
        words = [*self.command(node), "primary", "r0"]
        wait_until(lambda: self.guest.run(*words, check=False).code == 0, f"{node} to become Primary", timeout_s=60)

    def pid(self, node):
        return self.guest.read_file(f"{NODES[node]}/r0.pid").strip()

    def kill(self, node):
        """The process dies, as by a crash."""
        pid = self.pid(node)
        self.guest.run("kill", "-KILL", pid)
        wait_until(lambda: not self.exists(f"/proc/{pid}/exe"), "the process to be gone")

    def exists(self, path):
        return self.guest.run("test", "-e", path, check=False).code == 0

    def log(self):
        return self.guest.shell("cat /run/*/*.log; dmesg | tail -40", check=False)

    def stop(self):
        """Everything ends, whatever state it is in."""
        self.guest.run("umount", "-l", MOUNT, check=False)
        self.guest.run("blockdev", "--flushbufs", DEVICE, check=False, timeout_s=5)
        if self.exists("/sys/block/nbd0/pid"):
            self.call("nbd-detach", "--force", DEVICE)
        for node in NODES:
            self.call("down", "--force", "r0", node=node)


@contextlib.contextmanager
def guest_with_nbd(lab_nodes, name, *modules):
    """A guest of that name with two disks and the kernel's nbd module, for as long as the block lasts."""
    guest = lab_nodes.lab.add_guest(name, disks=2, disk_bytes=DISK_BYTES)
    guest.memory = "512M"
    try:
        guest.start()
    except GuestFailed as error:
        pytest.skip(f"a guest can't be started here: {error}")
    try:
        guest.load("nbd", *modules)
        yield guest
    finally:
        guest.power_off()


@contextlib.contextmanager
def playing(machine):
    """Up, alpha is Primary; what all have said is shown when the block fails."""
    machine.start()
    try:
        yield
    except BaseException:
        print(machine.log())
        raise
    machine.stop()


def mounted(machine):
    """A file system on the device."""
    machine.guest.shell(f"mkfs.ext4 -q -F {DEVICE}; mkdir -p {MOUNT}; mount -t ext4 {DEVICE} {MOUNT}")


def begin_writing(machine, seconds):
    """Random writes to a file there for so long, and then all of it is verified."""
    writing = machine.guest.begin(*FIO, f"--runtime={seconds}", timeout_s=seconds + 140)
    wait_until(lambda: machine.guest.run("test", "-s", f"{MOUNT}/files.0.0", check=False).code == 0, "fio to write")
    return writing


def unmounted_clean(machine, device=DEVICE):
    """It leaves without an error, and nothing needs to be repaired."""
    machine.guest.run("umount", MOUNT)
    machine.guest.run("e2fsck", "-fn", device)
    log = machine.kernel_log()
    assert "I/O error" not in log and "EXT4-fs error" not in log, log


def restart(machine):
    """In good order: the process is told to end, and another one starts."""
    pid = machine.pid("alpha")
    machine.guest.run("kill", "-TERM", pid)
    wait_until(lambda: not machine.exists(f"/proc/{pid}/exe"), "the process to be gone")
    machine.call("up", "r0")
    machine.promote("alpha")


def crash(machine):
    """The process is killed in the middle of it."""
    machine.kill("alpha")
    machine.call("up", "r0")
    machine.promote("alpha")


def fail_over(machine):
    """The Primary dies for good, its peer takes over; the device follows it."""
    machine.kill("alpha")
    wait_until(lambda: "Connected" not in machine.call("cstate", "r0", node="beta"), "beta to miss its peer")
    machine.promote("beta")
