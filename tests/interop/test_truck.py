"""The first copy is carried to the peer on a disk (truck-based); only what changed since goes over the wire."""

from __future__ import annotations

import shutil

import pytest

from tests.interop.pair import AL_IS_APPLIED
from tests.lab.kernel_node import KernelNode

pytestmark = pytest.mark.interop


def new_generation(node, *, clear_bitmap=False):
    """`new-current-uuid`, in each node's own way. Raises Refused."""
    if isinstance(node, KernelNode):
        node.order("new-current-uuid", *(["--clear-bitmap"] if clear_bitmap else []))
    else:
        node._grant("new-current-uuid", clear_bitmap=clear_bitmap)


def test_a_copy_that_was_carried_needs_no_full_sync(pair, seed):
    """Alone: a generation for the copy, the copy with its meta-data, a generation for what comes; then they meet."""
    pair.allow(*AL_IS_APPLIED)
    pair.start()
    pair.sync()
    pair.write(pair.first, seed, 20)
    pair.part(pair.second)
    pair.second.down()
    pair.first.disconnect()
    pair.write(pair.first, seed + 1, 20)
    pair.first.secondary()  # else the copy is that of a crashed Primary, with its activity log
    new_generation(pair.first, clear_bitmap=True)
    shutil.copyfile(pair.first.disk_path, pair.second.disk_path)
    new_generation(pair.first)
    pair.first.primary()
    pair.write(pair.first, seed + 2, 3, longest_bytes=65536)
    for node in pair:
        node.forget_log()
    pair.second.up()
    pair.first.connect()
    pair.assert_same(history=False)
    (sent_kib,) = {kib for node in pair for kib in node.resyncs_kib()}
    assert 0 < sent_kib < len(pair.image) // 1024
