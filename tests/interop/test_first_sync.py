"""A kernel and pydrbd meet for the first time."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.interop


def test_first_full_sync_makes_both_disks_the_same(pair):
    """Fresh meta-data on both, connect, primary --force: all of the device is copied, what was there before too."""
    pair.start()
    with pair.second.disk_path.open("r+b") as disk:
        disk.write(b"to be overwritten" * 1000)
    pair.full_sync()
    pair.assert_same()
    assert pair.first.states().role == "Primary"
    assert pair.second.states().peer_role == "Primary"


def test_the_first_sync_is_skipped_when_the_disks_are_known_to_be_the_same(pair, seed):
    """Fresh meta-data on both, new-current-uuid --clear-bitmap: in sync at once, and writes go on from there."""
    pair.start()
    pair.sync()
    assert pair.first.resyncs_kib() == pair.second.resyncs_kib() == []
    pair.write(pair.first, seed, 10)
    pair.assert_same()
