"""What an online verify keeps in mind: which blocks are being looked at, how far it is, what it has found.

Adjacent blocks that differ are one line of the log, in DRBD's words, written when the run of them ends.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pydrbd.core.ranges import Hold
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES, SECTOR_SIZE_BYTES, SECTORS_PER_BIT

__all__ = ["Group", "Running", "VerifyProgress"]


@dataclass(slots=True, eq=False)
class VerifyProgress:
    """One volume's verify, on either side. `start_bit` is None on VerifyT until the first request.

    `stop_bit`: where it ends; VerifyT does not know of a stop sector, and takes the end of the device. `found`: the
    blocks that differed, `skipped`: those that the peer could not read.
    """

    start_bit: int | None
    stop_bit: int
    device_bits: int
    started: float
    settled_bits: int = 0
    found: Bitmap = field(init=False)
    skipped: Bitmap = field(init=False)
    _run_start: int = 0
    _run_sectors: int = 0

    def __post_init__(self) -> None:
        self.found, self.skipped = Bitmap(self.device_bits), Bitmap(self.device_bits)

    def start_at(self, bit: int) -> None:
        self.start_bit = bit

    @property
    def found_bits(self) -> int:
        return self.found.count

    @property
    def skipped_bits(self) -> int:
        return self.skipped.count

    @property
    def total_bits(self) -> int:
        return self.stop_bit - (self.start_bit or 0)

    @property
    def left_bits(self) -> int:
        return max(0, self.total_bits - self.settled_bits - self.skipped_bits)

    @property
    def next_bit(self) -> int:
        """Up to where all is settled; exact while results come in order, as they do."""
        return self.stop_bit - self.left_bits

    def settle(self, sector: int, sector_count: int, *, equal: bool) -> str | None:
        """One block has its result; the line about a run of differences that has ended with it."""
        self.settled_bits += 1
        if equal:
            return self.end_run()
        self.found.set_range(sector * SECTOR_SIZE_BYTES, sector_count * SECTOR_SIZE_BYTES)
        if self._run_sectors and self._run_start + self._run_sectors == sector:
            self._run_sectors += sector_count
            return None
        text = self.end_run()
        self._run_start, self._run_sectors = sector, sector_count
        return text

    def end_run(self) -> str | None:
        """The line about the differences up to here, if there are any that nobody was told of."""
        count, self._run_sectors = self._run_sectors, 0
        return f"Out of sync: start={self._run_start}, size={count} (sectors)" if count else None

    def done_text(self, now: float) -> str:
        seconds = max(now - self.started, 0.001)
        kib = self.settled_bits * BIT_SIZE_BYTES // 1024
        return f"Online verify done (total {seconds:.1f} sec; paused 0 sec; {kib / seconds:.0f} K/sec)"

    def as_dict(self, now: float) -> dict[str, float | int | None]:
        """For `status`, with the same names as a resync's."""
        done, elapsed_s = self.settled_bits, max(0.0, now - self.started)
        rate = done * BIT_SIZE_BYTES / elapsed_s if elapsed_s > 0 else 0.0
        left = self.left_bits
        return {
            "total_bits": self.total_bits,
            "left_bits": left,
            "found_bits": self.found_bits,
            "skipped_bits": self.skipped_bits,
            "start_sector": (self.start_bit or 0) * SECTORS_PER_BIT,
            "stop_sector": self.stop_bit * SECTORS_PER_BIT,
            "position_sector": self.next_bit * SECTORS_PER_BIT,
            "percent_done": 100.0 * (self.total_bits - left) / self.total_bits if self.total_bits else 100.0,
            "elapsed_s": elapsed_s,
            "bytes_per_s": rate,
            "seconds_left": left * BIT_SIZE_BYTES / rate if rate > 0 else None,
        }


@dataclass(slots=True, eq=False)
class Group:
    """Blocks that were begun together, the members of one batch; `open`: those without a result.

    `hold`: their ranges, held by a Primary.
    """

    batch: Batch
    open: int
    hold: Hold | None = None


@dataclass(slots=True, eq=False)
class Running:
    """One volume's verify. `blocks`: those that were asked for and have no result yet, by offset."""

    progress: VerifyProgress
    next_bit: int = 0
    blocks: dict[int, tuple[Group, int]] = field(default_factory=dict)
    waiting: deque[tuple[Group, int]] = field(default_factory=deque)
    """VerifyT: members that the peer has asked for and that are not being read yet; `reading`: how many are."""
    reading: int = 0
    answered: set[int] = field(default_factory=set)
    """Blocks whose P_OV_REPLY has been sent (VerifyT), or has come and is being compared (VerifyS)."""
    waits_for_ping: int = 0
    next_persist: float = 0.0
