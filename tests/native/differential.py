"""C beside its Python twins, by the million: plain draws, less wily than Hypothesis' and a hundred times as many.

    python -m tests.native.soak --cases 10000000        (make soak CASES=10000000)

A case is one call of C whose answer, and what it left in memory, is compared with the twin's.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

from pydrbd import native, reference
from pydrbd.errors import PydrbdError
from pydrbd.native import E_CODE
from pydrbd.reference import Record
from tests.native.strategies import U64, batch_of, exact, records_of

__all__ = ["DRAWS", "some", "work"]

MEMBERS_MAX = 5
PAYLOAD_MAX = 2000
_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 77)
_PACKETS = (*range(0x38), 0xFFF1, 0xFFFE)


def _bits(draw: random.Random) -> bytes:
    """A bitmap with runs in it."""
    return b"".join(
        draw.choice((bytes(count), b"\xff" * count, draw.randbytes(count))) for count in draw.choices(range(12), k=4)
    )


def _member(draw: random.Random) -> Record:
    far = draw.random() < 0.2
    return Record(
        offset=draw.getrandbits(64) if far else draw.randrange(40) * draw.choice((512, 4096, 4 << 20)),
        id=draw.getrandbits(64),
        data=draw.randrange(100),
        length=draw.getrandbits(32) if far else draw.choice((0, 1, 512, 4096, 12288, 5 << 20)),
        seq=draw.getrandbits(32),
        flags=draw.choice((0, 1, 2, 3, draw.getrandbits(32))),
        command=draw.choice(_COMMANDS),
        volume=draw.getrandbits(16),
        digest=draw.randrange(65),
        block=draw.getrandbits(32),
    )


def bitmaps(draw: random.Random) -> int:
    """Sums, counts and searches; then changes."""
    data = _bits(draw)
    end = draw.randint(0, 8 * len(data))
    first = draw.randint(0, end)
    bits, count = exact(data), end - first
    assert native.crc32c_raw(bits, first) == reference.crc32c_raw(data, first) == native.crc32c_table(bits, first)
    assert native.bitmap_count(bits, first, count) == reference.bitmap_count(data, first, count)
    assert native.bitmap_find_set(bits, first, end) == reference.bitmap_find_set(data, first, end)
    assert native.bitmap_find_clear(bits, first, end) == reference.bitmap_find_clear(data, first, end)
    changes = ((native.bitmap_set, reference.bitmap_set), (native.bitmap_clear, reference.bitmap_clear))
    for change, twin in changes:
        mine, its = exact(data), bytearray(data)
        assert change(mine, first, count) == twin(its, first, count)
        assert mine == its
    source = draw.randbytes(len(data))
    mine, its = exact(data), bytearray(data)
    assert native.bitmap_merge(mine, exact(source)) == reference.bitmap_merge(its, source)
    assert mine == its
    return 8


def run_lengths(draw: random.Random) -> int:
    """A bitmap's code; and any bytes in place of one."""
    data = _bits(draw)
    end = draw.randint(0, 8 * len(data))
    first, room = draw.randint(0, end), draw.randint(8, 40)  # a run may need as much as 8
    code = native.vli_encode(exact(data), end, first, room)
    assert tuple(code) == tuple(reference.vli_encode(data, end, first, room))
    words = [(code.code, code.pad)]
    words.append((draw.randbytes(draw.randrange(12)), draw.randrange(8)))
    words.append((bytes(draw.choices((0, 0xFF, 0x3F, 0x7F, 0xBF), k=draw.randrange(9))), draw.randrange(8)))
    for word, pad in words:
        mine, its, polarity = exact(data), bytearray(data), draw.randrange(2)
        position, newly_set = native.vli_decode(mine, end, first, exact(word), pad, polarity)
        expected, its_newly_set = reference.vli_decode(its, end, first, word, pad, polarity)
        assert (position, newly_set) == (E_CODE if expected is None else expected, its_newly_set)
        assert mine == its
    return 1 + len(words)


def questions(draw: random.Random) -> int:
    """What is asked about a batch's members, whichever of them are meant."""
    members = [_member(draw) for _ in range(draw.randrange(MEMBERS_MAX + 1))]
    batch, everybody = batch_of(members), (1 << len(members)) - 1
    cases = 0
    for mask in (everybody, draw.getrandbits(64) & everybody):
        number, capacity = draw.choice((512, 4096, draw.getrandbits(32))), draw.choice((0, 1 << 20, U64))
        both: tuple[tuple[Callable[..., Any], Callable[..., Any], tuple[int, ...]], ...] = (
            (native.records_out_of_bounds, reference.records_out_of_bounds, (capacity,)),
            (native.records_unaligned, reference.records_unaligned, (1 << draw.randrange(32),)),
            (native.records_longer, reference.records_longer, (number,)),
            (native.records_with_command, reference.records_with_command, (draw.choice(_COMMANDS),)),
            (native.records_with_flags, reference.records_with_flags, (draw.choice((1, 2, 3, number)),)),
            (native.records_empty, reference.records_empty, ()),
            (native.records_length_sum, reference.records_length_sum, ()),
            (native.nbd_commands, reference.nbd_commands, ()),
            (native.nbd_replies, reference.nbd_replies, (draw.choice((0, 5, number)),)),
        )
        for ours, twin, more in both:
            assert ours(batch, mask, *more) == twin(members, mask, *more), ours
        cases += len(both)
        if not reference.records_out_of_bounds(members, mask, U64):
            other = draw.getrandbits(64) & everybody & ~reference.records_out_of_bounds(members, everybody, U64)
            overlaps = native.records_overlap(batch, other, batch, mask)
            assert overlaps == reference.records_overlap(members, other, members, mask)
            assert native.records_overlap_self(batch, mask) == reference.records_overlap_self(members, mask)
            cases += 2
    return cases


