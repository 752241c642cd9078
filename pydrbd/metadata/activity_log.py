"""The writer of the activity log: which extents are hot, and the transaction that makes cold ones hot.

An extent (4 MiB) must be hot, that is in the durable log, before a write to it reaches the data area; after a crash
the log tells which extents may differ from the peer's. The set is as large as the log has slots. What has not been
used for longest makes room, provided that everything written to it is known to the peer: its last use lies in an epoch
that has been released.

    missing() -> plan() -> [bitmap pages of the evicted extents durable] -> [block durable] -> commit() -> touch()

From plan() on the evicted extents count as cold (a write that came now would outlive their entry), while on disk they
stay until the block is written; the added ones are hot from commit() on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydrbd.limits import AL_UPDATES_PER_TRANSACTION
from pydrbd.metadata.al_replay import ReplayResult, replay
from pydrbd.metadata.al_transaction import (
    CONTEXT_SLOTS,
    FREE,
    LABEL,
    Transaction,
    context_starts,
    encode_block,
    initialised_block,
    number_modulus,
    ring_block,
    slot_limit,
)
from pydrbd.units import MD_BLOCK_SIZE_BYTES

__all__ = [
    "ActivityLog",
    "AlStatistics",
    "Plan",
    "ReplayResult",
    "Transaction",
    "clean_ring",
    "initial_ring",
    "initialised_block",
    "replay",
    "slot_limit",
]


@dataclass(frozen=True, slots=True)
class Plan:
    """A transaction that is to become durable: `block` at `ring_offset_bytes` from the start of the log's area."""

    block: bytes
    ring_offset_bytes: int
    evicted: tuple[int, ...]
    """Extents that lose their slots: their changed bitmap pages must be durable before the block is written."""
    added: tuple[int, ...]
    tr_number: int
    slots: tuple[int, ...]
    """Where each of `added` goes."""
    evicted_uses: tuple[int, ...]
    """The last use of each of `evicted`, for `abandon`."""
    released_epoch: int


@dataclass(frozen=True, slots=True)
class AlStatistics:
    """Numbers for `status`."""

    slot_count: int
    hot_count: int
    free_count: int
    transaction_count: int
    eviction_count: int
    tr_number: int


