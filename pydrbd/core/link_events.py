"""The link comes up, the link goes down, the link is given up.

Losing the peer, in this order: mark what it may lack; let the states fall, which begins a new generation behind a
fence if we are Primary; then answer what waited for the peer alone. So no client hears of a write that only this node
has before the new generation is durable (C6).

Links have numbers: what is done to one may wait behind a fence, and its end may be heard of late, when the operator has
asked for the next. There is one at a time that is wanted: it is asked for once, and closed or lost before the next is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydrbd.core.effects import CloseLink, Level, OpenLink
from pydrbd.core.events import LinkDown, LinkUp
from pydrbd.core.handshake import Handshake, Phase
from pydrbd.core.states import ConnState, DiskState
from pydrbd.core.volume import PeerVolume

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["LinkEvents", "SplitBrain"]


@dataclass(frozen=True, slots=True)
class SplitBrain:
    """Both copies of a volume have been written to apart: how much (in bits of 4 KiB), and who was what."""

    volume: int
    my_bits: int
    peer_bits: int
    my_role: str
    peer_role: str


class LinkEvents:
    """The life of the connection to the peer."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.handshake: Handshake | None = None
        self.peer_discards = False
        self._number, self._wanted = 0, False
        self._teardown = False
        self.parting: dict[str, DiskState] = {}
        """What both nodes have agreed that the disks are once they part."""
        self.reason = ""
        """Why the last connection ended, in words; empty if there was none since the operator has last connected."""
        self.tentative = False
        """The operator only wants to know what a connection would do."""
        self.split_brain: SplitBrain | None = None
        """What the nodes said of their copies when they met with different ones."""

    @property
    def handshaking(self) -> bool:
        return self.handshake is not None and self.handshake.phase != Phase.DONE

    def look_for_peer(self) -> None:
        """Ask for the next link. The last one is over: it is closed for good, or was lost."""
        node = self._node
        assert not self._wanted and self.handshake is None, "a link is asked for while there is one"
        node.set_cstate(ConnState.Unconnected)
        node.set_cstate(ConnState.WFConnection)
        self._number, self._wanted = self._number + 1, True
        node.out.put(OpenLink(self._number))

    def on_up(self, event: LinkUp) -> None:
        """Two sockets stand: a new connection begins, with nothing left of the last one."""
        node = self._node
        if event.number != self._number or not self._wanted:
            # Its end waits behind a fence, at most. It has said nothing yet: it can go at once.
            node.out.put_urgent(CloseLink(event.number, "not waiting for a connection"))
            return
        assert node.cstate == ConnState.WFConnection and self.handshake is None, "a link came up twice"
        node.operator.reconfigure.on_meeting()
        node.link_generation += 1
        node.pings_sent = node.pings_answered = 0
        node.resolve_conflicts = event.resolve_conflicts
        node.set_protocol(80, False)
        node.peer_is_pydrbd = False
        node.integrity = None
        self._teardown = False
        self.parting = {}
        for volume in node.volumes.values():
            volume.peer = PeerVolume()
        self.handshake = Handshake(node, event.challenge, discard_my_data=node.wants_discard, dry_run=self.tentative)
        self.handshake.start()
        node.writes.forgive_waiting(node.now)

    @property
    def is_dry_run(self) -> bool:
        """Whether this connection, by either node's wish, ends with the word on what it would do."""
        return self.handshake is not None and self.handshake.dry_run

    def end_dry_run(self, result: str) -> None:
        """The word is known: who has asked stands alone again, the other one goes on looking."""
        if self.tentative:
            self.give_up(result, Level.INFO)
        else:
            self._node.drop_link(result)

    def on_handshake_packet(self, command: int, payload: bytes) -> None:
        handshake = self.handshake
        assert handshake is not None
        handshake.on_packet(command, payload)
        self.peer_discards = handshake.peer_discards

    def on_down(self, event: LinkDown) -> None:
        """A socket is gone: fall back, and look for the peer again."""
        node = self._node
        assert event.number == self._number or self.handshake is None, "a link ended when the next one stood already"
        node.out.lose_link()
        if event.number != self._number or not self._wanted:
            return  # it was given up before
        self._wanted = False
        reason = ConnState.TearDown if self._teardown else ConnState(event.reason)
        self.reason = f"connection lost: {reason.name} {event.text}".rstrip()
        node.log_line(Level.INFO if self._teardown else Level.WARNING, self.reason)
        if self._lose(reason):
            self.look_for_peer()

    def drop(self, reason: str) -> None:
        """Close the sockets, if they stand; the shell reports LinkDown, and the connection begins anew."""
        if self.handshake is not None:
            self._node.out.put(CloseLink(self._number, reason))

    def give_up(self, reason: str, level: Level) -> None:
        """Go to StandAlone and stay there until an operator connects again."""
        node = self._node
        if node.cstate == ConnState.StandAlone:
            return
        self.reason = reason
        node.log_line(level, f"dropping the connection, going StandAlone: {reason}")
        if self._wanted:  # else it has just been lost
            self._wanted = False
            node.out.put(CloseLink(self._number, reason, linger=True))
        self._lose(ConnState.Disconnecting)
        node.wants_discard = self.tentative = False
        node.set_cstate(ConnState.StandAlone)

    def expect_teardown(self, expected: bool = True) -> None:
        """One side disconnects in good order: the end of the sockets is no failure."""
        self._teardown = expected

    def _lose(self, reason: ConnState) -> bool:
        """Forget the peer; False if an operator's disconnect, which waited for its word, has led to StandAlone."""
        node = self._node
        self.handshake = None
        self.peer_discards = False
        node.link_generation += 1
        node.pings_sent = node.pings_answered = 0
        node.writes.lose_peer()
        node.peer_writes.reset()
        node.conflicts.reset()
        node.peer_reads.reset()
        node.bitmaps.reset()
        node.packets.reset()
        node.set_cstate(reason, **self.parting)
        self.parting = {}
        for volume in node.volumes.values():
            volume.peer = PeerVolume()
        node.fence.on_peer_lost()
        node.writes.finish_without_peer()
        node.flushes.check()
        node.reads.lose_peer()
        node.operator.lose_peer()
        node.operator.on_idle()
        return node.cstate != ConnState.StandAlone

    # --- a peer that does not answer ---

    def ko_deadline(self) -> float | None:
        """When the oldest write or barrier that waits for the peer has waited too long (WIRE 15)."""
        net, barrier = self._node.net, self._node.log.oldest_barrier()
        if not net.ko_count:
            return None
        waiting = (self._node.writes.oldest_started(), barrier.barrier_at if barrier is not None else None)
        started = min((since for since in waiting if since is not None), default=None)
        return None if started is None else started + net.ko_count * net.timeout_s

    def check_ko(self) -> None:
        """Leave a peer that has not answered a write, or a barrier, for ko-count times timeout."""
        deadline = self.ko_deadline()
        if deadline is not None and self._node.now >= deadline:
            net = self._node.net
            self.drop(f"the peer did not answer a write for {net.ko_count} x {net.timeout_s} s (ko-count)")
            self._node.writes.forgive_waiting(self._node.now)