def marks(draw: random.Random) -> int:
    """Which blocks a batch's members touch and cover."""
    members = [_member(draw) for _ in range(draw.randrange(MEMBERS_MAX + 1))]
    for member in members:  # the twin counts blocks one by one
        member.length = min(member.length, 1 << 20)
    batch, everybody = batch_of(members), (1 << len(members)) - 1
    data, mask = _bits(draw), draw.getrandbits(64) & everybody
    bit_count = draw.randint(0, 8 * len(data))
    assert native.records_dirty(exact(data), bit_count, batch, mask) == reference.records_dirty(
        data, bit_count, members, mask
    )
    mine, its = exact(data), bytearray(data)
    newly = native.bitmap_set_records(mine, bit_count, batch, mask)
    assert newly == reference.bitmap_set_records(its, bit_count, members, mask) and mine == its
    mine, its = exact(data), bytearray(data)
    capacity = max(0, 8 * len(data) * 4096 - draw.randrange(8) * 512)
    newly = native.bitmap_clear_records(mine, 8 * len(data), capacity, batch, mask)
    assert newly == reference.bitmap_clear_records(its, 8 * len(data), capacity, members, mask) and mine == its
    mask &= ~reference.records_out_of_bounds(members, mask, 1 << 54)  # 16 PiB: no disk of DRBD's is larger
    assert native.records_extents(batch, mask) == reference.records_extents(members, mask)
    return 4


def _outcome(taken: Callable[[], Any]) -> Any:
    try:
        return taken()
    except PydrbdError as error:
        return type(error)


def _packet(draw: random.Random, format: int) -> bytes:
    command = draw.choice(_PACKETS)
    size = draw.choice((0, 512, 4096, draw.getrandbits(32)))
    payload = struct.pack(">QQII", draw.randrange(1 << 20), draw.getrandbits(64), size, draw.getrandbits(32))
    payload += bytes(draw.choice((0, 4, 20, 512, 516)))
    payload = payload[: draw.choice((0, 16, 20, 24, len(payload), len(payload)))]
    if format == 100:
        return struct.pack(">IHHII", 0x8620EC20, draw.randrange(3), command, len(payload), 0) + payload
    if format == 95 and draw.random() < 0.5:
        return struct.pack(">HHI", 0x835A, command, len(payload)) + payload
    return struct.pack(">IHH", 0x83740267, command, len(payload)) + payload


def _spoilt(draw: random.Random, stream: bytes) -> bytes:
    """One byte another one, or the end missing, or neither."""
    if stream and draw.random() < 0.5:
        at = draw.randrange(min(len(stream), 40)) if draw.random() < 0.5 else draw.randrange(len(stream))
        stream = stream[:at] + draw.randbytes(1) + stream[at + 1 :]
    return stream[: draw.randrange(len(stream) + 1)] if draw.random() < 0.3 else stream


def frames(draw: random.Random) -> int:
    """Streams of a peer and of a client, from one place to another."""
    format, digest = draw.choice((80, 95, 100)), draw.choice((0, 4))
    said = _spoilt(draw, b"".join(_packet(draw, format) for _ in range(draw.randrange(4))))
    requests = b"".join(
        struct.pack(
            ">IHHQQI", 0x25609513, draw.randrange(4), command := draw.choice(_COMMANDS), draw.getrandbits(64),
            draw.getrandbits(40), length := draw.choice((0, 5, 60, PAYLOAD_MAX + 1)),
        ) + bytes(length if command == 1 else 0)
        for _ in range(draw.randrange(4))
    )  # fmt: skip
    asked = _spoilt(draw, requests)
    start = draw.choice((0, 0, draw.randrange(30)))
    ours: Callable[..., Any]
    for stream, ours, twin, more in (
        (said, native.drbd_split, reference.drbd_split, (format, digest, PAYLOAD_MAX, 64)),
        (asked, native.nbd_split, reference.nbd_split, (PAYLOAD_MAX,)),
    ):
        begin, memory = min(start, len(stream)), exact(stream)
        split = _outcome(
            lambda ours=ours, memory=memory, begin=begin, more=more: ours(memory, begin, len(memory), *more)
        )
        its = _outcome(lambda twin=twin, stream=stream, begin=begin, more=more: twin(stream, begin, len(stream), *more))
        mine = (records_of(split[0]), *split[1:]) if isinstance(split, tuple) else split
        assert mine == its, (ours, stream, begin, more)
    return 2


DRAWS = (bitmaps, run_lengths, questions, marks, frames)


def some(draw: random.Random) -> int:
    """One round of each kind; how many cases these were."""
    return sum(one(draw) for one in DRAWS)


def work(seed: int, cases: int) -> None:
    """So many cases, and a line about them. What fails names its seed."""
    done = rounds = 0
    while done < cases:
        try:
            done += some(random.Random(f"differential/{seed}/{rounds}"))
        except BaseException:
            print(f"seed {seed}, round {rounds}: random.Random('differential/{seed}/{rounds}')", flush=True)
            raise
        rounds += 1
        if rounds % 20_000 == 0:
            print(f"seed {seed}: {done} cases", flush=True)
    print(f"seed {seed}: {done} cases in {rounds} rounds: C did as its twins", flush=True)
