"""A resource moves from a pair of kernels to a pair of pydrbd nodes, disk by disk, and back, in use all the time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.interop.conftest import Nodes
from tests.interop.pair import Pair
from tests.lab.kernel_node import KernelNode
from tests.lab.network import system
from tests.lab.nodes import Node, resource_text
from tests.lab.pydrbd_node import PydrbdNode

pytestmark = pytest.mark.interop

MINOR = 147
"""Of no device: drbdmeta notes the size of a disk under this name, and we take that away again."""
CHANGED_MOST_KIB = 8 * 1024
SHORT = {"longest_bytes": 32768}


def dump_md(node: Node) -> dict[str, str]:
    """What drbdmeta reads on the disk of a node that is down."""
    argv = ("drbdmeta", "--force", str(MINOR), "v08", str(node.disk_path), "internal")
    try:
        system(*argv, "apply-al")
        text = system(*argv, "dump-md")
    finally:
        Path(f"/var/lib/drbd/drbd-minor-{MINOR}.lkbd").unlink(missing_ok=True)
    found = dict(re.findall(r"^(la-size-sect|bm-byte-per-bit) (\d+);", text, re.M))
    found["current"] = re.search(r"uuid \{\s+0x([0-9A-F]{16});", text).group(1)
    return found




def resynced_kib(node: Node) -> int:
    """How much the last resync was about, by a node's log."""
    return int(re.findall(r"will sync (\d+) KB", node.log())[-1])


class House:
    """Who lives there: the pair of the moment."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    def move(self, leaver: Node, newcomer: Node, seed: int) -> None:
        """One node goes, for good; its disk is read by drbdmeta; somebody else takes it up; only changes are sent."""
        pair = self.pair
        stayer = next(node for node in pair if node is not leaver)
        if pair.first is leaver:
            pair.switch()
        size_bytes, current = len(pair.image), leaver.generations().without_role()[0]
        leaver.down()
        if isinstance(leaver, KernelNode):
            leaver.guest.power_off()
        found = dump_md(leaver)
        assert int(found["current"], 16) & ~1 == current and int(found["la-size-sect"]) * 512 == size_bytes
        stayer.wait(peer_disk="DUnknown")
        pair.write(stayer, seed, 10, **SHORT)
        if isinstance(newcomer, KernelNode):
            newcomer.boot()
        self._meet(stayer, newcomer)
        self.pair = Pair(stayer, newcomer)
        self.pair.image = pair.image
        self.pair.assert_same()
        assert 0 < resynced_kib(newcomer) < CHANGED_MOST_KIB
        self.pair.write(stayer, seed + 1, 10, **SHORT)
        self.pair.switch()
        self.pair.write(newcomer, seed + 2, 10, **SHORT)
        self.pair.switch()
        self.pair.assert_same()

    def _meet(self, stayer: Node, newcomer: Node) -> None:
        """A new configuration for both; the Primary stays in use."""
        text = resource_text([stayer, newcomer])
        newcomer.configure(text)
        if isinstance(stayer, KernelNode):
            stayer.disconnect()
            stayer.configure(text)
            stayer._adm("adjust")
        else:
            # pydrbd reads its configuration when it starts: a short break
            stayer.down()
            stayer.configure(text)
            stayer.up()
            stayer.primary()
        newcomer.up()


def test_from_kernels_to_pydrbd_and_back(lab_nodes: Nodes, seed: int) -> None:
    """Four moves; at each, drbdmeta reads the disk, and the resync is a small part of the device."""
    lab = lab_nodes.lab
    kernels = [lab_nodes.get("kernel"), lab_nodes.get("kernel2")]
    for kernel in kernels:
        kernel.forget_log()
    ours = [
        PydrbdNode(lab.network, lab.directory, f"house{number}", lab.host_address(number), kernel.disk_path)
        for number, kernel in zip((3, 4), kernels, strict=True)
    ]
    house = House(Pair(*kernels))
    try:
        house.pair.start()
        house.pair.sync()
        house.pair.write(kernels[0], seed, 40)
        house.move(kernels[1], ours[1], seed + 10)
        house.move(kernels[0], ours[0], seed + 20)
        house.move(ours[1], kernels[1], seed + 30)
        house.move(ours[0], kernels[0], seed + 40)
        for kernel in kernels:
            kernel.down()
            dump_md(kernel)
    except BaseException:
        print(house.pair.describe())
        raise
    finally:
        for node in (*kernels, *ours):
            node.crash()
