"""What is known of the pair: enough to say what may happen next, and which node has all that was acknowledged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

NODES = ("kernel", "pydrbd")
BOTH = frozenset(NODES)
NOBODY: frozenset[str] = frozenset()


def peer_of(name: str) -> str:
    return NODES[1 - NODES.index(name)]


@dataclass(frozen=True, slots=True)
class Model:
    """Sets are of node names. There is never more than one Primary between two operations."""

    primary: str | None = None
    up: frozenset[str] = BOTH
    attached: frozenset[str] = BOTH
    standalone: frozenset[str] = NOBODY
    """Told to leave the peer, and not yet to look for it again."""
    paused: frozenset[str] = NOBODY
    """Told to hold the resync."""
    current: frozenset[str] = BOTH
    """Those that surely hold every acknowledged write. During a resync: only its source."""
    crashed: str | None = None
    """Was Primary when it died, and nobody has been Primary since."""
    cut: bool = False
    slow: bool = False
    syncing: bool = False
    """They have met, and nobody has looked yet whether both are in sync."""
    growths_left: int = 0
    """How often both disks can still be enlarged."""

    @property
    def connected(self) -> bool:
        return self.up == BOTH and not self.cut and not self.standalone

    @property
    def quiet(self) -> bool:
        """In sync, and nothing is going on."""
        return (
            self.connected and self.attached == self.current == BOTH and not (self.syncing or self.paused or self.slow)
        )

    @property
    def stands_alone(self) -> bool:
        """Whether what there is goes on, if the nodes part now: a Primary needs a good disk of its own."""
        return self.primary is None or self.primary in self.current & self.attached

    @property
    def serves(self) -> bool:
        """Whether there is a Primary, with good data within reach."""
        if self.primary is None:
            return False
        reach = BOTH if self.connected else {self.primary}
        return bool(self.current & self.attached & reach)

    def but(self, **fields: Any) -> Model:
        return replace(self, **fields)

    def parted(self, **fields: Any) -> Model:
        """The nodes do not see each other any more: from now on only a Primary's data counts."""
        assert self.stands_alone
        current = self.current if self.primary is None else frozenset((self.primary,))
        return self.but(current=current, **fields).but(syncing=False)

    def met(self) -> Model:
        """After something that may have been the last obstacle between them."""
        if not self.connected:
            return self
        source = self.crashed if self.crashed in self.current else None
        current = frozenset((source,)) if source is not None and self.primary is None else self.current
        return self.but(syncing=True, current=current, crashed=None)

    def promoted(self, name: str) -> Model:
        """Alone, a new Primary begins a generation of its own."""
        return self.but(
            primary=name, crashed=None, current=self.current if self.connected else frozenset((name,))
        )

    def written(self) -> Model:
        """Only who is there has it."""
        assert self.primary is not None
        reach = BOTH if self.connected else frozenset((self.primary,))
        return self.but(current=self.current & self.attached & reach)
