"""Fencing: a Primary that loses its peer must know that the peer does not go on too (`fencing`, handler fence-peer).

    dont-care               nobody asks
    resource-only           the handler is run when a Primary loses its peer, and before a node that does not know
                            where its peer is becomes Primary
    resource-and-stonith    besides, I/O is frozen (susp_fen) until the verdict: nothing is acknowledged

The handler's exit code is the verdict, by the kernel's table (VERDICTS). It counts only if the peer has not come back
meanwhile. I/O goes on, for the whole resource, when

    the peer's data is known not to be ahead     a new generation begins first; then what waited is answered
    the peer is back                             see below
    the operator says so (resume-io)             as if the peer were known to be behind
    no local data is left to go on with          what waited fails

A frozen Primary keeps its generation. What the peer may lack is marked, and the Primary says of itself what a crashed
one would say ("equal identifiers, but I may have written more": rule 41 of uuids): whoever comes back gets those
blocks by a resync. What waited is answered when the peer has become sync target, and so can't be taken for as good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydrbd.core.effects import Level
from pydrbd.core.quorum import Standing
from pydrbd.core.refusals import StateCode
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.core.transitions import Fencing
from pydrbd.core.volume import Volume

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["VERDICTS", "Fence", "Verdict"]

_Then = Callable[[bool], None]
_UNREACHABLE: Final = 5
_STONITHED: Final = 7


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an exit code of fence-peer says: in words, and which disk is known to be what."""

    words: str
    field: str
    state: DiskState


VERDICTS: Final[Mapping[int, Verdict]] = {
    3: Verdict("peer is inconsistent or worse", "pdsk", DiskState.Inconsistent),
    4: Verdict("peer was fenced", "pdsk", DiskState.Outdated),
    5: Verdict("peer is unreachable, assumed to be dead", "pdsk", DiskState.Outdated),
    6: Verdict("peer is active", "disk", DiskState.Outdated),
    7: Verdict("peer was stonithed", "pdsk", DiskState.Outdated),
}


