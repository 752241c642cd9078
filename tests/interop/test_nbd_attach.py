"""nbd-attach: an export as a block device of a real kernel, with a file system that must not notice what happens below.

One guest has both nodes (and so loses neither by its own power), the kernel's nbd module, and the file system.
"""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import pytest

from tests.documents.pages import indented
from tests.interop.attached import (
    DEVICE,
    LINK,
    LOG,
    MOUNT,
    NODES,
    REPOSITORY,
    Machine,
    begin_writing,
    crash,
    fail_over,
    guest_with_nbd,
    mounted,
    playing,
    restart,
    unmounted_clean,
)
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

UDEV = Path("/lib/systemd/systemd-udevd")


@pytest.fixture(scope="module")
def guest(lab_nodes):
    with guest_with_nbd(lab_nodes, "attached") as guest:
        yield guest


@pytest.fixture
def machine(guest, request):
    """Up, alpha is Primary; a test's parameter may change it before."""
    machine = Machine(guest)
    getattr(request, "param", lambda _machine: None)(machine)
    with playing(machine):
        yield machine


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
    # More than three where the kernel says once more that one was dead: what it does not need it closes.
    log = partial(machine.guest.read_file, LOG)
    wait_until(lambda: log().count("has a new connection") >= 3, "all connections", why_not=log)
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
    machine.guest.shell("ip link set lo up; mount -t tmpfs none /srv")
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
