"""The only place with Trio, sockets, files and clocks; nothing is decided here that `core` could decide."""

from __future__ import annotations

__all__: list[str] = []
