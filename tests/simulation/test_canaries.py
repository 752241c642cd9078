"""Each canary is the core with one line broken: the checkers must find it soon, or they are worth nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from pydrbd.core import changes, fencing, transitions, uuids
from pydrbd.core.effects import Persist, Reply
from pydrbd.core.epochs import TransferLog
from pydrbd.core.log_gate import LogGate
from pydrbd.core.outbox import Outbox
from pydrbd.core.peer_writes import PeerWrites
from pydrbd.core.ranges import Hold, Ranges
from pydrbd.core.reads import Reads
from pydrbd.core.refusals import StateCode
from pydrbd.core.resync import Resync
from pydrbd.core.transitions import Fencing
from pydrbd.core.writes import Writes
from pydrbd.errors import PeerProtocolError
from pydrbd.metadata.activity_log import ActivityLog
from pydrbd.metadata.superblock import MdFlag, Superblock
from tests.harness import cluster
from tests.harness.checkers import Violation
from tests.harness.disk import MemoryDisk
from tests.harness.simulation import Simulation, SimulationFailed

SEEDS_MAX = 150
LOSES_POWER = 0.9
"""The ending of a story in which both nodes lose power, and one comes back."""

Mutant = Callable[[pytest.MonkeyPatch], None]


def reply_before_the_peer_has_it(patch: pytest.MonkeyPatch) -> None:
    progress, on_ack = Writes._progress, Writes.on_ack

    def hasty(self, write):
        write.peer_busy = 0
        progress(self, write)

    def tolerant(self, block_id, **words):
        try:
            return on_ack(self, block_id, **words)
        except PeerProtocolError:
            raise KeyError(block_id) from None

    patch.setattr(Writes, "_progress", hasty)
    patch.setattr(Writes, "on_ack", tolerant)


def write_before_the_activity_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogGate, "enter", lambda self, volume, batch, mask, go, **words: go(mask))


def forget_an_extent_before_its_barrier(patch: pytest.MonkeyPatch) -> None:
    evictable = ActivityLog._evictable
    patch.setattr(ActivityLog, "_evictable", lambda self, count, released: evictable(self, count, 1 << 60))


def clear_a_bit_when_asking_for_its_block(patch: pytest.MonkeyPatch) -> None:
    ask = Resync._ask

    def early(self, volume, running, pieces):
        ask(self, volume, running, pieces)
        for offset, length in pieces:
            volume.disk.bitmap.clear_range(offset, length)

    patch.setattr(Resync, "_ask", early)


def speak_before_the_superblock_is_durable(patch: pytest.MonkeyPatch) -> None:
    def unfenced(self, volume, stages):
        self._ready.append(Persist(volume, stages, lambda failed, errno: None))

    patch.setattr(Outbox, "persist", unfenced)


def reply_past_the_fences(patch: pytest.MonkeyPatch) -> None:
    put = Outbox.put

    def eager(self, effect):
        if isinstance(effect, Reply):
            self.put_urgent(effect)
        else:
            put(self, effect)

    patch.setattr(Outbox, "put", eager)


def confirm_a_barrier_without_a_flush(patch: pytest.MonkeyPatch) -> None:
    def unflushed(self, now):
        ready = 0
        while self._epochs[ready].complete:
            ready += 1
        if ready:
            self._send_barrier_acks(ready)

    patch.setattr(PeerWrites, "flush_due", unflushed)


def answer_a_flush_after_the_local_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TransferLog, "acked_up_to", lambda self, number: True)


def ignore_every_flush(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryDisk, "flush", lambda self, begun_at=None: None)


def sync_from_the_old_to_the_new(patch: pytest.MonkeyPatch) -> None:
    turned = {50: +1, 70: -1}
    rules = tuple(
        dataclasses.replace(rule, result=turned.get(rule.number, rule.result)) for rule in uuids._DIFFERENT_RULES
    )
    patch.setattr(uuids, "_DIFFERENT_RULES", rules)


def read_what_is_out_of_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reads, "_local_members", lambda self, volume, batch, mask: mask if volume.has_disk else 0)


def mark_nothing_when_the_peer_is_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Writes, "lose_peer", lambda self: self._node.log.lose_peer() and None)


def let_overlapping_writes_run_together(patch: pytest.MonkeyPatch) -> None:
    def acquire(self, batch, mask, start, **_how):
        hold = Hold(batch, 0, start)
        hold.mask = mask
        self._holds[hold] = None
        start(hold, mask)
        return hold

    patch.setattr(Ranges, "acquire", acquire)


def call_a_sync_target_consistent(patch: pytest.MonkeyPatch) -> None:
    honest = changes.superblock_now

    def rosy(volume):
        superblock = honest(volume)
        return dataclasses.replace(superblock, flags=superblock.flags | MdFlag.CONSISTENT)

    patch.setattr(changes, "superblock_now", rosy)


def let_in_a_second_primary(patch: pytest.MonkeyPatch) -> None:
    tests = tuple(test for test in transitions.VALIDITY if test.code is not StateCode.SS_TWO_PRIMARIES)
    patch.setattr(transitions, "VALIDITY", tests)


def forget_that_a_primary_has_crashed(patch: pytest.MonkeyPatch) -> None:
    attach_state = Superblock.attach_state
    patch.setattr(
        Superblock, "attach_state", lambda self: dataclasses.replace(attach_state(self), crashed_primary=False)
    )


def never_freeze(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transitions, "_frozen", lambda old, new, rules: new)


def answer_what_was_under_way_when_io_froze(patch: pytest.MonkeyPatch) -> None:
    progress = Writes._progress

    def hasty(self, write):
        state = write.volume.state
        write.volume.state = dataclasses.replace(state, susp_fen=False)
        progress(self, write)
        write.volume.state = state

    patch.setattr(Writes, "_progress", hasty)


def go_on_although_the_peer_is_active(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cluster, "BROKEN", cluster.ACTIVE)  # seldom it is, so that failures say so, too
    patch.setattr(fencing, "VERDICTS", {**fencing.VERDICTS, 6: fencing.VERDICTS[4]})


def go_on_although_the_handler_failed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fencing, "VERDICTS", {**fencing.VERDICTS, 1: fencing.VERDICTS[4]})


def accept_a_verdict_on_an_earlier_loss(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fencing.Fence, "on_meeting", lambda self: None)


def take_an_unreachable_peer_for_dead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fencing, "_UNREACHABLE", -1)


COPIES = {"A1", "A2", "B1", "B2"}

# what is broken, which promises may show it, the ending, and the seed where the search begins (where it was found once)
CANARIES: list[tuple[Mutant, set[str], float | None, int]] = [
    (reply_before_the_peer_has_it, COPIES | {"C6"}, None, 5),
    (write_before_the_activity_log, {"B3"}, None, 0),
    (forget_an_extent_before_its_barrier, {"B2"}, None, 4),
    (clear_a_bit_when_asking_for_its_block, COPIES | {"C6", "D5"}, None, 27),
    (speak_before_the_superblock_is_durable, {"B7", "C6"}, None, 0),
    (reply_past_the_fences, {"C6"}, None, 0),
    (confirm_a_barrier_without_a_flush, COPIES, LOSES_POWER, 0),
    (answer_a_flush_after_the_local_one, {"A1"}, LOSES_POWER, 0),
    (ignore_every_flush, COPIES, LOSES_POWER, 0),
    (sync_from_the_old_to_the_new, {"C5"}, None, 0),
    (read_what_is_out_of_sync, {"A1"}, None, 14),
    (mark_nothing_when_the_peer_is_lost, COPIES, None, 1),
    (let_overlapping_writes_run_together, {"A1", "B1"}, None, 5),
    (call_a_sync_target_consistent, {"B7"}, None, 0),
    (let_in_a_second_primary, {"C2"}, None, 7),
    (forget_that_a_primary_has_crashed, COPIES, None, 0),
]


FENCING_CANARIES: list[tuple[Mutant, set[str], int]] = [
    (never_freeze, {"C8"}, 3),
    (answer_what_was_under_way_when_io_froze, {"C8"}, 3),
    (go_on_although_the_peer_is_active, {"C8"}, 15),
    (go_on_although_the_handler_failed, {"C8"}, 15),
    (accept_a_verdict_on_an_earlier_loss, {"C8"}, 45),
    (take_an_unreachable_peer_for_dead, {"C8"}, 12),
]


@pytest.mark.parametrize(
    ("mutant", "promises", "first"), FENCING_CANARIES, ids=[row[0].__name__ for row in FENCING_CANARIES]
)
def test_the_canary_of_fencing_is_caught(
    mutant: Mutant, promises: set[str], first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in stories with resource-and-stonith, and a cluster manager that is asked for verdicts."""
    mutant(monkeypatch)
    look_for(promises, first, fencing=Fencing.RESOURCE_AND_STONITH)


@pytest.mark.parametrize(("mutant", "promises", "ending", "first"), CANARIES, ids=[row[0].__name__ for row in CANARIES])
def test_the_canary_is_caught(
    mutant: Mutant, promises: set[str], ending: float | None, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within SEEDS_MAX stories some checker says that a promise was broken (which one, where only one can)."""
    mutant(monkeypatch)
    look_for(promises, first, ending=ending)


def look_for(promises: set[str], first: int, **options: Any) -> None:
    """Tell stories until a checker finds one of these promises broken."""
    for seed in range(first, first + SEEDS_MAX):
        try:
            Simulation(seed, steps=80, **options).run()
        except SimulationFailed as failure:
            if isinstance(failure.error, Violation) and (not promises or failure.error.promise in promises):
                print(f"caught by {failure.error.promise} at seed {seed}")
                return
    pytest.fail(f"it lived through {SEEDS_MAX} stories")
