"""Requests of another program's threads, all on one socket: channel.c; and those threads themselves: threads.c."""

from __future__ import annotations

from pydrbd._native import ffi, lib
from pydrbd.native.batch import E_LENGTH, Buffer, readable

__all__ = ["Channel", "keep_thread"]

_call = lib.pydrbd_channel_call


def keep_thread() -> None:
    """Keep what the interpreter knows of this thread, its `threading.local` values too, until the thread ends.

    For a thread that Python has not made, and only for such a one: it is forgotten after each call otherwise.
    """
    lib.pydrbd_keep_thread()


class Channel:
    """A blocking socket, which stays the caller's, whose other end answers requests by simple replies."""

    __slots__ = ("_c", "_memory")

    def __init__(self, fd: int) -> None:
        self._memory = ffi.new("uint64_t[]", lib.pydrbd_channel_size() // 8 + 1)
        self._c = ffi.cast("struct pydrbd_channel *", self._memory)
        lib.pydrbd_channel_open(self._c, fd)

    def close(self) -> None:
        """No thread calls any more."""
        lib.pydrbd_channel_close(self._c)

    def call(self, command: int, flags: int, offset: int, length: int, data: Buffer = b"") -> int:
        """Send a request and wait for its reply: 0 or an error number. From any thread; 64 at a time, others wait.

        `data` is a WRITE's, and where a READ's goes, which is not read-only. Raises ConnectionError if the stream ends.
        """
        assert not data or len(data) == length
        answer: int = _call(self._c, command, flags, offset, length, readable(data))
        if answer < 0:
            assert answer == E_LENGTH, "a reply of another kind"
            raise ConnectionError("the node has ended")
        return answer
