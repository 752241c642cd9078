"""How an NBD client opens an export: fixed newstyle, NBD_OPT_GO; and what can go wrong between us and a server.

Format: the NBD project's doc/proto.md.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from struct import Struct
from typing import Final

from pydrbd.errors import PydrbdError
from pydrbd.limits import NBD_REQUEST_BYTES_MAX, NBD_STRING_BYTES_MAX
from pydrbd.wire.nbd import ClientFlag, HandshakeFlag, InfoType, NbdMagic, Option, ReplyType, TransmissionFlag

__all__ = ["ConnectionLost", "ExportRefused", "NbdClientError", "OpenExport", "ServerProtocolError", "open_export"]

_GREETING: Final = Struct(">QQH")
_OPTION: Final = Struct(">QII")
_OPTION_REPLY: Final = Struct(">QIII")
_INFO_EXPORT: Final = Struct(">HQH")
_INFO_BLOCK_SIZE: Final = Struct(">HIII")
_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_OPTION_REPLY_BYTES_MAX: Final = 4 * NBD_STRING_BYTES_MAX


class NbdClientError(PydrbdError):
    """Something between us and an NBD server went wrong."""

    exit_code = 69


class ExportRefused(NbdClientError):
    """The server does not open the export: its error reply and its words."""

    def __init__(self, export: str, code: int, text: str) -> None:
        name = ReplyType(code).name if code in ReplyType.__members__.values() else f"{code:#x}"
        super().__init__(f"export '{export}' was refused ({name}): {text or 'no reason given'}")
        self.code = code
        self.text = text


class ConnectionLost(NbdClientError):
    """The server went away, or did not answer in time; requests in flight have an unknown end."""


class ServerProtocolError(NbdClientError):
    """The server sent what the protocol does not allow."""

    exit_code = 76


@dataclass(slots=True)
class OpenExport:
    """What the server said about an export when it opened it."""

    size_bytes: int = 0
    flags: int = 0
    block_minimum_bytes: int = 1
    block_maximum_bytes: int = NBD_REQUEST_BYTES_MAX


def open_export(sock: socket.socket, export: str) -> OpenExport:
    """Do the handshake on a fresh connection. Raises ConnectionLost, ExportRefused, ServerProtocolError."""
    opened = OpenExport()
    try:
        _greet(sock)
        name = export.encode()
        request = _U32.pack(len(name)) + name + _U16.pack(1) + _U16.pack(InfoType.BLOCK_SIZE)
        sock.sendall(_OPTION.pack(NbdMagic.OPTION, Option.GO, len(request)) + request)
        while _on_option_reply(sock, export, opened):
            pass
    except TimeoutError as error:
        raise ConnectionLost("no answer in the NBD handshake") from error
    except OSError as error:
        raise ConnectionLost(f"the NBD handshake broke off: {error.strerror or error}") from error
    return opened


def _greet(sock: socket.socket) -> None:
    first, second, offered = _GREETING.unpack(_exactly(sock, _GREETING.size))
    if (first, second) != (NbdMagic.INIT, NbdMagic.OPTION):
        raise ServerProtocolError("this is no NBD server (newstyle)")
    if not offered & HandshakeFlag.FIXED_NEWSTYLE:
        raise ServerProtocolError("the server does not speak fixed newstyle")
    answer = ClientFlag.FIXED_NEWSTYLE
    if offered & HandshakeFlag.NO_ZEROES:
        answer |= ClientFlag.NO_ZEROES
    sock.sendall(_U32.pack(answer))


def _on_option_reply(sock: socket.socket, export: str, opened: OpenExport) -> bool:
    """Take one reply to GO; False when it was the last."""
    magic, option, kind, length = _OPTION_REPLY.unpack(_exactly(sock, _OPTION_REPLY.size))
    if magic != NbdMagic.OPTION_REPLY or option != Option.GO:
        raise ServerProtocolError(f"an option reply has magic {magic:#x} and option {option}")
    if length > _OPTION_REPLY_BYTES_MAX:
        raise ServerProtocolError(f"an option reply of {length} bytes")
    data = _exactly(sock, length)
    if kind == ReplyType.ACK:
        if not opened.flags & TransmissionFlag.HAS_FLAGS:
            raise ServerProtocolError("the server opened the export without saying how large it is")
        return False
    if kind >= ReplyType.ERR_UNSUP:
        raise ExportRefused(export, kind, data.decode(errors="replace"))
    if kind == ReplyType.INFO:
        _on_info(data, opened)
    return True


def _on_info(data: bytes, opened: OpenExport) -> None:
    info = int.from_bytes(data[:2], "big")
    if info == InfoType.EXPORT and len(data) == _INFO_EXPORT.size:
        _, opened.size_bytes, flags = _INFO_EXPORT.unpack(data)
        opened.flags = flags
    elif info == InfoType.BLOCK_SIZE and len(data) == _INFO_BLOCK_SIZE.size:
        _, opened.block_minimum_bytes, _, opened.block_maximum_bytes = _INFO_BLOCK_SIZE.unpack(data)
    elif info in (InfoType.EXPORT, InfoType.BLOCK_SIZE) or len(data) < _U16.size:
        raise ServerProtocolError(f"an information reply of {len(data)} bytes")


def _exactly(sock: socket.socket, count: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < count:
        received = sock.recv(count - len(pieces))
        if not received:
            raise ConnectionLost("the NBD server closed the connection in the handshake")
        pieces += received
    return bytes(pieces)
