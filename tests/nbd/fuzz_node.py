"""A whole node in this process, Primary and alone, for clients that mean it no good."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydrbd.core.states import Role
from pydrbd.runtime.service import Service
from tests.runtime.test_service import make_pair, running

__all__ = ["primary_node"]


@asynccontextmanager
async def primary_node(directory: Path) -> AsyncIterator[Service]:
    """8 MiB under the name r0, on a Unix socket in the directory; extended headers are offered."""
    config = make_pair(directory)
    (directory / "pydrbd.toml").write_text("[resource.r0]\nnbd-extended-headers = true\n")
    async with running(config, directory, limit_s=float("inf")) as service:
        await service.control.command("primary", {"force": True})
        assert service.node.volumes[0].state.role is Role.Primary
        yield service
