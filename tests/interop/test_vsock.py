"""NBD over vsock: a node in a guest, and clients there, by the kernel's loopback (its own number is 1)."""

from __future__ import annotations

import pytest

from tests.interop.pair import DISK_BYTES
from tests.lab.guest_pydrbd import GuestPydrbdNode
from tests.lab.nodes import RESOURCE

pytestmark = pytest.mark.interop
PORT = 10809
URI = f"nbd+vsock://1:{PORT}/{RESOURCE}"
DATA_BYTES = 4 << 20


def test_clients_come_by_vsock(lab_nodes, need):
    """libnbd's own: nbdinfo finds the export, nbdcopy writes on four connections, and reads the same back."""
    need("nbdcopy")
    need("nbdinfo")
    node = lab_nodes.get("indoors")
    assert isinstance(node, GuestPydrbdNode)
    guest = node.guest
    guest.load("vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback")
    node.configure(
        f"resource {RESOURCE} {{ on {node.name} {{ device minor 0; disk {node.disk_name}; meta-disk internal;"
        f" address {node.address}:7789; }}\n on elsewhere {{ device minor 0; disk /dev/ubdb; meta-disk internal;"
        " address 10.77.0.250:7789; } }\n"
    )
    guest.write_file("/run/pydrbd.toml", f'[resource.{RESOURCE}]\nnbd = ["vsock:{PORT}"]\n')
    try:
        node.create_md()
        node.up()
        node.command("primary", "--force")
        assert 0 < int(guest.run("nbdinfo", "--size", URI).output) < DISK_BYTES
        guest.shell(f"head -c {DATA_BYTES} /dev/urandom > /run/in")
        guest.run("nbdcopy", "--connections=4", "--flush", "/run/in", URI)
        guest.run("nbdcopy", URI, "/run/out")
        guest.shell(f"cmp -n {DATA_BYTES} /run/in /run/out && cmp -n {DATA_BYTES} /run/in {node.disk_name}")
        node.down()
    finally:
        guest.shell("rm -f /run/pydrbd.toml /run/in /run/out", check=False)
        if node._is_meant_to_run:
            node.crash()
