"""What the configuration says of quorum (core/quorum), and what of that both nodes must have alike.

Each tells the other one in the reserved bytes of its features, behind the mark of pydrbd: a node without quorum
would go on alone, or with another witness, and take the promise away from both. A kernel has zeroes there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

__all__ = ["QUORUM_MARK_BYTES", "QuorumOptions"]

QUORUM_MARK_BYTES = 9


@dataclass(frozen=True, slots=True)
class QuorumOptions:
    """`enabled`: a node alone is not enough. `by_witness`: a lease may take the peer's place."""

    enabled: bool = False
    by_witness: bool = False
    io_error: bool = False
    force_secondary: bool = False
    """A frozen Primary whose peer has the lease gives up its role (on-suspended-primary-outdated)."""
    node: str = ""
    """What the witness knows this node by."""
    witness: str = ""
    """Whom both nodes must ask, and for what: the witness' place, and the name of the lease."""

    @property
    def agreement(self) -> bytes:
        """What both nodes must have alike, in QUORUM_MARK_BYTES; zeroes: neither asks for quorum."""
        if not self.enabled:
            return bytes(QUORUM_MARK_BYTES)
        kind = b"w" if self.by_witness else b"p"
        place = self.witness if self.by_witness else ""
        return kind + hashlib.sha256(place.encode()).digest()[: QUORUM_MARK_BYTES - 1]

    def why_not(self, theirs: bytes, *, is_pydrbd: bool) -> str:
        """Why a peer with this mark can't be one, in words; "" if it can."""
        if (is_pydrbd and theirs == self.agreement) or not (is_pydrbd or self.enabled):
            return ""  # what a node that is none of ours has there means something else
        if not self.enabled:
            return "the peer has quorum configured, and we have not: options quorum must be alike on both nodes"
        if not is_pydrbd or not any(theirs):
            who = "the peer has no quorum configured" if is_pydrbd else "the peer is no pydrbd: it knows no quorum"
            return f"{who}; alone it would go on without asking the witness, and ours is configured"
        return "the peer's quorum differs from ours: both nodes need the same options, witness and host names"
