"""Two Primaries whose clients write to the same place at the same time: which of the two writes both nodes end with.

Both nodes must come to the same end, so one of them decides, the one that accepted the meta socket (WIRE 1.3):

    it         does not carry out a write of the peer's that overlaps with one of its own that the peer has not
               acknowledged: P_SUPERSEDED if that covers it, and as soon as our disk has it; else P_RETRY_WRITE
    the other  such a write waits for the fate of ours (core/ranges), and is carried out after it

What the peer had acknowledged before it sent its own is no conflict. The acknowledgement comes on the other socket, so
the node that decides takes a write only after everything that bears a lower sequence number (WIRE 9.6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydrbd import native
from pydrbd.core.effects import Level
from pydrbd.core.volume import Volume
from pydrbd.core.write_batch import WriteBatch
from pydrbd.limits import SEQUENCE_WAIT_S
from pydrbd.native import Batch
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire.packets import Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Conflicts"]

_HALF = 1 << 31
_MASK = (1 << 32) - 1


class _Undecided:
    """A write of the peer's that waits for our answer: `write` is the one of ours that covers it, if one does."""

    __slots__ = ("answered", "batch", "index", "volume", "write")

    def __init__(
        self,
        volume: Volume,
        batch: Batch,
        index: int,
        write: tuple[WriteBatch, int] | None,
        answered: Callable[[], None],
    ) -> None:
        self.volume = volume
        self.batch = batch
        self.index = index
        self.write = write
        self.answered = answered


class Conflicts:
    """The side that decides."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._undecided: list[_Undecided] = []
        self._waits_since: float | None = None
        self._told = False

    def reset(self) -> None:
        """The connection is gone: whoever waits for an answer begins anew."""
        self._undecided.clear()
        self._told = False
        self._waits_since = None

    @property
    def possible(self) -> bool:
        """Whether both nodes may be Primary."""
        return self._node.net.allow_two_primaries

    @property
    def decides(self) -> bool:
        """Whether it is this node that does."""
        return self.possible and self._node.resolve_conflicts

    def begins(self, volume: Volume, batch: Batch, mask: int) -> None:
        """Somebody writes. A resync holds no ranges for its answers here: both nodes would wait for each other."""
        running = self._node.resync.progress(volume) if self.possible else None
        if running is not None:
            running.void_overlapping(batch, mask)

    # --- the order of what comes on two sockets ---

    def see(self, volume: Volume, seq: int) -> None:
        """A packet with this sequence number is being worked in."""
        if (seq - volume.peer.seen_seq) & _MASK < _HALF:
            volume.peer.seen_seq = seq
        self._waits_since = None

    def is_early(self, volume: Volume, seq: int) -> bool:
        """Whether something on the meta socket was sent before this write, and has not come yet."""
        early = 0 < (seq - 1 - volume.peer.seen_seq) & _MASK < _HALF
        if early and self._waits_since is None:
            self._waits_since = self._node.now
        return early

    def next_deadline(self) -> float | None:
        """When a write has waited for too long."""
        return None if self._waits_since is None else self._waits_since + SEQUENCE_WAIT_S

    def check_wait(self, now: float) -> None:
        """A peer whose numbers have gaps can't be understood."""
        if self._waits_since is not None and now >= self._waits_since + SEQUENCE_WAIT_S:
            self._waits_since = None
            self._node.drop_link("a write of the peer's waits for sequence numbers that do not come")

    # --- the decision ---

    def sift(self, volume: Volume, batch: Batch, mask: int, answered: Callable[[], None]) -> int:
        """The peer's writes that are to be carried out; each other one gets its answer, now or later."""
        if not self.decides:
            return mask
        unsettled = self._unsettled(volume, batch, mask)
        for index in native.indices(unsettled):
            record = batch.records[index]
            self._tell(volume, record.offset, record.length)
            cover = self._covering(volume, record)
            self._undecided.append(_Undecided(volume, batch, index, cover, answered))
        self.check()
        return mask & ~unsettled

    def _unsettled(self, volume: Volume, batch: Batch, mask: int) -> int:
        """The peer's writes that overlap with one of ours that it has not acknowledged, or not even been sent."""
        found = self._at_gate(volume, batch, mask)
        for write in self._node.writes.in_flight():
            if write.volume is volume and write.peer_busy:
                found |= native.records_overlap(write.batch, write.peer_busy, batch, mask)
        return found

    def _at_gate(self, volume: Volume, batch: Batch, mask: int) -> int:
        """Those that overlap with one of ours that waits for the activity log."""
        found = 0
        for hold, members in self._node.writes.at_gate():
            if volume.ranges.has(hold):
                found |= native.records_overlap(hold.batch, members, batch, mask)
        return found

    def _covering(self, volume: Volume, theirs: Any) -> tuple[WriteBatch, int] | None:
        """One of ours that the peer has been sent, and that leaves nothing of this one."""
        for write in self._node.writes.in_flight():
            for index in native.indices(write.peer_busy if write.volume is volume else 0):
                ours = write.batch.records[index]
                if ours.offset <= theirs.offset and theirs.offset + theirs.length <= ours.offset + ours.length:
                    return write, 1 << index
        return None

    def _tell(self, volume: Volume, offset_bytes: int, length_bytes: int) -> None:
        """Once for a connection: who writes so has no clustered file system, or a broken one."""
        if not self._told:
            self._told = True
            sector = offset_bytes // SECTOR_SIZE_BYTES
            text = f"volume {volume.vnr}: Concurrent writes detected: {sector}s +{length_bytes}; only the first is told"
            self._node.log_line(Level.WARNING, text)

    def check(self) -> None:
        """Answer what can be answered: one of our writes has been sent, or is on our disk, or has failed there."""
        if not self._undecided:
            return
        undecided, self._undecided = self._undecided, []
        for one in undecided:
            packet = self._answer(one)
            if packet is None:
                self._undecided.append(one)
            else:
                self._node.send_acks(packet, one.volume, one.batch, 1 << one.index)
                one.answered()

    def _answer(self, one: _Undecided) -> Packet | None:
        if one.write is None:
            # Ours, if there is one left, must be on its way: else the peer's would come again before it, and again.
            # Unless it waits for the peer to confirm what may be waiting there for this one.
            here = self._at_gate(one.volume, one.batch, 1 << one.index)
            return None if here and not self._node.gate.starves(one.volume) else Packet.P_RETRY_WRITE
        write, member = one.write
        if write.local_busy & member:
            return None  # what its client is told is done must be on both disks: theirs has it, and then ours
        return Packet.P_RETRY_WRITE if write.local_failed & member else Packet.P_SUPERSEDED
