"""The activity log: its blocks, its writer, and that a replay finds what was hot, whatever the moment of the crash."""

from __future__ import annotations

import random
import struct

import crcmod
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pydrbd.metadata.activity_log import ActivityLog, Transaction, clean_ring, initial_ring, initialised_block, replay
from pydrbd.metadata.al_transaction import (
    FREE,
    decode_block,
    is_initialised,
    number_modulus,
    ring_block,
    slot_limit,
)
from tests.metadata.rings import SECTORS_PER_BLOCK, Ring

crc32c_zero = crcmod.mkCrcFun(0x11EDC6F41, initCrc=0, rev=True, xorOut=0)
GEOMETRIES = st.sampled_from([(1, 8), (2, 4), (4, 8), (3, 5)])


# --- blocks ---


def test_an_initialised_block_is_the_documented_one():
    """Magic, type 0xffff, everything else 0, and the checksum that drbdmeta writes."""
    block = initialised_block()
    assert block == struct.pack(">IIIH", 0x69CB65A2, 0, 0x709CC651, 0xFFFF).ljust(4096, b"\0")
    assert is_initialised(block) and decode_block(block) is None


def test_a_transaction_has_its_fields_at_the_documented_places():
    """Each field by offset, unused entries all ones, and the checksum by an independent implementation."""
    block = Transaction(7, ((1236, 3), (0, 99)), 1237, 919, (FREE, 5)).encode()
    assert struct.unpack_from(">II", block) == (0x69CB65A2, 7)
    assert struct.unpack_from(">HHHH", block, 12) == (0, 2, 1237, 919)
    assert block[20:36] == bytes(16)
    assert struct.unpack_from(">3H", block, 36) == (1236, 0, 0xFFFF)
    assert struct.unpack_from(">3I", block, 164) == (3, 99, FREE)
    assert struct.unpack_from(">3I", block, 420) == (FREE, 5, FREE)
    assert block[-4:] == b"\xff" * 4
    blank = block[:8] + bytes(4) + block[12:]
    assert struct.unpack_from(">I", block, 8)[0] == crc32c_zero(blank)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(0, 65533), st.integers(0, 2**32 - 1)), max_size=64),
    st.integers(0, 65534),
    st.lists(st.integers(0, 2**32 - 1), max_size=40),
)
@settings(max_examples=50)
def test_a_transaction_survives_encoding(number, updates, start, context):
    """decode(encode(x)) == x, with the context filled up with free slots."""
    written = Transaction(number, tuple(updates), 65534, start, tuple(context))
    read = decode_block(written.encode())
    assert read == Transaction(number, tuple(updates), 65534, start, tuple(context) + (FREE,) * (919 - len(context)))


@given(st.integers(0, 4095), st.integers(1, 255))
@settings(max_examples=50)
def test_a_changed_byte_is_noticed(offset, change):
    """Any single damaged byte makes the block invalid."""
    block = bytearray(Transaction(7, ((1, 3),), 5, 0, (1, 2, 3)).encode())
    block[offset] ^= change
    assert decode_block(bytes(block)) is None and not is_initialised(bytes(block))


def test_transactions_go_round_the_ring_stripe_by_stripe():
    """Four stripes of eight: consecutive transactions on different stripes, each stripe filled in order."""
    assert [ring_block(number, 4, 8) for number in (0, 1, 2, 3, 4, 31, 32)] == [0, 8, 16, 24, 1, 31, 0]
    assert sorted(ring_block(number, 3, 5) for number in range(15)) == list(range(15))


def test_the_slot_limit_is_the_kernels():
    """One block may be torn; the others must describe every slot."""
    assert (slot_limit(8), slot_limit(1 << 20)) == (6433, 65534)


# --- the writer ---


def test_free_slots_are_handed_out_from_the_highest_down():
    """As the kernel does: the first extent gets slot 1236 of 1237."""
    log = ActivityLog(1237)
    plan = log.plan([5, 6], 0)
    assert plan is not None and plan.slots == (1236, 1235) and plan.ring_offset_bytes == 0
    assert decode_block(plan.block).updates == ((1236, 5), (1235, 6))


def test_nothing_is_hot_before_the_commit():
    """A plan that waits for the disk has not made anything hot."""
    log = ActivityLog(10)
    plan = log.plan([5, 6], 0)
    assert log.missing([5, 6, 7]) == [5, 6, 7]
    log.commit(plan)
    assert log.missing([5, 6, 7]) == [7]
    assert log.hot_extents() == {5, 6}


def test_the_least_recently_used_of_released_epochs_goes_first():
    """Not the oldest entry but the longest unused; nothing of an open epoch."""
    ring = Ring(4)
    ring.add([1, 2, 3, 4], 0, epoch=1)
    ring.log.touch([1], 1)
    ring.log.touch([3], 2)
    assert [ring.add([extent], 1, epoch=3).evicted for extent in (10, 11, 12)] == [(2,), (4,), (1,)]
    assert ring.log.plan([13], 1) is None
    assert ring.log.hot_extents() == {3, 10, 11, 12}


