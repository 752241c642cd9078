"""The two nodes of an endurance run: their disks can be enlarged while they are in use."""

from __future__ import annotations

import os

from tests.lab import mapped
from tests.lab.guest import Guest
from tests.lab.kernel_node import KernelNode
from tests.lab.lab import Lab
from tests.lab.nodes import Node
from tests.lab.pydrbd_node import PydrbdNode

FIRST_BYTES = 24 << 20
GROWTH_BYTES = 1 << 20
GROWTHS_MOST = 24


class GrowingKernelNode(KernelNode):
    """Its disk is as much of the guest's as it is said to be."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest)
        self.disk_bytes = FIRST_BYTES
        self.disk_name = mapped.PATH
        self._mapped = mapped.MappedDisk(guest)

    def prepare(self) -> None:
        super().prepare()
        self._mapped.create(self.disk_bytes)

    def enlarge(self) -> None:
        self.disk_bytes += GROWTH_BYTES
        self._mapped.resize(self.disk_bytes)


def make_nodes(lab: Lab) -> dict[str, Node]:
    """Both, with empty disks; the kernel's guest is up."""
    kernel = GrowingKernelNode(lab.add_guest("kernel", disk_bytes=FIRST_BYTES + GROWTHS_MOST * GROWTH_BYTES))
    disk = lab.new_disk("pydrbd.disk", FIRST_BYTES)
    ours = PydrbdNode(lab.network, lab.directory, "pydrbd", lab.host_address(2), disk)
    kernel.boot()
    return {"kernel": kernel, "pydrbd": ours}


def enlarge(node: Node) -> None:
    """By one step; nobody has been told yet."""
    if isinstance(node, GrowingKernelNode):
        node.enlarge()
    else:
        os.truncate(node.disk_path, node.disk_path.stat().st_size + GROWTH_BYTES)
