"""The transfer log of the sending side: epochs of writes, and what may be forgotten when (WIRE 9.4).

    open      writes join the epoch
    closed    a write of it was completed to the application (or it is full, or a flush came): the next write belongs
              to the next epoch, and a P_BARRIER with this epoch's number goes out before it
    acked     the peer's P_BARRIER_ACK came: the peer has all of the epoch, durably
    released  acked (or never sent) and finished locally: the activity log may forget its extents

Until an epoch is acked, losing the peer marks every write of it out of sync, whatever acknowledgements it had.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.errors import PeerProtocolError
from pydrbd.limits import LANE_EPOCH_WRITES_MAX
from pydrbd.native import LaneLog

if TYPE_CHECKING:
    from pydrbd.core.volume import Volume
    from pydrbd.core.write_batch import WriteBatch

__all__ = ["Epoch", "TransferLog"]

_NUMBER_MASK = 0xFFFF_FFFF

_USUAL_SIZE = 2048
"""`max-epoch-size` where nobody has set it; a smaller one holds for lanes, too."""


@dataclass(slots=True, eq=False)
class Epoch:
    """Consecutive writes between two barriers. `sent_count` counts requests that went to the peer."""

    number: int
    batches: list[WriteBatch] = field(default_factory=list)
    request_count: int = 0
    sent_count: int = 0
    open_batches: int = 0
    closed: bool = False
    barrier_sent: bool = False
    barrier_at: float = 0.0
    urgent: bool = False
    acked: bool = False
    unconfirmed: bool = False
    """A kernel has taken a write off it in a conflict of two Primaries: it will never acknowledge it (WIRE 9.7)."""
    lane: LaneLog | None = None
    """What lanes have written in it, the places only: their requests are not kept as batches."""

    @property
    def silent(self) -> bool:
        """Whether nothing more will be heard of it."""
        return self.unconfirmed and not any(write.write_due for write in self.batches)


class TransferLog:
    """All epochs that are not released yet, oldest first; the last one is open."""

    __slots__ = ("_epochs", "max_epoch_size", "released")

    def __init__(self, max_epoch_size: int) -> None:
        self._epochs: deque[Epoch] = deque([Epoch(1)])
        self.max_epoch_size = max_epoch_size
        self.released = 0

    @property
    def current(self) -> Epoch:
        return self._epochs[-1]

    def __len__(self) -> int:
        return len(self._epochs)

    def add(self, write: WriteBatch, request_count: int, *, sent: bool) -> Epoch:
        """Let a write join the current epoch; `sent`: it goes to the peer."""
        epoch = self._epochs[-1]
        epoch.batches.append(write)
        epoch.request_count += request_count
        epoch.open_batches += 1
        if sent:
            epoch.sent_count += request_count
        if epoch.request_count >= self.max_epoch_size:
            self.close_current()
        return epoch

    # --- what lanes have written ---

    def lane_log(self) -> tuple[LaneLog, int]:
        """Where a lane notes its writes of the current epoch, and how many more that may take."""
        epoch = self._epochs[-1]
        size = self.max_epoch_size
        room = (size if size < _USUAL_SIZE else max(size, LANE_EPOCH_WRITES_MAX)) - epoch.request_count
        if epoch.lane is None:
            epoch.lane = LaneLog(room)
        return epoch.lane, min(room, epoch.lane.room - epoch.lane.count)

    @property
    def only_the_current(self) -> bool:
        """Whether the open epoch is all that the peer has not confirmed."""
        return len(self._epochs) == 1

    def end_lane(self, number: int, log_count: int, *, barrier_sent: bool, now: float) -> None:
        """A lane has ended in this epoch, in which lanes have noted so many writes; those before it are over.

        `barrier_sent`: so is this one, but for the peer's word.
        """
        epoch = self._epochs[-1]
        lane = epoch.lane
        assert lane is not None
        if number != epoch.number:
            assert number > epoch.number and self.only_the_current and not epoch.open_batches
            lane.count, self.released = 0, number - 1
            epoch = self._epochs[-1] = Epoch(number, lane=lane)
        count = log_count - lane.count
        lane.count = log_count
        epoch.request_count += count
        epoch.sent_count += count
        if barrier_sent:
            assert self.only_the_current and epoch.sent_count
            epoch.barrier_sent = epoch.urgent = True
            epoch.barrier_at = now
        if barrier_sent or epoch.request_count >= self.max_epoch_size:
            self.close_current()

    def close_lane(self) -> None:
        """End the current epoch if lanes have written in it."""
        if self._lane_is_open:
            self.close_current()

    @property
    def _lane_is_open(self) -> bool:
        lane = self._epochs[-1].lane
        return lane is not None and lane.count > 0

    def find(self, number: int) -> Epoch:
        """An epoch that is not released."""
        for epoch in reversed(self._epochs):
            if epoch.number == number:
                return epoch
        raise AssertionError(f"epoch {number} has been released with a write under way")

    def close_current(self) -> None:
        """End the current epoch; nothing happens if it holds no write. One that went to no peer may be over by now."""
        epoch = self._epochs[-1]
        if epoch.request_count:
            epoch.closed = True
            self._epochs.append(Epoch(epoch.number + 1))
            self.release()

    def press(self) -> bool:
        """Somebody waits for the peer to have everything: the current epoch ends, the newest barrier is urgent.

        Returns whether that barrier is on its way already, without saying so.
        """
        self.close_current()
        for epoch in reversed(self._epochs):
            if epoch.sent_count and not epoch.acked:
                late = epoch.barrier_sent and not epoch.urgent
                epoch.urgent = True
                return late
        return False

    def take_barriers(self, now: float = 0.0) -> list[tuple[int, bool]]:
        """(number, urgent) of each closed epoch whose P_BARRIER is due, oldest first: it is sent `now`."""
        due: list[tuple[int, bool]] = []
        for epoch in reversed(self._epochs):
            if not epoch.closed:
                continue
            if epoch.barrier_sent or epoch.acked:
                break
            if epoch.sent_count or epoch.unconfirmed:  # a kernel still counts in what was taken off
                epoch.barrier_sent = True
                epoch.barrier_at = now
                due.append((epoch.number & _NUMBER_MASK, epoch.urgent))
        due.reverse()
        return due

    @property
    def barrier_due(self) -> bool:
        """Whether an idle sender owes a barrier."""
        if self._lane_is_open:
            return True
        if len(self._epochs) < 2:
            return False
        last = self._epochs[-2]
        return last.closed and (last.sent_count > 0 or last.unconfirmed) and not last.barrier_sent

    def oldest_barrier(self) -> Epoch | None:
        """The epoch whose barrier has been on its way for longest."""
        for epoch in self._epochs:
            if epoch.sent_count and not epoch.acked and not epoch.silent:
                return epoch if epoch.barrier_sent else None
        return None

    def on_barrier_ack(self, number: int, set_size: int) -> Epoch:
        """The peer has one epoch durably: which. Anything but the oldest one, whole, is a peer that lies."""
        passed: list[Epoch] = []
        for epoch in self._epochs:
            if epoch.acked or not epoch.sent_count:
                continue
            if epoch.number & _NUMBER_MASK != number and epoch.silent:
                passed.append(epoch)
                continue
            if not epoch.barrier_sent or epoch.number & _NUMBER_MASK != number:
                break
            if epoch.sent_count != set_size:
                raise PeerProtocolError(
                    f"P_BARRIER_ACK {number} covers {set_size} writes, {epoch.sent_count} were sent"
                )
            for silent in passed:
                silent.acked = True  # the flush for this one was a flush for those, too
            epoch.acked = True
            self.release()
            return epoch
        raise PeerProtocolError(f"P_BARRIER_ACK {number} is not for the oldest epoch that waits for one")

    def take_off(self, epoch: Epoch, *, confirmed: bool) -> None:
        """The peer has not carried out one write of this epoch. `confirmed`: it counts so, too."""
        assert epoch.sent_count
        epoch.sent_count -= 1
        epoch.unconfirmed = epoch.unconfirmed or not confirmed
        self.release()

    def acked_up_to(self, number: int) -> bool:
        """Whether the peer has every sent write of the epochs up to this one."""
        return not any(
            epoch.sent_count and not epoch.acked and not epoch.silent
            for epoch in self._epochs
            if epoch.number <= number
        )

    def last_unacked(self) -> int:
        """The newest epoch that waits for the peer; 0 if none does."""
        for epoch in reversed(self._epochs):
            if epoch.sent_count and not epoch.acked and not epoch.silent:
                return epoch.number
        return 0

    def on_batch_done(self, write: WriteBatch) -> None:
        """A write has ended on both sides: its epoch may now be complete."""
        write.epoch.open_batches -= 1
        assert write.epoch.open_batches >= 0
        self.release()

    def unacked_lanes(self) -> list[LaneLog]:
        """What lanes have sent, and the peer has not confirmed."""
        unacked = (epoch for epoch in self._epochs if epoch.sent_count and not epoch.acked)
        return [epoch.lane for epoch in unacked if epoch.lane is not None]

    def reaches_beyond(self, volume: Volume, size_bytes: int) -> bool:
        """Whether a write of this volume that is on record does not end within so many bytes."""
        for epoch in self._epochs:
            mine = (write for write in epoch.batches if write.volume is volume)
            if any(native.records_out_of_bounds(write.batch, write.mask, size_bytes) for write in mine):
                return True
            lanes = epoch.lane.batches() if epoch.lane is not None else ()  # there is one volume, else there are none
            if any(native.records_out_of_bounds(batch, batch.all, size_bytes) for batch in lanes):
                return True
        return False

    def lose_peer(self) -> list[WriteBatch]:
        """The peer is gone: what it may lack. Those epochs wait for it no longer."""
        self.close_current()
        lost: list[WriteBatch] = []
        for epoch in self._epochs:
            if epoch.sent_count and not epoch.acked:
                lost.extend(write for write in epoch.batches if write.sent)
            epoch.sent_count = 0
            epoch.barrier_sent = epoch.unconfirmed = False
        self.release()
        return lost

    def release(self) -> None:
        """Drop finished epochs from the old end."""
        epochs = self._epochs
        while len(epochs) > 1:
            head = epochs[0]
            if not head.closed or head.open_batches or (head.sent_count and not head.acked):
                break
            if head.unconfirmed and not head.barrier_sent:
                break
            self.released = head.number
            epochs.popleft()
