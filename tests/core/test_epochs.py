"""The transfer log: what the peer has confirmed, what is to be marked when it goes, what may be forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydrbd.core.epochs import Epoch, TransferLog
from pydrbd.errors import PeerProtocolError


@dataclass(eq=False)
class FakeWrite:
    """What the log needs of a WriteBatch."""

    epoch: Epoch
    sent: int


def add(log: TransferLog, count: int = 1, *, sent: bool = True) -> Any:
    write: Any = FakeWrite(log.current, (1 << count) - 1 if sent else 0)
    log.add(write, count, sent=sent)
    return write


def test_a_barrier_follows_when_a_write_of_the_epoch_was_completed() -> None:
    log = TransferLog(100)
    write = add(log)
    assert log.take_barriers() == [] and not log.barrier_due
    log.close_current()
    assert log.barrier_due and log.take_barriers() == [(1, False)] and log.take_barriers() == []
    log.on_batch_done(write)
    assert log.released == 0
    log.on_barrier_ack(1, 1)
    assert log.released == 1 and len(log) == 1


def test_an_epoch_that_was_not_sent_needs_no_barrier() -> None:
    """Writes alone: released as soon as they end."""
    log = TransferLog(100)
    write = add(log, sent=False)
    log.close_current()
    assert log.take_barriers() == [] and log.last_unacked() == 0
    log.on_batch_done(write)
    assert log.released == 1


def test_a_full_epoch_closes_itself() -> None:
    log = TransferLog(4)
    add(log, 3)
    assert log.current.number == 1
    add(log, 2)
    assert log.current.number == 2 and log.take_barriers() == [(1, False)]


@pytest.mark.parametrize(("size", "room"), [(64, 64), (2048, 8192), (20000, 20000)])
def test_lanes_fill_larger_epochs_unless_smaller_ones_are_asked_for(size: int, room: int) -> None:
    """A node of ours only counts what is in one; each end of one is work for Python on both nodes."""
    log = TransferLog(max_epoch_size=size)
    assert log.lane_log()[1] == room


def test_only_the_oldest_epoch_can_be_acknowledged_and_only_whole() -> None:
    """WIRE 9.4: anything else is a peer that lies, and changes nothing."""
    log = TransferLog(100)
    for _ in range(2):
        add(log, 2)
        log.close_current()
    with pytest.raises(PeerProtocolError):
        log.on_barrier_ack(1, 2)  # its barrier has not been sent
    assert log.take_barriers() == [(1, False), (2, False)]
    for number, count in ((2, 2), (1, 1), (1, 3), (3, 1)):
        with pytest.raises(PeerProtocolError):
            log.on_barrier_ack(number, count)
    assert log.last_unacked() == 2 and not log.acked_up_to(1)
    log.on_barrier_ack(1, 2)
    assert log.acked_up_to(1) and not log.acked_up_to(2)


def test_pressing_makes_the_newest_barrier_urgent() -> None:
    """Before it is sent it says so itself; afterwards somebody has to."""
    log = TransferLog(100)
    assert not log.press()
    add(log)
    assert not log.press() and log.take_barriers() == [(1, True)] and not log.press()
    add(log)
    log.close_current()
    assert log.take_barriers() == [(2, False)]
    assert log.press() and not log.press()


def test_losing_the_peer_gives_what_it_may_lack() -> None:
    """Everything sent that is not acknowledged by a barrier, finished or not; the numbers go on."""
    log = TransferLog(100)
    first = add(log)
    log.close_current()
    second, local = add(log), add(log, sent=False)
    log.on_batch_done(second)
    log.take_barriers()
    log.on_barrier_ack(1, 1)
    log.on_batch_done(first)
    assert log.lose_peer() == [second]
    assert log.last_unacked() == 0 and log.acked_up_to(99) and log.released == 1
    log.on_batch_done(local)
    assert log.released == 2 and log.current.number == 3


@given(st.lists(st.sampled_from(["sent", "local", "done", "close", "barrier", "ack", "lose"]), max_size=60))
def test_an_epoch_is_released_only_when_it_is_over_on_both_sides(steps: list[str]) -> None:
    """B4, against a model that remembers every write: (epoch, done, confirmed)."""
    log = TransferLog(5)
    writes: list[list[Any]] = []
    barriers: list[int] = []
    for step in steps:
        if step in ("sent", "local"):
            number = log.current.number
            writes.append([number, False, step == "local", add(log, sent=step == "sent")])
        elif step == "done" and (open_writes := [write for write in writes if not write[1]]):
            open_writes[-1][1] = True
            log.on_batch_done(open_writes[-1][3])
        elif step == "close":
            log.close_current()
        elif step == "barrier":
            barriers += [number for number, _ in log.take_barriers()]
        elif step == "ack" and barriers:
            number = barriers.pop(0)
            log.on_barrier_ack(number, sum(bool(write[3].sent) for write in writes if write[0] == number))
            for write in writes:
                write[2] = write[2] or write[0] == number
        elif step == "lose":
            lost = log.lose_peer()
            assert lost == [write[3] for write in writes if not write[2]]
            barriers.clear()
            for write in writes:
                write[2] = True
                write[3].sent = 0
        assert all(write[1] and write[2] for write in writes if write[0] <= log.released)
        assert log.acked_up_to(10**9) == all(write[2] for write in writes)


def test_a_kernel_is_told_the_end_of_an_epoch_whose_writes_it_did_not_carry_out() -> None:
    """WIRE 9.7: it counts them for ever, in that epoch or in the next; and confirms the others out of order."""
    log = TransferLog(5)
    first = add(log, sent=True)
    log.take_off(first.epoch, confirmed=False)
    log.on_batch_done(first)
    log.close_current()
    second = add(log, sent=True)
    assert log.take_barriers() == [(1, False)] and log.barrier_due is False
    log.on_batch_done(second)
    log.close_current()
    assert log.take_barriers() == [(2, False)]
    third = add(log, sent=True), add(log, sent=True)
    log.take_off(third[0].epoch, confirmed=False)
    for write in third:
        write.write_due = 0
        log.on_batch_done(write)
    log.close_current()
    assert log.take_barriers() == [(3, False)]
    assert log.last_unacked() == 2  # nobody waits for what will not come
    fourth = add(log, sent=True)
    log.on_batch_done(fourth)
    log.close_current()
    assert log.take_barriers() == [(4, False)]
    log.on_barrier_ack(2, 1)
    assert log.acked_up_to(3) and log.released == 2  # what is left of the third may still be lost with the peer
    assert log.oldest_barrier() is fourth.epoch
    log.on_barrier_ack(4, 1)
    assert log.released == 4


def test_between_nodes_of_ours_what_was_not_carried_out_counts_on_neither_side() -> None:
    """An epoch of which nothing is left has no barrier; one with more is confirmed for the rest."""
    log = TransferLog(5)
    gone = add(log, sent=True)
    log.take_off(gone.epoch, confirmed=True)
    log.on_batch_done(gone)
    log.close_current()
    assert log.take_barriers() == [] and log.released == 1
    kept = add(log, sent=True), add(log, sent=True)
    log.take_off(kept[0].epoch, confirmed=True)
    for write in kept:
        log.on_batch_done(write)
    log.close_current()
    assert log.take_barriers() == [(2, False)]
    log.on_barrier_ack(2, 1)
    assert log.released == 2
