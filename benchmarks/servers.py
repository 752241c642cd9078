"""Server processes: started in the background, looked after, and always ended; and the disk files they serve."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["NotHere", "Server", "ServerError", "fill", "forget", "scribble", "wait_for_socket"]

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.02
_CHUNK_BYTES = 1 << 20
_PIECE_BYTES = 4096


class ServerError(Exception):
    """A server did not start, ended too early, or did not do what it must."""


class NotHere(ServerError):
    """This machine can't have what a place needs."""


class Server:
    """One process with its output in a log file; a context manager that ends it."""

    def __init__(self, argv: Sequence[str], log: Path, cwd: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            # A session of its own: Ctrl-C must reach only us, who then end the servers in good order.
            self.process = subprocess.Popen(
                argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raises ServerError, with its last words, if the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ServerError(f"{self.process.args!r} ended with code {code}: {self.last_words()}")

    def last_words(self) -> str:
        return self.log.read_text(errors="replace").strip()[-1000:]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wait_for_socket(path: Path, server: Server) -> None:
    """Until somebody answers on a Unix socket. Raises ServerError."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        server.check()
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            return
        if time.monotonic() > deadline:
            raise ServerError(f"nobody answers on {path.name}: {server.last_words()}")
        time.sleep(_POLL_S)


def fill(path: Path, size_bytes: int, chance: random.Random) -> None:
    """Write the first bytes of a file, all of them, so that no later write pays for finding a place; they are durable.

    In pieces of 4 KiB: longer writes leave large folios in the page cache, on which ext4 takes three times as long for
    each 4 KiB write that comes later (9.7 us instead of 3.1 on Linux 6.18), and that is not what is to be measured.
    """
    path.touch()
    with path.open("r+b", buffering=0) as file:
        for start in range(0, size_bytes, _CHUNK_BYTES):
            chunk = memoryview(chance.randbytes(min(_CHUNK_BYTES, size_bytes - start)))
            for piece in range(0, len(chunk), _PIECE_BYTES):
                file.write(chunk[piece : piece + _PIECE_BYTES])
        os.fsync(file.fileno())


def forget(path: Path) -> None:
    """Drop what the page cache has of a file that is on the disk: direct I/O would drop it bit by bit."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def scribble(path: Path, size_bytes: int, chance: random.Random) -> None:
    """Spoil one block of 4 KiB in each MiB of a file: a resync that does not write everything is found out."""
    with path.open("r+b", buffering=0) as file:
        for start in range(0, size_bytes, _CHUNK_BYTES):
            room = min(_CHUNK_BYTES, size_bytes - start)
            at = chance.randrange(0, max(1, room // _PIECE_BYTES)) * _PIECE_BYTES
            file.seek(start + at)
            file.write(chance.randbytes(min(_PIECE_BYTES, room - at)))
