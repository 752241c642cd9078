"""What an online verify keeps in mind: which blocks are being looked at, how far it is, what it has found.

Adjacent blocks that differ are one line of the log, in DRBD's words, written when the run of them ends. Results
need not come in order: a piece that differs is looked at again block by block, while those behind it go on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pydrbd.core.ranges import Hold
from pydrbd.errors import PeerProtocolError
from pydrbd.limits import VERIFY_PEER_BLOCKS_MAX
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES, SECTOR_SIZE_BYTES, SECTORS_PER_BIT, ceil_div

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
    next_bit: int = field(init=False)
    """Up to where every block has its result."""
    found: Bitmap = field(init=False)
    skipped: Bitmap = field(init=False)
    _early: dict[int, int] = field(default_factory=dict)
    """Lengths in bytes of what has its result beyond that, by first bit."""
    _run_start: int = 0
    _run_sectors: int = 0

    def __post_init__(self) -> None:
        self.found, self.skipped = Bitmap(self.device_bits), Bitmap(self.device_bits)
        self.next_bit = self.start_bit or 0

    def start_at(self, bit: int) -> None:
        self.start_bit = self.next_bit = bit

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

    def settle(self, offset_bytes: int, length_bytes: int, *, equal: bool) -> list[str]:
        """A piece or a block has its result; the lines about the runs of differences that have ended by now.

        Raises PeerProtocolError if too much has been settled behind a block that never is.
        """
        self.settled_bits += ceil_div(length_bytes, BIT_SIZE_BYTES)
        if not equal:
            self.found.set_range(offset_bytes, length_bytes)
        return self._pass(offset_bytes, length_bytes)

    def skip(self, offset_bytes: int, length_bytes: int) -> list[str]:
        """It can't be compared; otherwise as `settle`."""
        self.skipped.set_range(offset_bytes, length_bytes)
        return self._pass(offset_bytes, length_bytes)

    def _pass(self, offset_bytes: int, length_bytes: int) -> list[str]:
        bit = offset_bytes // BIT_SIZE_BYTES
        if bit >= self.next_bit:
            self._early[bit] = length_bytes
        if len(self._early) > VERIFY_PEER_BLOCKS_MAX:
            raise PeerProtocolError(f"no result for the block at {self.next_bit * BIT_SIZE_BYTES}, many behind it")
        texts = []
        while (length := self._early.pop(self.next_bit, 0)) > 0:
            sector, differs = self.next_bit * SECTORS_PER_BIT, self.found.test(self.next_bit)
            self.next_bit += ceil_div(length, BIT_SIZE_BYTES)
            if differs and self._run_sectors and self._run_start + self._run_sectors == sector:
                self._run_sectors += length // SECTOR_SIZE_BYTES
                continue
            if (text := self.end_run()) is not None:
                texts.append(text)
            if differs:
                self._run_start, self._run_sectors = sector, length // SECTOR_SIZE_BYTES
        return texts

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
    """Blocks or pieces that were begun together, the members of one batch; `open`: those without a result.

    `hold`: their ranges, held by a Primary.
    """

    batch: Batch
    open: int
    hold: Hold | None = None

    def length(self, member: int) -> int:
        return int(self.batch.records[member.bit_length() - 1].length)


@dataclass(slots=True, eq=False)
class Running:
    """One volume's verify.

    `blocks`: the pieces and blocks that were asked for and have no result yet, by offset; `open_blocks`: how many
    blocks that are.
    """

    progress: VerifyProgress
    next_bit: int = 0
    blocks: dict[int, tuple[Group, int]] = field(default_factory=dict)
    open_blocks: int = 0
    waiting: deque[tuple[Group, int]] = field(default_factory=deque)
    """VerifyT: members that the peer has asked for and that are not being read yet; `reading`: how many blocks are."""
    reading: int = 0
    answered: set[int] = field(default_factory=set)
    """Blocks whose P_OV_REPLY has been sent (VerifyT), or has come and is being compared (VerifyS)."""
    waits_for_ping: int = 0
    next_persist: float = 0.0

    def add(self, group: Group, index: int) -> None:
        """This one has been asked for."""
        record = group.batch.records[index]
        assert record.offset not in self.blocks
        self.blocks[record.offset] = group, 1 << index
        self.open_blocks += ceil_div(record.length, BIT_SIZE_BYTES)

    def remove(self, offset_bytes: int) -> tuple[Group, int, int]:
        """This one has its result, or is looked at again in parts: its group, member and length in bytes."""
        group, member = self.blocks.pop(offset_bytes)
        self.answered.discard(offset_bytes)
        group.open &= ~member
        length = group.length(member)
        self.open_blocks -= ceil_div(length, BIT_SIZE_BYTES)
        return group, member, length
