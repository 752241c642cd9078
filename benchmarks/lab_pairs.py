"""The two pairs in the lab's guests: the kernel's DRBD, and pydrbd whose export the kernel's nbd makes a block device.

fio runs in the guest of the Primary, past the page cache. A resync's time is what the Secondary's log says, which has
the same lines for both: nobody has to look often enough, and disturb it.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from benchmarks import fio
from benchmarks.lab import DISK_KERNEL, DISK_PYDRBD, Guests
from benchmarks.outcome import Outcome
from benchmarks.rows import Row
from benchmarks.servers import ServerError, scribble
from pydrbd.admin.demo_compare import compare_files
from pydrbd.errors import NotRunningError
from pydrbd.units import BIT_SIZE_BYTES, KIB, SECTOR_SIZE_BYTES
from tests.lab.guest_pydrbd import RUN_DIR, GuestPydrbdNode
from tests.lab.kernel_node import KernelNode
from tests.lab.network import LabFailed
from tests.lab.nodes import PORT, RESOURCE, Node, Refused, resource_text
from tests.lab.waiting import LabTimeout, wait_until

__all__ = ["KernelPair", "NbdPair", "resync_seconds"]

_SYNC_TIMEOUT_S = 300.0
_LOOK_EVERY_S = 0.1
_LEAST_DIRTY = 0.95
"""Of the blocks that a resync row means; fio need not touch each of them once only."""

_NET = "protocol C; max-buffers 8000; max-epoch-size 8000;"
"""As DRBD's guide tunes it: with its default, 2048 pages, a kernel's resync is held back."""

_FAILURES = (LabFailed, LabTimeout, Refused, NotRunningError)
_NBD_DEVICE = "/dev/nbd0"
_NBD_BLOCK_BYTES = 4096
_STAMP = r"(?:\[ *(?P<since_boot>[\d.]+)\]|(?P<date>\S+ \S+) \w+) .*"
_BEGUN = re.compile(_STAMP + r"conn\( \w+ -> SyncTarget \)")
_ENDED = re.compile(_STAMP + r"conn\( SyncTarget -> Connected \)")


def resync_seconds(log: str) -> float:
    """From the first moment at which a log says that a resync was under way to the last end of one.

    A log's lines begin as dmesg's do, or with a date and a level. Raises ServerError if one of them is missing.
    """
    begun = next(filter(None, map(_BEGUN.match, log.splitlines())), None)
    ended = next(filter(None, map(_ENDED.match, reversed(log.splitlines()))), None)
    if begun is None or ended is None or (seconds := _moment(ended) - _moment(begun)) <= 0:
        raise ServerError(f"the Secondary's log does not say how long its resync was:\n{log[-1000:]}")
    return seconds


def _moment(found: re.Match[str]) -> float:
    if found["since_boot"]:
        return float(found["since_boot"])
    return datetime.strptime(found["date"], "%Y-%m-%d %H:%M:%S,%f").timestamp()


class _Pair:
    """What is the same for both: the verbs, the rows, the comparison."""

    def __init__(self, guests: Guests, size_bytes: int, nodes: Sequence[Node], device: str, port: int) -> None:
        """`device`: what the Primary's guest has to offer in the end."""
        self.size_bytes = size_bytes
        self._guests = guests
        self._guest = guests.both[0]
        self._nodes = tuple(nodes)
        self._primary, self._secondary = self._nodes
        self._device = device
        try:
            self._bring_up(port)
        except _FAILURES as error:
            raise ServerError(f"the pair in the guests does not come up: {error}") from error

    def _bring_up(self, port: int) -> None:
        text = resource_text(self._nodes, net=_NET, port=port)

        def start(node: Node) -> None:
            node.configure(text)
            node.create_md()
            node.up()

        with ThreadPoolExecutor() as pool:
            list(pool.map(start, self._nodes))
        self._primary.wait(conn="Connected")
        self._primary.primary(force=True)
        self._wait_in_sync("the initial sync", _SYNC_TIMEOUT_S)
        self._data_bytes = self._primary.size_bytes()
        assert self._data_bytes >= self.size_bytes

    def cpu_seconds(self) -> float:
        """Of both guests, fio and the other pair (which is idle) with them."""
        return self._guests.cpu_seconds()

    def _fio(self, words: list[str], timeout_s: float) -> str:
        try:
            done = self._guest.run(*words, timeout_s=timeout_s, check=False)
        except LabFailed as error:
            raise ServerError(str(error)) from error
        fio.check(words, done.code, done.output, timeout_s)
        return done.output

    def drive(self, row: Row, seconds: float, seed: int) -> tuple[Outcome, float]:
        words = fio.command(row, self._device, self.size_bytes, seconds, seed)
        return fio.parse(self._fio(words, seconds + fio.START_TIMEOUT_S), row), 0.0

    def prepare_resync(self, row: Row, seed: int) -> None:
        """Paused on the Secondary, which is then spoilt, or misses writes while it is apart."""
        try:
            self._secondary.order("pause-sync")
            if row.dirty == 1:
                self._secondary.order("invalidate")
                scribble(self._secondary.disk_path, self.size_bytes, random.Random(seed))
            else:
                self._secondary.disconnect()
                words = fio.dirty_command(self._device, self.size_bytes, row.dirty, seed)
                self._fio(words, fio.DIRTY_TIMEOUT_S)
                self._secondary.connect()
            self._secondary.wait(conn="PausedSyncT")
            self._secondary.forget_log()
        except _FAILURES as error:
            raise ServerError(f"{row.name}: {error}") from error

    def resync(self, row: Row) -> Outcome:
        try:
            dirty = self._secondary.out_of_sync_kib() * KIB // BIT_SIZE_BYTES
            wanted = row.dirty * self.size_bytes / BIT_SIZE_BYTES
            if dirty < wanted * _LEAST_DIRTY:
                raise ServerError(f"{row.name}: {dirty} blocks are to be synced, and not {wanted:.0f}")
            curve = self._watch_resync(dirty)
            seconds = resync_seconds(self._secondary.log())
        except _FAILURES as error:
            raise ServerError(f"{row.name}: {error}") from error
        return Outcome(dirty, dirty * BIT_SIZE_BYTES, seconds, curve=curve)

    def _watch_resync(self, dirty: int) -> list[tuple[float, float]]:
        self._secondary.order("resume-sync")
        begun = time.monotonic()
        curve = [(0.0, 0.0)]

        def is_done() -> bool:
            left = self._secondary.out_of_sync_kib() * KIB // BIT_SIZE_BYTES
            curve.append((time.monotonic() - begun, 1 - left / dirty))
            return left == 0 and self._secondary.states().in_sync

        wait_until(is_done, "the end of the resync", _SYNC_TIMEOUT_S, poll_s=_LOOK_EVERY_S)
        return curve

    def counters(self) -> Mapping[str, int]:
        """`sent_kib`: of data, to the Secondary."""
        raise AssertionError(f"{self!r} says what it counts")

    def verify(self, row: Row, counted: Mapping[str, int], writes: int) -> None:
        """The nodes are connected, every write went to the peer, and the copies are the same. Raises ServerError."""
        try:
            self._wait_in_sync("the pair to be in sync")
        except _FAILURES as error:
            raise ServerError(f"{row.name}: {error}") from error
        written_kib = writes * row.block_bytes // KIB
        if row.writes and counted["sent_kib"] < written_kib:
            raise ServerError(
                f"{row.name}: {written_kib} KiB were written, but {counted['sent_kib']} KiB were sent: the pair was "
                f"not connected all the time; the Primary says:\n{self._primary.log()[-1000:]}"
            )
        found = compare_files(self._primary.disk_path, self._secondary.disk_path, self._data_bytes)
        if found.difference_count:
            raise ServerError(
                f"WRONG: after {row.name} the copies differ in {found.difference_count} of {found.block_count} blocks "
                f"of 4 KiB, first at bytes {', '.join(map(str, found.first_offsets))}"
            )

    def _wait_in_sync(self, what: str, timeout_s: float = 30.0) -> None:
        wait_until(lambda: all(node.states().in_sync for node in self._nodes), what, timeout_s)


