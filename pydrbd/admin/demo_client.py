"""What the demo's client writes, and how it proves later that it is all there.

The export is used in two parts: at its beginning a tar archive of a directory tree, streamed as it is packed; behind it
single 4 KiB blocks in random places, each with content that is computed from its place and a number. Nothing but what
was acknowledged is remembered as written.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import sysconfig
import tarfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydrbd.admin.exit_codes import CommandFailed
from pydrbd.admin.nbd_client import NbdClient, RequestFailed
from pydrbd.admin.nbd_handshake import ConnectionLost
from pydrbd.units import KIB, MIB
from pydrbd.wire.nbd import Command

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

__all__ = ["BLOCK_BYTES", "Blocks", "Findings", "TreeImage", "find_files"]

BLOCK_BYTES: Final = 4 * KIB
_CHUNK_BYTES: Final = 128 * KIB
_FILE_BYTES_MAX: Final = 4 * MIB
_ROOTS: Final = (sysconfig.get_path("stdlib"), "/usr/share/doc", "/usr/share")
"""Where files are looked for, in turn; the last holds the one before it, too."""
_TAR_BYTES_PER_FILE: Final = 2 * KIB
"""Headers and padding of one member, at most (a long name takes two headers more)."""


@dataclass(slots=True)
class Findings:
    """What a comparison found."""

    compared: int = 0
    different: list[str] = field(default_factory=list)


def find_files(budget_bytes: int, roots: Sequence[str] = _ROOTS) -> list[Path]:
    """Files for the image, of this machine's Python and its documentation, as many as fit, each once."""
    found: dict[Path, None] = {}
    left_bytes = budget_bytes
    for root in roots:
        for path in _regular_files(root):
            if path in found:
                continue
            taken = _size_of(path) + _TAR_BYTES_PER_FILE
            if taken > left_bytes:
                return list(found)
            left_bytes -= taken
            found[path] = None
    return list(found)


def _regular_files(root: str) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name != "site-packages")
        for file in sorted(files):
            path = Path(directory, file)
            if path.is_file() and not path.is_symlink() and _size_of(path) <= _FILE_BYTES_MAX:
                yield path


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return _FILE_BYTES_MAX + 1  # it went away, or may not be looked at: too large to be taken


class TreeImage:
    """A tar archive at the beginning of the export."""

    def __init__(self, client: NbdClient, room_bytes: int) -> None:
        self._client = client
        self._digests: dict[str, bytes] = {}
        self._writer = _Writer(client, room_bytes)
        how = tarfile.GNU_FORMAT
        self._tar = tarfile.TarFile.open(fileobj=self._writer, mode="w|", bufsize=_CHUNK_BYTES, format=how)
        self.file_bytes = 0

    @property
    def written_bytes(self) -> int:
        """The archive's size so far."""
        return self._writer.written_bytes

    @property
    def file_count(self) -> int:
        """Files in the archive so far."""
        return len(self._digests)

    def add(self, path: Path) -> None:
        """Pack one file; its bytes are on their way when this returns. Files that can't be read are left out."""
        try:
            content = path.read_bytes()
        except OSError:
            return
        name = str(path).lstrip("/")
        assert name not in self._digests, f"{path} is in the archive already"
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self._digests[name] = hashlib.sha256(content).digest()
        self.file_bytes += len(content)
        self._tar.addfile(entry, io.BytesIO(content))

    def finish(self) -> None:
        """End the archive; everything is acknowledged and flushed when this returns."""
        self._tar.close()
        self._client.flush()

    def compare(self, client: NbdClient) -> Findings:
        """Read the archive back through an export, unpack it, and compare every file with what was packed."""
        findings = Findings()
        missing = dict(self._digests)
        try:
            with tarfile.open(fileobj=_Reader(client, self.written_bytes), mode="r|", bufsize=_CHUNK_BYTES) as tar:
                for entry in tar:
                    unpacked = tar.extractfile(entry)
                    content = unpacked.read() if unpacked is not None else b""
                    findings.compared += 1
                    if missing.pop(entry.name, None) != hashlib.sha256(content).digest():
                        findings.different.append(f"file /{entry.name}")
        except tarfile.TarError as error:
            findings.different.append(f"the archive: {error}")
        findings.different += (f"file /{name} (missing)" for name in missing)
        return findings


