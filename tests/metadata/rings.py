"""A ring of activity-log blocks as it lies on disk, for tests of writer and replay."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydrbd.metadata.activity_log import ActivityLog, Plan, ReplayResult, clean_ring, replay
from pydrbd.metadata.apply_al import split_blocks
from pydrbd.units import MD_BLOCK_SIZE_BYTES

SECTORS_PER_BLOCK = 8


@dataclass
class Ring:
    """The log's area on disk, and the writer that fills it."""

    slot_count: int
    al_stripes: int = 1
    al_stripe_size_4k: int = 8
    tr_number: int = 0
    log: ActivityLog = field(init=False)
    disk: bytearray = field(init=False)

    def __post_init__(self):
        self.log = ActivityLog(self.slot_count, self.al_stripes, self.al_stripe_size_4k, self.tr_number)
        self.disk = bytearray(clean_ring(self.al_stripes * self.al_stripe_size_4k))

    def blocks(self) -> list[bytes]:
        return [bytes(block) for block in split_blocks(bytes(self.disk))]

    def replay(self, primary_indicator: bool = True) -> ReplayResult:
        return replay(self.blocks(), primary_indicator, self.al_stripes)

    def write(self, plan: Plan, sectors: int = (1 << SECTORS_PER_BLOCK) - 1) -> None:
        """The plan's block reaches the disk, or those of its sectors whose bits are set."""
        for sector in range(SECTORS_PER_BLOCK):
            if sectors >> sector & 1:
                at = plan.ring_offset_bytes + sector * 512
                self.disk[at : at + 512] = plan.block[sector * 512 : (sector + 1) * 512]

    def add(self, cold: list[int], released_epoch: int, epoch: int) -> Plan | None:
        """Make extents hot and use them, all in one."""
        plan = self.log.plan(cold, released_epoch)
        if plan is not None:
            self.write(plan)
            self.log.commit(plan)
            self.log.touch(plan.added, epoch)
        return plan


assert MD_BLOCK_SIZE_BYTES == SECTORS_PER_BLOCK * 512
