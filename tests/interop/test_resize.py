"""The device grows while it is in use, beside a kernel, whoever is asked and whoever is Primary."""

from __future__ import annotations

import os

import pytest

from tests.interop.pair import DISK_BYTES, Pair, refused
from tests.lab import mapped
from tests.lab.kernel_node import KernelNode
from tests.lab.load import Op
from tests.lab.mapped import MappedDisk
from tests.lab.nodes import RESOURCE, Node, Refused, resource_text
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

SMALL_BYTES = DISK_BYTES * 3 // 4
SAID = ("Writing the whole bitmap", "Resync of new storage", "Considerable difference in lower level device sizes")
"""What a pair of kernels says too."""


class Growing:
    """A pair whose disks can be enlarged while they are in use: a kernel's by device mapper, pydrbd's is a file."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.names = {node: node.disk_name for node in pair}

    def start(self) -> None:
        """As Pair.start, on small disks."""
        for node in self.pair:
            os.truncate(node.disk_path, 0)
            os.truncate(node.disk_path, DISK_BYTES if isinstance(node, KernelNode) else SMALL_BYTES)
            if isinstance(node, KernelNode):
                MappedDisk(node.guest, self.names[node]).create(SMALL_BYTES)
                node.disk_name = mapped.PATH
        text = resource_text(list(self.pair))
        for node in self.pair:
            node.configure(text)
            node.create_md()
            node.up()
        for node in self.pair:
            node.wait(conn="Connected", disk="Inconsistent", peer_disk="Inconsistent")
        self.pair.sync()
        self.pair.image = bytearray(self.pair.first.size_bytes())

    def enlarge(self, node: Node) -> None:
        if isinstance(node, KernelNode):
            MappedDisk(node.guest, self.names[node]).resize(DISK_BYTES)
        else:
            os.truncate(node.disk_path, DISK_BYTES)

    def finish(self) -> None:
        for node in self.pair:
            node.disk_name = self.names[node]
            if isinstance(node, KernelNode) and node.guest.runs:
                node.guest.shell(f"drbdadm down {RESOURCE}", check=False)
                MappedDisk(node.guest, self.names[node]).remove()

    def wait_grown(self, size_bytes: int) -> None:
        """Both nodes have it, and are in sync."""
        pair = self.pair
        wait_until(lambda: pair.first.size_bytes() == size_bytes, "it to grow", 20.0, pair.describe)
        pair.wait_in_sync()
        assert pair.second.size_bytes() in (0, size_bytes)


def resize(node: Node, *words: str) -> None:
    """The verb, in each node's own way. Raises Refused."""
    if isinstance(node, KernelNode):
        node._adm("--", *words, "resize") if words else node._adm("resize")
    else:
        node._grant("resize", **{word.strip("-").replace("-", "_"): True for word in words})


def shrink(node: Node, sectors: int) -> None:
    """To this size, as its operator insists. Raises Refused."""
    if isinstance(node, KernelNode):
        node._adm("--", f"--size={sectors}s", "resize")
    else:
        node._grant("resize", size_sectors=sectors, assume_peer_has_space=True)


def data_bytes(disk_bytes: int) -> int:
    """What internal meta-data of a disk of less than 128 MiB leaves."""
    return disk_bytes - (8 + 64 + 8) * 512


@pytest.fixture
def growing(pair, seed):
    """A small pair in sync."""
    pair.allow(*SAID)
    growing = Growing(pair)
    try:
        growing.start()
        pair.write(pair.first, seed, 10)
        yield growing
    finally:
        growing.finish()


@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_both_disks_have_grown(growing, seed, who):
    """The new end is resynced from the Primary, then written; all of it is the same, after a reconnect, too."""
    pair = growing.pair
    for node in pair:
        growing.enlarge(node)
    with pair.second.disk_path.open("r+b") as disk:
        disk.seek(DISK_BYTES - 1024 * 1024)
        disk.write(b"not what the other one has there" * 1024)
    resize(pair.first if who == "primary" else pair.second)
    growing.wait_grown(data_bytes(DISK_BYTES))
    with pair.first.disk_path.open("rb") as disk:
        pair.image = bytearray(disk.read(data_bytes(DISK_BYTES)))
    pair.assert_same()
    pair.play(pair.first, [Op("fua", data_bytes(DISK_BYTES) - 65536, 65536, seed)])
    pair.write(pair.first, seed + 1, 20)
    pair.assert_same()
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed + 2, 10)
    pair.second.connect()
    pair.assert_same()
    pair.switch()
    pair.write(pair.first, seed + 3, 10)
    pair.assert_same()


def test_assume_clean_does_not_sync(growing, seed):
    """Both are larger and UpToDate without a resync of the new end."""
    pair = growing.pair
    for node in pair:
        growing.enlarge(node)
    before = [node.log().lower().count("began resync") for node in pair]
    resize(pair.first, "--assume-clean")
    growing.wait_grown(data_bytes(DISK_BYTES))
    assert [node.log().lower().count("began resync") for node in pair] == before


def test_it_is_refused_by_two_secondaries(growing):
    """DRBD's words: it needs a Primary."""
    pair = growing.pair
    pair.first.secondary()
    for node in pair:
        assert "(131)" in refused(resize, node)


def test_a_primary_shrinks_and_its_peer_follows(pair, seed):
    """Only for the size itself; both are smaller, in sync, and carry on; then they grow back to their disks."""
    pair.allow(*SAID, "shrinks, as the operator insists", "Peer sets u_size to")
    pair.start()
    pair.sync()
    pair.write(pair.first, seed, 20)
    large, small = len(pair.image), 20 * 1024 * 1024
    ours = next(node for node in pair if not isinstance(node, KernelNode))
    if pair.first is ours:
        assert "(170)" in refused(ours._grant, "resize", size_sectors=small // 512)
    wait_until(lambda: shrunk(pair.first, small // 512), "writes beyond the new end to be over")
    wait_until(lambda: pair.first.size_bytes() == small == ours.size_bytes(), "it to shrink", 20.0, pair.describe)
    del pair.image[small:]
    pair.assert_same()
    pair.write(pair.first, seed + 1, 20)
    pair.assert_same()
    pair.part(pair.second)
    pair.write(pair.first, seed + 2, 5)
    pair.second.connect()
    pair.assert_same()
    shrink(pair.first, 0)
    wait_until(lambda: pair.first.size_bytes() == large == ours.size_bytes(), "it to grow", 20.0, pair.describe)
    pair.wait_in_sync()


def shrunk(node: Node, sectors: int) -> bool:
    try:
        shrink(node, sectors)
    except Refused as refusal:
        assert "try again" in str(refusal), refusal
        return False
    return True
