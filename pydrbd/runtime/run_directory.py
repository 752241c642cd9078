"""The run directory: who can write to it can take the place of our sockets, so that must be nobody else."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from pydrbd.errors import UsageError

__all__ = ["make_run_directory"]

_ROOT: Final = 0
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def make_run_directory(directory: Path) -> None:
    """Make it, for us alone, if it is not there. Raises OSError; UsageError if others can write to it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    itself, target = directory.lstat(), directory.stat()  # not the same for a link
    trusted = (_ROOT, os.geteuid())
    if itself.st_uid not in trusted or target.st_uid not in trusted:
        raise UsageError(f"the run directory {directory} belongs to another user: use another --run-dir")
    if target.st_mode & _OTHERS_WRITE:
        raise UsageError(
            f"other users can write to the run directory {directory}, and take the place of the sockets in it: "
            "chmod go-w, or use another --run-dir"
        )
