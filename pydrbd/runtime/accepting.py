"""What accept(2) may fail with, and what will pass: for every socket that we listen on."""

from __future__ import annotations

import errno
import logging
from typing import Any, Final

import trio

__all__ = ["accept", "accept_again"]

_RETRY_S: Final = 0.1
# For a connection that died in the backlog, or for want of descriptors or memory.
_PASSING: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH})
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger(__name__)


async def accept(listener: trio.socket.SocketType, whom: str) -> tuple[trio.socket.SocketType, Any]:
    """The next connection, and where it comes from, whatever passes before. Raises OSError for what does not pass."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            await accept_again(error, whom)


async def accept_again(error: OSError, whom: str) -> None:
    """Return when accepting `whom` (words for the log) can be tried again. Raises the error if that is no use."""
    if error.errno in _SHORT:
        _log.error("can't accept %s: %s; trying again", whom, error)
        await trio.sleep(_RETRY_S)
    elif error.errno not in _PASSING:
        raise error
