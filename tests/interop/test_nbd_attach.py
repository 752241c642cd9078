"""nbd-attach: an export as a block device of a real kernel, with a file system that must not notice what happens below.

One guest has both nodes (and so loses neither by its own power), the kernel's nbd module, and the file system.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.documents.pages import indented
from tests.lab.guest import GuestFailed
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = "/run/r0.res"
DISK_BYTES = 48 << 20
NODES = {"alpha": "/run/alpha", "beta": "/run/beta"}
RES = """resource r0 {
  disk { size 40M; }
  net { ping-int 1; connect-int 1; timeout 20; }
  on alpha { device minor 0; disk /dev/ubda; meta-disk internal; address 127.0.0.1:7788; }
  on beta { device minor 0; disk /dev/ubdb; meta-disk internal; address 127.0.0.1:7789; }
}
"""
DEVICE = "/dev/nbd0"
MOUNT = "/run/files"
LOG = "/run/alpha/r0.attach.log"
LINK = "/dev/drbd/by-res/r0"
UDEV = Path("/lib/systemd/systemd-udevd")
FIO = (
    *("fio", "--name=files", f"--directory={MOUNT}", "--rw=randwrite", "--bs=4k", "--size=8M", "--direct=1"),
    *("--iodepth=8", "--ioengine=libaio", "--time_based"),
    *( "--fsync=64", "--verify=crc32c", "--do_verify=1"),
    *("--verify_fatal=1", "--output-format=terse"),
)


class Machine:
    """A guest with both nodes of r0."""

    def __init__(self, guest):
        self.guest = guest
        self.config = dict.fromkeys(NODES, CONFIG)
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
            self.guest.write_file(self.config[node], RES)
            self.call("create-md", "--force", "r0", node=node)
            self.call("up", "r0", node=node)
        self.call("wait-connect", "r0")
        self.call("new-current-uuid", "--clear-bitmap", "r0")
        self.call("primary", "r0")

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


@pytest.fixture(scope="module")
def guest(lab_nodes):
    guest = lab_nodes.lab.add_guest("attached", disks=2, disk_bytes=DISK_BYTES)
    guest.memory = "512M"
    try:
        guest.start()
        guest.load("nbd")
    except GuestFailed as error:
        pytest.skip(f"a guest can't be started here: {error}")
    yield guest
    guest.power_off()


@pytest.fixture
def machine(guest, request):
    """Up, alpha is Primary; a test's parameter may change it before."""
    machine = Machine(guest)
    getattr(request, "param", lambda _machine: None)(machine)
    machine.start()
    try:
        yield machine
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


def unmounted_clean(machine):
    """It leaves without an error, and nothing needs to be repaired."""
    machine.guest.run("umount", MOUNT)
    machine.guest.run("e2fsck", "-fn", DEVICE)
    log = machine.kernel_log()
    assert "I/O error" not in log and "EXT4-fs error" not in log, log


def restart(machine):
    """In good order: the process is told to end, and another one starts."""
    pid = machine.pid("alpha")
    machine.guest.run("kill", "-TERM", pid)
    wait_until(lambda: not machine.exists(f"/proc/{pid}/exe"), "the process to be gone")
    machine.call("up", "r0")
    machine.call("primary", "r0")


def crash(machine):
    """The process is killed in the middle of it."""
    machine.kill("alpha")
    machine.call("up", "r0")
    machine.call("primary", "r0")


def fail_over(machine):
    """The Primary dies for good, its peer takes over; the device follows it."""
    machine.kill("alpha")
    wait_until(lambda: "Connected" not in machine.call("cstate", "r0", node="beta"), "beta to miss its peer")
    machine.call("primary", "r0", node="beta")


