"""A device over the network: a minimal NBD client (fixed newstyle, GO, simple replies), one request at a time.

Losing the server is losing a disk: every failure closes the connection and raises DeviceError; whoever wants the device
back opens it again. A write is durable when it returns: by FUA, else by a FLUSH after it, and a server that has
neither is refused. The socket's time limit bounds every call, also when the server hangs.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from .errors import DeviceError, DeviceTimeout, UsageError
from .layout import SECTOR_BYTES, SECTORS_USED

__all__ = ["NbdAddress", "NbdDevice", "is_nbd", "parse_address"]

PORT = 10809
OPTION_DATA_MAX = 4096
"""No answer to GO is longer: an export's name and description, or an error's words."""

_NBDMAGIC = b"NBDMAGIC"
_IHAVEOPT = b"IHAVEOPT"
_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_EXPORT = struct.Struct(">HQH")
_BLOCKS = struct.Struct(">HIII")

_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_REPLY_MAGIC = 0x67446698
_FIXED_NEWSTYLE = 1
_OPT_GO = 7
_REP_ACK, _REP_INFO, _REP_ERROR = 1, 3, 1 << 31
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_HAS_FLAGS, _READ_ONLY, _SEND_FLUSH, _SEND_FUA = 1, 2, 4, 8
_CMD_READ, _CMD_WRITE, _CMD_DISC, _CMD_FLUSH = 0, 1, 2, 3
_CMD_FLAG_FUA = 1


@dataclass(frozen=True, slots=True)
class NbdAddress:
    """Where a server is, and which of its exports is meant. Either `path`, or `host` and `port`."""

    export: str
    host: str = ""
    port: int = PORT
    path: str = ""


def is_nbd(address: str) -> bool:
    """The address is one of ours, and no path."""
    return address.startswith(("nbd://", "nbd+unix://"))


def parse_address(address: str) -> NbdAddress:
    """`nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`; UsageError if it is neither."""
    try:
        parts = urlsplit(address)
        port = parts.port or PORT
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise UsageError(f"{address} is no NBD address: {error}") from error
    export = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd+unix":
        paths = query.get("socket", [])
        if len(paths) != 1 or len(query) != 1 or parts.netloc:
            raise UsageError(f"{address}: expected nbd+unix:///EXPORT?socket=PATH")
        return NbdAddress(export, path=paths[0])
    if parts.scheme != "nbd" or not parts.hostname or query or parts.username is not None:
        raise UsageError(f"{address}: expected nbd://HOST[:PORT]/EXPORT")
    return NbdAddress(export, parts.hostname, port)


class NbdDevice:
    """One export of one server."""

    def __init__(self, address: str, io_s: float) -> None:
        self.name = address
        self._io_s = io_s
        self._cookie = 0
        self._flags = 0
        self._size = 0
        self._block_bytes = min(SECTOR_BYTES)
        self._socket: socket.socket | None = None
        where = parse_address(address)
        self._deadline = time.monotonic() + io_s
        try:
            if where.path:
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(io_s)
                self._socket.connect(where.path)
            else:
                self._socket = socket.create_connection((where.host, where.port), timeout=io_s)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._negotiate(where.export)
            self._check()
        except OSError as error:
            self.close()
            raise self._lost(error) from error
        except DeviceError:
            self.close()
            raise

    @property
    def sector_bytes(self) -> int:
        """512, unless the server takes only larger pieces."""
        return self._block_bytes

    def read_sector(self, index: int) -> bytes:
        return self._request(_CMD_READ, index * self.sector_bytes, read_bytes=self.sector_bytes)

    def write_sector(self, index: int, sector: bytes) -> None:
        assert len(sector) == self.sector_bytes
        if self._flags & _SEND_FUA:
            self._request(_CMD_WRITE, index * self.sector_bytes, sector, flags=_CMD_FLAG_FUA)
        else:
            self._request(_CMD_WRITE, index * self.sector_bytes, sector)
            self._request(_CMD_FLUSH, 0)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _lost(self, error: OSError) -> DeviceError:
        if isinstance(error, TimeoutError):
            return DeviceTimeout(f"{self.name}: no answer within {self._io_s:g} s")
        return DeviceError(f"{self.name}: {error.strerror or error}")

    def _receive(self, count: int) -> bytes:
        """Exactly `count` bytes, before the deadline that the call began with."""
        assert self._socket is not None
        pieces = bytearray()
        while len(pieces) < count:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            piece = self._socket.recv(count - len(pieces))
            if not piece:
                raise ConnectionError("the server hung up")
            pieces += piece
        return bytes(pieces)

    def _send(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.settimeout(max(self._deadline - time.monotonic(), 0.001))
        self._socket.sendall(data)

    def _negotiate(self, export: str) -> None:
        magic, style, flags = _GREETING.unpack(self._receive(_GREETING.size))
        if magic != _NBDMAGIC or style != _IHAVEOPT or not flags & _FIXED_NEWSTYLE:
            raise DeviceError(f"{self.name}: no NBD server of the fixed newstyle kind answers there")
        name = export.encode()
        go = struct.pack(f">I{len(name)}sHH", len(name), name, 1, _INFO_BLOCK_SIZE)
        self._send(struct.pack(">I", _FIXED_NEWSTYLE) + _OPTION.pack(_IHAVEOPT, _OPT_GO, len(go)) + go)
        while True:
            magic, option, kind, length = _OPTION_REPLY.unpack(self._receive(_OPTION_REPLY.size))
            if magic != _OPTION_REPLY_MAGIC or option != _OPT_GO or length > OPTION_DATA_MAX:
                raise DeviceError(f"{self.name}: the server's answer is not NBD")
            data = self._receive(length)
            if kind == _REP_ACK:
                return
            if kind & _REP_ERROR:
                words = data.decode(errors="replace") or f"error {kind:#x}"
                raise DeviceError(f"{self.name}: the server refuses the export {export!r}: {words}")
            if kind == _REP_INFO:
                self._take_info(data)

    def _take_info(self, data: bytes) -> None:
        kind = int.from_bytes(data[:2], "big")
        if kind == _INFO_EXPORT and len(data) == _EXPORT.size:
            _, self._size, self._flags = _EXPORT.unpack(data)
        elif kind == _INFO_BLOCK_SIZE and len(data) == _BLOCKS.size:
            self._block_bytes = max(min(SECTOR_BYTES), _BLOCKS.unpack(data)[1])

    def _check(self) -> None:
        """The export must be able to do what a device is for."""
        if not self._flags & _HAS_FLAGS or self._flags & _READ_ONLY:
            raise DeviceError(f"{self.name}: the export is read-only")
        if not self._flags & (_SEND_FLUSH | _SEND_FUA):
            raise DeviceError(f"{self.name}: the server has neither FUA nor FLUSH: nothing is known to be durable")
        if self._block_bytes not in SECTOR_BYTES:
            raise DeviceError(f"{self.name}: blocks of {self._block_bytes} bytes are too large")
        if self._size < SECTORS_USED * self._block_bytes:
            raise DeviceError(f"{self.name}: the export has {self._size} bytes, too small for SBD")

    def _request(self, command: int, offset: int, data: bytes = b"", *, flags: int = 0, read_bytes: int = 0) -> bytes:
        """One request and its answer. After any failure but the server's own error the connection is closed."""
        if self._socket is None:
            raise DeviceError(f"{self.name}: the connection was lost before")
        self._cookie += 1
        self._deadline = time.monotonic() + self._io_s
        length = len(data) or read_bytes
        try:
            self._send(_REQUEST.pack(_REQUEST_MAGIC, flags, command, self._cookie, offset, length) + data)
            magic, error, cookie = _REPLY.unpack(self._receive(_REPLY.size))
            if magic != _REPLY_MAGIC or cookie != self._cookie:
                raise ConnectionError("the server's answer is not to our request")
            if not error:
                return self._receive(read_bytes)
        except OSError as failure:
            self.close()
            raise self._lost(failure) from failure
        raise DeviceError(f"{self.name}: the server answered with error {error}")
