"""Which resources run here, by their control sockets."""

from __future__ import annotations

import os
from pathlib import Path

from pydrbd.admin.control_client import SOCKET_SUFFIX

__all__ = ["names_here"]


def names_here(run_dir: Path) -> list[str]:
    """What may be running: whatever has a control socket. The configuration may be broken by now.

    Raises OSError if the directory can't be read: what is hidden may run.
    """
    try:
        found = os.listdir(run_dir)  # noqa: PTH208 - Path.glob would take a refusal for an empty directory
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name.removesuffix(SOCKET_SUFFIX) for name in found if name.endswith(SOCKET_SUFFIX))
