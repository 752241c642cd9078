"""What is measured: one row of the table each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ROWS", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work. `flush`: every write is followed by a FLUSH. `unit`: what its rate is shown in.

    `clients` connections at a time, each at this depth; `randrw` is 70% reads. A `resync` has no client: the
    copy is brought up to date, of which the share `dirty` is out of sync, in blocks of 4 KiB all over the device
    unless it is 1. Nor has a `check`: all of both copies is compared.
    """

    name: str
    title: str
    pattern: Literal["randwrite", "write", "randread", "randrw", "resync", "check"]
    block_bytes: int = 4096
    depth: int = 1
    flush: bool = False
    unit: Literal["/s", "MB/s"] = "/s"
    clients: int = 1
    dirty: float = 0.0

    @property
    def has_clients(self) -> bool:
        return self.pattern not in ("resync", "check")

    @property
    def writes(self) -> bool:
        """Whether clients write."""
        return self.has_clients and self.pattern != "randread"


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("write-4k-1", "4k random write, depth 1", "randwrite", 4096, 1),
        Row("write-4k-32", "4k random write, depth 32", "randwrite", 4096, 32),
        Row("seqwrite-128k-8", "128k sequential write, depth 8", "write", 128 * 1024, 8, unit="MB/s"),
        Row("read-4k-32", "4k random read, depth 32", "randread", 4096, 32),
        Row("flush-4k-1", "4k random write + FLUSH each, depth 1", "randwrite", 4096, 1, flush=True),
        Row("mix-4k-16x4", "70/30 random mix of 4k, 4 connections, depth 16 each", "randrw", 4096, 16, clients=4),
        Row("resync-full", "resync of everything", "resync", unit="MB/s", dirty=1.0),
        Row("resync-10", "resync of 10% of the 4k blocks, scattered", "resync", unit="MB/s", dirty=0.1),
        Row("check", "online comparison of both copies", "check", unit="MB/s"),
    )
}
