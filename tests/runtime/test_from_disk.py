"""From the disk's page cache to a socket: the bytes of a reader in the ordinary way, or nothing at all."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pydrbd import native
from pydrbd.core.effects import DiskSend, Part, Socket
from pydrbd.native import Batch
from pydrbd.runtime.from_disk import send_from_disk
from pydrbd.runtime.nbd_sender import ReplySender

HEAD = 40
BASE = 512
LENGTHS = (300_000, 4096, 123_904)


class FakeDisk:
    """As much of a VolumeDisk as is looked at."""

    def __init__(self, fd: int, block_bytes: int = 0) -> None:
        self.place: tuple[int, int, int] | None = (fd, BASE, block_bytes)
        self.read_bytes = 0

    def lane_place(self) -> tuple[int, int, int] | None:
        return self.place

    def lane_ended(self, _written: int, read: int, *, slow: bool) -> None:
        self.read_bytes += read


class FakeLine:
    """A link: one end of a socket pair, and what it was told."""

    def __init__(self) -> None:
        here, self.there = socket.socketpair()
        here.setblocking(False)
        self.lost_errno = 0
        self.sender = ReplySender(here, lambda: None, lambda _error: None)
        self.arrived = bytearray()

    def idle_data_sender(self) -> ReplySender | None:
        return None if self.sender.queued_bytes else self.sender

    def send(self, which: Socket, parts: list[Part]) -> None:
        assert which is Socket.DATA
        self.sender.send(parts)

    def lost(self, number: int) -> None:
        self.lost_errno = number

    def take(self) -> bytes:
        """All that has been sent: the socket's part, and what is queued behind."""
        self.there.setblocking(False)
        while True:
            try:
                self.arrived += self.there.recv(1 << 20)
            except BlockingIOError:
                break
        queued = b"".join(bytes(part) for part in self.sender._queue)
        return bytes(self.arrived) + queued

    def close(self) -> None:
        self.sender.close()
        self.sender.socket.close()
        self.there.close()


@pytest.fixture
def line() -> Iterator[FakeLine]:
    line = FakeLine()
    yield line
    line.close()


@pytest.fixture
def disk_fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "disk"
    path.write_bytes(random.Random(1).randbytes(1 << 20))
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def effect_of(mask: int = 0b111) -> DiskSend:
    """Three places, the last one first on the disk, each with a head of its own."""
    asked = Batch(bytearray(), native.new_records(len(LENGTHS)), len(LENGTHS))
    for record, offset, length in zip(asked.records, (512_000, 200_192, 1024), LENGTHS, strict=True):
        record.offset, record.length = offset, length
    records, end = native.records_lay_out(asked, asked.all, HEAD, HEAD)
    buffer = bytearray(end)
    batch = Batch(buffer, records, len(LENGTHS))
    for index in range(len(LENGTHS)):
        at = batch.records[index].data
        buffer[at - HEAD : at] = bytes([index + 1]) * HEAD
    return DiskSend(0, batch, mask, buffer, HEAD, lambda _failed, _errno: None)


def expected(fd: int, effect: DiskSend) -> bytes:
    records = [effect.batch.records[index] for index in native.indices(effect.mask)]
    return b"".join(
        effect.buffer[one.data - HEAD : one.data] + os.pread(fd, one.length, BASE + one.offset) for one in records
    )


@pytest.mark.parametrize("mask", [0b111, 0b101, 0b010])
@pytest.mark.parametrize("room_bytes", [None, 8192, 400_000])
def test_the_bytes_are_those_of_the_disk_behind_their_heads(
    line: FakeLine, disk_fd: int, mask: int, room_bytes: int | None
) -> None:
    """However little the socket takes: what it does not take is queued behind, to the byte."""
    if room_bytes is not None:
        line.sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room_bytes)
    disk, effect = FakeDisk(disk_fd), effect_of(mask)
    assert send_from_disk(line, disk, effect) == (0, 0)  # type: ignore[arg-type]
    assert line.take() == expected(disk_fd, effect) and not line.lost_errno
    assert disk.read_bytes == native.records_length_sum(effect.batch, mask)


@pytest.mark.parametrize("why", ["direct I/O", "slow", "busy socket", "no link"])
def test_when_it_can_not_be_done_nothing_leaves(line: FakeLine, disk_fd: int, why: str) -> None:
    """Whoever asked reads then, and what is queued stays in front."""
    disk, effect = FakeDisk(disk_fd, 4096 if why == "direct I/O" else 0), effect_of()
    if why == "slow":
        disk.place = None
    before = b""
    if why == "busy socket":
        before = bytes(8 << 20)
        line.send(Socket.DATA, [before])
        assert line.sender.queued_bytes
    if why == "no link":
        line.idle_data_sender = lambda: None  # type: ignore[method-assign]
    assert send_from_disk(line, disk, effect) == (effect.mask, errno.EAGAIN)  # type: ignore[arg-type]
    assert line.take() == before and not line.lost_errno


def test_a_disk_that_ends_in_the_middle_of_a_packet_ends_the_link(line: FakeLine, disk_fd: int) -> None:
    """The peer waits for the rest of a packet: there is no other way to tell it that it won't come."""
    os.ftruncate(disk_fd, BASE + 512_000 + 4096)
    effect = effect_of()
    failed, number = send_from_disk(line, FakeDisk(disk_fd), effect)  # type: ignore[arg-type]
    assert failed & 0b001 and number == errno.EIO == line.lost_errno


def test_nothing_follows_the_part_of_a_packet(line: FakeLine, disk_fd: int) -> None:
    """What the node says before the link has ended would be the rest of that block for the peer."""
    os.ftruncate(disk_fd, BASE + 512_000 + 4096)
    send_from_disk(line, FakeDisk(disk_fd), effect_of())  # type: ignore[arg-type]
    line.send(Socket.DATA, [b"another packet"])
    sent = bytearray()
    line.there.setblocking(False)
    while piece := line.there.recv(1 << 20):
        sent += piece
    assert sent == bytes([1]) * HEAD + os.pread(disk_fd, 4096, BASE + 512_000)


def test_a_socket_that_has_failed_is_found_out_by_the_sender(line: FakeLine, disk_fd: int) -> None:
    """It is not the disk's fault: nothing failed here, and the link hears of it as of any other send."""
    lost: list[OSError] = []
    line.sender = ReplySender(line.sender.socket, lambda: None, lost.append)
    line.there.close()
    effect = effect_of()
    assert send_from_disk(line, FakeDisk(disk_fd), effect) == (0, 0)  # type: ignore[arg-type]
    assert [error.errno for error in lost] == [errno.EPIPE] and not line.lost_errno
