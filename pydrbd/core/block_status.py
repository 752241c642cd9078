"""BLOCK_STATUS: what an NBD client may ask about a range without reading it, by the contexts that it has chosen.

    base:allocation      HOLE and ZERO where our disk has a hole, which reads as zeroes; data everywhere else
    pydrbd:out-of-sync   1 where the copies may differ (a bit of the bitmap is set, or no disk is here), 0 elsewhere

An answer is what was true at one moment. It may be about less than was asked for: a client asks again from there on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydrbd.core.effects import MapDisk, Part, Reply
from pydrbd.core.states import DiskState
from pydrbd.core.volume import Volume
from pydrbd.limits import NBD_STATUS_EXTENTS_MAX
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES
from pydrbd.wire.nbd import CommandFlag, NbdError, encode_block_status

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["BASE_ALLOCATION", "CONTEXTS", "OUT_OF_SYNC", "BlockStatus"]

BASE_ALLOCATION = "base:allocation"
OUT_OF_SYNC = "pydrbd:out-of-sync"
CONTEXTS = (BASE_ALLOCATION, OUT_OF_SYNC)

_HOLE_AND_ZERO = 3
_Extents = list[tuple[int, int]]
"""(length in bytes, flags), one behind the other."""


class BlockStatus:
    """The BLOCK_STATUS requests of all clients of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def submit(self, volume: Volume, session: Any, batch: Batch, index: int) -> None:
        """Answer a request whose range was checked."""
        names = [name for _number, name in session.contexts]
        if not names:
            self._node.reply(volume, session, batch, 1 << index, int(NbdError.EINVAL))
            return
        if BASE_ALLOCATION not in names or volume.disk is None or volume.state.disk != DiskState.UpToDate:
            self._answer(volume, session, batch, index, [])
            return
        record = batch.records[index]

        def mapped(_failed: int, _errno: int) -> None:
            # A map that can't be had is one without holes. So is that of a disk that has got worse meanwhile, or where
            # something is being written: what only this disk has yet, nobody may hear of (A1).
            good = volume.state.disk == DiskState.UpToDate and not volume.ranges.busy(batch, 1 << index)
            self._answer(volume, session, batch, index, effect.extents if good else [])

        effect = MapDisk(volume.vnr, record.offset, record.length, NBD_STATUS_EXTENTS_MAX, mapped)
        self._node.out.put(effect)

    def _answer(
        self, volume: Volume, session: Any, batch: Batch, index: int, disk_extents: list[tuple[int, bool]]
    ) -> None:
        record, contexts = batch.records[index], session.contexts
        parts: list[Part] = []
        for number, name in contexts:
            if name == OUT_OF_SYNC:
                extents = _out_of_sync(volume, record.offset, record.length)
            else:
                extents = [(length, _HOLE_AND_ZERO if is_hole else 0) for length, is_hole in disk_extents]
                extents = extents or [(record.length, 0)]
            if record.flags & CommandFlag.REQ_ONE:
                del extents[1:]
            parts.append(encode_block_status(record.id, number, extents, done=number == contexts[-1][0]))
        self._node.out.put(Reply(session, batch, 1 << index, parts, volume.vnr))


def _out_of_sync(volume: Volume, offset_bytes: int, length_bytes: int) -> _Extents:
    """The range by the bitmap, cut to the bytes that were asked for."""
    if volume.disk is None:
        return [(length_bytes, 1)]
    bitmap, end_bytes = volume.disk.bitmap, offset_bytes + length_bytes
    extents: _Extents = []
    position = offset_bytes
    while position < end_bytes and len(extents) < NBD_STATUS_EXTENTS_MAX:
        bit = position // BIT_SIZE_BYTES
        differs = bitmap.test(bit)
        if differs:
            border = bitmap.run_end(bit, bitmap.bit_count) * BIT_SIZE_BYTES
        else:
            found = bitmap.find_next(bit)
            border = end_bytes if found is None else found * BIT_SIZE_BYTES
        border = min(border, end_bytes)
        extents.append((border - position, int(differs)))
        position = border
    return extents
