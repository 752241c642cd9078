"""LVM above pydrbd and below it, by a real kernel: a volume group on an attached device; snapshots before a resync."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.interop.attached import (
    DEVICE,
    MOUNT,
    NODES,
    Machine,
    begin_writing,
    crash,
    fail_over,
    guest_with_nbd,
    playing,
    unmounted_clean,
)
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

LVM_CONF = """
devices { obtain_device_list_from_udev=0 use_devicesfile=0 global_filter=[ %s ] }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
backup { backup=0 archive=0 }
global { event_activation=0 thin_check_executable="" thin_repair_executable="" }
"""
"""As on a machine without udev; and nobody repairs a thin pool behind our back."""

NOT_BELOW = '"r|^/dev/ubd|"'
"""What is written to the device stands on the disks below it, too, where LVM must not find it."""

BOOT_SECTOR = Path(__file__).with_name("boot_sector.S")
SECTOR_COUNT = 400
FIRST_SECTOR = 2048
SERIAL = "/run/serial"
QEMU = (
    *("nice", "-n", "19", "qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "16", "-no-reboot"),
    *("-nodefaults", "-display", "none"),
    *("-device", "isa-debug-exit,iobase=0x501,iosize=2", "-serial", f"file:{SERIAL}"),
    *("-blockdev", "driver=host_device,filename=/dev/vg0/disk,node-name=disk,cache.direct=on"),
    *("-device", "virtio-blk-pci,drive=disk,bootindex=0"),
)
QEMU_DONE = 1
"""What the boot sector ends QEMU with, as isa-debug-exit has it."""

DATA = "/dev/vg{number}/r0"
SNAPSHOT = "/dev/vg1/r0.before-resync.1"


@pytest.fixture(scope="module")
def guest(lab_nodes):
    if shutil.which("vgcreate", path="/usr/sbin:/sbin") is None:
        pytest.skip("not installed: lvm2 (make test installs it as root)")
    modules = ("dm-mod", "dm-bufio", "dm-snapshot", "dm-bio-prison", "dm-persistent-data", "dm-thin-pool")
    with guest_with_nbd(lab_nodes, "volumes", *modules) as guest:
        guest.shell("mount -t tmpfs none /etc/lvm")
        yield guest


# --- above ---


@pytest.fixture
def machine(guest):
    machine = Machine(guest)
    guest.write_file("/etc/lvm/lvm.conf", LVM_CONF % NOT_BELOW)
    with playing(machine):
        yield machine
    forget_volumes(guest)


def forget_volumes(guest):
    """The next test finds disks that LVM knows nothing of."""
    guest.shell("for disk in ubda ubdb; do wipefs -q -a -f /dev/$disk; done")


def boot_sector(place: Path) -> Path:
    """The software of a machine that QEMU is to be."""
    objects = place / "boot.o"
    words = ["as", "--32", "--defsym", f"COUNT={SECTOR_COUNT}", "-o", objects, BOOT_SECTOR]
    subprocess.run(words, check=True, timeout=60)
    words = ["ld", "-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00", "-o", place / "boot", objects]
    subprocess.run([*words, "-e", "start"], check=True, timeout=60)
    return place / "boot"


@pytest.mark.slow
@pytest.mark.parametrize("happens", [crash, fail_over])
def test_a_volume_group_with_a_file_system_and_a_guests_disk_does_not_notice(machine, need, tmp_path, happens):
    """A file system on one volume, QEMU boots from the other one and writes; something happens below; all is there."""
    need("qemu-system-x86_64")
    uris = [f"nbd+unix:///r0?socket={NODES[node]}/r0.nbd.sock" for node in NODES]
    words = [word for uri in uris for word in ("--uri", uri)] if happens is fail_over else []
    machine.call("nbd-attach", "r0", DEVICE, *words)
    guest = machine.guest
    boot = guest.share / "boot"
    shutil.copy(boot_sector(tmp_path), boot)
    guest.shell(
        f"pvcreate -q {DEVICE}; vgcreate -q -s 1M vg0 {DEVICE}; lvcreate -q -y -L 24M -n files vg0; "
        f"lvcreate -q -y -L 4M -n disk vg0; mkfs.ext4 -q /dev/vg0/files; mkdir -p {MOUNT}; "
        f"mount /dev/vg0/files {MOUNT}; dd if=/mnt/share/boot of=/dev/vg0/disk bs=512 conv=fsync"
    )
    writing = begin_writing(machine, 4)
    qemu = guest.begin(*QEMU, timeout_s=150)
    wait_until(lambda: guest.run("test", "-s", SERIAL, check=False).code == 0, "QEMU's guest to write")
    happens(machine)
    done = qemu.wait(check=False)
    assert (done.code, len(guest.read_file(SERIAL))) == (QEMU_DONE, SECTOR_COUNT), done
    done = writing.wait(check=False)
    assert done.code == 0, (done, machine.log())
    assert "is in use: by dm-" in machine.call("nbd-detach", "r0", code=69)
    unmounted_clean(machine, "/dev/vg0/files")
    guest.shell("dd if=/dev/vg0/disk of=/mnt/share/disk bs=1M iflag=direct; vgchange -q -an vg0")
    written = (guest.share / "disk").read_bytes()[FIRST_SECTOR * 512 :][: SECTOR_COUNT * 512]
    assert written == b"".join(struct.pack("<I", number) * 128 for number in range(SECTOR_COUNT))
    machine.call("nbd-detach", "r0")


# --- below ---


def linear(number: int) -> str:
    return f"lvcreate -q -y -L 24M -n r0 vg{number}"


def thin(number: int) -> str:
    return f"lvcreate -q -y -L 40M -V 24M -T vg{number}/pool -n r0"


@pytest.fixture(params=[linear, pytest.param(thin, marks=pytest.mark.slow)])
def on_volumes(guest, request):
    """Each node's disk is a logical volume; beta takes a snapshot before a resync makes its disk Inconsistent."""
    machine = Machine(guest)
    guest.write_file("/etc/lvm/lvm.conf", LVM_CONF % '"a|.*|"')
    for number, disk in enumerate(("ubda", "ubdb")):
        guest.shell(
            f"pvcreate -q /dev/{disk}; vgcreate -q -s 1M vg{number} /dev/{disk}; {request.param(number)}"
        )
        machine.res = machine.res.replace(f"/dev/{disk}", DATA.format(number=number))
    handler = f'handlers {{ before-resync-target "{here(machine, "snapshot-resync-target")}"; '
    handler += f'after-resync-target "{here(machine, "unsnapshot-resync-target", "--keep", "1")}"; }}\n  disk {{ size'
    machine.res = machine.res.replace("disk { size 40M", handler + " 20M")
    with playing(machine):
        yield machine
    guest.shell("vgchange -q -an vg0 vg1")
    forget_volumes(guest)


