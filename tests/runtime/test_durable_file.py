"""What must be there after a crash: the old file or the new one, and the directory that it is in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pydrbd.runtime.durable_file import make_directory, replace_file


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, set[str]]]:
    """What was made durable, in order: each path, and what lay beside it or in it at that moment."""
    found: list[tuple[Path, set[str]]] = []

    def fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        found.append((path, {entry.name for entry in (path if path.is_dir() else path.parent).iterdir()}))

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_the_new_one_is_durable_before_it_takes_the_name(tmp_path: Path, synced: list[tuple[Path, set[str]]]) -> None:
    path = tmp_path / "r0.lease"
    replace_file(path, "new")
    assert path.read_text() == "new"
    assert synced == [(tmp_path / "r0.new", {"r0.new"}), (tmp_path, {"r0.lease"})]


def test_what_cannot_be_made_durable_does_not_take_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_fd: int) -> None:
        raise OSError("no space")

    path = tmp_path / "r0.lease"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        replace_file(path, "new")
    assert path.read_text() == "old"


def test_a_new_directory_is_durable_in_the_one_above(tmp_path: Path, synced: list[tuple[Path, set[str]]]) -> None:
    make_directory(tmp_path / "a" / "b")
    assert synced == [(tmp_path, {"a"}), (tmp_path / "a", {"b"})]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    make_directory(tmp_path / "a" / "b")
    assert len(synced) == 2
