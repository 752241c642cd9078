"""Parts of a client's request that go their way as requests of their own: what stands as the session of such a part."""

from __future__ import annotations

from typing import Any

__all__ = ["InnerRead", "InnerSession"]


class InnerSession:
    """Hears how the members of a batch ended, instead of a client."""

    __slots__ = ()

    def done(self, mask: int, error: int) -> None:
        """These have ended, with an NBD error or 0."""


class InnerRead(InnerSession):
    """Hears what was read, by `got`, or an error, by `done`."""

    __slots__ = ("client", "holds")

    def __init__(self, client: Any = None, *, holds: bool = False) -> None:
        self.client = client
        """Whose read it is, if it is a client's."""
        self.holds = holds
        """It holds its range: nothing is written there, and nobody who waits may keep it from being read."""

    def got(self, part: bytearray | memoryview) -> None:
        """A finished reply; the data is at its end."""
