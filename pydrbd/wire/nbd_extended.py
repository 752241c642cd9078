"""Extended headers: a client's 64-bit requests as compact ones, and the replies to those as it wants them. Pure.

From the NBD project's doc/proto.md, branch extension-ext-header; all integers are big-endian:

    request   32 bytes   u32 magic 0x21e41c71, u16 flags, u16 command, u64 cookie, u64 offset, u64 length;
                         with CommandFlag.PAYLOAD_LEN `length` bytes follow, else it is the effect's length
    reply     32 bytes   u32 magic 0x6e8a278c, u16 flags, u16 ChunkType, u64 cookie, u64 offset, u64 length;
                         `length` bytes follow

What is longer than a compact request can say goes on as several, and is answered when the last of them is; BLOCK_STATUS
tells of less than was asked for. A WRITE has its payload without PAYLOAD_LEN, too: QEMU 10.0 forgets that flag.

Behind this stands a connection with structured replies that knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from pydrbd.errors import ClientProtocolError
from pydrbd.limits import (
    DISCARD_CHUNK_BYTES,
    NBD_EXTENDED_PIECE_BYTES,
    NBD_REQUEST_BYTES_MAX,
    NBD_STATUS_CHOICE_BYTES_MAX,
)
from pydrbd.wire.nbd import ChunkFlag, ChunkType, Command, CommandFlag, NbdError, NbdMagic, encode_request

__all__ = ["EXTENDED_HEADER_BYTES", "ExtendedTranslator"]

EXTENDED_HEADER_BYTES: Final = 32
PIECE_BYTES_MAX: Final = (1 << 32) - DISCARD_CHUNK_BYTES
_HEADER: Final = Struct(">IHHQQQ")
_SIMPLE: Final = Struct(">IIQ")
_CHUNK: Final = Struct(">IHHQI")
_ERROR: Final = Struct(">IH")
_STATUS: Final = Struct(">II")
_EXTENT: Final = Struct(">II")
_EXTENT_EXT: Final = Struct(">QQ")
_U32: Final = Struct(">I")
_U64: Final = Struct(">Q")
_IN_PIECES: Final = (Command.TRIM, Command.WRITE_ZEROES, Command.CACHE)
assert _HEADER.size == EXTENDED_HEADER_BYTES


@dataclass(slots=True)
class _Call:
    """One request of the client."""

    cookie: int
    offset: int
    command: int
    left: int = 1  # compact requests that are not answered
    error: int = 0
    contexts: frozenset[int] | None = None  # the only ones that BLOCK_STATUS is to tell of
    chunks: list[bytes] = field(default_factory=list)  # of BLOCK_STATUS: all leave together


@dataclass(slots=True)
class _Long:
    """A call that goes on in pieces: those from `position` on are still to be sent."""

    call: _Call
    flags: int
    position: int
    end: int


@dataclass(slots=True)
class _Payload:
    """What a request that came with PAYLOAD_LEN goes on with: sent on, kept for a choice of contexts, or dropped."""

    header: tuple[int, int, int, int, int]
    left: int
    kept: bytearray | None


class ExtendedTranslator:
    """One connection. `requests` and `replies` take what comes in either direction, cut anywhere.

    What is refused here is answered by `refusals`, or between two replies of the server's.
    """

    def __init__(self, size_bytes: int, block_bytes: int, contexts: Sequence[int]) -> None:
        self._size_bytes = size_bytes
        self._block_bytes = block_bytes
        self._contexts = frozenset(contexts)
        self._calls: dict[int, _Call] = {}
        self._next = 1
        self._from_client = bytearray()
        self._payload: _Payload | None = None
        self._write_left = 0
        self._long: _Long | None = None
        self._from_server = bytearray()
        self._pass_left = 0
        self._refused = bytearray()

    # --- from the client ---

    def requests(self, data: bytes) -> bytes:
        """Bytes of the client as compact requests: call it with b"" until it gives none, then with more.

        A few bytes may ask for very much: it comes bit by bit, as the server takes it. Raises ClientProtocolError.
        """
        self._from_client += data
        compact = bytearray()
        while len(compact) < NBD_EXTENDED_PIECE_BYTES and self._step_request(compact):
            pass
        return bytes(compact)

    def refusals(self) -> bytes:
        """Replies that may be sent now; none while another one has been sent in part."""
        if self._pass_left:
            return b""
        refused = bytes(self._refused)
        self._refused.clear()
        return refused

    def _step_request(self, compact: bytearray) -> bool:
        if self._write_left:
            taken = self._take_from_client(self._write_left)
            self._write_left -= len(taken)
            compact += taken
            return bool(taken)
        if self._long is not None:
            compact += self._next_piece(self._long)
            return True
        if self._payload is not None:
            return self._step_payload(self._payload, compact)
        if len(self._from_client) < EXTENDED_HEADER_BYTES:
            return False
        magic, flags, command, cookie, offset, length = _HEADER.unpack(self._take_from_client(EXTENDED_HEADER_BYTES))
        if magic != NbdMagic.EXTENDED_REQUEST:
            raise ClientProtocolError(f"an extended request begins with {magic:#x}")
        has_payload = bool(flags & CommandFlag.PAYLOAD_LEN) or command == Command.WRITE
        if has_payload and length > NBD_REQUEST_BYTES_MAX:
            raise ClientProtocolError(f"a request with {length} bytes of payload (at most {NBD_REQUEST_BYTES_MAX})")
        if command == Command.WRITE:
            self._write_left = length
            flags &= ~CommandFlag.PAYLOAD_LEN
            compact += self._begin(_Call(cookie, offset, command), flags, offset, length)
        elif has_payload:
            keeps = command == Command.BLOCK_STATUS and length <= NBD_STATUS_CHOICE_BYTES_MAX
            header = (flags & ~CommandFlag.PAYLOAD_LEN, command, cookie, offset, length)
            self._payload = _Payload(header, length, bytearray() if keeps else None)
        else:
            compact += self._translate(flags, command, cookie, offset, length)
        return True

    def _step_payload(self, payload: _Payload, compact: bytearray) -> bool:
        taken = self._take_from_client(payload.left)
        payload.left -= len(taken)
        if payload.kept is not None:
            payload.kept += taken
        if payload.left:
            return False
        self._payload = None
        flags, command, cookie, offset, _length = payload.header
        chosen = None if payload.kept is None else _decode_choice(payload.kept)
        if chosen is None or not chosen[1] <= self._contexts:
            self._refuse(cookie, offset, NbdError.EINVAL)
        else:
            compact += self._translate(flags, command, cookie, offset, *chosen)
        return True

    def _refuse(self, cookie: int, offset: int, error: int) -> None:
        self._refused += _error(cookie, offset, error)

    def _translate(
        self, flags: int, command: int, cookie: int, offset: int, length: int, contexts: frozenset[int] | None = None
    ) -> bytes:
        """A request without payload: the compact ones that it becomes."""
        call = _Call(cookie, offset, command, contexts=contexts)
        if length <= PIECE_BYTES_MAX or command in (Command.FLUSH, Command.DISC):
            return self._begin(call, flags, offset, min(length, PIECE_BYTES_MAX))
        if command == Command.BLOCK_STATUS and offset + length <= self._size_bytes:
            return self._begin(call, flags, offset, PIECE_BYTES_MAX)
        if offset + length > self._size_bytes:
            beyond = NbdError.ENOSPC if command in (Command.TRIM, Command.WRITE_ZEROES) else NbdError.EINVAL
            self._refuse(cookie, offset, beyond)
        elif (offset | length) % self._block_bytes or command not in _IN_PIECES:
            self._refuse(cookie, offset, NbdError.EINVAL)
        else:
            call.left = -(-length // PIECE_BYTES_MAX)
            self._long = _Long(call, flags, offset, offset + length)
        return b""

    def _next_piece(self, long: _Long) -> bytes:
        position = long.position
        long.position = min(position + PIECE_BYTES_MAX, long.end)
        if long.position == long.end:
            self._long = None
        return self._begin(long.call, long.flags, position, long.position - position)

    def _begin(self, call: _Call, flags: int, offset: int, length: int) -> bytes:
        number, self._next = self._next, self._next + 1
        if call.command != Command.DISC:
            self._calls[number] = call
        return encode_request(call.command, number, offset, length, flags)

    def _take_from_client(self, size_bytes: int) -> bytes:
        taken = bytes(memoryview(self._from_client)[:size_bytes])
        del self._from_client[: len(taken)]
        return taken

    # --- from the server ---

    def replies(self, data: bytes) -> bytes:
        """Bytes of the server, simple replies and chunks, as extended chunks."""
        self._from_server += data
        out = bytearray()
        while self._step_reply(out):
            out += self.refusals()
        return bytes(out)

    def _step_reply(self, out: bytearray) -> bool:
        held = self._from_server
        if self._pass_left:
            taken = bytes(memoryview(held)[: self._pass_left])
            del held[: len(taken)]
            self._pass_left -= len(taken)
            out += taken
            return bool(taken)
        if len(held) < _SIMPLE.size:
            return False
        if held.startswith(_U32.pack(NbdMagic.SIMPLE_REPLY)):
            _magic, error, number = _SIMPLE.unpack_from(held)
            del held[: _SIMPLE.size]
            out += self._ended(number, error)
            return True
        if len(held) < _CHUNK.size:
            return False
        magic, flags, kind, number, length = _CHUNK.unpack_from(held)
        assert magic == NbdMagic.CHUNK, f"a reply begins with {magic:#x}"
        call = self._calls[number]
        if kind == ChunkType.BLOCK_STATUS:
            if len(held) < _CHUNK.size + length:
                return False
            self._keep_status(call, bytes(memoryview(held)[_CHUNK.size : _CHUNK.size + length]))
            del held[: _CHUNK.size + length]
            if flags & ChunkFlag.DONE:
                del self._calls[number]
                out += _with_done(call)
            return True
        del held[: _CHUNK.size]
        if flags & ChunkFlag.DONE:
            del self._calls[number]
        out += _HEADER.pack(NbdMagic.EXTENDED_REPLY, flags, kind, call.cookie, call.offset, length)
        self._pass_left = length
        return True

    def _ended(self, number: int, error: int) -> bytes:
        """A compact request has been answered without data; the reply when it was the last of its call."""
        call = self._calls.pop(number)
        call.left -= 1
        call.error = call.error or error
        if call.left:
            return b""
        return _error(call.cookie, call.offset, call.error) if call.error else _chunk(call, ChunkType.NONE, b"")

    def _keep_status(self, call: _Call, payload: bytes) -> None:
        (context,) = _U32.unpack_from(payload)
        if call.contexts is not None and context not in call.contexts:
            return
        extents = [_EXTENT_EXT.pack(*extent) for extent in _EXTENT.iter_unpack(payload[_U32.size :])]
        call.chunks.append(_STATUS.pack(context, len(extents)) + b"".join(extents))


def _decode_choice(payload: bytes | bytearray) -> tuple[int, frozenset[int]] | None:
    """BLOCK_STATUS's payload: the effect's length and the contexts; None if it is wrong."""
    count, rest = divmod(len(payload) - _U64.size, _U32.size)
    if count < 1 or rest:
        return None
    (length,) = _U64.unpack_from(payload)
    contexts = frozenset(number for (number,) in _U32.iter_unpack(payload[_U64.size :]))
    return (length, contexts) if len(contexts) == count else None


def _chunk(call: _Call, kind: ChunkType, payload: bytes, flags: int = ChunkFlag.DONE) -> bytes:
    head = _HEADER.pack(NbdMagic.EXTENDED_REPLY, flags, kind, call.cookie, call.offset, len(payload))
    return head + payload


def _error(cookie: int, offset: int, error: int) -> bytes:
    return _chunk(_Call(cookie, offset, 0), ChunkType.ERROR, _ERROR.pack(error, 0))


def _with_done(call: _Call) -> bytes:
    assert call.chunks, "an answer to BLOCK_STATUS without a context"
    last = len(call.chunks) - 1
    return b"".join(
        _chunk(call, ChunkType.BLOCK_STATUS_EXT, chunk, ChunkFlag.DONE if at == last else 0)
        for at, chunk in enumerate(call.chunks)
    )
