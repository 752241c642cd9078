"""A small file that is replaced as a whole, durably: after a crash either the old one is there or the new one."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["make_directory", "replace_file"]


def make_directory(directory: Path) -> None:
    """With what lies above it, for this user only, each durable in the one above. Raises OSError."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    _sync_directory(directory.parent)


def replace_file(path: Path, content: str) -> None:
    """Durable when this returns. Raises OSError: then either the old or the new one is there."""
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
