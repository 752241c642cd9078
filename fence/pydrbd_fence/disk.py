"""A device as SBD sees it: header, slots, mailboxes. Every write of a record is read back and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .device import Device
from .errors import DeviceError, FormatError, Refused
from .extension import Letter, Record, decode_io_s, decode_letter, decode_record, encode_header_with_io
from .extension import encode_letter as letter_bytes
from .extension import encode_record as record_bytes
from .layout import (
    HEADER_SECTOR,
    SECTORS_USED,
    Header,
    decode_header,
    mailbox_sector,
    same_name,
    slot_sector,
)
from .timeouts import Timeouts, times_of_header

__all__ = ["SbdDisk"]

ALLOCATE_TRIES = 16
"""So often a slot may be lost to another node, before something else must be wrong."""


class SbdDisk:
    """The records of one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._known: dict[str, int] = {}
        self._absent: set[str] = set()

    @property
    def name(self) -> str:
        return self.device.name

    def header_sector(self) -> bytes:
        """The first sector as it is, to be compared with an earlier look."""
        return self.device.read_sector(HEADER_SECTOR)

    def read_header(self) -> Header:
        """The header; FormatError if there is none."""
        try:
            return decode_header(self.header_sector())
        except FormatError as error:
            raise FormatError(f"{self.name}: {error}") from error

    def read_times(self, io_s: int | None = None) -> Timeouts:
        """The times that the device was created with; `io_s` is the option's, if there is one."""
        header = self.read_header()
        return times_of_header(header, decode_io_s(self.header_sector()), io_s)

    def create(self, times: Timeouts, uuid: bytes) -> Header:
        """Make an empty SBD device. The header comes last: half a creation is no device."""
        size = self.device.sector_bytes
        header = Header(size, times.watchdog_s, times.allocate_s, times.loop_s, times.msgwait_s, uuid)
        nothing = bytes(size)
        for sector in range(SECTORS_USED):
            self.device.write_sector(sector, nothing)
        self._write(HEADER_SECTOR, encode_header_with_io(header, times.io_s))
        return header

    def slots(self) -> Iterator[tuple[int, Record]]:
        """Index and record of every slot in use."""
        for index in range(self.read_header().slot_count):
            record = self.read_slot(index)
            if record.in_use:
                yield index, record

    def find_slot(self, name: str) -> int | None:
        """The first slot of a node, or None."""
        return next((index for index, record in self.slots() if same_name(record.name, name)), None)

    def slot_of(self, name: str) -> int:
        """The node's slot, remembered from the last look; Refused if it has none."""
        known = self._known.get(name)
        if known is None or not same_name(self.read_slot(known).name, name):
            found = self.find_slot(name)
            if found is None:
                self._known.pop(name, None)
                raise Refused(f"{self.name}: {name} has no slot; allocate one, or start its daemon")
            self._known[name] = known = found
        return known

    def find_own(self, name: str) -> int | None:
        """Like `slot_of`, but a node without a slot is nothing bad, and not looked for again."""
        if name in self._absent:
            return None
        try:
            return self.slot_of(name)
        except Refused:
            self._absent.add(name)
            return None

    def allocate(self, name: str, allocate_s: int, sleep: Callable[[float], None]) -> int:
        """The node's slot, a new one if it has none: claim a free one, wait, and look whether it is still ours."""
        for _ in range(ALLOCATE_TRIES):
            found = self.find_slot(name)
            if found is not None:
                return found
            self.claim_slot(name)
            sleep(allocate_s)
        raise Refused(f"{self.name}: other nodes took every slot that {name} tried to take; try again")

    def claim_slot(self, name: str) -> int:
        """Write the name into the first free slot; another node may do the same."""
        for index in range(self.read_header().slot_count):
            if not self.read_slot(index).in_use:
                self.device.write_sector(slot_sector(index), record_bytes(Record(name), self.device.sector_bytes))
                return index
        raise Refused(f"{self.name}: all slots are in use")

    def read_slot(self, index: int) -> Record:
        return decode_record(self.device.read_sector(slot_sector(index)))

    def write_slot(self, index: int, record: Record) -> None:
        self._write(slot_sector(index), record_bytes(record, self.device.sector_bytes))

    def read_letter(self, index: int) -> Letter:
        return decode_letter(self.device.read_sector(mailbox_sector(index)))

    def write_letter(self, index: int, letter: Letter) -> None:
        self._write(mailbox_sector(index), letter_bytes(letter, self.device.sector_bytes))

    def check_writable(self) -> None:
        """Write what is there anyway: the mailbox of the last slot, if nobody has that."""
        last = self.read_header().slot_count - 1
        if not self.read_slot(last).in_use:
            self._write(mailbox_sector(last), bytes(self.device.sector_bytes))

    def close(self) -> None:
        self.device.close()

    def _write(self, sector: int, content: bytes) -> None:
        self.device.write_sector(sector, content)
        if self.device.read_sector(sector) != content:
            raise DeviceError(f"{self.name}: sector {sector} does not hold what was just written to it")
