"""Judges both nodes at a quiet point: their generations, and what they have logged since the last one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from tests.lab.network import LabFailed
from tests.lab.nodes import Node, Refused

ALWAYS = (
    "had equal checksums", "Feature flags enabled on protocol level: 0x7 TRIM THIN_RESYNC WRITE_SAME", "authenticated",
    "Resync suspended", "Syncer continues", "Began resync",
)  # fmt: skip
"""What settings that are drawn bring about."""

_TAIL = 150


class Judge:
    """`archive` is a directory: it gets all logs."""

    def __init__(self, nodes: dict[str, Node], archive: Path) -> None:
        self._nodes = nodes
        self._archive = archive
        self._allowed: set[str] = set(ALWAYS)

    def allow(self, patterns: Iterable[str]) -> None:
        """Until the next quiet point a log may have such lines."""
        self._allowed.update(patterns)

    def generations(self) -> None:
        """In sync: the same current generation, and nothing to send."""
        first, second = (node.generations() for node in self._nodes.values())
        assert first.without_role()[:2] == second.without_role()[:2], f"{first}\n{second}"
        assert int(first.bitmap, 16) == int(second.bitmap, 16) == 0, f"{first}\n{second}"

    def logs(self) -> None:
        """No line that nothing has brought about. Begins new logs."""
        complaints = [
            f"{node.name}: {line}" for node in self._nodes.values() for line in node.complaints(sorted(self._allowed))
        ]
        if complaints:
            raise AssertionError("unexpected lines in the log:\n" + "\n".join(complaints))
        self.keep()
        for node in self._nodes.values():
            node.forget_log()
        self._allowed = set(ALWAYS)

    def keep(self) -> None:
        """Add the logs to the archive."""
        for node in self._nodes.values():
            with (self._archive / f"{node.name}.log").open("a") as file:
                file.write(node.log() + "\n--- a quiet point ---\n")

    def states(self) -> str:
        """Both nodes in a line."""
        parts = []
        for node in self._nodes.values():
            with contextlib.suppress(LabFailed, Refused):
                states = node.states()
                parts.append(f"{node.name} {states.conn} {states.role} {states.disk}/{states.peer_disk}")
        return " | ".join(parts)

    def describe(self) -> str:
        """Both nodes' states and the ends of their logs, for a failure."""
        parts = []
        for node in self._nodes.values():
            with contextlib.suppress(LabFailed, Refused):
                parts += [f"--- {node.name}: {node.states()}", node.details(), *node.log().splitlines()[-_TAIL:]]
        return "\n".join(parts)
