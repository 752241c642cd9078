"""Requests that are not whole sectors, from clients that did not ask for our block sizes: NBD lets them send any.

    READ, CACHE     the sectors around it; what was not asked for is cut off
    WRITE           its range is held, the sectors at its edges are read, and whole sectors are written: nobody else
                    writes there in between. One longer than a P_DATA: the edges so, the sectors inside as any write
    WRITE_ZEROES    the same with zeroes
    TRIM            the whole sectors inside; none is a success
    BLOCK_STATUS    as it is asked

Where two Primaries may be, writes get EINVAL: the other node's writes can't be kept out between the read and the write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydrbd import native
from pydrbd.core.effects import Reply
from pydrbd.core.inner import InnerRead, InnerSession
from pydrbd.core.ranges import Hold
from pydrbd.core.volume import Volume
from pydrbd.native import Batch
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire.nbd import Command, CommandFlag, NbdError

if TYPE_CHECKING:
    from pydrbd.core.clients import Clients
    from pydrbd.core.node import Node

__all__ = ["Unaligned", "sectors_around"]

_WRITES: Final = (Command.WRITE, Command.WRITE_ZEROES, Command.TRIM)


def sectors_around(offset_bytes: int, length: int) -> tuple[int, int]:
    """Offset and length of the whole sectors that a range touches."""
    first = offset_bytes - offset_bytes % SECTOR_SIZE_BYTES
    end = offset_bytes + length
    return first, end + -end % SECTOR_SIZE_BYTES - first


class Unaligned:
    """Carries out what the door has let in (bounds, flags, role) and is not whole sectors."""

    def __init__(self, node: Node, clients: Clients) -> None:
        self._node = node
        self._clients = clients

    def read(self, volume: Volume, session: Any, batch: Batch, mask: int) -> None:
        """READs of a client; a reader's, too."""
        for index in native.indices(mask):
            record = batch.records[index]
            inner = native.single_request(Command.READ, 0, *sectors_around(record.offset, record.length))
            self._node.reads.submit(volume, _Cut(self._node, volume, session, batch, index), inner, 1)

    def write(self, volume: Volume, session: Any, batch: Batch, mask: int) -> int:
        """Those of the members that write or trim are taken; the members that were."""
        taken = 0
        for command in _WRITES:
            taken |= native.records_with_command(batch, mask, command)
        if taken and self._node.conflicts.possible:
            self._clients.reply(volume, session, batch, taken, NbdError.EINVAL)
            return taken
        for index in native.indices(taken):
            self._write(volume, _Whole(self._clients, volume, session, batch, 1 << index), batch, index)
        return taken

    def _write(self, volume: Volume, whole: _Whole, batch: Batch, index: int) -> None:
        record = batch.records[index]
        command, start, end = record.command, record.offset, record.offset + record.length
        flags = record.flags & CommandFlag.FUA
        data = None
        if command == Command.WRITE:
            data = memoryview(batch.buffer)[record.data : record.data + record.length]
        if data is not None and sectors_around(start, record.length)[1] <= volume.peer.request_bytes_max:
            whole.left = 1
            _Rewrite(self._node, volume, whole, flags, start, data).begin()
            return
        inside, inside_end = start + -start % SECTOR_SIZE_BYTES, end - end % SECTOR_SIZE_BYTES
        edges = {(start, min(inside, end)), (max(inside_end, start), end)} if command != Command.TRIM else set()
        edges = {(low, high) for low, high in edges if low < high}
        middle = max(0, inside_end - inside)
        whole.left = len(edges) + (middle > 0)
        if not whole.left:
            whole.left = 1
            whole.done(1, 0)
            return
        for low, high in sorted(edges):
            piece = bytes(high - low) if data is None else data[low - start : high - start]
            _Rewrite(self._node, volume, whole, flags, low, piece).begin()
        if middle:
            inner = native.single_request(command, record.flags, inside, middle)
            if data is not None:
                inner = Batch(batch.buffer, inner.records, 1)  # nothing is copied
                inner.records[0].data = record.data + inside - start
            self._clients.write_sectors(volume, whole, inner)


