"""NBD clients at the door: what is let in, what is refused with which error, what must wait.

    not Primary, or being demoted        ESHUTDOWN; a read-only client is served by an UpToDate disk here (core/readers)
    outside the device                   EINVAL for READ and others, ENOSPC for WRITE, TRIM and WRITE_ZEROES
    unknown command or flag              EINVAL
    not whole sectors                    EINVAL if the client asked for our block sizes; else core/unaligned
    length 0                             success, nothing done; EINVAL for BLOCK_STATUS
    FAST_ZERO where our disk would write     ENOTSUP, at once
    no quorum, on-no-quorum io-error     EIO
    I/O frozen (WIRE 5.5)                held until it thaws
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydrbd import native
from pydrbd.core.effects import Part, ReadAhead, Reply
from pydrbd.core.events import ClientBatch, SessionClosed, SessionOpened
from pydrbd.core.inner import InnerSession
from pydrbd.core.readers import Readers
from pydrbd.core.states import Role
from pydrbd.core.unaligned import Unaligned, sectors_around
from pydrbd.core.volume import Volume
from pydrbd.limits import BATCH_RECORDS_MAX, DISCARD_CHUNK_BYTES, NBD_REQUEST_BYTES_MAX
from pydrbd.native import Batch
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire import nbd

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["Clients"]

_EINVAL = int(nbd.NbdError.EINVAL)
_EIO = int(nbd.NbdError.EIO)
_ENOSPC = int(nbd.NbdError.ENOSPC)
_ENOTSUP = int(nbd.NbdError.ENOTSUP)
_ESHUTDOWN = int(nbd.NbdError.ESHUTDOWN)
_KNOWN_FLAGS = {
    nbd.Command.READ: nbd.CommandFlag.FUA | nbd.CommandFlag.DF,
    nbd.Command.WRITE: nbd.CommandFlag.FUA,
    nbd.Command.FLUSH: nbd.CommandFlag.FUA,
    nbd.Command.TRIM: nbd.CommandFlag.FUA,
    nbd.Command.WRITE_ZEROES: nbd.CommandFlag.FUA | nbd.CommandFlag.NO_HOLE | nbd.CommandFlag.FAST_ZERO,
    nbd.Command.CACHE: nbd.CommandFlag.FUA,
    nbd.Command.BLOCK_STATUS: nbd.CommandFlag.FUA | nbd.CommandFlag.REQ_ONE,
}
_ALL_FLAGS = 0xFFFF


class _LongRequest:
    """A TRIM or WRITE_ZEROES that is carried out piece by piece; one reply when all are done."""

    __slots__ = ("batch", "end_offset", "failed", "member", "next_offset", "session", "volume")

    def __init__(self, volume: Volume, session: Any, batch: Batch, index: int) -> None:
        self.volume = volume
        self.session = session
        self.batch = batch
        self.member = 1 << index
        self.next_offset = batch.records[index].offset
        self.end_offset = self.next_offset + batch.records[index].length
        self.failed = 0


class Clients:
    """The requests of all NBD clients of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._long: set[_LongRequest] = set()
        self.readers = Readers(node, self)
        self._unaligned = Unaligned(node, self)

    def on_opened(self, event: SessionOpened) -> None:
        volume = self._node.volumes[event.volume]
        (volume.readers if event.reads_only else volume.sessions).add(event.session)

    def on_closed(self, event: SessionClosed) -> None:
        volume = self._node.volumes[event.volume]
        volume.sessions.discard(event.session)
        volume.readers.discard(event.session)
        self._node.operator.auto_promote.review()

    def on_batch(self, event: ClientBatch) -> None:
        """One wake-up's requests of one client."""
        volume = self._node.volumes[event.volume]
        batch, session = event.batch, event.session
        if volume.readers and session in volume.readers:
            self.readers.on_batch(volume, session, batch)
        elif volume.state.role != Role.Primary or self._node.operator.demoting:
            self.reply(volume, session, batch, batch.all, _ESHUTDOWN)
        elif volume.fails:
            self.reply(volume, session, batch, batch.all, _EIO)
        elif volume.frozen:
            volume.held.append((session, batch))
        else:
            self._dispatch(volume, session, batch)

    def thaw(self, volume: Volume) -> None:
        """I/O goes on: what was held comes in now, in order."""
        while volume.held and not volume.frozen:
            session, batch = volume.held.popleft()
            self.on_batch(ClientBatch(session, volume.vnr, batch))

    def refuse_held(self, volume: Volume) -> None:
        """The node is no longer Primary: nothing that waits may go on."""
        while volume.held:
            session, batch = volume.held.popleft()
            self.reply(volume, session, batch, batch.all, _ESHUTDOWN)

    def _dispatch(self, volume: Volume, session: Any, batch: Batch) -> None:
        node = self._node
        good = batch.all & ~self.refuse(volume, session, batch)
        reads = native.records_with_command(batch, good, nbd.Command.READ)
        if reads:
            self.read(volume, session, batch, reads)
            good &= ~reads
        unaligned = self._unaligned_members(session, batch, good)
        if unaligned:
            good &= ~self._take_unaligned(volume, session, batch, unaligned)
        if not good:
            return
        writes = native.records_with_command(batch, good, nbd.Command.WRITE)
        others = good & ~writes
        long_writes = native.records_longer(batch, writes, volume.peer.request_bytes_max)
        if writes & ~long_writes:
            node.writes.submit(volume, session, batch, writes & ~long_writes)
        for index in native.indices(long_writes):
            _LongWrite(self, volume, session, batch, index).submit()
        for index in native.indices(others):
            command = batch.records[index].command
            if command == nbd.Command.FLUSH:
                node.flushes.submit(volume, session, batch, index)
            elif command == nbd.Command.BLOCK_STATUS:
                node.block_status.submit(volume, session, batch, index)
            elif command == nbd.Command.CACHE:
                self.read_ahead(volume, session, batch, index)
            elif batch.records[index].flags & nbd.CommandFlag.FAST_ZERO and not _zeroes_fast(volume, batch, index):
                self.reply(volume, session, batch, 1 << index, _ENOTSUP)
            else:
                self._begin_long(volume, session, batch, index)

    def _begin_long(self, volume: Volume, session: Any, batch: Batch, index: int) -> None:
        long = _LongRequest(volume, session, batch, index)
        self._long.add(long)
        self._advance(long, 0)

    # --- not whole sectors ---

    def read(self, volume: Volume, session: Any, batch: Batch, reads: int) -> None:
        """READs that were checked, of whole sectors and others."""
        unaligned = self._unaligned_members(session, batch, reads)
        if unaligned:
            self._unaligned.read(volume, session, batch, unaligned)
            reads &= ~unaligned
        if reads:
            self._node.reads.submit(volume, session, batch, reads)

    def _unaligned_members(self, session: Any, batch: Batch, mask: int) -> int:
        if not mask or not getattr(session, "any_alignment", False):
            return 0
        return native.records_unaligned(batch, mask, SECTOR_SIZE_BYTES)

    def _take_unaligned(self, volume: Volume, session: Any, batch: Batch, mask: int) -> int:
        refused = 0
        zeroes = native.records_with_command(batch, mask, nbd.Command.WRITE_ZEROES)
        for index in native.indices(zeroes):
            if batch.records[index].flags & nbd.CommandFlag.FAST_ZERO and not _zeroes_fast(volume, batch, index):
                refused |= 1 << index
        self.reply(volume, session, batch, refused, _ENOTSUP)
        return refused | self._unaligned.write(volume, session, batch, mask & ~refused)

    def write_sectors(self, volume: Volume, session: InnerSession, batch: Batch) -> None:
        """The whole sectors inside of a request: a batch of one, for which `session` hears one `done`."""
        if batch.records[0].command == nbd.Command.WRITE:
            _LongWrite(self, volume, session, batch, 0).submit()
        else:
            self._begin_long(volume, session, batch, 0)

    # --- the others ---

    def read_ahead(self, volume: Volume, session: Any, batch: Batch, index: int) -> None:
        """CACHE is a hint: whatever comes of it, it is answered with success."""
        record = batch.records[index]
        if volume.disk is None:
            self.reply(volume, session, batch, 1 << index, 0)
            return

        def done(_failed: int, _errno: int) -> None:
            self.reply(volume, session, batch, 1 << index, 0)

        self._node.out.put(ReadAhead(volume.vnr, *sectors_around(record.offset, record.length), done))

    def refuse(self, volume: Volume, session: Any, batch: Batch) -> int:
        """Answer what can't be done at all; the members that were answered."""
        outside = native.records_out_of_bounds(batch, batch.all, volume.size_bytes)
        invalid = unknown = batch.all
        for command, flags in _KNOWN_FLAGS.items():
            members = native.records_with_command(batch, unknown, command)
            if not members:
                continue
            unknown &= ~members
            wrong = native.records_with_flags(batch, members, _ALL_FLAGS & ~int(flags))
            invalid &= ~(members & ~wrong)
            if not unknown:
                break
        if not getattr(session, "any_alignment", False):
            invalid |= native.records_unaligned(batch, batch.all & ~invalid & ~outside, SECTOR_SIZE_BYTES)
        empty = native.records_empty(batch, batch.all & ~invalid)
        empty &= ~native.records_with_command(batch, empty, nbd.Command.FLUSH)
        unanswerable = native.records_with_command(batch, empty, nbd.Command.BLOCK_STATUS)
        invalid |= unanswerable
        empty &= ~unanswerable
        if not outside and not invalid and not empty:
            return self._refuse_long_reads(volume, session, batch)
        outside &= ~invalid
        looks = 0  # what only looks has not run out of space
        for command in (nbd.Command.READ, nbd.Command.CACHE, nbd.Command.BLOCK_STATUS):
            looks |= native.records_with_command(batch, outside, command)
        self.reply(volume, session, batch, invalid | looks, _EINVAL)
        self.reply(volume, session, batch, outside & ~looks, _ENOSPC)
        self.reply(volume, session, batch, empty & ~outside, 0)
        return outside | invalid | empty

    def _refuse_long_reads(self, volume: Volume, session: Any, batch: Batch) -> int:
        too_long = native.records_longer(batch, batch.all, NBD_REQUEST_BYTES_MAX)
        too_long = native.records_with_command(batch, too_long, nbd.Command.READ)
        self.reply(volume, session, batch, too_long, _EINVAL)
        return too_long

    # --- TRIM and WRITE_ZEROES ---

    def reaches_beyond(self, volume: Volume, size_bytes: int) -> bool:
        """Whether a TRIM or WRITE_ZEROES is under way whose last piece does not end within so many bytes."""
        return any(long.volume is volume and long.end_offset > size_bytes for long in self._long)

    def _advance(self, long: _LongRequest, failed: int) -> None:
        """The next piece, or the reply."""
        long.failed |= failed
        record = long.batch.records[long.member.bit_length() - 1]
        if long.failed or long.next_offset >= long.end_offset:
            self._long.discard(long)
            self.reply(long.volume, long.session, long.batch, long.member, nbd.NbdError.EIO if long.failed else 0)
            return
        border = (long.next_offset // DISCARD_CHUNK_BYTES + 1) * DISCARD_CHUNK_BYTES
        length = min(long.end_offset, border) - long.next_offset
        piece = native.single_request(record.command, record.flags, long.next_offset, length)
        long.next_offset += length
        self._node.writes.submit(long.volume, _Piece(self, long), piece, 1)

    def reply(self, volume: Volume, session: Any, batch: Batch, mask: int, error: int) -> None:
        """Answer members with one error (0 is success)."""
        if not mask or session is None:
            return
        if isinstance(session, InnerSession):
            session.done(mask, error)
            return
        parts: list[Part] = [native.nbd_replies(batch, mask, error)]
        self._node.out.put(Reply(session, batch, mask, parts, volume.vnr, speaks=not error))


def _zeroes_fast(volume: Volume, batch: Batch, index: int) -> bool:
    """Whether our disk zeroes without writing. The peer's may have to write: nothing on the wire tells."""
    keeps_space = batch.records[index].flags & nbd.CommandFlag.NO_HOLE  # fewer disks can do that fast: none counts
    return volume.disk is not None and volume.disk.zeroes_fast and not keeps_space


class _Piece(InnerSession):
    """Stands as the session of one piece of a long request."""

    __slots__ = ("_clients", "_long")

    def __init__(self, clients: Clients, long: _LongRequest) -> None:
        self._clients = clients
        self._long = long

    def done(self, _mask: int, error: int) -> None:
        self._clients._advance(self._long, int(error != 0))


class _LongWrite(InnerSession):
    """A WRITE of more than one P_DATA may carry: stands as the session of its pieces; one reply when all are done."""

    __slots__ = ("_batch", "_clients", "_failed", "_left", "_member", "_session", "_volume")

    def __init__(self, clients: Clients, volume: Volume, session: Any, batch: Batch, index: int) -> None:
        self._clients = clients
        self._volume = volume
        self._session = session
        self._batch = batch
        self._member = 1 << index
        self._failed = False
        self._left = 0

    def submit(self) -> None:
        whole = self._batch.records[self._member.bit_length() - 1]
        step = self._volume.peer.request_bytes_max
        positions = range(0, whole.length, step)
        self._left = len(positions)
        for first in range(0, self._left, BATCH_RECORDS_MAX):
            some = positions[first : first + BATCH_RECORDS_MAX]
            pieces = Batch(self._batch.buffer, native.new_records(len(some)), len(some))  # nothing is copied
            for piece, position in zip(pieces.records, some, strict=True):
                piece.command, piece.flags = whole.command, whole.flags
                piece.offset, piece.data = whole.offset + position, whole.data + position
                piece.length = min(step, whole.length - position)
            self._clients._node.writes.submit(self._volume, self, pieces, pieces.all)

    def done(self, mask: int, error: int) -> None:
        self._left -= mask.bit_count()
        self._failed = self._failed or error != 0
        if not self._left:
            answer = nbd.NbdError.EIO if self._failed else 0
            self._clients.reply(self._volume, self._session, self._batch, self._member, answer)
