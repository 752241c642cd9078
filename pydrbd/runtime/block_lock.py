"""Locks that keep other processes from a disk, or from a part of it.

    a regular file                  flock, exclusive (shared by those who only read)
    a block device                  O_EXCL when it is opened: no lock of ours
    an index of a meta-data device  flock, shared, and a record lock on the index's bytes: volumes with other indexes,
                                    of this process or another one, use the device at the same time
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from pydrbd.errors import BusyError, DiskError

__all__ = ["lock_bytes", "lock_file"]

_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock of <fcntl.h>, 64 bits: type, whence, start, length, pid."""


def lock_file(fd: int, path: str, *, shared: bool) -> None:
    """Lock the whole file while this descriptor is open. Raises BusyError, DiskError."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BusyError(f"{path}: is already in use by {_file_user(fd)}: stop that first") from error
    except OSError as error:
        raise _cannot_lock(path, error) from error


def lock_bytes(fd: int, path: str, ours: range, *, read_only: bool) -> None:
    """Lock these bytes while this descriptor is open, against others who lock bytes, and the rest against lock_file.

    Raises BusyError, DiskError.
    """
    lock_file(fd, path, shared=True)
    kind = fcntl.F_RDLCK if read_only else fcntl.F_WRLCK
    wanted = _FLOCK.pack(kind, os.SEEK_SET, ours.start, len(ours), 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise BusyError(
                f"{path}: its bytes from {ours.start} to {ours.stop - 1} are in use by another volume: "
                "give each volume an index of its own"
            ) from error
        raise _cannot_lock(path, error) from error


def _cannot_lock(path: str, error: OSError) -> DiskError:
    return DiskError(f"{path}: can't be locked against other processes: {error.strerror}")


def _file_user(fd: int) -> str:
    """Who holds the lock on this file, in words; for the message only, so nothing here may fail."""
    status = os.fstat(fd)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == place:
                pid = int(fields[4])
                return "this process" if pid == os.getpid() else f"process {pid}{_program(pid)}"
    except (OSError, ValueError):
        pass
    return "another process"


def _program(pid: int) -> str:
    try:
        return f" ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except OSError:
        return ""