def here(machine: Machine, verb: str, *words: str) -> str:
    """How beta's handler calls pydrbd: not installed, it is found by its checkout."""
    return " ".join([*machine.command("beta"), verb, *words, "r0"])


def data_of(guest, volume: str) -> str:
    """What clients have written: the rest was never the same on both disks, and the meta-data goes its own way."""
    return guest.shell(f"dd if={volume} bs=1M count=4 iflag=direct status=none | sha256sum")


def test_a_snapshot_is_what_the_disk_was_before_the_resync(on_volumes):
    """Beta misses writes: its volume's snapshot has what it had, and is left when the resync has come to its end."""
    guest = on_volumes.guest
    uri = "nbd+unix:///r0?socket=/run/alpha/r0.nbd.sock"
    write = f"qemu-io -f raw -c 'write -P {{}} 0 4M' -c flush '{uri}'"
    guest.shell(write.format("0x11"))
    on_volumes.call("disconnect", "r0", node="beta")
    guest.shell(write.format("0x22"))
    before = data_of(guest, DATA.format(number=1))
    on_volumes.call("connect", "r0", node="beta")
    on_volumes.call("wait-connect", "r0", node="beta")
    on_volumes.call("wait-sync", "r0", node="beta")
    wait_until(lambda: "is as the disk was" in guest.read_file("/run/beta/r0.log"), "the snapshot's line")
    assert data_of(guest, DATA.format(number=0)) == data_of(guest, DATA.format(number=1)) != before
    assert data_of(guest, SNAPSHOT) == before
    assert guest.run("lvs", "--noheadings", "-o", "origin", SNAPSHOT).output.split() == ["r0"]