class KernelPair(_Pair):
    """drbd.ko in both guests."""

    def __init__(self, guests: Guests, size_bytes: int) -> None:
        nodes = [KernelNode(guest) for guest in guests.both]
        assert all(node.disk_path == node.guest.disks[DISK_KERNEL] for node in nodes)
        for node in nodes:
            node.prepare()
        super().__init__(guests, size_bytes, nodes, "/dev/drbd0", PORT)

    def counters(self) -> Mapping[str, int]:
        found = re.search(r" ns:(\d+)", self._primary.details())
        assert found is not None, "DRBD counts what it sends"
        return {"sent_kib": int(found[1])}


class NbdPair(_Pair):
    """pydrbd in both guests, attached by the kernel's nbd in the first one.

    Without a scheduler in front of it, as /dev/drbd0: the disks below both have one.
    """

    def __init__(self, guests: Guests, size_bytes: int) -> None:
        nodes = [GuestPydrbdNode(guest, "/dev/ubdb", DISK_PYDRBD) for guest in guests.both]
        self._pydrbd = tuple(nodes)
        super().__init__(guests, size_bytes, nodes, _NBD_DEVICE, PORT + 1)
        words = ["nbd-client", "-unix", f"{RUN_DIR}/{RESOURCE}.nbd.sock", _NBD_DEVICE, "-name", RESOURCE]
        try:
            self._guest.run(*words, "-block-size", str(_NBD_BLOCK_BYTES))
            self._guest.shell(f"echo none >/sys/block/{Path(_NBD_DEVICE).name}/queue/scheduler")
        except LabFailed as error:
            raise ServerError(f"the kernel's nbd: {error}") from error

    def counters(self) -> Mapping[str, int]:
        """As those of a pair on this machine, and what was sent."""
        here, there = (node.all_status() for node in self._pydrbd)
        return {
            "nbd_requests": here["nbd_statistics"]["requests"],
            "nbd_wakeups": here["nbd_statistics"]["wakeups"],
            "secondary_packets": there["link_statistics"]["packets"],
            "secondary_wakeups": there["link_statistics"]["wakeups"],
            "sent_kib": here["volumes"][0]["counters"]["sent"] * SECTOR_SIZE_BYTES // KIB,
        }
