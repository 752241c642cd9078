"""What a process leaves in the system's cache when it is killed is durable before the next one says that it has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pydrbd.errors import DiskError
from pydrbd.metadata.create import plan_create
from pydrbd.metadata.layout import Layout, MetaKind
from pydrbd.runtime.build import DiskPlace
from pydrbd.runtime.volume_disk import open_volume_disk

SECTORS = 16384


@pytest.fixture(params=["internal", "external"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> DiskPlace:
    """A disk with meta-data that needs no mending."""
    data, meta = tmp_path / "data", tmp_path / ("data" if request.param == "internal" else "meta")
    kind = MetaKind.INTERNAL if data == meta else MetaKind.FLEXIBLE
    layout = Layout.internal(SECTORS) if data == meta else Layout.flexible(SECTORS)
    for path in {data, meta}:
        path.write_bytes(bytes(SECTORS * 512))
    with meta.open("r+b") as file:
        for offset, block in plan_create(layout):
            file.seek(offset)
            file.write(block)
    return DiskPlace(0, str(data), str(meta), kind, -1)


@pytest.mark.parametrize("disk_flushes", [True, False])
def test_the_data_is_flushed_unless_that_is_not_wanted(
    place: DiskPlace, disk_flushes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A1 (torn meta-data, seed 1598485911): clients had been answered for it, and the next FLUSH asked nobody."""
    flushed: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: flushed.append(str(Path(f"/proc/self/fd/{fd}").readlink())))
    data, meta, _opened = open_volume_disk(place, "buffered", disk_flushes=disk_flushes)
    data.close()
    if meta is not data:
        meta.close()
    assert flushed == [place.path] * disk_flushes


def test_a_disk_that_can_not_be_flushed_is_not_attached(place: DiskPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells whoever opens it next what it could not write for the one before."""

    def fail(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(DiskError, match="Input/output error"):
            open_volume_disk(place, "buffered")
    data, meta, _opened = open_volume_disk(place, "buffered")  # nothing was left open and locked
    data.close()
    if meta is not data:
        meta.close()
