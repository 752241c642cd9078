"""A fresh pair whose disks are equal needs no first sync: `new-current-uuid --clear-bitmap` on either side."""

from __future__ import annotations

import pytest

from tests.interop.pair import refused
from tests.lab.kernel_node import KernelNode
from tests.lab.nodes import Node

pytestmark = pytest.mark.interop


def new_current_uuid(node: Node, *, clear_bitmap: bool) -> None:
    """The verb, in each node's own way. Raises Refused."""
    if isinstance(node, KernelNode):
        node._adm("new-current-uuid", *(["--clear-bitmap"] if clear_bitmap else []))
    else:
        node._grant("new-current-uuid", clear_bitmap=clear_bitmap)


def test_the_first_sync_is_skipped(pair, seed):
    """One side says so: both are UpToDate at once, nothing was sent; then writes, roles, reconnects as ever."""
    pair.allow("[Pp]reparing to skip initial sync", "receiver updated UUIDs to")
    pair.start()
    new_current_uuid(pair.first, clear_bitmap=True)
    for node in pair:
        node.wait(conn="Connected", disk="UpToDate", peer_disk="UpToDate", timeout_s=5)
        assert "began resync" not in node.log().lower(), f"{node.name} has synced"
    pair.assert_same()
    pair.first.primary()
    pair.write(pair.first, seed, 20)
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed + 1, 20)
    pair.second.connect()
    pair.assert_same()
    pair.switch()
    pair.write(pair.first, seed + 2, 5)
    pair.assert_same()


def test_it_is_refused_while_connected(pair):
    """A pair that has data needs to be StandAlone for a new generation; without --clear-bitmap a fresh one, too."""
    pair.start()
    assert "(151)" in refused(new_current_uuid, pair.first, clear_bitmap=False)
    pair.sync()
    assert "(151)" in refused(new_current_uuid, pair.first, clear_bitmap=True)
    pair.assert_same()
