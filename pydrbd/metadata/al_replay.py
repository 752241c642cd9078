"""What an activity log says was hot when it was last written.

Transactions are applied from the oldest to the newest, each first with its context, then with its updates. A block
that does not check is skipped: if it is the one after the newest, it was torn by the crash and its transaction never
happened. Any other gap is a lost transaction; whether its slots are described again by the contexts of later ones
decides if the result can be relied on (`ReplayResult.complete`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydrbd.errors import MetaDataError
from pydrbd.metadata.al_transaction import (
    CONTEXT_SLOTS,
    FREE,
    TR_NUMBER_MODULUS,
    Transaction,
    decode_block,
    is_initialised,
    number_modulus,
    ring_block,
)

__all__ = ["ReplayResult", "replay"]


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The extents that were hot, ascending, and what the ring looked like."""

    extents: tuple[int, ...]
    transaction_count: int
    corrupt_count: int
    newest_tr_number: int | None
    complete: bool
    """Whether every slot's label is known, in spite of the blocks that are lost."""
    damage: str
    """Why nothing could be read; empty if something could (or there was nothing to read)."""


def replay(blocks: Sequence[bytes | memoryview], primary_indicator: bool, al_stripes: int = 1) -> ReplayResult:
    """Replay the blocks of a log, in the order in which they lie on disk.

    Without the primary indicator no write was under way, so an unreadable log is of no consequence: it is reported in
    `damage`. With it, an unreadable log raises MetaDataError.
    """
    count = len(blocks)
    assert count > 0 and al_stripes > 0 and count % al_stripes == 0
    ring = [blocks[ring_block(position, al_stripes, count // al_stripes)] for position in range(count)]
    decoded = [decode_block(block) for block in ring]
    initialised = [is_initialised(block) for block in ring]
    corrupt = [tr is None and not init for tr, init in zip(decoded, initialised, strict=True)]
    transactions = _in_order([tr for tr in decoded if tr is not None])
    if not transactions:
        # The very first transaction may have been torn; it would have been at the ring's first place.
        damage = "" if not any(corrupt[1:]) else _damage(all(corrupt), sum(corrupt), count)
        if damage and primary_indicator:
            raise MetaDataError(
                f"{damage}, but this node was Primary when it stopped, so what it wrote last is not known: "
                "invalidate this disk (a full sync from the peer), or create new meta-data"
            )
        return ReplayResult((), 0, sum(corrupt), None, not damage, damage)
    labels: dict[int, int] = {}
    for transaction in transactions:
        labels.update(enumerate(transaction.context, transaction.context_start))
        labels.update(transaction.updates)
    extents = sorted({extent for extent in labels.values() if extent != FREE})
    return ReplayResult(
        tuple(extents),
        len(transactions),
        sum(corrupt),
        transactions[-1].tr_number,
        _is_complete(transactions, decoded, initialised),
        "",
    )


def _damage(nothing_valid: bool, corrupt_count: int, count: int) -> str:
    if nothing_valid:
        return "no usable activity log: not one of its blocks is intact"
    return f"no usable activity log: {corrupt_count} of {count} blocks are damaged and the others hold no transaction"


def _distance(number: int, origin: int) -> int:
    """How far `number` is ahead of `origin`, as 32-bit numbers that wrap around."""
    half = TR_NUMBER_MODULUS >> 1
    return (number - origin + half) % TR_NUMBER_MODULUS - half


def _in_order(transactions: list[Transaction]) -> list[Transaction]:
    if not transactions:
        return []
    origin = transactions[0].tr_number
    return sorted(transactions, key=lambda transaction: _distance(transaction.tr_number, origin))


def _is_complete(transactions: list[Transaction], decoded: list[Transaction | None], initialised: list[bool]) -> bool:
    """Whether the contexts after the last lost transaction describe every slot."""
    count = len(decoded)
    oldest, newest = transactions[0], transactions[-1]
    lost_back = None
    for position, transaction in enumerate(decoded):
        back = (newest.tr_number - position) % count
        expected = (newest.tr_number - back) % number_modulus(count)
        if transaction is not None and transaction.tr_number == expected:
            continue
        if initialised[position] and _distance(oldest.tr_number, expected) > 0:
            continue  # not reached yet since the ring was initialised
        if back == count - 1 and transaction is None:
            continue  # the next in turn, torn; what it overwrote was the oldest, which the others make up for
        lost_back = back if lost_back is None else min(lost_back, back)
    if lost_back is None:
        return True
    described: set[int] = set()
    for transaction in transactions:
        if _distance(newest.tr_number, transaction.tr_number) < lost_back:
            described.update(range(transaction.context_start, transaction.context_start + CONTEXT_SLOTS))
    return described.issuperset(range(newest.context_size))
