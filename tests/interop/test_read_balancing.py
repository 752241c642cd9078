"""Reads that the peer serves although the disk here could."""

from __future__ import annotations

import re

import pytest

from tests.lab.kernel_node import KernelNode
from tests.lab.load import Op

pytestmark = pytest.mark.interop


def disk_reads_kib(node):
    """What the node has read from its disk."""
    if isinstance(node, KernelNode):
        return int(re.search(r" dr:(\d+)", node.details())[1])
    return node.status()["counters"]["read"] // 2


@pytest.mark.parametrize("policy", ["prefer-remote", "32K-striping"])
def test_the_peer_reads_its_share(pair, seed, policy):
    """All of it, or every second stripe; the data is what was written."""
    pair.start(disk=f"read-balancing {policy};")
    pair.sync()
    ops = [Op("write", n * 32768, 32768, seed + n) for n in range(16)]
    pair.play(pair.first, ops)
    before = disk_reads_kib(pair.second)
    pair.first.load([Op("read", op.offset_bytes, op.length_bytes, op.seed) for op in ops])
    share = 16 if policy == "prefer-remote" else 8
    assert disk_reads_kib(pair.second) - before == share * 32
    pair.write(pair.first, seed, 20)
    pair.assert_same()