def test_what_a_pending_plan_evicts_is_cold_at_once():
    """A write to it must not be let through: its entry is gone once the block is written."""
    ring = Ring(2)
    ring.add([1, 2], 0, epoch=1)
    plan = ring.log.plan([3], 1)
    assert plan.evicted == (1,)
    assert ring.log.missing([1, 2, 3]) == [1, 3]
    with pytest.raises(AssertionError):
        ring.log.plan([4], 1)
    ring.log.abandon(plan)
    assert ring.log.missing([1, 2, 3]) == [3]
    assert ring.log.plan([3], 1) == plan


def test_what_is_released_but_not_ready_stays():
    """The peer has it, our own disk has it only in its cache: such an extent is passed over, and is no room."""
    ring = Ring(4)
    ring.add([1, 2], 0, epoch=1)
    ring.add([3], 0, epoch=2)
    assert [ring.log.room(ready, 9) for ready in (0, 1, 2)] == [1, 3, 4] and ring.log.room(2, 2) == 2
    assert ring.log.plan([4, 5, 6, 7], 2, 1) is None
    plan = ring.log.plan([4, 5, 6], 2, 1)
    assert plan.evicted == (1, 2)
    ring.log.commit(plan)
    assert ring.log.plan([8], 2) is not None, "what came in is not the first to go"
    assert ring.log.hot_extents() == {4, 5, 6}


def test_more_than_64_cold_extents_are_planned_64_at_a_time():
    """A transaction has room for 64 updates."""
    ring = Ring(200)
    cold = list(range(100))
    assert ring.add(cold, 0, epoch=1).added == tuple(range(64))
    assert ring.add(ring.log.missing(cold), 0, epoch=1).added == tuple(range(64, 100))
    assert not ring.log.missing(cold)
    statistics = ring.log.statistics()
    assert (statistics.hot_count, statistics.free_count, statistics.transaction_count) == (100, 100, 2)


def test_context_windows_cover_the_slots_in_turn():
    """Starts 0, 919, 0, 919 with 1237 slots; labels as they were before the transaction's own updates."""
    ring = Ring(1237)
    blocks = [decode_block(ring.add([extent], 0, epoch=1).block) for extent in range(4)]
    assert [block.context_start for block in blocks] == [0, 919, 0, 919]
    assert [block.tr_number for block in blocks] == [0, 1, 2, 3]
    assert blocks[1].context[1236 - 919] == 0 and blocks[1].context[1235 - 919] == FREE
    assert blocks[3].context[1234 - 919 : 1237 - 919] == (2, 1, 0)


def test_the_initial_ring_is_a_kernels():
    """n empty updates, numbered, with advancing windows; then the writer goes on with number n."""
    ring = Ring(1237, tr_number=8)
    ring.disk[:] = b"".join(initial_ring(1237))
    blocks = [decode_block(block) for block in ring.blocks()]
    assert [(block.tr_number, block.updates, block.context_start) for block in blocks] == [
        (number, (), 919 * (number % 2)) for number in range(8)
    ]
    assert ring.replay().extents == ()
    assert ring.add([4], 0, epoch=1).ring_offset_bytes == 0
    assert ring.replay().extents == (4,)


# --- writer and replay together ---

STEPS = st.lists(
    st.tuples(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True), st.integers(0, 3)), max_size=25
)


@given(GEOMETRIES, st.integers(3, 12), STEPS, st.booleans())
@settings(max_examples=60)
def test_a_replay_finds_the_hot_set_after_every_step(geometry, slots, steps, wraps):
    """Whatever is touched, planned, evicted and committed, also when the transaction's number wraps."""
    block_count = geometry[0] * geometry[1]
    ring = Ring(slots, *geometry, number_modulus(block_count) - block_count if wraps else 0)
    for epoch, (extents, lag) in enumerate(steps, start=1):
        cold = ring.log.missing(extents)
        ring.log.touch([extent for extent in extents if extent not in cold], epoch)
        if cold:
            ring.add(cold, epoch - 1 - lag, epoch)
        result = ring.replay()
        assert set(result.extents) == ring.log.hot_extents()
        assert result.complete and result.corrupt_count == 0


