"""NBD's numbers and the values that both phases share (fixed newstyle, simple and structured replies). Pure.

Source of the formats: the NBD project's doc/proto.md. All integers are big-endian. The transmission phase:

    request   28 bytes   u32 magic 0x25609513, u16 command flags, u16 command, u64 cookie, u64 offset, u32 length;
                         after a WRITE, `length` bytes of payload follow
    reply     16 bytes   u32 magic 0x67446698, u32 error, u64 cookie; after an error-free READ its bytes follow
    chunk     20 bytes   u32 magic 0x668e33ef, u16 flags, u16 ChunkType, u64 cookie, u32 length; `length` bytes follow.
                         With structured replies, a READ is answered by chunks, the last of them with ChunkFlag.DONE

Batches of requests are split and batches of replies are built by pydrbd.native; what is here serves the handshake
(pydrbd.wire.nbd_negotiation), single replies and tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

from pydrbd.errors import PydrbdError
from pydrbd.limits import NBD_REQUEST_BYTES_MAX, NBD_STRING_BYTES_MAX

__all__ = [
    "REPLY_SIZE_BYTES",
    "REQUEST_SIZE_BYTES",
    "ChunkFlag",
    "ChunkType",
    "ClientFlag",
    "Command",
    "CommandFlag",
    "ExportInfo",
    "ExportNotReady",
    "ExportUnavailable",
    "HandshakeFlag",
    "InfoType",
    "NbdError",
    "NbdMagic",
    "Option",
    "ReplyType",
    "TransmissionFlag",
    "encode_block_status",
    "encode_request",
]


class NbdMagic(IntEnum):
    """The magic numbers of every frame."""

    INIT = 0x4E42444D41474943  # "NBDMAGIC"
    OPTION = 0x49484156454F5054  # "IHAVEOPT"
    OPTION_REPLY = 0x0003E889045565A9
    REQUEST = 0x25609513
    SIMPLE_REPLY = 0x67446698
    CHUNK = 0x668E33EF
    EXTENDED_REQUEST = 0x21E41C71
    EXTENDED_REPLY = 0x6E8A278C


class HandshakeFlag(IntFlag):
    """What the server says in its greeting."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class ClientFlag(IntFlag):
    """What the client answers to the greeting."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """Options of the handshake; unknown ones are refused by their number."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class ReplyType(IntEnum):
    """Option replies; those with bit 31 set are errors and carry a text for humans."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_PLATFORM = 0x80000004
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007
    ERR_BLOCK_SIZE_REQD = 0x80000008
    ERR_TOO_BIG = 0x80000009
    ERR_EXT_HEADER_REQD = 0x8000000A


class InfoType(IntEnum):
    """What INFO and GO may ask for."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class TransmissionFlag(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11
    BLOCK_STATUS_PAYLOAD = 1 << 12


class Command(IntEnum):
    """Requests of the transmission phase."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class ChunkFlag(IntFlag):
    """Flags of a structured reply's chunk."""

    DONE = 1


class ChunkType(IntEnum):
    """What a chunk holds; those with bit 15 set are errors."""

    NONE = 0
    OFFSET_DATA = 1  # u64 offset, data
    OFFSET_HOLE = 2  # u64 offset, u32 length
    BLOCK_STATUS = 5  # u32 context, then u32 length and u32 flags for each extent
    BLOCK_STATUS_EXT = 6  # u32 context, u32 count, then u64 length and u64 flags for each extent
    ERROR = 32769  # u32 error, u16 length of a text, text
    ERROR_OFFSET = 32770


class CommandFlag(IntFlag):
    """Flags of a request."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4
    PAYLOAD_LEN = 1 << 5


class NbdError(IntEnum):
    """The only error numbers that the protocol knows; 0 is success."""

    OK = 0
    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


class ExportUnavailable(PydrbdError):
    """An export can't be opened: an option reply code (ERR_UNKNOWN, ERR_POLICY, ERR_SHUTDOWN) and why, for humans."""

    exit_code = 69

    def __init__(self, reason: str, code: ReplyType = ReplyType.ERR_POLICY) -> None:
        assert code >= ReplyType.ERR_UNSUP, f"{code!r} is not an error reply"
        super().__init__(reason)
        self.reason = reason
        self.code = code


