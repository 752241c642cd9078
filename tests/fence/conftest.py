"""Fixtures of the fence's tests."""

from __future__ import annotations

import os
import subprocess

import pytest
from pydrbd_fence.device import open_device
from pydrbd_fence.disk import SbdDisk

from tests.fence.harness import DAEMON_TIMES, DEVICE_BYTES, NbdServer, attach_loop, detach_loop


@pytest.fixture
def nbd(short_tmp):
    """An NBD server with an empty export of 1 MiB."""
    server = NbdServer(short_tmp / "s")
    yield server
    server.stop()


@pytest.fixture
def disk(nbd):
    """The server's device, created, as another node sees it."""
    disk = SbdDisk(open_device(nbd.address, 5))
    disk.create(DAEMON_TIMES, b"u" * 16)
    yield disk
    disk.close()


@pytest.fixture
def loops(tmp_path, need):
    """`loops(sector_bytes)` makes an empty loop device of 1 MiB; all are detached at the end."""
    need("losetup")
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    made = []

    def make(sector_bytes=512):
        file = tmp_path / f"disk{len(made)}"
        file.write_bytes(bytes(DEVICE_BYTES * (sector_bytes // 512)))
        try:
            device = attach_loop(file, sector_bytes)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no loop device: {error.stderr.strip()}")
        made.append(device)
        return device

    yield make
    for device in made:
        detach_loop(device)


@pytest.fixture
def stock(need):
    """`stock(*words)` runs Debian's sbd."""
    sbd = need("sbd")

    def run(*words):
        return subprocess.run([sbd, *map(str, words)], capture_output=True, text=True, timeout=60)

    run.program = sbd
    return run
