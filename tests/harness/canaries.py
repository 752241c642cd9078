"""Canaries: each is our own code with one line broken. The checkers must find it soon, or they are worth nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from pydrbd.core import changes, fencing, peer_state, resync, transitions, uuids
from pydrbd.core.effects import Persist, Reply
from pydrbd.core.epochs import TransferLog
from pydrbd.core.log_gate import LogGate
from pydrbd.core.log_room import LogRoom
from pydrbd.core.node import Node
from pydrbd.core.outbox import Outbox
from pydrbd.core.peer_writes import PeerWrites
from pydrbd.core.ranges import Hold, Ranges
from pydrbd.core.reads import Reads
from pydrbd.core.refusals import StateCode
from pydrbd.core.resync_requests import ResyncRequests
from pydrbd.core.states import DiskState
from pydrbd.core.transitions import Fencing
from pydrbd.core.volume import Volume
from pydrbd.core.writes import Writes
from pydrbd.errors import PeerProtocolError
from pydrbd.metadata import opening
from pydrbd.metadata.activity_log import ActivityLog
from pydrbd.metadata.apply_al import _without_log
from pydrbd.metadata.superblock import MdFlag, Superblock
from tests.harness import cluster
from tests.harness.checkers import Violation
from tests.harness.disk import MemoryDisk
from tests.harness.plots import PlottedSimulation
from tests.harness.simulation import Simulation, SimulationFailed

__all__ = ["CANARIES", "Canary", "caught"]

LOSES_A_NODE = 0.7
"""The ending of a story in which one node is gone for ever."""
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
    patch.setattr(ActivityLog, "room", lambda self, ready, most: min(most, self.slot_count))


def clear_a_bit_when_asking_for_its_block(patch: pytest.MonkeyPatch) -> None:
    ask = ResyncRequests.ask

    def early(self, volume, running, batch):
        ask(self, volume, running, batch)
        volume.disk.bitmap.clear_records(batch, batch.all)

    patch.setattr(ResyncRequests, "ask", early)


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


def forget_what_the_activity_log_says(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(opening, "apply_al", lambda superblock, layout, _log, _bitmap: _without_log(superblock, layout))


def take_any_disk_for_a_good_one(patch: pytest.MonkeyPatch) -> None:
    attach_state = Superblock.attach_state
    good = DiskState.Consistent
    patch.setattr(Superblock, "attach_state", lambda self: dataclasses.replace(attach_state(self), disk=good))


def keep_the_generation_when_the_peer_is_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(changes.Changes, "_needs_new_current", lambda self, volume, old, new: False)


def forget_that_the_peer_has_gone_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Volume, "disk_is_old", property(lambda self: False))


def take_old_news_for_an_answer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(peer_state, "_is_no_answer", lambda mine, peer: False)
    _make_room_late(patch)


def _make_room_late(patch: pytest.MonkeyPatch) -> None:
    """No fault: the activity log asks for flushes only when it must. A rare story needs its moments as they were."""

    def late(self, volume, disk):
        if volume.vnr not in self._node.gate._logging:
            self._node.press_for_barrier()

    patch.setattr(LogRoom, "make", late)
    patch.setattr(LogRoom, "ready_epoch", lambda self, volume, disk: self._node.log.released)


def write_a_bitmap_before_its_data(patch: pytest.MonkeyPatch) -> None:
    stage = changes.Changes.bitmap_stage

    def hasty(self, volume, *, flush_data):
        return stage(self, volume, flush_data=False)

    patch.setattr(changes.Changes, "bitmap_stage", hasty)
    _persist_progress_at_once(patch)


def _persist_progress_at_once(patch: pytest.MonkeyPatch) -> None:
    """No fault: a resync writes the bitmap after each batch. A story's resync is seldom so long that it does at all."""
    patch.setattr(resync, "RESYNC_PERSIST_S", 0.0)


def forget_an_extent_whose_data_is_in_the_cache(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogRoom, "durable_up_to", lambda self: 1 << 60)


def go_on_after_a_failed_flush(patch: pytest.MonkeyPatch) -> None:
    on_disk_error = Node.on_disk_error

    def lenient(self, volume, disk, text, **words):
        if not text.startswith("flush"):
            on_disk_error(self, volume, disk, text, **words)

    patch.setattr(Node, "on_disk_error", lenient)


