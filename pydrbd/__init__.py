"""DRBD in user space: see ARCHITECTURE.md; `pydrbd.api` is what there is for Python programs.

    async with pydrbd.open_node("r0.res", "r0") as r0:
        await r0.primary()

Names of the interface are imported when they are asked for: the command line needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydrbd.api import Node, Remote, Resource, Status, VolumeStatus, open_node
    from pydrbd.errors import (
        BusyError,
        ConfigError,
        DiskError,
        MetaDataError,
        NotRunningError,
        PydrbdError,
        StateRefused,
    )

__all__ = [
    "BusyError",
    "ConfigError",
    "DiskError",
    "MetaDataError",
    "Node",
    "NotRunningError",
    "PydrbdError",
    "Remote",
    "Resource",
    "StateRefused",
    "Status",
    "VolumeStatus",
    "__version__",
    "open_node",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pydrbd' has no attribute {name!r}")
    from importlib import import_module

    place = "pydrbd.errors" if name.endswith(("Error", "Refused")) else "pydrbd.api"
    return getattr(import_module(place), name)


def __dir__() -> list[str]:
    return sorted(__all__)
