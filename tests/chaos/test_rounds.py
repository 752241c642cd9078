"""Rounds of crashes on two real nodes: no acknowledged write is lost, and the copies are the same after each resync."""

from __future__ import annotations

import pytest

from pydrbd.units import MIB
from tests.chaos.conftest import assert_clean_logs
from tests.chaos.rounds import Rounds

SIZE_BYTES = 320 * MIB
"""80 activity-log extents."""

DISK = "al-extents 67;"
"""Fewer than the disk has: extents must be given up again and again."""

NET = "protocol C; connect-int 3; ping-int 3;"


@pytest.mark.parametrize("io", ["direct", "buffered"])
def test_no_round_of_crashes_loses_an_acknowledged_write(io, request, synced_pair, seed, rounds, progress):
    """Depth 16 with FLUSH and FUA, SIGKILL of one node or both, restart, resync: reads and copies are right."""
    if io == "direct":
        request.getfixturevalue("direct_io")
    pair = synced_pair(size_bytes=SIZE_BYTES, net=NET, disk=DISK, io=io)
    story = Rounds(pair, seed)
    try:
        for number in range(1, rounds + 1):
            story.say(f"round {number}")
            story.round()
            progress(f"{io}: round {number} of {rounds}, {story}")
    except BaseException:
        print(pair.describe())
        story.client.abandon()
        raise
    story.client.close()
    assert story.kills >= rounds
    assert_clean_logs(pair)