class ActivityLog:
    """The hot set and the ring's position. Pure: the caller writes what `plan` returns and then calls `commit`."""

    __slots__ = (
        "_al_stripe_size_4k",
        "_al_stripes",
        "_context_start",
        "_eviction_count",
        "_free",
        "_hot",
        "_labels",
        "_last_use",
        "_pending",
        "_slot_count",
        "_slot_of",
        "_tr_number",
        "_transaction_count",
    )

    def __init__(self, slot_count: int, al_stripes: int = 1, al_stripe_size_4k: int = 8, tr_number: int = 0) -> None:
        """An empty set; the next transaction gets `tr_number` (as many as `initial_ring` wrote, else 0)."""
        limit = slot_limit(al_stripes * al_stripe_size_4k)
        assert 1 <= slot_count <= limit, f"{slot_count} slots: the log has room for 1 to {limit}"
        self._al_stripes = al_stripes
        self._al_stripe_size_4k = al_stripe_size_4k
        self._tr_number = tr_number
        starts = list(context_starts(slot_count))
        self._context_start = starts[tr_number % len(starts)]
        self._slot_count = slot_count
        # as on disk, so that a transaction copies its context instead of packing 919 numbers
        self._labels = bytearray(LABEL.pack(FREE) * slot_count)
        self._free = list(range(slot_count))
        self._slot_of: dict[int, int] = {}
        # extent -> epoch of its last use, least recently used first
        self._last_use: OrderedDict[int, int] = OrderedDict()
        self._hot = bytearray()
        self._pending: Plan | None = None
        self._transaction_count = 0
        self._eviction_count = 0

    @property
    def slot_count(self) -> int:
        return self._slot_count

    def missing(self, extents: Iterable[int]) -> list[int]:
        """Those that are not hot, in the order given."""
        last_use = self._last_use
        return [extent for extent in extents if extent not in last_use]

    def touch(self, extents: Iterable[int], epoch: int) -> None:
        """Record a use of hot extents in this epoch: they stay hot until it is released."""
        last_use = self._last_use
        for extent in extents:
            last_use.move_to_end(extent)
            last_use[extent] = epoch

    def plan(self, cold: Sequence[int], released_epoch: int, ready_epoch: int | None = None) -> Plan | None:
        """The transaction for the first 64 of `cold` (distinct, none hot), or None if too few slots can be had.

        An extent may be evicted if its last use lies in an epoch up to `released_epoch`, and up to `ready_epoch`, if
        that is given. Only one plan at a time: it ends with `commit` or `abandon`.
        """
        last = released_epoch if ready_epoch is None else min(released_epoch, ready_epoch)
        assert self._pending is None, "a transaction is already under way"
        added = tuple(cold[:AL_UPDATES_PER_TRANSACTION])
        assert added and len(set(added)) == len(added) and not any(extent in self._last_use for extent in added)
        free = self._free[len(self._free) - min(len(self._free), len(added)) :][::-1]
        evicted = self._evictable(len(added) - len(free), last)
        if evicted is None:
            return None
        slots = (*free, *(self._slot_of[extent] for extent in evicted))
        plan = Plan(
            self._encode(tuple(zip(slots, added, strict=True))),
            ring_block(self._tr_number, self._al_stripes, self._al_stripe_size_4k) * MD_BLOCK_SIZE_BYTES,
            evicted,
            added,
            self._tr_number,
            slots,
            tuple(self._last_use[extent] for extent in evicted),
            released_epoch,
        )
        for extent in evicted:
            del self._last_use[extent]
            self._hot[extent >> 3] &= ~(1 << (extent & 7))
        self._pending = plan
        return plan

    def commit(self, plan: Plan) -> None:
        """The plan's block is durable: its extents are hot, as if used just after the epoch it was planned in."""
        assert plan is self._pending, "this is not the transaction under way"
        self._pending = None
        for extent in plan.evicted:
            del self._slot_of[extent]
        for slot, extent in zip(plan.slots, plan.added, strict=True):
            LABEL.pack_into(self._labels, slot * LABEL.size, extent)
            self._slot_of[extent] = slot
            self._last_use[extent] = plan.released_epoch + 1
            self._heat(extent)
        del self._free[len(self._free) - (len(plan.added) - len(plan.evicted)) :]
        self._turn()
        self._transaction_count += 1
        self._eviction_count += len(plan.evicted)

    def rewrite(self) -> bytes:
        """The whole ring for another place: transactions that change nothing, whose contexts name every hot extent.

        As a kernel writes it after a change of size. There must be no transaction under way.
        """
        assert self._pending is None, "a transaction is under way: it would be missing"
        blocks = [b""] * (self._al_stripes * self._al_stripe_size_4k)
        for _ in range(len(blocks)):
            blocks[ring_block(self._tr_number, self._al_stripes, self._al_stripe_size_4k)] = self._encode(())
            self._turn()
        return b"".join(blocks)

    def restripe(self, al_stripes: int, al_stripe_size_4k: int) -> None:
        """Go on in a ring of another shape, which `rewrite` fills; what is hot stays so. It must have enough room."""
        assert self._pending is None, "a transaction is under way"
        assert self._slot_count <= slot_limit(al_stripes * al_stripe_size_4k), "the ring is too short for the slots"
        self._al_stripes, self._al_stripe_size_4k = al_stripes, al_stripe_size_4k
        self._tr_number = self._context_start = 0

    def _turn(self) -> None:
        """On to the next block of the ring and the next piece of the context."""
        self._tr_number = (self._tr_number + 1) % number_modulus(self._al_stripes * self._al_stripe_size_4k)
        self._context_start += CONTEXT_SLOTS
        if self._context_start >= self._slot_count:
            self._context_start = 0

    def abandon(self, plan: Plan) -> None:
        """The plan's block has certainly not been written: all is as before `plan`.

        If it may have been written, the evicted extents may be gone from the log: give up the disk instead.
        """
        assert plan is self._pending, "this is not the transaction under way"
        self._pending = None
        for extent, epoch in reversed(tuple(zip(plan.evicted, plan.evicted_uses, strict=True))):
            self._last_use[extent] = epoch
            self._last_use.move_to_end(extent, last=False)
            self._heat(extent)

    def _heat(self, extent: int) -> None:
        self._grow(extent + 1)
        self._hot[extent >> 3] |= 1 << (extent & 7)

    def _grow(self, extent_count: int) -> None:
        missing = -(-extent_count // 8) - len(self._hot)
        if missing > 0:
            self._hot.extend(bytes(missing))

    def hot_map(self, extent_count: int) -> bytearray:
        """The hot extents as bits, for at least so many extents: the log's own, to look at until the next `plan`."""
        self._grow(extent_count)
        return self._hot

    def hot_extents(self) -> frozenset[int]:
        """The extents that a write may go to without a transaction."""
        return frozenset(self._last_use)

    def statistics(self) -> AlStatistics:
        """A look inside."""
        return AlStatistics(
            self._slot_count,
            len(self._last_use),
            len(self._free),
            self._transaction_count,
            self._eviction_count,
            self._tr_number,
        )

    def room(self, ready_epoch: int, most: int) -> int:
        """How many extents could come in, of at most so many: slots that are free, or whose last use was by then."""
        found = min(len(self._free), most)
        for epoch in self._last_use.values():
            if found >= most:
                break
            found += epoch <= ready_epoch
        return found

    def in_use_count(self, released_epoch: int) -> int:
        """How many extents were last used in an epoch that is not released, and so can't make room."""
        count = 0
        for epoch in reversed(self._last_use.values()):
            if epoch <= released_epoch:
                break
            count += 1
        return count

    def _evictable(self, count: int, released_epoch: int) -> tuple[int, ...] | None:
        """`count` extents that may go, least recently used first; None if there are not as many."""
        found: list[int] = []
        if count:
            for extent, epoch in self._last_use.items():
                if epoch <= released_epoch:
                    found.append(extent)
                    if len(found) == count:
                        break
            else:
                return None
        return tuple(found)

    def _encode(self, updates: tuple[tuple[int, int], ...]) -> bytes:
        start = self._context_start
        context = self._labels[start * LABEL.size : (start + CONTEXT_SLOTS) * LABEL.size]
        return encode_block(self._tr_number, updates, self._slot_count, start, context)


def initial_ring(slot_count: int, al_stripes: int = 1, al_stripe_size_4k: int = 8) -> list[bytes]:
    """The whole ring as empty transactions 0, 1, ..., in the order of the blocks on disk.

    A kernel writes this at the first attach of fresh meta-data and after every change of size. The writer then goes on
    with tr_number = the number of blocks.
    """
    count = al_stripes * al_stripe_size_4k
    starts = list(context_starts(slot_count))
    blocks = [b""] * count
    for number in range(count):
        transaction = Transaction(number, (), slot_count, starts[number % len(starts)], ())
        blocks[ring_block(number, al_stripes, al_stripe_size_4k)] = transaction.encode()
    return blocks


def clean_ring(block_count: int) -> bytes:
    """The whole ring as create-md and apply-al leave it."""
    return initialised_block() * block_count
