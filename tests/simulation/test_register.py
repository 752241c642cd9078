"""The register checker: it must cry when a history has no explanation, and be silent when it has one."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.harness.checkers import Violation, fill, tags
from tests.harness.register import History, NotLinearizable, Register


def read(register: Register, op: int, value: int) -> None:
    register.begin_read(op)
    register.end_read(op, value)


def test_an_old_value_is_not_read_again() -> None:
    """A3: after an answered write, and after a read of a newer value, the older one is gone."""
    register = Register(0)
    register.begin_write(1, 1, 1)
    register.end_write(1, 2)
    with pytest.raises(NotLinearizable):
        read(register, 2, 0)
    register = Register(0)
    register.begin_write(1, 1, 1)
    read(register, 2, 0)
    read(register, 3, 1)
    with pytest.raises(NotLinearizable):
        read(register, 4, 0)


def test_an_unanswered_write_may_come_late_but_only_once() -> None:
    """A1: it stays possible; once it was seen and overwritten it does not come back."""
    register = Register(0)
    register.begin_write(1, 1, 1)
    register.begin_write(2, 2, 2)
    register.end_write(2, 3)
    read(register, 3, 2)
    read(register, 4, 1)
    register.begin_write(5, 5, 5)
    register.end_write(5, 6)
    read(register, 6, 5)
    with pytest.raises(NotLinearizable):
        read(register, 7, 1)


def test_power_loss_takes_only_what_no_flush_covers() -> None:
    """A4: the flushed write or a later one; never what was before it."""
    for lost, allowed in ((3, True), (2, True), (1, False), (0, False)):
        register = Register(0)
        for op in (1, 2, 3):
            register.begin_write(op, op, 2 * op)
            register.end_write(op, 2 * op + 1)
            if op == 2:
                register.flushed(6)
        register.lose_volatile()
        if allowed:
            read(register, 9, lost)
        else:
            with pytest.raises(NotLinearizable):
                read(register, 9, lost)


def test_fua_makes_a_write_durable_by_itself() -> None:
    """A4: an answered FUA write outlives power loss without a flush."""
    register = Register(0)
    register.begin_write(1, 1, 1)
    register.end_write(1, 2, durable=True)
    register.lose_volatile()
    assert register.values == {1}


def explained(history: list[tuple[str, int, int]]) -> bool:
    """By brute force: some order of the operations fits what was answered and what came before what."""
    spans: dict[int, list[int | float]] = {}
    for position, (kind, op, _) in enumerate(history):
        if kind in ("write", "read"):
            spans[op] = [position, float("inf")]
        else:
            spans[op][1] = position
    values = {op: value for kind, op, value in history if kind == "write"}
    seen = {op: value for kind, op, value in history if kind == "answer" and op not in values}
    must = [op for op in spans if spans[op][1] != float("inf")]
    may = [op for op in values if op not in must]
    for taken in itertools.chain.from_iterable(itertools.combinations(may, count) for count in range(len(may) + 1)):
        for order in itertools.permutations((*must, *taken)):
            place = {op: index for index, op in enumerate(order)}
            if any(spans[x][1] < spans[y][0] and place[x] > place[y] for x in order for y in order):
                continue
            current, good = 0, True
            for op in order:
                if op in values:
                    current = values[op]
                else:
                    good = good and seen[op] == current
            if good:
                return True
    return False


def test_it_agrees_with_brute_force() -> None:
    """On thousands of short histories, repeated values among them, it says what trying every order says."""
    rng = random.Random(1)
    verdicts = {True: 0, False: 0}
    for _ in range(3000):
        register, history, open_ops = Register(0), [], {}
        verdict = True
        for op in range(rng.randint(2, 5)):
            value = rng.choice((0, op + 1, 7))
            kind = rng.choice(("write", "read"))
            history.append((kind, op, value))
            open_ops[op] = (kind, value)
            if kind == "write":
                register.begin_write(op, value, len(history))
            else:
                register.begin_read(op)
            while open_ops and rng.random() < 0.6 and verdict:
                ended = rng.choice(sorted(open_ops))
                ended_kind, ended_value = open_ops.pop(ended)
                answer = rng.choice((0, 1, 2, 3, 4, 5, 7)) if ended_kind == "read" else ended_value
                history.append(("answer", ended, answer))
                try:
                    if ended_kind == "write":
                        register.end_write(ended, len(history))
                    else:
                        register.end_read(ended, answer)
                except NotLinearizable:
                    verdict = False
            if not verdict:
                break
        finished = [entry for entry in history if not (entry[0] == "read" and entry[1] in open_ops)]
        assert explained(finished) == verdict, finished
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 300


def test_a_read_under_way_when_power_is_lost_may_return_what_was_there_before() -> None:
    """Busy stories, 1997785914: a write beside it, which ended after the loss, left no way back to the old value."""
    register = Register(0)
    register.begin_read(1)
    register.begin_write(2, 2, 1)
    register.lose_volatile()
    register.end_write(2, 2)
    register.end_read(1, 0)
    register.begin_read(3)
    register.end_read(3, 2)


def test_a_block_is_followed_by_sectors_where_it_must() -> None:
    """A write to some sectors of a block, begun after one to all of them, splits it; both end in the right places."""
    history = History()
    for register, _ in history.cells(8, 8):
        register.begin_write(1, 1, 1)
    for register, _ in history.cells(10, 2):
        register.begin_write(2, 2, 2)
        register.end_write(2, 3)
    cells = history.cells(8, 8)
    assert [index for _, index in cells] == list(range(8))
    for register, _ in cells:
        register.end_write(1, 4)
    assert [register.values for register, _ in cells] == [{1}, {1}, {1, 2}, {1, 2}, {1}, {1}, {1}, {1}]


def test_tags_tell_what_was_written_and_what_was_not() -> None:
    """A5: whole sectors of a write, or zeros; a mixture inside a sector or a sector from elsewhere is no tag."""
    data = fill(7, 100, 2) + bytes(512)
    assert tags(100, data) == [7, 7, 0]
    with pytest.raises(Violation, match="A5"):
        tags(101, data)
    with pytest.raises(Violation, match="A5"):
        tags(100, data[:256] + fill(8, 100, 1)[256:])
