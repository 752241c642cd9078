"""Which algorithms sum blocks up on this connection, for online verify and for resync by checksums.

Both nodes must have configured the same `verify-alg` and `csums-alg` when they meet; later one of them may change them
for both (WIRE 4.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydrbd.core.effects import Level
from pydrbd.core.states import ConnState
from pydrbd.core.volume import Volume
from pydrbd.wire.digests import DigestAlg, digest_alg
from pydrbd.wire.packets import SyncParam

if TYPE_CHECKING:
    from pydrbd.core.handshake import NetOptions
    from pydrbd.core.node import Node

__all__ = ["Digests"]


class Digests:
    """The algorithms of a node's connection; None where none is configured."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.verify: DigestAlg | None = _configured(node.net.verify_alg)
        self.csums: DigestAlg | None = _configured(node.net.csums_alg)

    def configure(self, old: NetOptions) -> None:
        """Take over algorithms that differ from those of the old options."""
        net = self._node.net
        if net.verify_alg != old.verify_alg:
            self.verify = _configured(net.verify_alg)
        if net.csums_alg != old.csums_alg:
            self.csums = _configured(net.csums_alg)

    def on_sync_param(self, volume: Volume, payload: bytes) -> None:
        """P_SYNC_PARAM89: the peer's algorithms must be ours; once connected they become ours.

        The speeds in it are a kernel's business: it goes by those of its peer, we don't.
        """
        peer = SyncParam.decode(payload, self._node.apv)
        verifying = any(self._node.verify.progress(each) for each in self._node.volumes.values())
        fixed = verifying or volume.state.conn <= ConnState.WFReportParams
        self.verify = self._agreed("verify-alg", self.verify, peer.verify_alg or "", fixed=fixed)
        self.csums = self._agreed("csums-alg", self.csums, peer.csums_alg or "", fixed=fixed)

    def _agreed(self, option: str, ours: DigestAlg | None, theirs: str, *, fixed: bool) -> DigestAlg | None:
        mine = _name(ours)
        if mine == theirs:
            return ours
        if fixed:
            self._node.give_up_connection(f"the peer's {option} ({theirs!r}) differs from ours ({mine!r})")
            return ours
        if theirs and digest_alg(theirs) is None:
            self._node.give_up_connection(f"the peer has changed {option} to {theirs!r}, which is not known here")
            return ours
        self._node.log_line(Level.INFO, f"the peer has changed {option} from {mine!r} to {theirs!r}")
        return _configured(theirs)

    @property
    def names(self) -> tuple[str, str]:
        """verify-alg and csums-alg as P_SYNC_PARAM89 says them: empty if there is none."""
        return _name(self.verify), _name(self.csums)


def _configured(name: str) -> DigestAlg | None:
    return digest_alg(name) if name else None


def _name(algorithm: DigestAlg | None) -> str:
    return algorithm.name if algorithm is not None else ""
