"""The side of an online verify that is asked, VerifyT: sums up its blocks for the peer to compare. See verify.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydrbd import native
from pydrbd.core.effects import Send, Socket
from pydrbd.core.resync_pieces import read_groups
from pydrbd.core.states import ConnState, DiskState
from pydrbd.core.verify_group import Group, Running
from pydrbd.core.volume import Volume
from pydrbd.errors import PeerProtocolError
from pydrbd.limits import VERIFY_PEER_BLOCKS_MAX, VERIFY_PIECE_BYTES, VERIFY_READS_MAX
from pydrbd.native import Batch
from pydrbd.units import BIT_SIZE_BYTES, SECTOR_SIZE_BYTES, SECTORS_PER_BIT, ceil_div
from pydrbd.wire.packet_numbers import ID_SYNCER
from pydrbd.wire.packets import DigestReq, Packet

if TYPE_CHECKING:
    from pydrbd.core.node import Node
    from pydrbd.core.verify import Verify

__all__ = ["VerifyTarget"]


class VerifyTarget:
    """What the peer asks for in its verifies."""

    def __init__(self, node: Node, verify: Verify) -> None:
        self._node = node
        self._verify = verify

    def on_requests(self, volume: Volume, batch: Batch, mask: int) -> None:
        """A run of P_OV_REQUEST."""
        node, running = self._node, self._verify.running(volume)
        if (
            native.records_out_of_bounds(batch, mask, volume.size_bytes)
            or native.records_unaligned(batch, mask, SECTOR_SIZE_BYTES)
            or native.records_longer(batch, mask, VERIFY_PIECE_BYTES if self._verify.by_pieces else BIT_SIZE_BYTES)
            or native.records_empty(batch, mask)
        ):
            raise PeerProtocolError(f"volume {volume.vnr}: a verify request for what can't be asked for")
        if running is None or volume.state.conn != ConnState.VerifyT or volume.state.disk != DiskState.UpToDate:
            node.send_acks(Packet.P_NEG_RS_DREPLY, volume, batch, mask)
            return
        group = _copied_group(batch, mask, volume.vnr)
        if running.progress.start_bit is None:
            first = group.batch.records[0].offset // BIT_SIZE_BYTES
            running.progress.start_at(first)
            self._verify.log(volume, f"Online Verify start sector: {first * SECTORS_PER_BIT}")
        for index in range(group.batch.count):
            record = group.batch.records[index]
            if record.offset in running.blocks:
                self._take_apart(volume, running, record.offset, record.length)
            if record.offset % BIT_SIZE_BYTES:
                raise PeerProtocolError(f"volume {volume.vnr}: a verify request for {record.offset}, off a block")
            running.add(group, index)
        if running.open_blocks > VERIFY_PEER_BLOCKS_MAX:
            raise PeerProtocolError(f"volume {volume.vnr}: over {VERIFY_PEER_BLOCKS_MAX} blocks to verify at a time")

        def held(members: int) -> None:
            running.waiting.append((group, members))
            self._read_more(volume, running)

        self._verify.hold(volume, running, group, held)

    def _take_apart(self, volume: Volume, running: Running, offset: int, length: int) -> None:
        """The peer has found that a piece differs, and begins to ask for its blocks, with the first one."""
        known, member = running.blocks[offset]
        if offset not in running.answered or length >= known.length(member):
            raise PeerProtocolError(f"volume {volume.vnr}: a verify request for {offset}, again")
        group, member, _ = running.remove(offset)
        self._verify.let_go(volume, group, member)

    def _read_more(self, volume: Volume, running: Running) -> None:
        while running.waiting and running.reading < VERIFY_READS_MAX:
            group, waiting = running.waiting.popleft()
            members = next(read_groups(group.batch, waiting))
            if waiting & ~members:
                running.waiting.appendleft((group, waiting & ~members))
            running.reading += _blocks(group.batch, members)
            self._read_for_peer(volume, running, *self._node.pieces.read_batch(group.batch, members))

    def _read_for_peer(self, volume: Volume, running: Running, request: Batch, buffer: bytearray) -> None:
        node, algorithm = self._node, self._node.digests.verify
        assert algorithm is not None, "a verify without verify-alg was begun"

        def send(members: int, failed: int) -> None:
            running.reading -= _blocks(request, members)
            packets = bytearray()
            for index in native.indices(members):
                record = request.records[index]
                running.answered.add(record.offset)
                digest = bytes(algorithm.size) if failed >> index & 1 else algorithm.compute(request.data(index))
                wire = DigestReq(record.offset // SECTOR_SIZE_BYTES, ID_SYNCER, record.length, digest)
                packets += node.packet(Packet.P_OV_REPLY, wire.encode(), volume.vnr)
            node.out.put(Send(Socket.DATA, [*node.barrier_parts(), packets]))
            self._read_more(volume, running)

        self._verify.read(volume, running, request, buffer, send)

    def on_result(self, volume: Volume, offset_bytes: int, *, equal: bool) -> None:
        """P_OV_RESULT: what the peer has found."""
        running = self._verify.running(volume)
        if running is None or volume.state.conn != ConnState.VerifyT:
            return  # cut off here
        if offset_bytes not in running.answered:
            raise PeerProtocolError(f"volume {volume.vnr}: P_OV_RESULT for {offset_bytes}, which was not answered")
        self._verify.settle(volume, running, offset_bytes, equal=equal)
        self._verify.persist(volume, running)
        if not running.progress.left_bits and not running.blocks:
            self._verify.finish(volume)


def _blocks(batch: Batch, members: int) -> int:
    """How many blocks these are; the device may end in the last one."""
    return sum(ceil_div(batch.records[index].length, BIT_SIZE_BYTES) for index in native.indices(members))


def _copied_group(batch: Batch, mask: int, vnr: int) -> Group:
    """These requests in a batch of their own: the buffer that they came in is not kept for them."""
    count = mask.bit_count()
    copy = Batch(bytearray(), native.new_records(count), count)
    for record, index in zip(copy.records, native.indices(mask), strict=True):
        record.volume, record.offset, record.length = vnr, batch.records[index].offset, batch.records[index].length
    return Group(copy, copy.all)
