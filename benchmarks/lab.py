"""Two guests of the lab with two disks each: one pair of disks is the kernel's DRBD's, the other one pydrbd's.

Each guest has one processor, and one of this machine's is its own as far as there are enough. Nothing of a guest
outlives the measurement: its power is cut.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from benchmarks.cpu import session_seconds
from benchmarks.servers import NotHere, fill
from pydrbd.units import MIB
from tests.lab import lab
from tests.lab.guest import Guest
from tests.lab.network import LabFailed

__all__ = ["DISK_KERNEL", "DISK_PYDRBD", "Guests", "why_not"]

DISK_KERNEL, DISK_PYDRBD = 0, 1
"""Which of a guest's disks is whose."""

_NAMES = ("a", "b")
_META_ROOM_BYTES = MIB
"""Internal meta-data for up to 8 GiB."""

_FIRST_NUMBER = 11
_NBD_VERSION = re.compile(r"^This is nbd-client, from nbd ")


def why_not() -> str | None:
    """Why no guests can be had here; None if nothing speaks against it."""
    return lab.why_not({"fio": "fio", "nbd-client": "nbd-client", "taskset": "util-linux"})


class _Guest(Guest):
    memory = "512M"

    def command_line(self, fd: int) -> list[str]:
        return [*self.on_one_processor(), *super().command_line(fd)]


class Guests:
    """Started by the constructor; their disks, every block of which is written, lie in `directory`."""

    def __init__(self, directory: Path, size_bytes: int, stack: ExitStack) -> None:
        """Raises NotHere."""
        try:
            place = stack.enter_context(lab.Lab())
            self.both = tuple(_add(place, directory, name, size_bytes) for name in _NAMES)
            for guest in self.both:
                guest.begin_start()
            for guest in self.both:
                guest.finish_start()
            self.both[0].load("nbd")
        except LabFailed as error:
            raise NotHere(f"no guest can be started: {error}") from error

    def cpu_seconds(self) -> float:
        """Of all that runs in both, as this machine sees it."""
        return session_seconds([guest.pid for guest in self.both])

    def versions(self) -> Mapping[str, str]:
        """What only the guests have."""
        guest = self.both[0]
        return {
            "guests' Linux": guest.release,
            "drbd.ko": guest.read_file("/sys/module/drbd/version").strip(),
            "nbd-client": _NBD_VERSION.sub("", guest.run("nbd-client", "--version", check=False).output.strip()),
        }


def _add(place: lab.Lab, directory: Path, name: str, size_bytes: int) -> Guest:
    number = _FIRST_NUMBER + len(place.guests)
    disks = [directory / f"{name}.disk{index}" for index in (DISK_KERNEL, DISK_PYDRBD)]
    for disk in disks:
        fill(disk, size_bytes + _META_ROOM_BYTES, random.Random(number))
    guest = _Guest(place.network, place.directory, name, f"{place.name}-{name}", number, disks)
    place.network.add_tap(guest.tap)
    place.guests[name] = guest
    return guest
