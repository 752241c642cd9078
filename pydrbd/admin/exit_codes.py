"""What the command line ends with: one table for `--help`, the documentation and the code.

Most are sysexits(3), by way of pydrbd.errors. 5, 10, 17 and 20 are the codes of drbdsetup and drbdmeta that scripts and
resource agents know.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import ClassVar, Final

from pydrbd.errors import BusyError, ConfigError, DiskError, DiskForbidden, MetaDataError, PydrbdError, UsageError

__all__ = [
    "EXIT_CODES",
    "CommandFailed",
    "ConfiguredError",
    "CopiesDiffer",
    "NotInstalled",
    "StandAloneError",
    "WaitTimedOut",
    "WorseThanOutdated",
    "blamed",
    "exit_codes_text",
    "os_error_text",
]

EXIT_CODES: Final[Mapping[int, str]] = {
    0: "done (also: there was nothing to do)",
    1: "the output could not be written",
    5: "wait-connect, wait-sync: the time is over; outdate: the data is worse than out of date",
    6: "verify --wait, check: the copies differ",
    10: "the request failed or was not answered in time, for a reason that has no code",
    17: "the state change is refused, by this node or its peer",
    20: "the disk is in use by the running process of the resource",
    64: "the command line is wrong",
    65: "the meta-data is missing, damaged or foreign; create-md: there is something on the disk",
    69: "the resource does not run here, or what it needs is in use (disk, port) or not installed",
    70: "an error in pydrbd",
    74: "the disk failed, is missing, too small, or can't be used",
    76: "the peer, or a client, broke the protocol",
    77: "no permission (to a file, disk, port or socket)",
    78: "the configuration is missing, wrong, or does not name the resource, this node or its disk",
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
    """An online verify, or a check, has found differences."""

    exit_code: ClassVar[int] = 6


class NotInstalled(PydrbdError):
    """A verb needs software that is not there."""

    exit_code: ClassVar[int] = 69


class StandAloneError(PydrbdError):
    """A connection is waited for that nobody is looking for."""

    exit_code: ClassVar[int] = 10


class ConfiguredError(PydrbdError):
    """The running process has the disk, so that its meta-data can't be touched."""

    exit_code: ClassVar[int] = 20


_BY_CODE: Final[Mapping[int, type[PydrbdError]]] = {
    kind.exit_code: kind for kind in (UsageError, MetaDataError, BusyError, DiskError, DiskForbidden, ConfigError)
}
"""What a process can say of its disk, so that the same fault ends every verb with the same code."""

_HINTS: Final[Mapping[int, str]] = {
    errno.EACCES: "ask as a user who may",
    errno.EPERM: "ask as a user who may",
    errno.EADDRINUSE: "something else listens there",
    errno.ENOSPC: "make room",
}


def blamed(exit_code: object, text: str) -> PydrbdError | None:
    """The error that a process has met on our behalf, by the exit code that it would end with; None: it names none."""
    kind = _BY_CODE.get(exit_code) if isinstance(exit_code, int) else None
    return None if kind is None else kind(text)


def os_error_text(error: OSError) -> str:
    """An error of the operating system in words: where, what, and what to do."""
    what = error.strerror or str(error) or type(error).__name__
    hint = _HINTS.get(error.errno or 0, "")
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{what}{': ' + hint if hint else ''}"


def exit_codes_text() -> str:
    """The table, a line for each code."""
    return "".join(f"  {code:>3}  {text}\n" for code, text in EXIT_CODES.items())
