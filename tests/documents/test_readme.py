"""README's ways in, "QEMU", "nbdkit" and "From Python": what stands there is carried out as it is written."""

from __future__ import annotations

import sys
import sysconfig
import textwrap

import pytest

from tests.documents.machines import BEGIN, ROOT, Machine
from tests.documents.pages import blocks, indented
from tests.nbdkit.conftest import nbdkit_command

__all__ = ["nbdkit_command"]

URI = "nbd+unix:///r0?socket=/run/pydrbd/r0.nbd.sock"
IMAGE = "/srv/image.raw"
IMAGE_BYTES = 4 << 20
DISK = "/srv/r0.img"
SERVED = '[resource.r0]\nnbd = ["unix:/run/pydrbd/r0.nbd.sock", "tcp:0.0.0.0:10809"]\n'
MOVING_ADDRESS = "10.0.0.100"


@pytest.fixture
def pair(machines) -> tuple[Machine, Machine]:
    """By the quick start's configuration, both UpToDate and Secondary; alpha, the first, has an image to bring in."""
    alpha, beta = machines.by_name.values()
    config = next(block for block in blocks(BEGIN) if block.kind == "file")
    for machine in (alpha, beta):
        machine.write("/etc/pydrbd.conf", config.text)
        machine.write("/etc/pydrbd.toml", SERVED)
        carry_out(machine, "truncate -s 16M /srv/r0.img; pydrbd create-md r0; pydrbd up r0")
    carry_out(alpha, "pydrbd wait-connect r0; pydrbd new-current-uuid --clear-bitmap r0")
    carry_out(alpha, f"head -c {IMAGE_BYTES} /dev/urandom >{IMAGE}")
    return alpha, beta


def carry_out(machine: Machine, script: str) -> str:
    done = machine.run(script)
    assert done.returncode == 0, f"{machine.name}: {script}: {done.stdout}{done.stderr}"
    return done.stdout


def are_equal(pair: tuple[Machine, Machine]) -> bool:
    """Whether both disks have the same, as far as the image goes."""
    return len({carry_out(machine, f"head -c {IMAGE_BYTES} {DISK} | sha256sum") for machine in pair}) == 1


def guest(block: str, monitor: str) -> str:
    """QEMU's line with what it leaves to its reader: a guest that does not run, and words for QEMU's monitor."""
    command, dots, rest = block.rpartition(" ...\n")
    assert dots and not rest, block
    return f"{command} -S -display none -monitor stdio <<'END'\n{monitor}\nquit\nEND\n"


def test_qemu(pair, need):
    """An image goes in and is compared; a guest has the disk, by the socket and by an address."""
    need("qemu-img", "qemu-system-x86_64")
    alpha, _beta = pair
    convert, local, moving = indented("QEMU")
    carry_out(alpha, f"pydrbd primary r0; ip address add {MOVING_ADDRESS}/32 dev lo")
    assert "Images are identical." in carry_out(alpha, convert)
    shown = carry_out(alpha, guest(local, 'qemu-io virtio0 "write -P 5 0 64k"\nqemu-io virtio0 flush'))
    assert "wrote 65536/65536 bytes" in shown, shown
    shown = carry_out(alpha, guest(moving, 'qemu-io r0 "read -P 5 0 64k"\ninfo block'))
    assert "read 65536/65536 bytes" in shown and "verification failed" not in shown, shown
    assert "virtio-backend" in shown, shown
    carry_out(alpha, "pydrbd secondary r0")
    carry_out(alpha, f"cmp -i 65536 -n {IMAGE_BYTES - 65536} {IMAGE} {DISK}")
    assert are_equal(pair)


def install(machine: Machine) -> None:
    """What `make install` puts into /usr/local/lib/pydrbd and the section names, in this machine's own view of it.

    All that lies in that directory stays in sight; pydrbd itself is a copy, for the plugin looks where it really lies.
    """
    place = "/usr/local/lib/pydrbd/venv"
    packages = f"{place}/lib/python{sysconfig.get_python_version()}/site-packages"
    interpreter = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    carry_out(
        machine,
        f"""mkdir /run/local; mount --bind /usr/local/lib /run/local; mount -t tmpfs none /usr/local/lib
        find /run/local -mindepth 1 -maxdepth 1 ! -name pydrbd -exec ln -s {{}} /usr/local/lib \\;
        mkdir -p {packages}
        ln -s {sysconfig.get_path("purelib")}/* {packages}
        rm -f {packages}/pydrbd; cp -r {ROOT}/pydrbd {packages}/pydrbd
        mkdir {place}/bin""",
    )
    machine.write(f"{place}/bin/python", interpreter)
    carry_out(machine, f"chmod +x {place}/bin/python")


@pytest.mark.usefixtures("nbdkit_command")
def test_nbdkit(pair):
    """In the background with a filter, to its end; then for one task. Each time the image is on both disks."""
    alpha, _beta = pair
    install(alpha)
    serve, end, task = indented("nbdkit")
    carry_out(alpha, "pydrbd down r0")
    assert "r0 role:Primary" in carry_out(alpha, serve)
    assert "Write" in carry_out(alpha, "cat /run/r0.requests")
    carry_out(alpha, "pydrbd wait-sync r0")
    carry_out(alpha, f"process=$(cat /run/r0.pid); {end}while kill -0 $process 2>/dev/null; do sleep 0.1; done")
    carry_out(alpha, f"cmp -n {IMAGE_BYTES} {IMAGE} {DISK}")
    assert are_equal(pair)
    carry_out(alpha, f"head -c {IMAGE_BYTES} /dev/urandom >{IMAGE}")
    carry_out(alpha, task)
    carry_out(alpha, f"cmp -n {IMAGE_BYTES} {IMAGE} {DISK}; pydrbd up r0; pydrbd wait-sync r0")
    assert are_equal(pair)


def python(machine: Machine, block: str) -> str:
    """A block within a program, run as Trio's only task."""
    inside = textwrap.indent(block, "    ")
    machine.write("/srv/program.py", f"import pydrbd, trio\n\nasync def main():\n{inside}\ntrio.run(main)\n")
    return carry_out(machine, f"PYTHONPATH={ROOT} {sys.executable} /srv/program.py")


def test_from_python(pair):
    """A node in a program becomes Primary and says where it serves; one of another process is waited for."""
    alpha, _beta = pair
    run, control, watch = indented("From Python")
    carry_out(alpha, "pydrbd down r0")
    assert URI in python(alpha, run)
    carry_out(alpha, "pydrbd up r0")
    assert "peer_disk='UpToDate'" in python(alpha, control)
    install(alpha)
    shown = carry_out(alpha, f"cd {ROOT}; PYTHONPATH={ROOT} {watch}")
    assert shown.splitlines()[-1] == "Secondary Connected UpToDate/UpToDate"
