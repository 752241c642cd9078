"""A guest's disk behind device mapper: it can grow, and hang, while it is in use."""

from __future__ import annotations

from tests.lab.guest import Guest

SECTOR_BYTES = 512
PATH = "/dev/dm-0"

_NAME = "mapped"


class MappedDisk:
    """The first `size_bytes` of a disk of a guest, as PATH."""

    def __init__(self, guest: Guest, below: str = "/dev/ubda") -> None:
        self.guest = guest
        self.below = below

    def _table(self, size_bytes: int) -> str:
        return f"0 {size_bytes // SECTOR_BYTES} linear {self.below} 0"

    def create(self, size_bytes: int) -> None:
        """Once after each boot of the guest."""
        self.guest.load("dm-mod")
        self.guest.run("dmsetup", "create", "--noudevsync", _NAME, "--table", self._table(size_bytes))

    def resize(self, size_bytes: int) -> None:
        self.guest.run("dmsetup", "reload", "--noudevsync", _NAME, "--table", self._table(size_bytes))
        self.resume()

    def suspend(self) -> None:
        """What is asked of it from now on waits until `resume`."""
        self.guest.run("dmsetup", "suspend", "--noudevsync", "--noflush", "--nolockfs", _NAME)

    def resume(self) -> None:
        """Also when it is not suspended."""
        self.guest.run("dmsetup", "resume", "--noudevsync", _NAME)

    def remove(self) -> None:
        """When nobody has it open any more."""
        self.guest.run("dmsetup", "remove", "--noudevsync", _NAME, check=False)