class _Cut(InnerRead):
    """The sectors around a READ; answered by what was asked for."""

    __slots__ = ("_batch", "_index", "_node", "_volume")

    def __init__(self, node: Node, volume: Volume, session: Any, batch: Batch, index: int) -> None:
        super().__init__(session)
        self._node = node
        self._volume = volume
        self._batch = batch
        self._index = index

    def got(self, part: bytearray | memoryview) -> None:
        record = self._batch.records[self._index]
        first, length = sectors_around(record.offset, record.length)
        begin = len(part) - length + record.offset - first
        reply = native.nbd_read_replies(self._batch, 1 << self._index)
        reply[len(reply) - record.length :] = memoryview(part)[begin : begin + record.length]
        self._node.out.put(Reply(self.client, self._batch, 1 << self._index, [reply], self._volume.vnr))

    def done(self, _mask: int, error: int) -> None:
        self._node.reply(self._volume, self.client, self._batch, 1 << self._index, error)


class _Whole(InnerSession):
    """A request as the sum of its parts: one reply when the last of them has ended."""

    __slots__ = ("_batch", "_clients", "_error", "_member", "_session", "_volume", "left")

    def __init__(self, clients: Clients, volume: Volume, session: Any, batch: Batch, member: int) -> None:
        self._clients = clients
        self._volume = volume
        self._session = session
        self._batch = batch
        self._member = member
        self._error = 0
        self.left = 0

    def done(self, _mask: int, error: int) -> None:
        self.left -= 1
        self._error = self._error or error
        assert self.left >= 0, "a part ended twice"
        if not self.left:
            self._clients.reply(self._volume, self._session, self._batch, self._member, self._error)


class _Rewrite:
    """A write whose first or last sector keeps some of its bytes: one write of whole sectors, which holds its range."""

    __slots__ = (
        "_batch", "_end", "_error", "_first", "_hold", "_left", "_node", "_payload", "_start", "_volume", "_whole",
    )  # fmt: skip

    def __init__(
        self, node: Node, volume: Volume, whole: _Whole, flags: int, offset_bytes: int, data: bytes | memoryview
    ) -> None:
        self._node = node
        self._volume = volume
        self._whole = whole
        self._start, self._end = offset_bytes, offset_bytes + len(data)
        self._first, length = sectors_around(offset_bytes, len(data))
        self._payload = bytearray(length)
        self._payload[offset_bytes - self._first : self._end - self._first] = data
        request = native.single_request(Command.WRITE, flags, self._first, length)
        self._batch = Batch(self._payload, request.records, 1)
        self._left = self._error = 0
        self._hold: Hold | None = None

    def begin(self) -> None:
        """Wait for the range; from now on it counts as a write under way."""
        self._node.writes.waiting_count += 1
        self._volume.ranges.acquire(self._batch, 1, self._read_edges, yields=True)

    def _read_edges(self, hold: Hold, _members: int) -> None:
        self._hold = hold
        edges = {at - at % SECTOR_SIZE_BYTES for at in (self._start, self._end) if at % SECTOR_SIZE_BYTES}
        self._left = len(edges)
        assert edges, "whole sectors need no rewriting"
        for sector in sorted(edges):
            request = native.single_request(Command.READ, 0, sector, SECTOR_SIZE_BYTES)
            self._node.reads.submit(self._volume, _Edge(self, sector), request, 1)

    def on_edge(self, sector: int, old: memoryview | None, error: int) -> None:
        """What a sector at the edge holds, or why that is not known."""
        self._left -= 1
        self._error = self._error or error
        if old is not None:
            here, place = sector - self._first, self._payload
            before, after = max(0, self._start - sector), min(SECTOR_SIZE_BYTES, self._end - sector)
            place[here : here + before] = old[:before]
            place[here + after : here + SECTOR_SIZE_BYTES] = old[after:]
        if not self._left:
            self._go_on()

    def _go_on(self) -> None:
        node, hold = self._node, self._hold
        assert hold is not None, "read before the range was held"
        if not self._error:
            node.writes.enter_gate(self._volume, self._whole, self._batch, hold, 1, 0.0)
            return
        node.writes.waiting_count -= 1
        self._whole.done(1, self._error)
        self._volume.ranges.release(hold, 1)
        node.on_write_finished()
        node.resync.on_range_free(self._volume)


class _Edge(InnerRead):
    __slots__ = ("_rewrite", "_sector")

    def __init__(self, rewrite: _Rewrite, sector: int) -> None:
        super().__init__(holds=True)
        self._rewrite = rewrite
        self._sector = sector

    def got(self, part: bytearray | memoryview) -> None:
        self._rewrite.on_edge(self._sector, memoryview(part)[-SECTOR_SIZE_BYTES:], 0)

    def done(self, _mask: int, error: int) -> None:
        self._rewrite.on_edge(self._sector, None, error)
