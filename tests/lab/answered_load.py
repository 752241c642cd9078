"""A client in a guest that writes down what has been answered; and what the disks must hold then.

    python -m tests.lab.answered_load SOCKET EXPORT FILE    carries out a plan (load.py), read from stdin

FILE gets the number of each operation when its answer has come. WINDOW of them may be under way, in the order of the
plan; those do not overlap, and a flush is under way alone.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from functools import partial
from pathlib import Path

from pydrbd.admin.nbd_client import NbdClient
from pydrbd.wire.nbd import Command, CommandFlag
from tests.lab import load
from tests.lab.load import SECTOR, Op, Plan

WINDOW = 8
_LENGTHS = (512, 4096, 4096, 8192, 16384)
_NEAR_BYTES = 4 << 20


def draw_plan(draw: random.Random, size_bytes: int, count: int) -> Plan:
    """Writes all over the device and beside each other, now and then one with FUA, or a flush."""
    plan: Plan = []
    while len(plan) < count:
        kind = draw.choice(["write"] * 16 + ["fua", "flush"])
        if kind == "flush":
            plan.append(Op("flush"))
            continue
        length = draw.choice(_LENGTHS)
        near = draw.choice(plan).offset_bytes if plan and draw.random() < 0.5 else draw.randrange(size_bytes)
        offset = (near + draw.randrange(_NEAR_BYTES)) // SECTOR * SECTOR
        op = Op(kind, min(offset, size_bytes - length), length, draw.getrandbits(32))
        if not any(_overlap(op, other) for other in plan[-WINDOW:]):
            plan.append(op)
    return plan


def _overlap(one: Op, other: Op) -> bool:
    return (
        one.offset_bytes < other.offset_bytes + other.length_bytes
        and other.offset_bytes < one.offset_bytes + one.length_bytes
    )


class Register:
    """Every sector's history, by the plan: what may be there when these operations were answered."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._writes: dict[int, list[int]] = {}
        self._contents: dict[int, bytes] = {}
        for number, op in enumerate(plan):
            for sector in _sectors(op):
                self._writes.setdefault(sector, []).append(number)

    @staticmethod
    def answered(text: str) -> set[int]:
        """What the file says; a line that is not whole does not count."""
        return {int(line) for line in text.split("\n")[:-1]}

    def durable(self, answered: set[int]) -> set[int]:
        """Those that no power failure may take: FUA, and all before an answered flush."""
        flushed = max((number for number in answered if self.plan[number].kind == "flush"), default=-1)
        return {number for number in answered if number < flushed or self.plan[number].kind == "fua"}

    def sectors(self, operations: set[int]) -> set[int]:
        """All that these have written."""
        return {sector for number in operations for sector in _sectors(self.plan[number])}

    def allows(self, sector: int, content: bytes, sure: set[int], begun: int) -> bool:
        """Whether it may hold this: the last write that is sure, or a later one of the first `begun`."""
        for number in reversed(self._writes.get(sector, ())):
            if number < begun and content == self._content(number, sector):
                return True
            if number in sure:
                return False
        return content == bytes(SECTOR)

    def _content(self, number: int, sector: int) -> bytes:
        if number not in self._contents:
            self._contents[number] = self.plan[number].content()
        at = sector * SECTOR - self.plan[number].offset_bytes
        return self._contents[number][at : at + SECTOR]


def _sectors(op: Op) -> range:
    return range(op.offset_bytes // SECTOR, (op.offset_bytes + op.length_bytes) // SECTOR)


def play(client: NbdClient, plan: Plan, answers: Path) -> None:
    """Carry it out."""
    pending: deque[int] = deque()
    done: set[int] = set()
    with answers.open("wb", buffering=0) as book:

        def note(number: int, error: int, _payload: bytes) -> None:
            if error:
                raise OSError(f"operation {number}, {plan[number]}: NBD error {error}")
            book.write(b"%d\n" % number)
            done.add(number)

        for number, op in enumerate(plan):
            if op.kind == "flush":
                client.drain()
            while pending and (pending[0] in done or number - pending[0] >= WINDOW):
                if pending[0] in done:
                    done.remove(pending.popleft())
                else:
                    client.wait_reply()
            pending.append(number)
            answer = partial(note, number)
            if op.kind == "flush":
                client.submit(Command.FLUSH, on_reply=answer)
                client.drain()
            else:
                flags = CommandFlag.FUA if op.kind == "fua" else CommandFlag(0)
                client.submit(Command.WRITE, op.offset_bytes, payload=op.content(), flags=flags, on_reply=answer)
        client.drain()


def main() -> None:
    place, export, answers = sys.argv[1:]
    with NbdClient.connect(Path(place), export, depth=WINDOW) as client:
        play(client, load.from_text(sys.stdin.read()), Path(answers))


if __name__ == "__main__":
    main()