@given(GEOMETRIES, st.integers(3, 12), STEPS, st.integers(0, 255))
@settings(max_examples=60)
def test_a_torn_block_is_the_whole_transaction_or_none(geometry, slots, steps, sectors):
    """Any subset of the newest block's sectors: a replay finds the set before it or the set after it, for certain."""
    ring = Ring(slots, *geometry)
    for epoch, (extents, lag) in enumerate(steps, start=1):
        before = ring.log.hot_extents()
        cold = ring.log.missing(extents)
        ring.log.touch([extent for extent in extents if extent not in cold], epoch)
        plan = ring.log.plan(cold, epoch - 1 - lag) if cold else None
        if plan is None:
            continue
        whole = bytes(ring.disk)
        ring.write(plan, sectors)
        result = ring.replay()
        after = (before - set(plan.evicted)) | set(plan.added)
        assert set(result.extents) in (before, after)
        assert result.complete
        if sectors in (0, 255):
            assert set(result.extents) == (after if sectors else before)
        ring.disk[:] = whole
        ring.write(plan)
        ring.log.commit(plan)
        ring.log.touch(plan.added, epoch)


@pytest.mark.parametrize(("geometry", "slots"), [((1, 8), 6433), ((4, 8), 20000), ((1, 8), 1237)])
def test_a_long_run_with_many_windows_replays_at_every_step(geometry, slots, seed):
    """The largest log for its ring, twice round and more, with a torn next block at every step."""
    chance = random.Random(seed)
    ring = Ring(slots, *geometry)
    extent_count = slots + 500
    for epoch in range(1, 140):
        cold = ring.log.missing(dict.fromkeys(chance.randrange(extent_count) for _ in range(64)))
        plan = ring.log.plan(cold, epoch - 1)
        if epoch % 7 == 0:
            before = ring.log.hot_extents() | set(plan.evicted)
            ring.write(plan, chance.randrange(1, 1 << SECTORS_PER_BLOCK) & ~1)
            result = ring.replay()
            assert set(result.extents) == before and result.complete
        ring.write(plan)
        ring.log.commit(plan)
        ring.log.touch(plan.added, epoch)
    result = ring.replay()
    assert set(result.extents) == ring.log.hot_extents()
    assert result.newest_tr_number == 138


# --- damaged logs ---


def written(numbers) -> list[bytes]:
    """Transactions as they lie in a ring of 8: slot 1236 - n gets extent n."""
    blocks = [initialised_block()] * 8
    for number in numbers:
        blocks[number % 8] = Transaction(number, ((1236 - number, number),), 1237, 0, ()).encode()
    return blocks


def test_an_untouched_ring_says_that_nothing_was_hot():
    """All initialised; or the very first transaction was torn."""
    for blocks in ([initialised_block()] * 8, [bytes(4096)] + [initialised_block()] * 7):
        result = replay(blocks, primary_indicator=True)
        assert result.extents == () and result.complete and not result.damage


@pytest.mark.parametrize("damaged", [range(8), range(1, 8), [1], [7]])
def test_a_ring_without_a_transaction_that_is_damaged_stops_a_former_primary(damaged):
    """Nothing is known then; a node that was not Primary needs nothing of it."""
    blocks = [bytes(4096) if index in damaged else initialised_block() for index in range(8)]
    with pytest.raises(Exception, match="invalidate this disk"):
        replay(blocks, primary_indicator=True)
    result = replay(blocks, primary_indicator=False)
    assert "no usable activity log" in result.damage and not result.complete


def test_a_lost_transaction_is_harmless_once_later_contexts_describe_its_slots():
    """The windows of two later transactions cover all slots, of one they don't; the newest just never happened."""
    ring = Ring(1237)
    for extent in range(6):
        ring.add([extent], 0, epoch=1)
    for lost, complete in ((2, True), (3, True), (4, False), (5, True)):
        blocks = ring.blocks()
        blocks[lost] = bytes(4096)
        result = replay(blocks, primary_indicator=True)
        assert result.complete is complete, lost
        assert result.corrupt_count == 1
        if complete:
            assert result.extents == tuple(range(5 if lost == 5 else 6))


def test_a_write_that_never_reached_the_disk_is_noticed():
    """An older transaction where a newer one should lie, or none at all: the disk has lied."""
    stale = written(range(8))
    stale[2] = initialised_block()
    assert not replay(stale, primary_indicator=True).complete
    older = written(range(8, 16))
    older[5] = written(range(8))[5]
    assert not replay(older, primary_indicator=True).complete
    assert replay(written(range(8, 16)), primary_indicator=True).complete


def test_the_newest_is_found_across_the_wrap_of_the_number():
    """0xffffffff is older than 0: the slot's later label wins."""
    blocks = [initialised_block()] * 8
    for number, extent in ((0xFFFFFFFE, 1), (0xFFFFFFFF, 2), (0, 3)):
        blocks[number % 8] = Transaction(number, ((7, extent),), 10, 0, ()).encode()
    result = replay(blocks, primary_indicator=True)
    assert result.extents == (3,) and result.newest_tr_number == 0


def test_a_clean_ring_is_initialised_blocks():
    """What apply-al and create-md leave behind."""
    assert clean_ring(3) == initialised_block() * 3
