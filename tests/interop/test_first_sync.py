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
