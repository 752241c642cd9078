"""What the command line ends with: one table for `--help`, the documentation and the code.

Most are sysexits(3), by way of pydrbd.errors. 5, 10, 17 and 20 are the codes of drbdsetup and drbdmeta that scripts and
resource agents know.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import ClassVar, Final

from pydrbd.errors import PydrbdError

__all__ = [
    "EXIT_CODES",
    "CommandFailed",
    "ConfiguredError",
    "CopiesDiffer",
    "StandAloneError",
    "WaitTimedOut",
    "WorseThanOutdated",
    "exit_code_of",
    "exit_codes_text",
    "os_error_text",
]

EXIT_CODES: Final[Mapping[int, str]] = {
    0: "done (also: there was nothing to do)",
    1: "the output could not be written",
    5: "wait-connect, wait-sync: the time is over; outdate: the data is worse than out of date",
    6: "verify --wait: the copies differ",
    10: "the request failed or was not answered in time, for a reason that has no code",
    17: "the state change is refused, by this node or its peer",
    20: "the disk is in use by the running process of the resource",
    64: "the command line is wrong",
    65: "the meta-data is missing, damaged or foreign; create-md: there is something on the disk",
    69: "the resource does not run here, or what it needs (disk, port, socket) is in use",
    70: "an error in pydrbd",
    74: "the disk failed, or can't be opened",
    76: "the peer, or a client, broke the protocol",
    77: "no permission",
    78: "the configuration is wrong, or does not name the resource or this node",
    130: "interrupted",
}
"""Every exit code and what it says."""


class WaitTimedOut(PydrbdError):
    """The state that was waited for did not come in time."""

    exit_code: ClassVar[int] = 5


class WorseThanOutdated(PydrbdError):
    """The data can't be called out of date: it is Inconsistent. Scripts that fence a peer know drbdadm's code."""

    exit_code: ClassVar[int] = 5


class CommandFailed(PydrbdError):
    """The process answered that it failed, without one of DRBD's codes."""

    exit_code: ClassVar[int] = 10


class CopiesDiffer(PydrbdError):
    """An online verify has found differences."""

    exit_code: ClassVar[int] = 6


class StandAloneError(PydrbdError):
    """A connection is waited for that nobody is looking for."""

    exit_code: ClassVar[int] = 10


class ConfiguredError(PydrbdError):
    """The running process has the disk, so that its meta-data can't be touched."""

    exit_code: ClassVar[int] = 20


_BY_ERRNO: Final[Mapping[int, int]] = {
    errno.EACCES: 77,
    errno.EPERM: 77,
    errno.EADDRINUSE: 69,
    errno.EBUSY: 69,
}
_HINTS: Final[Mapping[int, str]] = {
    errno.EACCES: "ask as a user who may",
    errno.EPERM: "ask as a user who may",
    errno.EADDRINUSE: "something else listens there",
    errno.ENOSPC: "make room",
}


def exit_code_of(error: PydrbdError | OSError) -> int:
    """The exit code that an error ends with."""
    if isinstance(error, PydrbdError):
        return error.exit_code
    return _BY_ERRNO.get(error.errno or 0, 74)


def os_error_text(error: OSError) -> str:
    """An error of the operating system in words: where, what, and what to do."""
    what = error.strerror or str(error) or type(error).__name__
    hint = _HINTS.get(error.errno or 0, "")
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{what}{': ' + hint if hint else ''}"


def exit_codes_text() -> str:
    """The table, a line for each code."""
    return "".join(f"  {code:>3}  {text}\n" for code, text in EXIT_CODES.items())
