"""The command line: start reading in cli.py."""

from __future__ import annotations

__all__: list[str] = []
