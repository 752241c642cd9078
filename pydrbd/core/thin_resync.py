"""Thin resync (`rs-discard-granularity`): where the source has zeroes the target gets a hole (WIRE 12.2 to 12.4).

    target: P_RS_THIN_REQ, of just that length -> hold
    source: hold, look for a hole, else read   -> P_RS_DEALLOCATED (zeroes), else P_RS_DATA_REPLY as usual
    target: discard                            -> P_RS_WRITE_ACK

A disk that can't discard has zeroes written instead; what the network was spared is still spared. (A kernel switches
the option off then.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EIO
from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.data_packets import deallocated_parts
from pydrbd.core.effects import DiskDiscard, DiskRead, MapDisk, Send, Socket
from pydrbd.core.resync_progress import ResyncProgress
from pydrbd.core.volume import Volume
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES
from pydrbd.wire.packet_numbers import Feature
from pydrbd.wire.packets import Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["ThinResync"]

_OnRead = Callable[[int, int, int], None]
"""Called with (members that were found to be a hole and not read, failed members, errno)."""


class ThinResync:
    """The holes of a node's resyncs, on both sides."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- target ---

    def request_bytes(self, volume: Volume, running: ResyncProgress) -> int:
        """The length of a thin request: a power of two that is not less than the option, if the peer takes it; 0: none.

        Checksums go before it, as with a kernel.
        """
        wanted, handshake = volume.options.rs_discard_granularity_bytes, self._node.links.handshake
        if not wanted or running.csums or handshake is None or not handshake.features & Feature.THIN_RESYNC:
            return 0
        longest = 1 << (volume.peer.request_bytes_max.bit_length() - 1)
        return min(longest, 1 << (max(wanted, BIT_SIZE_BYTES) - 1).bit_length())

    def discard(self, volume: Volume, batch: Batch, mask: int, then: Callable[[int, int], None]) -> None:
        """Make holes of these members; `then` is called with those that failed and an errno when all have ended."""
        runs = list(_adjacent(batch, mask))
        left, failed_members, first_errno = len(runs), 0, 0

        def ended(failed: int, errno: int, members: int) -> None:
            nonlocal left, failed_members, first_errno
            left -= 1
            if failed:
                failed_members |= members
                first_errno = first_errno or errno
            if not left:
                then(failed_members, first_errno)

        def discard(members: int) -> None:
            first, length = next(native.indices(members)), native.records_length_sum(batch, members)
            offset = batch.records[first].offset
            effect = DiskDiscard(volume.vnr, offset, length, lambda failed, errno: ended(failed, errno, members), True)
            self._node.out.put(effect)

        for members in runs:
            discard(members)

    # --- source ---

    def read(self, volume: Volume, request: Batch, mask: int, buffer: bytearray, then: _OnRead) -> None:
        """Read what was asked for, unless it was asked for thinly and is a hole. Its range is held."""
        thin = _thin(request, mask)
        if not thin:
            self._read(volume, request, mask, buffer, 0, then)
            return
        asked = [request.records[index] for index in native.indices(thin)]
        first, end = min(one.offset for one in asked), max(one.offset + one.length for one in asked)

        disk = volume.disk

        def mapped(_failed: int, _errno: int) -> None:
            if volume.disk is not disk:
                then(0, mask, EIO)
                return
            # One hole is looked for, from the first member on: what can't be known is read.
            holes = 0
            for length, is_hole in effect.extents[:1]:
                for index in native.indices(thin if is_hole else 0):
                    record = request.records[index]
                    holes |= (record.offset + record.length <= first + length) << index
            if mask & ~holes:
                self._read(volume, request, mask & ~holes, buffer, holes, then)
            else:
                then(holes, 0, 0)

        effect = MapDisk(volume.vnr, first, end - first, 1, mapped)
        self._node.out.put(effect)

    def _read(self, volume: Volume, request: Batch, mask: int, buffer: bytearray, holes: int, then: _OnRead) -> None:
        def read(failed: int, errno: int) -> None:
            then(holes, failed & mask, errno)

        self._node.out.put(DiskRead(volume.vnr, request, mask, buffer, read))

    def send_empty(self, volume: Volume, request: Batch, good: int, holes: int) -> int:
        """P_RS_DEALLOCATED for holes, and for what a thin request has read and is zeroes; which members these are."""
        empty = holes | native.records_zero(request, _thin(request, good & ~holes))
        if empty:
            node = self._node
            parts = node.barrier_parts() + deallocated_parts(node, volume, request, empty)
            node.out.put(Send(Socket.DATA, parts))
        return empty


def _thin(request: Batch, mask: int) -> int:
    return native.records_with_command(request, mask, Packet.P_RS_THIN_REQ)


def _adjacent(batch: Batch, mask: int) -> Iterator[int]:
    """The members in groups that lie one behind the other."""
    members, end = 0, -1
    for index in native.indices(mask):
        record = batch.records[index]
        if members and record.offset != end:
            yield members
            members = 0
        members |= 1 << index
        end = record.offset + record.length
    if members:
        yield members
