"""Debian's sbd is the referee: it reads what we write, and we read what it writes, for both sector sizes."""

from __future__ import annotations

import pytest
from pydrbd_fence.device import PathDevice
from pydrbd_fence.disk import SbdDisk
from pydrbd_fence.extension import Letter, Record, Stage, State
from pydrbd_fence.timeouts import Timeouts, derive_timeouts

pytestmark = pytest.mark.interop
BOTH = pytest.mark.parametrize("sector_bytes", [512, 4096])


@BOTH
def test_sbd_reads_our_device(loops, stock, sector_bytes):
    """Header, slots and letters of ours, with all of our extension, are sbd's own to it."""
    path = loops(sector_bytes)
    disk = SbdDisk(PathDevice(path))
    disk.create(derive_timeouts(7, 1, 1, 14), bytes(range(16)))
    disk.write_slot(disk.claim_slot("alpha"), Record("alpha", True, 9, b"b" * 16, 2, State.watching, 100))
    disk.claim_slot("beta")
    disk.write_letter(0, Letter(0, "beta", True, True, 1, b"i" * 16, b"s" * 16, b"t" * 16, Stage.claim, 5))
    disk.write_letter(1, Letter(3, "alpha", True, True, 1, b"i" * 16, b"s" * 16, b"t" * 16, Stage.plain, 5))
    dump = stock("-d", path, "dump")
    assert dump.returncode == 0
    for line in (
        "Header version     : 2.1",
        "UUID               : 00010203-0405-0607-0809-0a0b0c0d0e0f",
        f"Sector size        : {sector_bytes}",
        "Timeout (watchdog) : 7",
        "Timeout (msgwait)  : 14",
    ):
        assert line in dump.stdout
    assert stock("-d", path, "list").stdout == "0\talpha\tclear\tbeta\n1\tbeta\toff\talpha\n"
    disk.close()


@BOTH
def test_we_read_sbds_device(loops, stock, sector_bytes):
    """create, allocate and message of sbd are header, slot and letter to us, without an extension."""
    path = loops(sector_bytes)
    assert stock("-d", path, "-1", 7, "-2", 1, "-3", 1, "-4", 1, "create").returncode == 0
    assert stock("-d", path, "allocate", "alpha").returncode == 0
    assert stock("-d", path, "-n", "beta", "message", "alpha", "reset").returncode == 0
    disk = SbdDisk(PathDevice(path))
    assert disk.read_times() == Timeouts(7, 1, 1, 1, 3)
    assert list(disk.slots()) == [(0, Record("alpha"))]
    assert disk.read_letter(0) == Letter(2, "beta")
    disk.close()


def test_sbd_writes_over_our_letter(loops, stock):
    """A pill of sbd over a claim of ours leaves nothing of ours behind."""
    path = loops()
    disk = SbdDisk(PathDevice(path))
    disk.create(Timeouts(5, 1, 1, 1, 3), b"u" * 16)
    disk.claim_slot("alpha")
    disk.write_letter(0, Letter(0, "gamma", True, True, 1, b"i" * 16, b"s" * 16, b"t" * 16, Stage.claim, 5))
    assert stock("-d", path, "-n", "beta", "message", "alpha", "off").returncode == 0
    assert disk.read_letter(0) == Letter(3, "beta")
    disk.close()
