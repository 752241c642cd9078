"""A pair of nodes that scenarios are played on, and the judge of how they end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest

from tests.lab import load
from tests.lab.kernel_node import KernelNode
from tests.lab.load import Plan
from tests.lab.network import LabFailed
from tests.lab.nodes import Node, Refused, resource_text
from tests.lab.waiting import wait_until

DISK_BYTES = 32 * 1024 * 1024
SYNC_TIMEOUT_S = 60.0
QUICK = "protocol C; ping-int 1; ping-timeout 20; timeout 20; connect-int 1;"
"""A peer that is gone is missed within three seconds."""

PEER_IS_GONE = (
    "PingAck did not arrive in time", "NetworkFailure", "BrokenPipe", "Timeout", "sock_\\w+ returned",
    "(meta|data) connection shut down by peer", "sock was shut down by peer",
    "short read", "short sent", "error receiving", "Connection reset", "sock_sendmsg time expired",
)  # fmt: skip
"""What a node may say when its peer, or the wire, goes without a word."""

AL_IS_APPLIED = ("recovered from activity log", "Marked additional", "Found \\d+ transactions", "crashed Primary")


def variant(*values: object) -> object:
    """Parameters of a scenario that another set proves as well: only for `make test-all`."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Pair:
    """`first` is the one that becomes Primary. `image` is what the device must hold."""

    def __init__(self, first: Node, second: Node, *, disk_bytes: int = DISK_BYTES) -> None:
        self.disk_bytes = disk_bytes
        self.first = first
        self.second = second
        self.image = bytearray()
        self.allowed: list[str] = []
        self.handlers = ""
        """What stands in the section `handlers`."""
        self.options = ""
        """What stands in the section `options`."""

    @property
    def kernel(self) -> KernelNode:
        """One that is a kernel: there always is one."""
        return next(node for node in self if isinstance(node, KernelNode))

    def __iter__(self):
        return iter((self.first, self.second))

    def __repr__(self) -> str:
        return f"{self.first.name} -> {self.second.name}"

    # --- the way in and out ---

    def start(self, *, net: str = "protocol C;", disk: str = "") -> None:
        """Fresh disks, fresh meta-data, both up and connected."""
        self.bring_up(net, net, disk=disk)
        self.wait_for_fresh()

    def bring_up(self, net: str, second_net: str, *, disk: str = "") -> None:
        """Fresh disks, fresh meta-data, both up; each has its own idea of the `net` section."""
        for node in self:
            os.truncate(node.disk_path, 0)
            os.truncate(node.disk_path, self.disk_bytes)
            self.configure(node, net if node is self.first else second_net, disk=disk)
            node.create_md()
            node.up()

    def configure(self, node: Node, net: str, *, disk: str = "") -> None:
        """Give one node its configuration: what it is to do when it comes up."""
        node.configure(resource_text(list(self), net=net, disk=disk, handlers=self.handlers, options=self.options))

    def wait_for_fresh(self) -> None:
        """Wait until both see each other, and that neither has data."""
        for node in self:
            node.wait(conn="Connected", disk="Inconsistent", peer_disk="Inconsistent")
        self.image = bytearray(self.second.size_bytes())
        assert self.first.size_bytes() in (0, len(self.image)), "a kernel's device has its size when it is Primary"

    def sync(self) -> None:
        """Make the first node Primary, without a full sync: the fresh disks are the same."""
        self.kernel.skip_first_sync()
        self.wait_in_sync()
        self.first.primary()

    def full_sync(self) -> None:
        """The first full sync, from the first node to the second."""
        self.first.primary(force=True)
        self.wait_in_sync()

    def finish(self) -> list[str]:
        """Both down; what their logs complain about."""
        for node in self:
            node.down()
        return [f"{node.name}: {line}" for node in self for line in node.complaints(self.allowed)]

    def part(self, leaver: Node) -> None:
        """One of them disconnects, in good order."""
        leaver.disconnect()
        for node in self:
            node.wait(peer_disk="DUnknown")

    def allow(self, *patterns: str) -> None:
        """Log lines that the scenario itself brings about."""
        self.allowed += patterns

    # --- acting ---

    def write(self, node: Node, seed: int, count: int, **how: object) -> None:
        """Random writes on a node, in sequence."""
        self.play(node, load.draw(seed, len(self.image), count, **how))

    def play(self, node: Node, plan: Plan) -> None:
        """Carry out a plan on a node, and know what it must have done."""
        node.load(plan)
        load.apply(plan, self.image)

    def adopt(self, node: Node) -> None:
        """What a node holds is right: after writes whose order is nobody's business."""
        with node.disk_path.open("rb") as disk:
            self.image = bytearray(disk.read(len(self.image)))

    def switch(self) -> None:
        """The other one becomes Primary, by and by."""
        self.first.secondary()
        self.second.primary()
        self.first, self.second = self.second, self.first

    # --- judging ---

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something about both nodes."""
        wait_until(condition, what, SYNC_TIMEOUT_S, self.describe)

    def wait_in_sync(self) -> None:
        """Wait until both say that they are connected and UpToDate."""
        self.wait_for(lambda: all(node.states().in_sync for node in self), "both in sync")

    def assert_same(self, *, history: bool = True) -> None:
        """Both disks hold the image byte for byte; both nodes name the same generations, and nothing to resync.

        Without `history` the past may differ: after a full sync that was asked for it does on a pair of kernels, too.
        """
        self.wait_in_sync()
        for node in self:
            with node.disk_path.open("rb") as disk:
                self._assert_is_image(node, disk.read(len(self.image)))
        first, second = (node.generations() for node in self)
        depth = 4 if history else 2
        assert first.without_role()[:depth] == second.without_role()[:depth], f"{first}\n{second}"
        assert int(first.bitmap, 16) == int(second.bitmap, 16) == 0, f"{first}\n{second}"

    def _assert_is_image(self, node: Node, found: bytes) -> None:
        if found != self.image:
            wrong = [at for at in range(0, len(found), 512) if found[at : at + 512] != self.image[at : at + 512]]
            raise AssertionError(f"{node.name}: {len(wrong)} sectors differ, the first at byte {wrong[0]}")

    def describe(self) -> str:
        """Both nodes' states and the ends of their logs, for a failure."""
        parts = []
        for node in self:
            with contextlib.suppress(LabFailed, Refused):
                parts += [f"--- {node.name}: {node.states()}", node.details(), *node.log().splitlines()[-60:]]
        return "\n".join(parts)


def refused(action, *arguments: object, **named: object) -> str:
    """What a node says when it refuses; an AssertionError if it does not."""
    try:
        action(*arguments, **named)
    except Refused as error:
        return str(error)
    raise AssertionError(f"{action.__qualname__} was granted")

