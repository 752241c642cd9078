"""A request of another program's thread: channel.c."""

from __future__ import annotations

from pydrbd._native import lib
from pydrbd.native.batch import E_LENGTH, Buffer, readable

__all__ = ["channel_call"]

_call = lib.pydrbd_channel_call


def channel_call(fd: int, command: int, flags: int, offset: int, length: int, data: Buffer = b"") -> int:
    """Send a request on a blocking socket and wait for its simple reply: 0 or an error number.

    `data` is a WRITE's, and where a READ's goes, which is not read-only. Raises ConnectionError if the stream ends.
    """
    assert not data or len(data) == length
    answer: int = _call(fd, command, flags, offset, length, readable(data))
    if answer < 0:
        assert answer == E_LENGTH, "a reply of another kind"
        raise ConnectionError("the node has ended")
    return answer