@pytest.mark.parametrize(
    "happens", [restart, pytest.param(crash, marks=pytest.mark.slow), pytest.param(fail_over, marks=pytest.mark.slow)]
)
def test_a_file_system_does_not_notice(machine, happens):
    """mkfs, mount, random writes with verification; something happens below; unmount; fsck finds nothing."""
    uris = [f"nbd+unix:///r0?socket={NODES[node]}/r0.nbd.sock" for node in NODES]
    words = [word for uri in uris for word in ("--uri", uri)] if happens is fail_over else []
    assert machine.call("nbd-attach", "r0", DEVICE, *words) == f"r0 is {DEVICE}\n"
    assert machine.guest.run("readlink", LINK).output.strip() == DEVICE
    mounted(machine)
    writing = begin_writing(machine, 12)
    happens(machine)
    done = writing.wait(check=False)
    assert done.code == 0, (done, machine.log())
    unmounted_clean(machine)
    machine.call("nbd-detach", "r0")
    assert not machine.exists("/sys/block/nbd0/pid") and not machine.exists(LINK)
    wait_until(lambda: "nbd-attach" not in machine.guest.shell("ps axww"), "the helper to end")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_file_system_does_not_notice_one_thing_after_the_other(machine):
    """Writes for more than a minute and a half; a crash, a restart, a fail-over, and another one back."""
    uris = [f"nbd+unix:///r0?socket={NODES[node]}/r0.nbd.sock" for node in NODES]
    machine.call("nbd-attach", "r0", DEVICE, *(word for uri in uris for word in ("--uri", uri)))
    mounted(machine)
    writing = begin_writing(machine, 100)
    crash(machine)
    restart(machine)
    machine.call("wait-sync", "r0")
    fail_over(machine)
    machine.call("up", "r0")
    machine.call("wait-sync", "r0")
    machine.kill("beta")
    machine.call("primary", "r0")
    machine.call("up", "r0", node="beta")
    done = writing.wait(check=False)
    assert done.code == 0, (done, machine.log())
    unmounted_clean(machine)
    machine.call("nbd-detach", "r0")


@pytest.mark.slow
def test_the_traps_are_named(machine):
    """A swap area is not attached; what is mounted is not detached, nor what its server has not got, but by force."""
    machine.call("nbd-attach", "r0", DEVICE)
    assert "is attached already" in machine.call("nbd-attach", "r0")
    assert "attached already, to /dev/nbd0" in machine.call("nbd-attach", "r0", "/dev/nbd1", code=69)
    mounted(machine)
    assert f"{DEVICE} is in use: umount {MOUNT}" in machine.call("nbd-detach", "r0", code=69)
    unmounted_clean(machine)
    machine.kill("alpha")
    machine.guest.shell(f"dd if=/dev/zero of={DEVICE} bs=4096 count=1 conv=notrunc >/dev/null 2>&1 & sleep 1")
    assert "give that up by --force" in machine.call("nbd-detach", "r0", code=74)
    machine.call("nbd-detach", "--force", "r0")
    assert machine.call("nbd-detach", "r0") == "r0 is not attached\n"
    machine.call("up", "r0")
    assert "r0 is Secondary on alpha" in machine.call("nbd-attach", "r0", code=69)
    machine.call("primary", "r0")
    machine.call("nbd-attach", "r0", DEVICE)
    machine.guest.run("mkswap", DEVICE)
    machine.call("nbd-detach", "r0")
    assert "is a swap area" in machine.call("nbd-attach", "r0", code=74)
    machine.call("nbd-attach", "--force", "r0", DEVICE)
    machine.guest.run("wipefs", "-q", "-a", DEVICE)
    machine.call("nbd-detach", "r0")


def test_a_new_helper_takes_a_device_over(machine):
    """Helper and server die; a new helper finds the device by its name, and gives it new connections."""
    machine.call("nbd-attach", "-C", "3", "r0", DEVICE)
    mounted(machine)
    machine.guest.run("pkill", "-KILL", "-f", "nbd-attach")
    crash(machine)
    assert machine.call("nbd-attach", "-C", "3", "r0") == f"r0 is {DEVICE}\n"
    wait_until(lambda: machine.guest.read_file(LOG).count("has a new connection") == 3, "all connections")
    machine.guest.shell(f"echo hello >{MOUNT}/hello; sync")
    unmounted_clean(machine)
    machine.call("nbd-detach", "r0")


