"""Two volumes in one resource: one connection, two devices, each with its own resync."""

from __future__ import annotations

import os
import re

import pytest

from pydrbd.admin.nbd_client import NbdClient
from tests.interop.conftest import Nodes
from tests.interop.pair import DISK_BYTES, SYNC_TIMEOUT_S
from tests.lab import load
from tests.lab.kernel_node import KernelNode
from tests.lab.nodes import FAST_RESYNC, PORT, RESOURCE, Node
from tests.lab.pydrbd_node import PydrbdNode, do_nbd
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop


def config(disks: dict[Node, list[str]]) -> str:
    """The .res text: volume 0 and 1 of each node."""
    hosts = "".join(
        f"    on {node.name} {{\n        address {node.address}:{PORT};\n"
        + "".join(
            f"        volume {vnr} {{ device /dev/drbd{vnr}; disk {disk}; meta-disk internal; }}\n"
            for vnr, disk in enumerate(names)
        )
        + "    }\n"
        for node, names in disks.items()
    )
    return f"resource {RESOURCE} {{\n    net {{ protocol C; }}\n    disk {{ {FAST_RESYNC} }}\n{hosts}}}\n"


class TwoVolumes:
    """Both nodes, by volume."""

    def __init__(self, kernel: KernelNode, ours: PydrbdNode) -> None:
        self.kernel = kernel
        self.ours = ours
        self.files = {kernel: kernel.guest.disks, ours: [ours.disk_path, ours.disk_path.with_suffix(".1")]}
        self.images = [bytearray(), bytearray()]

    def states(self, node: Node, vnr: int) -> tuple[str, str, str]:
        """Connection and both disks."""
        if isinstance(node, KernelNode):
            text = node.guest.read_file("/proc/drbd")
            found = re.search(rf"^ ?{vnr}: cs:(\S+) ro:\S+ ds:(\w+)/(\w+)", text, re.M)
            return found.groups() if found else ("", "", "")
        volume = self.ours.all_status()["volumes"][vnr]
        return volume["cstate"], volume["disk"], volume["peer_disk"]

    def wait(self, *wanted: str) -> None:
        wait_until(
            lambda: all(self.states(node, vnr) == wanted for node in self.files for vnr in (0, 1)),
            f"all to be {wanted}",
            SYNC_TIMEOUT_S,
            lambda: "\n".join(f"{node.name}:\n{node.log()[-4000:]}" for node in self.files),
        )

    def write(self, node: Node, vnr: int, seed: int, count: int) -> None:
        plan = load.draw(seed, len(self.images[vnr]), count)
        if isinstance(node, KernelNode):
            node.guest.play(f"/dev/drbd{vnr}", load.to_text(plan))
        else:
            name = RESOURCE if vnr == 0 else f"{RESOURCE}/{vnr}"
            with NbdClient.connect(node.run_dir / f"{RESOURCE}.nbd.sock", name, depth=1) as client:
                for op in plan:
                    do_nbd(client, op)
        load.apply(plan, self.images[vnr])

    def assert_same(self) -> None:
        self.wait("Connected", "UpToDate", "UpToDate")
        for node, files in self.files.items():
            for vnr, path in enumerate(files):
                with path.open("rb") as disk:
                    assert disk.read(len(self.images[vnr])) == self.images[vnr], f"{node.name}: volume {vnr} differs"


@pytest.fixture(params=["kernel", "pydrbd"])
def two(request, lab_nodes: Nodes):
    """Both volumes in sync, the named node Primary of both."""
    lab = lab_nodes.lab
    if "two" not in lab.guests:
        lab.add_guest("two", disks=2, disk_bytes=DISK_BYTES)
    kernel = KernelNode(lab.guests["two"])
    if not kernel.guest.runs:
        kernel.boot()
    kernel.forget_log()
    disk = lab.directory / "ours.0"
    name = f"ours-{request.param}"
    address = lab.host_address(5 if request.param == "kernel" else 6)
    two = TwoVolumes(kernel, PydrbdNode(lab.network, lab.directory, name, address, disk))
    text = config({kernel: ["/dev/ubda", "/dev/ubdb"], two.ours: [str(path) for path in two.files[two.ours]]})
    try:
        for node, files in two.files.items():
            node.configure(text)
            for vnr, path in enumerate(files):
                path.touch()
                os.truncate(path, 0)
                os.truncate(path, DISK_BYTES)
                if node is kernel:
                    meta = ("drbdmeta", "--force", str(vnr), "v08", f"/dev/ubd{'ab'[vnr]}", "internal", "create-md")
                    kernel.guest.run(*meta)
        two.ours.create_md()
        for node in two.files:
            node.up()
        two.wait("Connected", "Inconsistent", "Inconsistent")
        two.images = [bytearray(two.ours.size_bytes()) for _ in (0, 1)]
        two.first = kernel if request.param == "kernel" else two.ours
        two.second = two.ours if request.param == "kernel" else kernel
        two.first.primary(force=True)
        yield two
        for node in two.files:
            node.down()
        complaints = [line for node in two.files for line in node.complaints()]
        assert not complaints, "\n".join(complaints)
    finally:
        for node in two.files:
            node.crash()


def test_two_volumes_in_one_resource(two, seed):
    """First sync, writes to both, a reconnect with different changes on each, roles: both volumes equal each time."""
    two.assert_same()
    for vnr in (0, 1):
        two.write(two.first, vnr, seed + vnr, 15)
    two.assert_same()
    two.second.disconnect()
    two.first.wait(peer_disk="DUnknown")
    two.write(two.first, 0, seed + 2, 5)
    two.write(two.first, 1, seed + 3, 20)
    two.second.connect()
    two.assert_same()
    two.first.secondary()
    two.second.primary()
    for vnr in (1, 0):
        two.write(two.second, vnr, seed + 4 + vnr, 10)
    two.assert_same()