class ExportNotReady(Exception):
    """An export can be opened only after something has been done that takes time: do it, then open it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportInfo:
    """One export as the handshake describes it.

    A multi-connection export promises that a FLUSH on one connection covers what was answered on every other.
    """

    name: str
    size_bytes: int
    description: str = ""
    read_only: bool = False
    block_minimum: int = 1
    block_preferred: int = 4096
    block_maximum: int = NBD_REQUEST_BYTES_MAX
    can_flush: bool = True
    can_fua: bool = True
    can_trim: bool = True
    can_zero: bool = True
    can_fast_zero: bool = False
    can_cache: bool = False
    can_multi_conn: bool = False
    contexts: tuple[str, ...] = ()
    """Names of the meta-data contexts that BLOCK_STATUS can tell of."""

    def __post_init__(self) -> None:
        assert 0 <= self.size_bytes < 1 << 63, f"export {self.name!r} has {self.size_bytes} bytes"
        assert 1 <= self.block_minimum <= self.block_preferred <= self.block_maximum <= NBD_REQUEST_BYTES_MAX
        assert self.block_minimum & (self.block_minimum - 1) == 0, "the minimum block is a power of two"
        assert self.block_preferred & (self.block_preferred - 1) == 0, "the preferred block is a power of two"
        assert len(self.name.encode()) <= NBD_STRING_BYTES_MAX
        assert len(self.description.encode()) <= NBD_STRING_BYTES_MAX

    def transmission_flags(self, *, structured: bool = False) -> TransmissionFlag:
        """The 16 bits that GO, INFO and EXPORT_NAME answer; a read-only export offers nothing that writes."""
        flags = TransmissionFlag.HAS_FLAGS
        if structured:
            flags |= TransmissionFlag.SEND_DF
        if self.can_flush:
            flags |= TransmissionFlag.SEND_FLUSH
        if self.can_cache:
            flags |= TransmissionFlag.SEND_CACHE
        if self.can_multi_conn:
            flags |= TransmissionFlag.CAN_MULTI_CONN
        if self.read_only:
            return flags | TransmissionFlag.READ_ONLY
        if self.can_fua:
            flags |= TransmissionFlag.SEND_FUA
        if self.can_trim:
            flags |= TransmissionFlag.SEND_TRIM
        if self.can_zero:
            flags |= TransmissionFlag.SEND_WRITE_ZEROES
            if self.can_fast_zero:
                flags |= TransmissionFlag.SEND_FAST_ZERO
        return flags


_REQUEST: Final = Struct(">IHHQQI")
_CHUNK: Final = Struct(">IHHQI")
_U32: Final = Struct(">I")
_EXTENT: Final = Struct(">II")

REQUEST_SIZE_BYTES: Final = 28
REPLY_SIZE_BYTES: Final = 16
assert _REQUEST.size == REQUEST_SIZE_BYTES


def encode_block_status(cookie: int, context: int, extents: list[tuple[int, int]], *, done: bool) -> bytes:
    """One context's answer to BLOCK_STATUS: (length in bytes, flags) of each extent; `done`: the last context's."""
    size_bytes = _U32.size + _EXTENT.size * len(extents)
    head = _CHUNK.pack(NbdMagic.CHUNK, ChunkFlag.DONE if done else 0, ChunkType.BLOCK_STATUS, cookie, size_bytes)
    return b"".join((head, _U32.pack(context), *(_EXTENT.pack(*extent) for extent in extents)))


def encode_request(command: int, cookie: int, offset: int = 0, length: int = 0, flags: int = 0) -> bytes:
    """The 28 bytes of one request as a client sends them; a WRITE's payload follows them."""
    return _REQUEST.pack(NbdMagic.REQUEST, flags, command, cookie, offset, length)
