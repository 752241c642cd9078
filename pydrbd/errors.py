"""Errors by whose fault it is, each with the exit code that the command line ends with.

The message of an error says what is wrong, where, and what to do. `exit_code` follows sysexits(3) where it has a
word for the case, and drbdsetup's 17 for a state change that was refused.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import ClassVar, Final

__all__ = [
    "BusyError",
    "ClientProtocolError",
    "ConfigError",
    "ConfigForbidden",
    "DiskError",
    "DiskForbidden",
    "DiskTooSmall",
    "InternalError",
    "MetaDataError",
    "NotRunningError",
    "PeerProtocolError",
    "PortForbidden",
    "PydrbdError",
    "StateRefused",
    "UsageError",
    "errno_text",
    "exit_code_of",
]


class PydrbdError(Exception):
    """The root of everything that we raise on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(PydrbdError):
    """The command line is wrong (the user's words)."""

    exit_code = 64


class ConfigError(PydrbdError):
    """The configuration is wrong: file, line, column, what was expected."""

    exit_code = 78

    def __init__(self, message: str, *, file: str = "", line: int = 0, column: int = 0) -> None:
        place = f"{file}:{line}:{column}: " if file else ""
        super().__init__(place + message)
        self.message = message
        self.file = file
        self.line = line
        self.column = column


class ConfigForbidden(ConfigError):
    """We may not read the configuration."""

    exit_code = 77


class StateRefused(PydrbdError):
    """The operator's request is refused, with DRBD's code (SS_..., negative) and words."""

    exit_code = 17

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class DiskError(PydrbdError):
    """The local disk failed, is too small, or can't be opened."""

    exit_code = 74


class DiskForbidden(DiskError):
    """We may not read, or write, the local disk."""

    exit_code = 77


class MetaDataError(PydrbdError):
    """The meta-data on the local disk is missing, damaged, foreign, or does not fit the disk."""

    exit_code = 65


class DiskTooSmall(MetaDataError):
    """There is no room on the disk for meta-data: larger disks mend that, not other meta-data."""

    exit_code = DiskError.exit_code


class PeerProtocolError(PydrbdError):
    """The peer sent what the protocol does not allow: the connection is dropped."""

    exit_code = 76


class ClientProtocolError(PydrbdError):
    """An NBD client sent what the protocol does not allow: its connection is dropped."""

    exit_code = 76


class BusyError(PydrbdError):
    """A port, socket, disk or run directory is already in use."""

    exit_code = 69


class PortForbidden(BusyError):
    """We may not listen on a port."""

    exit_code = 77


class NotRunningError(PydrbdError):
    """The verb needs the resource's process, and it does not answer."""

    exit_code = 69


class InternalError(PydrbdError):
    """An invariant is broken: our bug. The process stops; the peer and the fence take over."""

    exit_code = 70


_BY_ERRNO: Final[Mapping[int, int]] = {
    errno.EACCES: 77,
    errno.EPERM: 77,
    errno.EADDRINUSE: 69,
    errno.EBUSY: 69,
}


_OF_DISKS: Final[Mapping[int, str]] = {
    errno.EIO: "input/output error",
    errno.ENXIO: "the device is gone",
    errno.ENODEV: "the device is gone",
    errno.ENOSPC: "no space left where it lies: make room there, and attach it again",
    errno.EDQUOT: "the quota where it lies is used up: make room there, and attach it again",
    errno.EROFS: "what it lies on is read-only",
    errno.ETIMEDOUT: "it did not answer in time",
}


def exit_code_of(error: PydrbdError | OSError) -> int:
    """The exit code that an error ends with."""
    if isinstance(error, PydrbdError):
        return error.exit_code
    return _BY_ERRNO.get(error.errno or 0, 74)


def errno_text(number: int) -> str:
    """What a disk's errno means and, where there is something, what to do: for a log line."""
    return f"errno {number}: {_OF_DISKS.get(number) or errno.errorcode.get(number, 'unknown')}"