class Fence:
    """What one node knows of whether its lost peer goes on, and what waits for that."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._meetings = 0
        self._running = False
        self._again = False
        self._asking: list[_Then] = []
        self._thawing = False

    @property
    def frozen(self) -> bool:
        return any(volume.state.susp_fen for volume in self._volumes())

    def _volumes(self) -> Iterator[Volume]:
        return iter(self._node.volumes.values())

    @property
    def policy(self) -> Fencing | None:
        """The strictest of the volumes with data of their own; None if there is none, and so nothing to defend."""
        policies = [v.options.fencing for v in self._volumes() if v.disk and v.state.disk >= DiskState.Consistent]
        return max(policies, default=None)

    # --- the verdict ---

    def on_meeting(self) -> None:
        """The peer is there: a verdict on it that is still under way has come too late."""
        self._meetings += 1

    def on_peer_lost(self) -> None:
        """The connection is gone: I/O freezes on all volumes or on none, and a Primary asks for a verdict."""
        if self.frozen:
            for volume in self._volumes():
                self._node.change(volume, susp_fen=True)
            if self._node.operator.demoting:
                self.give_up()
                return
        primary = any(volume.state.role is Role.Primary for volume in self._volumes())
        if primary and max(volume.state.pdsk for volume in self._volumes()) >= DiskState.DUnknown:
            self.ask(lambda _good: None)

    def ask(self, then: _Then) -> None:
        """Settle where the lost peer is; `then` is told whether it is known not to be ahead of us."""
        node, policy = self._node, self.policy
        if policy is None:
            if any(volume.options.fencing for volume in self._volumes()):
                node.log_line(Level.WARNING, "Not fencing peer, I'm not even Consistent myself.")
            then(False)
        elif policy is Fencing.DONT_CARE:
            then(True)
        else:
            self._asking.append(then)
            self._again = self._running
            if not self._running:
                self._run()

    def _run(self) -> None:
        meetings = self._meetings
        self._running, self._again = True, False
        self._node.helpers.run("fence-peer", None, lambda code: self._on_verdict(code, meetings))

    def _on_verdict(self, code: int | None, meetings: int) -> None:
        node = self._node
        self._running = False
        if node.cstate >= ConnState.WFReportParams or meetings != self._meetings:
            node.log_line(Level.INFO, f"Ignoring fence-peer exit code {code}: the peer has been here meanwhile")
            if self._again and node.cstate < ConnState.WFReportParams:
                self._run()
                return
        else:
            self._apply(code)
        asking, self._asking, self._again = self._asking, [], False
        good = all(volume.state.pdsk <= DiskState.Outdated for volume in self._volumes())
        for then in asking:
            then(good)

    def _apply(self, code: int | None) -> None:
        node, verdict = self._node, VERDICTS.get(-1 if code is None else code)
        if verdict is None:
            node.log_line(Level.ERROR, f"fence-peer helper broken, returned {code}")
            return
        if code == _STONITHED and self.policy is not Fencing.RESOURCE_AND_STONITH:
            node.log_line(Level.ERROR, "fence-peer() = 7 && fencing != resource-and-stonith")
        if code == _UNREACHABLE and max(volume.state.disk for volume in self._volumes()) < DiskState.UpToDate:
            words = "peer unreachable, doing nothing since disk != UpToDate"
            node.log_line(Level.WARNING, f"fence-peer helper returned {code} ({words})")
            return
        node.log_line(Level.INFO, f"fence-peer helper returned {code} ({verdict.words})")
        wishes = [(v, {verdict.field: min(verdict.state, getattr(v.state, verdict.field))}) for v in self._volumes()]
        if verdict.field == "disk":
            # A Primary stays what it is, and frozen if it is: outdated it could answer nobody any more.
            codes = [node.operator.check(volume, **wish) for volume, wish in wishes]
            refusal = next((found for found in codes if not found.granted), StateCode.SS_SUCCESS)
            if not refusal.granted:
                node.log_line(Level.ERROR, f"Peer is primary, but can't be outdated here: {refusal.message}")
                return
            node.log_line(Level.WARNING, "Peer is primary, outdating myself.")
        for volume, wish in wishes:
            node.change(volume, **wish)

    def on_peer_in_sync(self) -> None:
        """A resync has ended well at the peer: if it was the last, what was fenced need not be any more."""
        states = [volume.state for volume in self._volumes()]
        if self.policy and all(state.disk is state.pdsk is DiskState.UpToDate for state in states):
            self._node.helpers.run("unfence-peer")

    # --- freezing and thawing ---

    def review(self) -> None:
        """A state has changed: is what I/O was frozen for over?"""
        if self._thawing or not self.frozen:
            return
        states = [volume.state for volume in self._volumes()]
        if all(state.conn == ConnState.Connected or state.conn >= ConnState.SyncSource for state in states):
            if self._node.quorum.has:
                self._thaw(alone=False)
        elif self._node.cstate < ConnState.WFReportParams and (
            self.policy is None or (self._node.quorum.has and self._is_fenced())
        ):
            self._thaw(alone=True)

    def _is_fenced(self) -> bool:
        """Whether the peer is known not to go on, or nobody has asked for that knowledge: a lease is enough then."""
        if self._node.quorum.standing is not Standing.OFF and self.policy is not Fencing.RESOURCE_AND_STONITH:
            return True
        return all(volume.state.pdsk <= DiskState.Outdated for volume in self._volumes())

    def on_quorum_off(self) -> None:
        """What I/O was frozen for is not asked for any more."""
        if self.policy is Fencing.RESOURCE_AND_STONITH:
            self.review()
        else:
            self.go_on()

    def go_on(self) -> None:
        """The operator answers for it: I/O goes on as if the peer were known to be behind."""
        self._thaw(alone=not self._node.established)

    def _thaw(self, *, alone: bool) -> None:
        node = self._node
        node.quorum.stop_failing()
        self._thawing = True
        for volume in self._volumes():
            due, volume.owes_generation = volume.owes_generation, False
            if due and volume.disk is not None and (alone or volume.state.pdsk < DiskState.Inconsistent):
                volume.disk.crashed_primary = False  # the new generation says it better
                if volume.state.disk >= DiskState.Consistent:
                    node.changes.new_current_uuid(volume)
        for volume in self._volumes():
            node.change(volume, susp_fen=False)
        self._thawing = False
        node.writes.resume()
        node.flushes.check()
        node.operator.on_idle()

    def give_up(self) -> None:
        """The Primary stops being one while its I/O is frozen: what waits fails, and nothing of it counts as written.

        The marks stay, and so does the word that it may have written more: whoever is met next sorts it out.
        """
        node = self._node
        node.quorum.stop_failing()
        node.log_line(Level.WARNING, "I/O was frozen: what waited for it fails")
        node.writes.refusing = True
        node.writes.fail_waiting()
        node.flushes.fail_waiting()
        self._thawing = True
        for volume in self._volumes():
            volume.owes_generation = False
            node.change(volume, susp_fen=False, susp_nod=False)
        self._thawing = False
        node.writes.resume()
        node.reads.resume()
        node.flushes.check()
