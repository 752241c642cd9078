"""Which resources run here, by their control sockets."""

from __future__ import annotations

from pathlib import Path

from pydrbd.admin.control_client import SOCKET_SUFFIX

__all__ = ["names_here"]


def names_here(run_dir: Path) -> list[str]:
    """What may be running: whatever has a control socket. The configuration may be broken by now."""
    return sorted(path.name.removesuffix(SOCKET_SUFFIX) for path in run_dir.glob(f"*{SOCKET_SUFFIX}"))
