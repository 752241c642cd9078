"""`md-flushes`: whether meta-data is flushed; the data before it is another matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from pydrbd.core import effects as fx
from pydrbd.runtime.block_device import FileDevice
from pydrbd.runtime.volume_disk import VolumeDisk


@pytest.mark.parametrize(
    ("md_flushes", "held_back", "flush_data", "expected"),
    [
        (True, "", False, 1),
        (False, "", False, 0),
        (False, "", True, 1),
        (False, "is used through the page cache", False, 1),
    ],
)
def test_a_persist_flushes_as_it_is_told(
    tmp_path: Path, md_flushes: bool, held_back: str, flush_data: bool, expected: int
) -> None:
    """One stage, written in any case; with flush_data the disk of the data is flushed before.

    `md-flushes no` counts for nothing where a write that is done may be in the machine's memory only.
    """
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    ended: list[int] = []

    async def main() -> int:
        device = FileDevice(str(path), "buffered")
        device.held_back_reason = held_back
        disk = VolumeDisk(device, device, lambda _effect, failed, _errno: ended.append(failed), md_flushes=md_flushes)
        stage = fx.Stage(flush_data, ((4096, b"m" * 4096),))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.run)
            disk.start(fx.Persist(0, (stage,), lambda _failed, _errno: None))
            while not ended:
                await trio.lowlevel.checkpoint()
            flushes = disk._data.statistics().flushes
            await disk.stop()
        return flushes

    assert trio.run(main) == expected
    assert ended == [0] and path.read_bytes()[4096:8192] == b"m" * 4096
