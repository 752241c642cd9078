"""What happens to the demo's two nodes, chapter by chapter, and what is counted on the way."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydrbd.admin.demo_client import BLOCK_BYTES, Blocks, Findings, TreeImage, find_files
from pydrbd.admin.demo_pair import LocalNode, LocalPair
from pydrbd.admin.demo_report import Report
from pydrbd.admin.nbd_client import NbdClient
from pydrbd.admin.output import say
from pydrbd.admin.progress import format_bytes
from pydrbd.units import BIT_SIZE_BYTES, MIB, SECTOR_SIZE_BYTES

__all__ = ["Story"]

_DEPTH: Final = 16
_BLOCK_WRITES: Final = 1000
_WRITES_PER_LOOK: Final = 8
_WAIT_S: Final = 60.0
_SLOWEST_BYTES_PER_S: Final = 4 * MIB
_SHOWN_DIFFERENCES: Final = 10


class Story:
    """One run of the demo."""

    def __init__(self, pair: LocalPair, size_bytes: int) -> None:
        self.pair = pair
        self.primary, self.secondary = pair.nodes
        self._size_bytes = size_bytes
        self._report = Report()
        self._rows: list[tuple[str, str]] = []
        self._differences: list[str] = []

    def tell(self) -> int:
        """The whole story; how many differences were found. Raises PydrbdError."""
        sizes = f"each with a disk of {format_bytes(self._size_bytes)} in {self.pair.directory}"
        say(f"Two nodes, {self.primary} and {self.secondary}, {sizes}")
        self._begin()
        with self.primary.connect_client(_DEPTH) as client:
            device_bytes = client.size_bytes
            border = device_bytes // BLOCK_BYTES * 5 // 8 * BLOCK_BYTES
            image = TreeImage(client, border)
            blocks = Blocks(border, device_bytes, secrets.randbits(32))
            self._write_and_lose_the_secondary(client, image, blocks, find_files(border * 3 // 5))
            self._bring_back(self.secondary, 3, lambda: _write(blocks, client, _WRITES_PER_LOOK))
            client.drain()
            self._lose_the_primary(client, blocks)
        with self.primary.connect_client(_DEPTH) as client:
            self._compare_with_written(client, image, blocks)
            _write(blocks, client, _BLOCK_WRITES)
            client.flush()
            self._bring_back(self.secondary, 5)
            self._compare_disks(device_bytes)
        written_bytes = image.written_bytes + blocks.acknowledged_count * BLOCK_BYTES
        return self._end(f"{format_bytes(written_bytes)}, all of it acknowledged")

    # --- the chapters ---

    def _begin(self) -> None:
        self._report.heading("1. Two nodes from one configuration file")
        self.pair.create_meta_data()
        self._report.line("create-md: both disks have DRBD's meta-data")
        for node in self.pair:
            node.start()
            self._report.line(f"serve --node {node}: it runs (pid {node.pid})")
        self.primary.grant("primary", force=True)
        self._report.line(f"primary --force: what is on {self.primary} counts, and {self.secondary} gets all of it")
        self._resync_to(self.secondary)

    def _write_and_lose_the_secondary(
        self, client: NbdClient, image: TreeImage, blocks: Blocks, files: list[Path]
    ) -> None:
        report = self._report
        report.heading(f"2. A client writes over NBD, {_DEPTH} requests at a time; the Secondary is killed meanwhile")
        total_bytes = sum(path.stat().st_size for path in files)
        report.line(f"it packs {len(files)} files of this machine ({format_bytes(total_bytes)}) into an image")
        started = time.monotonic()
        with report.bar("writing", total_bytes) as bar:
            for number, path in enumerate(files):
                if number == len(files) // 2:
                    bar.clear()
                    _write(blocks, client, _BLOCK_WRITES)
                    self._kill(self.secondary, client)
                    report.line(f"{self.primary} goes on alone, and notes which blocks change; so does the client")
                    _write(blocks, client, _BLOCK_WRITES)
                image.add(path)
                bar.update(image.file_bytes)
        image.finish()
        seconds = time.monotonic() - started
        report.line(
            f"written, acknowledged and flushed in {seconds:.1f} s: {image.file_count} files, and "
            f"{blocks.acknowledged_count} blocks of 4 KiB in random places"
        )

    def _lose_the_primary(self, client: NbdClient, blocks: Blocks) -> None:
        report = self._report
        report.heading("4. The Primary is killed in the middle of writes, and the other node takes over")
        _write(blocks, client, _BLOCK_WRITES)
        self._kill(self.primary, client)
        lost = blocks.submit_until_lost(client)
        report.line(f"the client's connection broke; {lost} writes had no answer yet, so they may be there or not")
        survivor = self.secondary
        self.pair.wait_until(lambda: not _is_connected(survivor), f"{survivor} to notice that its peer is gone")
        survivor.grant("primary")
        report.line(f"primary: {survivor} has taken over")
        self.primary, self.secondary = survivor, self.primary

    def _compare_with_written(self, client: NbdClient, image: TreeImage, blocks: Blocks) -> None:
        for what, found in (
            ("files unpacked and compared", image.compare(client)),
            ("single blocks compared", blocks.compare(client)),
        ):
            self._take(f"{what} on {self.primary}", found.compared, found)
            self._report.line(f"{found.compared} {what} with what was acknowledged: {_count(found)} differ")

    def _compare_disks(self, device_bytes: int) -> None:
        compared = self.pair.compare(device_bytes)
        found = Findings(compared.block_count, [f"block at byte {offset}" for offset in compared.first_offsets])
        self._take("blocks compared, disk with disk", compared.block_count, found, compared.difference_count)
        self._report.line(
            f"the disks of both nodes, byte for byte: {compared.block_count} blocks, {compared.difference_count} differ"
        )

    def _end(self, written: str) -> int:
        count = len(self._differences)
        self._report.table([("written by the client", written), *self._rows, ("differences", str(count))])
        for difference in self._differences[:_SHOWN_DIFFERENCES]:
            say(f"  DIFFERENT: {difference}")
        return count

    # --- their parts ---

    def _kill(self, node: LocalNode, client: NbdClient) -> None:
        pid, in_flight = node.pid, client.in_flight
        node.kill()
        self._report.line(f"kill -9 {pid}: {node} is dead, with {in_flight} requests under way")

    def _bring_back(self, node: LocalNode, chapter: int, meanwhile: Callable[[], None] | None = None) -> None:
        going_on = ", while the client goes on writing" if meanwhile is not None else ""
        self._report.heading(f"{chapter}. {node} comes back, and gets what it has missed{going_on}")
        node.start()
        self._report.line(f"serve --node {node}: it runs again (pid {node.pid})")
        if meanwhile is None:
            self._report.line("it died as Primary: all 4 MiB extents that its activity log names are sent, too")
        sent_bytes = self._resync_to(node, meanwhile)
        share = 100 * sent_bytes / self._size_bytes
        sizes = f"{format_bytes(sent_bytes)} of {format_bytes(self._size_bytes)} ({share:.0f}%)"
        self._rows.append((f"resynced to {node} after its crash", sizes))

    def _resync_to(self, node: LocalNode, meanwhile: Callable[[], None] | None = None) -> int:
        """Wait until both are in sync, with a bar; how many bytes the resync has sent."""
        before = node.volume()["counters"]["resynced"]
        started = time.monotonic()
        with self._report.bar(f"resync to {node}", 0) as bar:

            def is_done() -> bool:
                resync = node.volume()["resync"]
                if resync is not None:
                    total, left = resync["total_bits"] * BIT_SIZE_BYTES, resync["left_bits"] * BIT_SIZE_BYTES
                    bar.update(max(0, total - left), total)
                if meanwhile is not None:
                    meanwhile()
                return self.pair.in_sync()

            patience_s = _WAIT_S + self._size_bytes / _SLOWEST_BYTES_PER_S
            self.pair.wait_until(is_done, f"the resync to {node}", patience_s)
        sent_bytes: int = (node.volume()["counters"]["resynced"] - before) * SECTOR_SIZE_BYTES
        self._report.line(
            f"in sync: {format_bytes(sent_bytes)} of {format_bytes(self._size_bytes)} were sent, "
            f"{time.monotonic() - started:.1f} s after the start"
        )
        return sent_bytes

    def _take(self, what: str, compared: int, found: Findings, count: int | None = None) -> None:
        differing = len(found.different) if count is None else count
        self._rows.append((what, f"{compared}, differences: {differing}"))
        self._differences += found.different


def _write(blocks: Blocks, client: NbdClient, count: int) -> None:
    for _ in range(count):
        blocks.submit(client)


def _is_connected(node: LocalNode) -> bool:
    return bool(node.volume()["cstate"] == "Connected")


def _count(found: Findings) -> int:
    return len(found.different)