def test_requests_fail_when_nobody_comes_for_too_long(machine):
    """The dead-connection time-out is the limit of the patience, and the device can be detached then."""
    machine.call("nbd-attach", "--dead-timeout", "2", "r0", DEVICE)
    machine.kill("alpha")
    read = ("dd", f"if={DEVICE}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct")
    assert "Input/output error" in machine.guest.run(*read, check=False).output
    machine.call("nbd-detach", "--force", "r0")


def test_a_device_grows_with_its_resource(machine):
    """`resize`, then nbd-attach again: it takes the new size over."""
    machine.call("nbd-attach", "r0", DEVICE)
    assert machine.guest.run("blockdev", "--getsize64", DEVICE).output.strip() == str(40 << 20)
    machine.call("resize", "--size", "44M", "r0")
    machine.call("nbd-attach", "r0")
    assert machine.guest.run("blockdev", "--getsize64", DEVICE).output.strip() == str(44 << 20)
    machine.call("nbd-detach", "r0")


def test_udev_makes_the_link(machine):
    """The rule that is installed, with a real udev: the link is there while the device is attached."""
    if not UDEV.exists():
        pytest.skip("not installed: udev (make test installs it as root)")
    rules = REPOSITORY / "systemd/60-pydrbd.rules"
    machine.guest.shell(f"mkdir -p /run/udev/rules.d; cp {rules} /run/udev/rules.d/; {UDEV} --daemon")
    try:
        machine.call("nbd-attach", "r0", DEVICE)
        machine.guest.run("udevadm", "settle")
        assert machine.guest.run("readlink", "-f", LINK).output.strip() == DEVICE
        machine.call("nbd-detach", "r0")
        machine.guest.run("udevadm", "settle")
        assert not machine.exists(LINK)
    finally:
        machine.guest.shell("udevadm control --exit; rm -rf /run/udev", check=False)


def serve_by_network(machine):
    """Each node has one of README's addresses."""
    machine.guest.shell("ip link set lo up; mount -t tmpfs none /srv; mkdir /srv/files")
    for number, node in enumerate(NODES, 1):
        place = f"/run/etc-{node}"
        machine.guest.shell(f"mkdir -p {place}; ip address replace 10.0.0.{number}/32 dev lo")
        machine.config[node] = f"{place}/r0.res"
        served = f'"unix:{NODES[node]}/r0.nbd.sock", "tcp:10.0.0.{number}:10809"'
        machine.guest.write_file(f"{place}/pydrbd.toml", f"[resource.r0]\nnbd = [{served}]\n")


@pytest.mark.parametrize("machine", [serve_by_network], indirect=True, ids=["network"])
def test_readme_says_how(machine):
    """Its section "As a block device", as it is written; the device that has both addresses follows the Primary."""
    attach, follow, detach = indented("As a block device")
    here = f'pydrbd() {{ {shlex.join(machine.command("alpha"))} "$@"; }}\n'
    try:
        machine.guest.shell(here + attach)
        machine.guest.shell("echo hello >/srv/files/hello")
        machine.guest.shell(here + detach)
        assert not machine.exists(LINK)
        machine.guest.shell(here + follow)
        machine.guest.shell(f"mount {LINK} /srv/files")
        fail_over(machine)
        assert machine.guest.shell("echo again >>/srv/files/hello; sync; cat /srv/files/hello") == "hello\nagain\n"
        machine.guest.shell(here + detach)
        assert not machine.exists(LINK)
    finally:
        machine.guest.shell("umount -l /srv/files; umount /srv", check=False)