COPIES = {"A1", "A2", "B1", "B2", "B4", "B5", "B6"}


@dataclasses.dataclass(frozen=True)
class Canary:
    """What is broken, which promises may show it, in what stories, and the seed where it was found once."""

    mutant: Mutant
    promises: frozenset[str]
    first: int
    options: dict[str, Any]
    story: type[Simulation] = Simulation

    @property
    def name(self) -> str:
        return self.mutant.__name__


def caught(canary: Canary, seeds: Iterable[int]) -> tuple[int, str] | None:
    """Tell stories with the broken code until a checker finds one of its promises broken: the seed, the promise."""
    with pytest.MonkeyPatch.context() as patch:
        canary.mutant(patch)
        for seed in seeds:
            try:
                canary.story(seed, **{"steps": 80, **canary.options}).run()
            except SimulationFailed as failure:
                if isinstance(failure.error, Violation) and failure.error.promise in canary.promises:
                    return seed, failure.error.promise
    return None


def _canary(
    mutant: Mutant, promises: set[str], first: int, story: type[Simulation] = Simulation, **options: Any
) -> Canary:
    return Canary(mutant, frozenset(promises), first, options, story)


_STONITH = Fencing.RESOURCE_AND_STONITH

CANARIES = (
    _canary(reply_before_the_peer_has_it, COPIES | {"C6"}, 0, PlottedSimulation, ending=LOSES_A_NODE),
    _canary(write_before_the_activity_log, {"B3"}, 0),
    _canary(forget_an_extent_before_its_barrier, {"B2", "B4"}, 4),
    _canary(clear_a_bit_when_asking_for_its_block, COPIES | {"C6", "D5"}, 30),
    _canary(speak_before_the_superblock_is_durable, {"B7", "C6"}, 0),
    _canary(reply_past_the_fences, {"C6"}, 0),
    _canary(confirm_a_barrier_without_a_flush, COPIES, 0, ending=LOSES_POWER),
    _canary(answer_a_flush_after_the_local_one, {"A1"}, 0, ending=LOSES_POWER),
    _canary(ignore_every_flush, COPIES, 0, ending=LOSES_POWER),
    _canary(sync_from_the_old_to_the_new, {"C5"}, 0),
    _canary(read_what_is_out_of_sync, {"A1", "A3"}, 14),
    _canary(mark_nothing_when_the_peer_is_lost, COPIES, 1),
    _canary(let_overlapping_writes_run_together, {"A1", "B1"}, 5),
    _canary(call_a_sync_target_consistent, {"B7"}, 0),
    _canary(let_in_a_second_primary, {"C2"}, 7),
    _canary(forget_that_a_primary_has_crashed, COPIES, 0),
    _canary(forget_what_the_activity_log_says, COPIES, 0),
    _canary(take_any_disk_for_a_good_one, COPIES | {"C1", "C5"}, 0),
    _canary(keep_the_generation_when_the_peer_is_lost, {"C6", "C5", "C1"} | COPIES, 0),
    _canary(forget_that_the_peer_has_gone_on, {"C1", "C5"}, 55),
    _canary(take_old_news_for_an_answer, {"C1", "C5"}, 902037, fencing=Fencing.RESOURCE_ONLY, lanes=True, steps=120),
    _canary(write_a_bitmap_before_its_data, {"B2", "B4", "B5"}, 0, ending=LOSES_POWER, hasty=True, busy=True),
    _canary(forget_an_extent_whose_data_is_in_the_cache, COPIES, 0, ending=LOSES_POWER, busy=True),
    _canary(go_on_after_a_failed_flush, {"A9"}, 10),
    _canary(never_freeze, {"C8"}, 3, fencing=_STONITH),
    _canary(answer_what_was_under_way_when_io_froze, {"C8"}, 3, fencing=_STONITH),
    _canary(go_on_although_the_peer_is_active, {"C8"}, 15, fencing=_STONITH),
    _canary(go_on_although_the_handler_failed, {"C8"}, 15, fencing=_STONITH),
    _canary(accept_a_verdict_on_an_earlier_loss, {"C8"}, 45, fencing=_STONITH),
    _canary(take_an_unreachable_peer_for_dead, {"C8"}, 12, fencing=_STONITH),
)
