"""Thin resync: where the source has zeroes the target gets a hole, in both directions."""

from __future__ import annotations

import pytest

from tests.interop.test_csums import moved_bytes
from tests.interop.verbs import ask
from tests.lab.pydrbd_node import PydrbdNode

pytestmark = pytest.mark.interop

MIB = 1 << 20
JUNK = 8 * MIB, 12 * MIB
"""Where the target has what the source has not: from, and how much."""


def test_zeroes_become_holes(pair):
    """All bits are set: no zeroes cross the wire, what the target had there is a hole, and both are equal."""
    if not any(isinstance(node, PydrbdNode) for node in pair):
        pytest.skip("about pydrbd's counters")
    pair.allow("rs_discard_granularity changed to \\d+")  # to what the guest's disk can
    pair.start(disk="rs-discard-granularity 65536;")
    pair.sync()
    for node in pair:
        if "feature disabled" in node.log():
            pytest.skip("this kernel's disk can't discard")
    pair.write(pair.first, 7, 20)
    for node in pair:
        node.wait(conn="Connected", disk="UpToDate", peer_disk="UpToDate")
    used = pair.second.disk_path.stat().st_blocks * 512
    with pair.second.disk_path.open("r+b") as disk:
        disk.seek(JUNK[0])
        disk.write(b"junk" * (JUNK[1] // 4))
    before = moved_bytes(pair)
    ask(pair.second, "invalidate")
    pair.assert_same()
    data = sum(any(pair.image[at : at + 65536]) for at in range(0, len(pair.image), 65536)) * 65536
    assert 0 < moved_bytes(pair) - before <= data + MIB < len(pair.image) // 2
    assert pair.second.disk_path.stat().st_blocks * 512 <= used + MIB
