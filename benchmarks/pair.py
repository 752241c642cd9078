"""A pydrbd pair on this machine: two `pydrbd serve`, loopback between them, everything on; the first is the Primary."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks import fio
from benchmarks.outcome import Outcome
from benchmarks.relay import Relay
from benchmarks.rows import Row
from benchmarks.servers import ServerError, fill, forget, scribble
from benchmarks.single import NbdPeer
from pydrbd.admin.demo_pair import RESOURCE, LocalNode, LocalPair
from pydrbd.admin.exit_codes import CommandFailed
from pydrbd.errors import PydrbdError
from pydrbd.units import BIT_SIZE_BYTES, MIB, SECTOR_SIZE_BYTES

__all__ = ["PydrbdPair"]

_META_ROOM_BYTES = MIB
"""Internal meta-data for up to 8 GiB: 32 KiB of activity log, 32 KiB of bitmap a GiB, the superblock."""

_NET = "protocol C; verify-alg crc32c;"
_QUIET_TIMEOUT_S = 10.0
_LEAST_DIRTY = 0.95
"""Of the blocks that a resync row means; fio need not touch each of them once only."""


class PydrbdPair(NbdPeer):
    """Two nodes in sync. Every run is followed by a comparison of the two data areas."""

    def __init__(
        self,
        directory: Path,
        size_bytes: int,
        stack: ExitStack,
        disk: str = "",
        delay_s: float | None = None,
        direct: bool = False,
    ) -> None:
        """`disk`: words of that section; `delay_s`: how long what one node sends is on the way to the other.

        `direct`: past the page cache.
        """
        self._direct = direct
        io = "direct" if direct else "buffered"
        self._pair = LocalPair(directory, size_bytes=size_bytes + _META_ROOM_BYTES, io=io, disk=disk, net=_NET)
        self._prepare()
        stack.callback(self._pair.stop_all, orderly=True)
        self._primary, self._secondary = self._pair
        if delay_s is not None:
            self._lengthen_the_wire(delay_s, stack)
        super().__init__(directory, size_bytes, f"nbd+unix:///{RESOURCE}?socket={self._primary.nbd_socket}")
        try:
            self._bring_up(size_bytes)
        except (PydrbdError, CommandFailed) as error:
            raise ServerError(f"the pair does not come up: {error}") from error

    def _prepare(self) -> None:
        """Before anything is started: another kind of pair has other nodes."""

    def _lengthen_the_wire(self, delay_s: float, stack: ExitStack) -> None:
        """Each node finds the other one behind a relay."""
        text = self._pair.config_path.read_text()
        ports = [int(port) for port in re.findall(r"address\s+127\.0\.0\.1:(\d+)", text)]
        for mine, node in enumerate(self._pair):
            relay = Relay(ports[1 - mine], delay_s)
            stack.callback(relay.close)
            node.config_path = node.run_dir / self._pair.config_path.name
            node.config_path.write_text(text.replace(f":{ports[1 - mine]};", f":{relay.port};"))
            beside = self._pair.config_path.with_name("pydrbd.toml")
            node.config_path.with_name(beside.name).write_text(beside.read_text())

    def _bring_up(self, size_bytes: int) -> None:
        """From empty disks, with different data on each, to a pair in sync."""
        self._pair.create_meta_data()
        for seed, node in enumerate(self._pair):
            fill(node.disk_path, size_bytes, random.Random(seed))
        self._primary.start()
        self._primary.grant("primary", force=True)
        self._secondary.start()
        self._pair.wait_until(self._in_sync, "the initial sync")
        self._data_bytes = self._primary.volume()["size_sectors"] * SECTOR_SIZE_BYTES
        assert self._data_bytes >= size_bytes
        self._compare("the initial sync")

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(node.process.pid for node in self._pair if node.process is not None)

    def counters(self) -> Mapping[str, int]:
        """The Primary's NBD requests and the wake-ups they took; packets that came to each node, and wake-ups."""
        here, there = self._primary.status(), self._secondary.status()
        return {
            "nbd_requests": here["nbd_statistics"]["requests"],
            "nbd_wakeups": here["nbd_statistics"]["wakeups"],
            "primary_packets": here["link_statistics"]["packets"],
            "primary_wakeups": here["link_statistics"]["wakeups"],
            "secondary_packets": there["link_statistics"]["packets"],
            "secondary_wakeups": there["link_statistics"]["wakeups"],
            "log_writes": here["volumes"][0]["counters"]["al_writes"],
        }

    def prepare_resync(self, row: Row, seed: int) -> None:
        """Paused on the Secondary, which is then spoilt, or misses writes while it is apart. A check needs nothing."""
        if row.pattern == "check":
            return
        try:
            self._secondary.grant("pause-sync")
            if row.dirty == 1:
                self._secondary.grant("invalidate")
                scribble(self._secondary.disk_path, self.size_bytes, random.Random(seed))
            else:
                self._secondary.grant("disconnect", force=False)
                fio.make_dirty(self.uri, self.size_bytes, row.dirty, seed, self.directory)
                self._secondary.grant("connect", discard_my_data=False)
            self._pair.wait_until(self._is_paused, "a resync that is held")
        except (PydrbdError, CommandFailed) as error:
            raise ServerError(f"{row.name}: {error}") from error

    def _is_paused(self) -> bool:
        return self._secondary.volume()["cstate"] == "PausedSyncT"

    def resync(self, row: Row) -> Outcome:
        if row.pattern == "check":
            return self._check(row)
        dirty = self._secondary.volume()["out_of_sync_bits"]
        wanted = row.dirty * self.size_bytes / BIT_SIZE_BYTES
        if dirty < wanted * _LEAST_DIRTY:
            raise ServerError(f"{row.name}: {dirty} blocks are to be synced, and not {wanted:.0f}")
        begun = time.monotonic()
        curve = [(0.0, 0.0)]

        def is_done() -> bool:
            volume = self._secondary.volume()
            curve.append((time.monotonic() - begun, 1 - volume["out_of_sync_bits"] / dirty))
            return bool(volume["cstate"] == "Connected" and volume["disk"] == "UpToDate")

        try:
            self._secondary.grant("resume-sync")
            self._pair.wait_until(is_done, "the end of the resync")
        except (PydrbdError, CommandFailed) as error:
            raise ServerError(f"{row.name}: {error}") from error
        return Outcome(dirty, dirty * BIT_SIZE_BYTES, curve[-1][0], curve=curve)

    def _check(self, row: Row) -> Outcome:
        """By digests, from the Secondary. It must have looked at every block, and found no difference."""
        begun = time.monotonic()
        try:
            self._secondary.grant("verify", start_sector=0)
            self._pair.wait_until(lambda: self._secondary.volume()["verify"] is None, "the end of the comparison")
            seconds = time.monotonic() - begun
            found = self._secondary.ask("verify-report", cells=1).data
        except (PydrbdError, CommandFailed) as error:
            raise ServerError(f"{row.name}: {error}") from error
        report, blocks = found["volumes"][0]["report"] if found else {}, self._data_bytes // BIT_SIZE_BYTES
        if not report.get("complete") or report["compared_blocks"] < blocks or report["different_blocks"]:
            raise ServerError(
                f"{row.name}: {report['compared_blocks']} of {blocks} blocks compared, {report['different_blocks']} "
                "of them said to differ"
            )
        return Outcome(blocks, self._data_bytes, seconds)

    def verify(self, row: Row, counted: Mapping[str, int], writes: int) -> None:
        """The nodes are connected, every write went to the peer, and the copies are the same. Raises ServerError."""
        try:
            self._pair.wait_until(self._in_sync, "the pair to be in sync", _QUIET_TIMEOUT_S)
        except (PydrbdError, CommandFailed) as error:
            raise ServerError(f"{row.name}: {error}") from error
        if row.writes and counted["secondary_packets"] < writes:
            raise ServerError(
                f"{row.name}: {writes} writes, but {counted['secondary_packets']} packets came to the Secondary: the "
                f"pair was not connected all the time; the Primary says:\n{self._primary.log_end()}"
            )
        self._compare(row.name)

    def _in_sync(self) -> bool:
        """Whether both are connected and UpToDate, and nobody waits for anything."""
        return all(_is_quiet(node) for node in self._pair)

    def _compare(self, when: str) -> None:
        # What was acknowledged is in the page cache of both files at least: nothing has to be flushed for this.
        found = self._pair.compare(self._data_bytes)
        if self._direct:
            for node in self._pair:
                forget(node.disk_path)
        if found.difference_count:
            raise ServerError(
                f"WRONG: after {when} the copies differ in {found.difference_count} of {found.block_count} blocks "
                f"of 4 KiB, first at bytes {', '.join(map(str, found.first_offsets))}"
            )


def _is_quiet(node: LocalNode) -> bool:
    volume = node.volume()
    return (volume["cstate"], volume["disk"], volume["peer_disk"]) == ("Connected", "UpToDate", "UpToDate") and not any(
        volume["pending"].values()
    )
