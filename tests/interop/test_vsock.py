"""NBD over vsock: a node in a guest, and clients there, by the kernel's loopback (its own number is 1)."""

from __future__ import annotations

import sysconfig

import pytest

from tests.interop.pair import DISK_BYTES
from tests.lab.guest_pydrbd import CONFIG, RUN_DIR, GuestPydrbdNode
from tests.lab.nodes import RESOURCE
from tests.lab.waiting import wait_until
from tests.nbdkit.conftest import PLUGIN, nbdkit_command

__all__ = ["nbdkit_command"]

pytestmark = pytest.mark.interop
PORT = 10809
URI = f"nbd+vsock://1:{PORT}/{RESOURCE}"
DATA_BYTES = 4 << 20
PID = "/run/nbdkit.pid"
SETTINGS = "/run/pydrbd.toml"


@pytest.fixture
def node(lab_nodes, need):
    """Formatted, not up; its guest has vsock. Whatever a test leaves running ends with the guest."""
    need("nbdcopy", "nbdinfo")
    node = lab_nodes.get("indoors")
    assert isinstance(node, GuestPydrbdNode)
    node.guest.load("vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback")
    node.configure(
        f"resource {RESOURCE} {{ on {node.name} {{ device minor 0; disk {node.disk_name}; meta-disk internal;"
        f" address {node.address}:7789; }}\n on elsewhere {{ device minor 0; disk /dev/ubdb; meta-disk internal;"
        " address 10.77.0.250:7789; } }\n"
    )
    node.create_md()
    yield node
    node.guest.shell(f"rm -f {SETTINGS} /run/in /run/out", check=False)
    if node._is_meant_to_run or node.guest.run("test", "-e", PID, check=False).code == 0:
        node.crash()


def copy_in_and_out(node: GuestPydrbdNode) -> None:
    """nbdinfo finds the export, nbdcopy writes on four connections, reads the same back, and the disk has it."""
    guest = node.guest
    assert 0 < int(guest.run("nbdinfo", "--size", URI).output) < DISK_BYTES
    guest.shell(f"head -c {DATA_BYTES} /dev/urandom > /run/in")
    guest.run("nbdcopy", "--connections=4", "--flush", "/run/in", URI)
    guest.run("nbdcopy", URI, "/run/out")
    guest.shell(f"cmp -n {DATA_BYTES} /run/in /run/out && cmp -n {DATA_BYTES} /run/in {node.disk_name}")


def test_clients_come_by_vsock(node):
    """To a node that serves itself."""
    node.guest.write_file(SETTINGS, f'[resource.{RESOURCE}]\nnbd = ["vsock:{PORT}"]\n')
    node.up()
    node.command("primary", "--force")
    copy_in_and_out(node)
    node.down()


@pytest.mark.usefixtures("nbdkit_command")
def test_clients_come_by_nbdkits_vsock(node):
    """To a node inside of nbdkit, which listens by its own --vsock and gives the node a clean end."""
    guest = node.guest
    guest.run(
        *("env", f"PYTHONPATH={sysconfig.get_path('purelib')}", "nbdkit", "-P", PID, "--vsock", f"--port={PORT}"),
        *("python", str(PLUGIN), f"config={CONFIG}", f"resource={RESOURCE}", f"node={node.name}", f"run-dir={RUN_DIR}"),
    )
    node.command("primary", "--force")
    copy_in_and_out(node)
    pid = guest.read_file(PID).strip()
    guest.run("kill", pid)
    wait_until(lambda: guest.run("test", "-e", f"/proc/{pid}/exe", check=False).code != 0, "nbdkit to end")
    guest.run("rm", PID)
    assert "nothing new is out of sync" in node.command("apply-al")
