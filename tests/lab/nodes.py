"""The two kinds of node, with one face: a kernel's DRBD in a guest, and pydrbd beside the guests.

Scenarios are written against `Node`, so that each runs in both directions.
"""

from __future__ import annotations

import abc
import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.load import Plan
from tests.lab.waiting import wait_until

RESOURCE = "r0"
PORT = 7788
FAST_RESYNC = "c-plan-ahead 0; resync-rate 500M; c-min-rate 0;"
"""A kernel's controller begins at a few MB/s, and sleeps 0.1 s a request when it sees anything else use the disk."""


_RESYNC = re.compile(r"[Bb]egan resync.*will sync (\d+) KB")


class Refused(Exception):
    """A node did not do what it was asked to; the message is what it said."""


@dataclass(frozen=True, slots=True)
class States:
    """What a node says of itself, in DRBD's words."""

    conn: str
    role: str
    peer_role: str
    disk: str
    peer_disk: str

    @property
    def in_sync(self) -> bool:
        return self.conn == "Connected" and self.disk == self.peer_disk == "UpToDate"


@dataclass(frozen=True, slots=True)
class Generations:
    """get-gi's line: the four identifiers as hexadecimal numbers, and seven flags."""

    current: str
    bitmap: str
    history: tuple[str, str]
    flags: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Generations:
        """`current:bitmap:history:history:c:u:p:...`"""
        words = text.strip().splitlines()[-1].split(":")
        assert len(words) >= 11 and all(re.fullmatch("[0-9A-F]{16}", word) for word in words[:4]), text
        return cls(words[0], words[1], (words[2], words[3]), tuple(words[4:]))

    def without_role(self) -> tuple[int, int, int, int]:
        """The identifiers with the lowest bit cleared: it only says who was Primary."""
        numbers = (int(word, 16) & ~1 for word in (self.current, self.bitmap, *self.history))
        return next(numbers), next(numbers), next(numbers), next(numbers)


STRESS = (
    "--name=stress", "--direct=1", "--rw=randrw", "--rwmixread=20", "--iodepth=32", "--time_based", "--thread",
    "--bssplit=512/10:4k/50:16k/15:128k/15:1m/10", "--bs_unaligned=0", "--blockalign=512", "--fsync=50",
    "--norandommap", "--group_reporting", "--minimal",
)  # fmt: skip
"""fio's words for a load that both kinds of node are given."""


def resource_text(
    nodes: Sequence[Node],
    *,
    net: str = "protocol C;",
    disk: str = "",
    handlers: str = "",
    options: str = "",
    port: int = PORT,
) -> str:
    """The .res file of a pair, the same for both kinds of node. Resync as fast as the machine can."""
    hosts = "".join(
        f"    on {node.name} {{\n        device    /dev/drbd0;\n        disk      {node.disk_name};\n"
        f"        meta-disk internal;\n        address   {node.address}:{port};\n    }}\n"
        for node in nodes
    )
    sections = f"    net {{ {net} }}\n    disk {{ {FAST_RESYNC} {disk} }}\n    handlers {{ {handlers} }}\n"
    sections += f"    options {{ {options} }}\n" if options else ""
    return f"resource {RESOURCE} {{\n{sections}{hosts}}}\n"


class Node(abc.ABC):
    """One node of a pair."""

    name: str
    address: str
    disk_path: Path
    """Its whole disk, as a file of this machine: the data area first, the meta-data at the end."""
    disk_name: str
    """The same as the node itself knows it."""

    @abc.abstractmethod
    def configure(self, text: str) -> None:
        """Take the resource's .res text."""

    @abc.abstractmethod
    def create_md(self) -> None:
        """Fresh meta-data."""

    @abc.abstractmethod
    def up(self) -> None:
        """Attach and connect."""

    @abc.abstractmethod
    def down(self) -> None:
        """Disconnect and detach, in good order."""

    @abc.abstractmethod
    def crash(self) -> None:
        """Lose power; `boot` brings it back, `up` starts the resource."""

    @abc.abstractmethod
    def boot(self) -> None:
        """After `crash`."""

    @abc.abstractmethod
    def primary(self, *, force: bool = False) -> None:
        """Raises Refused."""

    @abc.abstractmethod
    def secondary(self) -> None:
        """Raises Refused."""

    @abc.abstractmethod
    def connect(self, *, discard_my_data: bool = False) -> None:
        """Look for the peer."""

    @abc.abstractmethod
    def disconnect(self) -> None:
        """Leave the peer."""

    @abc.abstractmethod
    def order(self, verb: str) -> None:
        """One of drbdadm's verbs that need no more words: attach, detach, outdate, ... Raises Refused."""

    @abc.abstractmethod
    def held_open(self) -> contextlib.AbstractContextManager[None]:
        """Somebody has the device open."""

    @abc.abstractmethod
    def freeze(self) -> None:
        """It hangs: it says nothing and does nothing, but its sockets stay open."""

    @abc.abstractmethod
    def unfreeze(self) -> None:
        """The opposite of `freeze`."""

    @abc.abstractmethod
    def out_of_sync_kib(self) -> int:
        """How much its bitmap says is still to be sent or received."""

    @abc.abstractmethod
    def states(self) -> States:
        """How it is now."""

    @abc.abstractmethod
    def details(self) -> str:
        """All that it tells of itself, for a failure."""

    @abc.abstractmethod
    def generations(self) -> Generations:
        """Its generation identifiers."""

    @abc.abstractmethod
    def size_bytes(self) -> int:
        """The size of the device."""

    @abc.abstractmethod
    def load(self, plan: Plan) -> None:
        """Carry out a plan on the device, every read compared. Raises AssertionError, GuestFailed."""

    @abc.abstractmethod
    def stress(self, seconds: int = 3) -> None:
        """fio: random writes of all sizes, many at a time, with flushes; the whole device."""

    @abc.abstractmethod
    def log(self) -> str:
        """What the node has written to its log."""

    @abc.abstractmethod
    def forget_log(self) -> None:
        """A new log from here on."""

    @abc.abstractmethod
    def complaints(self, allowed: Sequence[str] = ()) -> list[str]:
        """Lines of the log that a healthy pair does not write; `allowed` are patterns of what the scenario brings."""

    def resyncs_kib(self) -> list[int]:
        """How much each resync since the log was begun was about to send or receive."""
        return [int(size) for size in _RESYNC.findall(self.log())]

    def wait(self, timeout_s: float = 30.0, **wanted: str) -> None:
        """Wait until these states hold: `node.wait(conn="Connected", disk="UpToDate")`. Raises LabTimeout."""
        wait_until(
            lambda: all(getattr(self.states(), name) == value for name, value in wanted.items()),
            f"{self.name} to be {wanted}",
            timeout_s,
            lambda: f"{self.name}: {self.states()}\n{self.log()[-3000:]}",
        )
