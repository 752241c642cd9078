"""From the page cache to the peer's socket by the kernel's hand (the effect DiskSend): nothing is copied here.

Only while that is quick: the socket has taken all that came before, and the disk is one whose reads are copies from
memory (disk.py knows when they are not). What the socket does not take any more is read, and queued as ever.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from errno import EAGAIN, EIO
from typing import Final, Protocol

from pydrbd import native
from pydrbd.core.effects import DiskSend, Part, Socket
from pydrbd.limits import DISK_INLINE_SLOW_S
from pydrbd.runtime.nbd_sender import ReplySender
from pydrbd.runtime.volume_disk import VolumeDisk

__all__ = ["Line", "send_from_disk"]

_MORE: Final = socket.MSG_MORE | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Line(Protocol):
    """What this needs of the link."""

    def idle_data_sender(self) -> ReplySender | None: ...

    def send(self, which: Socket, parts: list[Part]) -> None: ...

    def lost(self, errno: int) -> None: ...


def send_from_disk(line: Line, disk: VolumeDisk, effect: DiskSend) -> tuple[int, int]:
    """Carry out the effect: (mask of what failed, errno).

    A disk that fails when a part has left already takes the link with it: its peer waits for the rest of a packet.
    """
    place, sender = disk.lane_place(), line.idle_data_sender()
    if place is None or place[2] or sender is None:
        return effect.mask, EAGAIN
    descriptor, base_bytes, _block_bytes = place
    began = time.monotonic()
    left_bytes = _send(sender.socket, descriptor, base_bytes, effect)
    failed, errno = _queue_rest(line, descriptor, base_bytes, effect, left_bytes)
    if failed and not left_bytes:
        return effect.mask, EAGAIN  # who reads in the ordinary way finds out which of them can be read
    if failed:
        # The link ends a little later. What the node says until then must not become the rest of that packet.
        with contextlib.suppress(OSError):
            sender.socket.shutdown(socket.SHUT_WR)
        line.lost(errno)
    byte_count = native.records_length_sum(effect.batch, effect.mask)
    disk.lane_ended(0, byte_count, slow=time.monotonic() - began > DISK_INLINE_SLOW_S)
    return failed, errno


def _send(sock: socket.socket, descriptor: int, base_bytes: int, effect: DiskSend) -> int:
    """Send until the socket, or the disk, does not go on: how many bytes have left, heads and data."""
    left_bytes, view = 0, effect.batch.view
    try:
        for index in native.indices(effect.mask):
            record = effect.batch.records[index]
            at, length = record.data, record.length
            sent = sock.send(view[at - effect.head_bytes : at], _MORE)
            left_bytes += sent
            if sent < effect.head_bytes:
                break
            place, end = base_bytes + record.offset, base_bytes + record.offset + length
            while place < end and (sent := os.sendfile(sock.fileno(), descriptor, place, end - place)):
                place += sent
                left_bytes += sent
            if place < end:
                break
    except OSError:
        pass  # if it is the disk's fault, reading says so; if it is the socket's, it says so again
    return left_bytes


def _queue_rest(line: Line, descriptor: int, base_bytes: int, effect: DiskSend, left_bytes: int) -> tuple[int, int]:
    """Read what has not left, or not all of it, and send it behind: (mask of what failed, errno)."""
    rest, skipped = effect.mask, left_bytes
    for index in native.indices(effect.mask):
        byte_count = effect.head_bytes + effect.batch.records[index].length
        if skipped < byte_count:
            break
        rest ^= 1 << index
        skipped -= byte_count
    if not rest:
        return 0, 0
    failed, errno = native.pread_records(descriptor, base_bytes, effect.batch, rest)
    if failed:
        return failed, errno or EIO
    parts: list[Part] = []
    for index in native.indices(rest):
        record = effect.batch.records[index]
        parts.append(effect.batch.view[record.data - effect.head_bytes + skipped : record.data + record.length])
        skipped = 0
    line.send(Socket.DATA, parts)
    return 0, 0