class _Writer(io.RawIOBase):
    """Where tarfile writes to: the beginning of the export."""

    def __init__(self, client: NbdClient, room_bytes: int) -> None:
        super().__init__()
        self._client = client
        self._room_bytes = room_bytes
        self.written_bytes = 0

    def write(self, piece: Buffer, /) -> int:
        data = bytes(piece)
        if self.written_bytes + len(data) > self._room_bytes:
            raise CommandFailed("the files have grown while they were packed: the image does not fit any more")
        self._client.submit(Command.WRITE, self.written_bytes, payload=data)
        self.written_bytes += len(data)
        return len(data)


class _Reader(io.RawIOBase):
    """Where tarfile reads from; the next chunks are asked for before they are needed."""

    def __init__(self, client: NbdClient, size_bytes: int) -> None:
        super().__init__()
        self._client = client
        self._size_bytes = size_bytes
        self._asked_bytes = 0
        self._chunks: deque[bytearray] = deque()

    def read(self, _count: int = -1, /) -> bytes:
        """The next chunk, whatever was asked for: tarfile reads in chunks of the size that it was told."""
        while self._asked_bytes < self._size_bytes and len(self._chunks) < self._client.depth:
            self._ask()
        if not self._chunks:
            return b""
        while not self._chunks[0]:
            self._client.wait_reply()
        return bytes(self._chunks.popleft())

    def _ask(self) -> None:
        offset = self._asked_bytes
        length = min(_CHUNK_BYTES, self._size_bytes - offset)
        chunk = bytearray()
        self._chunks.append(chunk)
        self._asked_bytes += length

        def arrived(error: int, payload: bytes) -> None:
            if error:
                raise RequestFailed(Command.READ, offset, length, error)
            chunk.extend(payload)

        self._client.submit(Command.READ, offset, length, on_reply=arrived)


class Blocks:
    """Single blocks in random places of one part of the export."""

    def __init__(self, first_byte: int, end_byte: int, seed: int) -> None:
        self._range = range(first_byte // BLOCK_BYTES, end_byte // BLOCK_BYTES)
        self._random = random.Random(seed)
        self._number = 0
        self._acknowledged: dict[int, int] = {}
        self._in_flight: dict[int, int] = {}
        self._unknown: dict[int, int] = {}
        self.acknowledged_count = 0

    def submit(self, client: NbdClient) -> None:
        """Write one block, of which no write is under way."""
        block = self._random.choice(self._range)
        while block in self._in_flight:
            block = self._random.choice(self._range)
        self._number += 1
        number = self._number
        self._in_flight[block] = number

        def replied(error: int, _payload: bytes) -> None:
            if error:
                raise RequestFailed(Command.WRITE, block * BLOCK_BYTES, BLOCK_BYTES, error)
            del self._in_flight[block]
            self._unknown.pop(block, None)
            self._acknowledged[block] = number
            self.acknowledged_count += 1

        client.submit(Command.WRITE, block * BLOCK_BYTES, payload=_content(block, number), on_reply=replied)

    def submit_until_lost(self, client: NbdClient) -> int:
        """The server is dead: take the replies that it had sent. How many writes have no reply."""
        try:
            while True:
                self.submit(client)
        except ConnectionLost:
            client.abandon()
        self._unknown |= self._in_flight
        lost = len(self._in_flight)
        self._in_flight.clear()
        return lost

    def compare(self, client: NbdClient) -> Findings:
        """Read every block back: it holds the last acknowledged content, or that of a later write without a reply."""
        findings = Findings()

        def check(block: int, error: int, payload: bytes) -> None:
            numbers = [self._acknowledged.get(block), self._unknown.get(block)]
            allowed = [bytes(BLOCK_BYTES) if number is None else _content(block, number) for number in numbers]
            if block not in self._unknown:
                allowed.pop()
            findings.compared += 1
            if error or payload not in allowed:
                findings.different.append(f"block {block}" + (f" (error {error})" if error else ""))

        for block in sorted(self._acknowledged.keys() | self._unknown.keys()):
            client.submit(
                Command.READ,
                block * BLOCK_BYTES,
                BLOCK_BYTES,
                on_reply=lambda error, payload, block=block: check(block, error, payload),  # type: ignore[misc]
            )
        client.drain()
        return findings


def _content(block: int, number: int) -> bytes:
    return hashlib.shake_128(b"%d %d" % (block, number)).digest(BLOCK_BYTES)
