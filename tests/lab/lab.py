"""The lab: guests on a network of their own, and everything gone when the `with` block ends.

    with Lab() as lab:
        a, b = lab.start_guests("a", "b")
        print(a.shell("uname -a"))

Why a lab cannot be had on a machine is told by `why_not`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from tests.lab import names
from tests.lab.guest import KERNEL, MODULES, PYTHON, Guest
from tests.lab.network import PREFIX, LabFailed, Network

DISK_BYTES = 64 * 1024 * 1024

_COMMANDS = {
    KERNEL: "user-mode-linux",
    "ip": "iproute2",
    "insmod": "kmod",
    "setpriv": "util-linux",
    PYTHON: "python3",
    "drbdadm": "drbd-utils",
}
"""What a lab needs, and the Debian package that has it."""

_FIRST_GUEST = 11


def why_not(more: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """Why there can be no lab here, in which also these commands (and their packages) are used; None if there can."""
    if os.geteuid() != 0:
        return "the lab needs root (it makes a network namespace)"
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    wanted = {**_COMMANDS, **more}
    missing = sorted(package for command, package in wanted.items() if shutil.which(command, path=path) is None)
    if missing:
        return f"not installed: {', '.join(missing)} (make lab installs it)"
    if not list(MODULES.rglob("drbd.ko")):
        return f"{MODULES} has no drbd.ko"
    return None


class Lab:
    """A network, guests by name, and a directory for whatever is needed."""

    def __init__(self) -> None:
        self.name = names.new_name()
        self.directory = names.WORKPLACE / self.name
        self.network = Network(self.name)
        self.guests: dict[str, Guest] = {}

    def __enter__(self) -> Self:
        reason = why_not()
        if reason is not None:
            raise LabFailed(reason)
        names.sweep()
        try:
            self.directory.mkdir(mode=0o700)
            self.network.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End and remove everything; may be called at any time, and again."""
        try:
            for guest in self.guests.values():
                guest.power_off()
        finally:
            names.remove(self.name)

    def add_guest(self, name: str, *, disks: int = 1, disk_bytes: int = DISK_BYTES) -> Guest:
        """A guest with empty disks; `start` boots it."""
        files = [self.new_disk(f"{name}.disk{index}", disk_bytes) for index in range(disks)]
        guest = Guest(self.network, self.directory, name, f"{self.name}-{name}", _FIRST_GUEST + len(self.guests), files)
        self.network.add_tap(guest.tap)
        self.guests[name] = guest
        return guest

    def start_guests(self, *wanted: str, disks: int = 1, disk_bytes: int = DISK_BYTES) -> list[Guest]:
        """New guests, booted side by side. Raises GuestFailed."""
        added = [self.add_guest(name, disks=disks, disk_bytes=disk_bytes) for name in wanted]
        for guest in added:
            guest.begin_start()
        for guest in added:
            guest.finish_start()
        return added

    def new_disk(self, name: str, size_bytes: int) -> Path:
        """A file of zeroes (a sparse one)."""
        path = self.directory / name
        with path.open("xb") as file:
            file.truncate(size_bytes)
        return path

    def host_address(self, number: int) -> str:
        """An address in the lab's network for a node that runs outside of the guests."""
        assert 2 <= number < _FIRST_GUEST, "2 to 10 are the host's"
        address = f"{PREFIX}.{number}"
        self.network.add_address(address)
        return address
