"""What can be asked of a resource, wherever it runs: DRBD's verbs, each a coroutine that ends when it is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from pydrbd.admin.exit_codes import CommandFailed, blamed
from pydrbd.api.status import Status
from pydrbd.errors import StateRefused
from pydrbd.units import SECTOR_SIZE_BYTES

__all__ = ["Resource"]


class Resource(ABC):
    """A resource on this node. Time limits are Trio's: `with trio.fail_after(10): await r0.wait_in_sync()`.

    Every verb raises StateRefused (with DRBD's code and words), another PydrbdError for what a disk or its meta-data
    has met, and NotRunningError when the node is gone.
    """

    name: str

    async def status(self) -> Status:
        """How it is now."""
        return Status.from_snapshot(await self._snapshot())

    @abstractmethod
    async def wait_until(self, condition: Callable[[Status], bool]) -> Status:
        """Wait for a state; the one that fulfils the condition."""

    async def wait_connected(self) -> Status:
        """Wait for the peer."""
        return await self.wait_until(lambda status: status.connection == "Connected")

    async def wait_in_sync(self) -> Status:
        """Wait until both copies of all volumes are UpToDate."""
        return await self.wait_until(lambda status: status.is_in_sync)

    async def primary(self, *, force: bool = False) -> None:
        """Make it writable here. `force`: although its data is not known to be good."""
        await self._grant("primary", {"force": force})

    async def secondary(self, *, force: bool = False) -> None:
        """Give that up. `force`: although clients have it open; they get errors."""
        await self._grant("secondary", {"force": force})

    async def connect(self, *, discard_my_data: bool = False) -> None:
        """Look for the peer. `discard_my_data`: after a split brain, give up what was written here alone."""
        await self._grant("connect", {"discard_my_data": discard_my_data})

    async def disconnect(self, *, force: bool = False) -> None:
        """Leave the peer. `force`: without asking it."""
        await self._grant("disconnect", {"force": force})

    async def attach(self) -> None:
        """Take up the local disks."""
        await self._grant("attach")

    async def detach(self, *, force: bool = False) -> None:
        """Give up the local disks. `force`: without asking the peer."""
        await self._grant("detach", {"force": force})

    async def invalidate(self) -> None:
        """Forget the local data: all of it is synced from the peer."""
        await self._grant("invalidate")

    async def skip_first_sync(self) -> None:
        """On a fresh connected pair: the copies are equal as they are (new-current-uuid --clear-bitmap)."""
        await self._grant("new-current-uuid", {"clear_bitmap": True})

    async def verify(self) -> None:
        """Begin to compare both copies while they are in use."""
        await self._grant("verify")

    async def resize(self, size_bytes: int | None = None) -> None:
        """Grow to what the disks have grown to, or to this size, in bytes."""
        arguments = {} if size_bytes is None else {"size_sectors": size_bytes // SECTOR_SIZE_BYTES}
        await self._grant("resize", arguments)

    async def _snapshot(self) -> dict[str, Any]:
        data = (await self._grant("status"))["data"]
        assert isinstance(data, dict), "a status is an object"
        return data

    async def _grant(self, verb: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask, and raise unless it was granted."""
        answer = await self._ask(verb, arguments or {})
        code, words = answer["code"], f"{self.name}: {answer['text'] or verb + ' failed'}"
        if code >= 1:
            return answer
        met = blamed((answer["data"] or {}).get("exit_code"), words)
        if met is not None:
            raise met
        if code < 0:
            raise StateRefused(code, words)
        raise CommandFailed(words)

    @abstractmethod
    async def _ask(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A request and its answer: {"code": int, "text": str, "data": ... | None}."""
