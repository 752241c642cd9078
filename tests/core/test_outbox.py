"""Persist, then speak: what is put behind a fence leaves when the fence is durable, in order."""

from __future__ import annotations

from dataclasses import replace
from errno import EAGAIN

from hypothesis import given
from hypothesis import strategies as st

from pydrbd.core.effects import DiskSend, Level, Log, Persist, Reply, Send, Socket, Stage
from pydrbd.core.outbox import Outbox
from pydrbd.native import Batch, new_records

STAGES = (Stage(False, ((0, b"superblock"),)),)


def text(label: str) -> Log:
    return Log(Level.INFO, label)


class Box:
    """An outbox, and what it has reported."""

    def __init__(self) -> None:
        self.failed: list[tuple[int, int]] = []
        self.outbox = Outbox(
            lambda volume, errno: self.failed.append((volume, errno)),
            lambda reply: replace(reply, parts=[b"EIO"], speaks=False),
        )

    def take(self) -> list[str]:
        """The labels of what leaves; a fence is `fence`."""
        return [self._label(effect) for effect in self.outbox.take()]

    def _label(self, effect: object) -> str:
        match effect:
            case Persist():
                self.fence = effect
                return "fence"
            case Reply():
                return bytes(effect.parts[0]).decode()
            case Log():
                return effect.text
        return type(effect).__name__


def reply(label: bytes, volume: int = 0, *, speaks: bool = True) -> Reply:
    return Reply(None, Batch(bytearray(1), new_records(1), 1), 1, [label], volume, speaks)


def test_without_a_fence_everything_leaves_at_once() -> None:
    box = Box()
    box.outbox.put(text("one"))
    box.outbox.put(Send(Socket.DATA, []))
    assert box.take() == ["one", "Send"] and box.take() == []


def test_what_waits_for_the_peer_goes_with_the_link() -> None:
    """The rest stays in order, and what the kernel was to send from the disk ends: somebody waits for that."""
    box, ends = Box(), []
    box.outbox.persist(0, STAGES)
    box.outbox.put(text("before"))
    box.outbox.put(Send(Socket.DATA, []))
    box.outbox.put(
        DiskSend(0, Batch(bytearray(1), new_records(1), 1), 1, bytearray(), 0, lambda *end: ends.append(end))
    )
    box.outbox.put(text("after"))
    box.outbox.lose_link()
    assert [(failed & 1, errno) for failed, errno in ends] == [(1, EAGAIN)]
    assert box.take() == ["fence"]
    box.fence.then(0, 0)
    assert box.take() == ["before", "after"]


def test_what_comes_after_a_fence_waits_for_it_and_pings_do_not() -> None:
    """A ping's answer rests on nothing that is being written."""
    box = Box()
    box.outbox.put(text("before"))
    box.outbox.persist(0, STAGES)
    box.outbox.put(text("after"))
    box.outbox.put_urgent(text("ping"))
    assert box.take() == ["before", "fence", "ping"] and box.outbox.fenced
    box.fence.then(0, 0)
    assert box.take() == ["after"] and not box.outbox.fenced


def test_fences_stand_one_behind_the_other() -> None:
    """The second is not even begun before the first is durable."""
    box = Box()
    for turn in ("a", "b"):
        box.outbox.persist(0, STAGES)
        box.outbox.put(text(turn))
    assert box.take() == ["fence"]
    box.fence.then(0, 0)
    assert box.take() == ["a", "fence"]
    box.fence.then(0, 0)
    assert box.take() == ["b"]


def test_a_persist_that_is_no_fence_holds_nothing() -> None:
    """Activity-log transactions: only the writes that wait for them do."""
    box = Box()
    box.outbox.put(Persist(0, STAGES, lambda failed, errno: None))
    box.outbox.put(text("next"))
    assert box.take() == ["fence", "next"]


def test_a_failed_fence_turns_the_successes_behind_it_into_errors() -> None:
    """Only those of its volume, only those that tell of a write; and the disk's owner is told after they left."""
    box = Box()
    box.outbox.persist(1, STAGES)
    for effect in (reply(b"written", 1), reply(b"other volume", 0), reply(b"read", 1, speaks=False)):
        box.outbox.put(effect)
    assert box.take() == ["fence"]
    box.fence.then(1, 28)
    assert box.take() == ["EIO", "other volume", "read"] and box.failed == [(1, 28)]


@given(st.lists(st.sampled_from(["put", "urgent", "persist", "done"]), max_size=40))
def test_order_is_kept_and_nothing_overtakes_a_fence(steps: list[str]) -> None:
    """Whatever is put: everything leaves once, in order, and never before the fences that were put before it."""
    box = Box()
    left: list[str] = []
    for number, step in enumerate(steps):
        if step == "put":
            box.outbox.put(text(str(number)))
        elif step == "urgent":
            box.outbox.put_urgent(text(f"ping{number}"))
        elif step == "persist":
            box.outbox.persist(0, STAGES)
        elif box.outbox.fenced and "fence" in left[-1:]:
            box.fence.then(0, 0)
        left += [label for label in box.take() if not label.startswith("ping")]
    while box.outbox.fenced:
        assert left[-1] == "fence"
        box.fence.then(0, 0)
        left += [label for label in box.take() if not label.startswith("ping")]
    wanted = ["fence" if step == "persist" else str(n) for n, step in enumerate(steps) if step in ("put", "persist")]
    assert left == wanted
