"""Snapshots of a volume's disk: reflink copies of a file, LVM's of a logical volume.

    /srv/r0.img    /srv/r0.img.before-resync.1, .2, ...
    vg0/r0         vg0/r0.before-resync.1, .2, ...

A reflink copy takes a moment and no room: both files share their blocks until one of them is written to. A plain copy
takes as long, and as much room, as there is data in the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
from pathlib import Path
from typing import Final, Protocol

from pydrbd.errors import DiskError
from pydrbd.limits import HELPER_TIMEOUT_S
from pydrbd.units import KIB, MIB

__all__ = ["FileSnapshots", "LogicalVolumeSnapshots", "Snapshots", "snapshots_of"]

_FICLONE: Final = 0x40049409
"""_IOW(0x94, 9, int) of <linux/fs.h>: fcntl has the name from Python 3.12 on."""

_NO_REFLINKS: Final = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS)
_MARK: Final = ".before-resync."
_COPY_BYTES: Final = 16 * MIB
_LVM_PERCENT: Final = 10
_LVM_MORE_KIB: Final = 10 * 1024
"""A snapshot of a logical volume that is not thin has room for what is out of sync, and for this much else."""


class Snapshots(Protocol):
    """All snapshots of one disk."""

    def names(self) -> list[str]:
        """Those that there are, the oldest first. Raises DiskError."""

    def take(self, out_of_sync_bytes: int) -> str:
        """Make one more; its name. `out_of_sync_bytes`: how much will be written at least. Raises DiskError."""

    def remove(self, name: str) -> None:
        """Raises DiskError."""


def snapshots_of(disk: str, *, copies: bool) -> Snapshots:
    """Those of a disk; `copies`: a plain copy will do where a file can't share its blocks. Raises DiskError."""
    try:
        mode = Path(disk).stat().st_mode
    except OSError as error:
        raise DiskError(f"{disk}: {error.strerror}") from error
    if stat.S_ISREG(mode):
        return FileSnapshots(Path(disk).resolve(), copies=copies)
    if stat.S_ISBLK(mode):
        return LogicalVolumeSnapshots(disk)
    raise DiskError(f"{disk}: is neither a file nor a block device")


def _number(name: str, of: str) -> int | None:
    """The number of a snapshot's name; None if it is none of them."""
    digits = name.removeprefix(of + _MARK)
    return int(digits) if digits != name and digits.isascii() and digits.isdigit() else None


def _in_order(names: list[str], of: str) -> list[str]:
    numbered = [(number, name) for name in names if (number := _number(name, of)) is not None]
    return [name for _number_, name in sorted(numbered)]


def _next(names: list[str], of: str) -> str:
    last = _number(names[-1], of) if names else None
    return f"{of}{_MARK}{(last or 0) + 1}"


class FileSnapshots:
    """Files beside the disk's; what is not finished yet ends with `.part`."""

    def __init__(self, disk: Path, *, copies: bool) -> None:
        self._disk = disk
        self._copies = copies

    def names(self) -> list[str]:
        try:
            found = [path.name for path in self._disk.parent.iterdir()]
        except OSError as error:
            raise DiskError(f"{self._disk.parent}: {error.strerror}") from error
        return _in_order(found, self._disk.name)

    def take(self, out_of_sync_bytes: int) -> str:
        name = _next(self.names(), self._disk.name)
        part = self._disk.with_name(f"{self._disk.name}{_MARK}part")
        try:
            self._fill(part)
            part.rename(part.with_name(name))
            self._sync_directory()
        except (OSError, DiskError) as error:
            part.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise DiskError(f"{part}: {error.strerror}: there is no snapshot") from error
            raise
        return name

    def _fill(self, part: Path) -> None:
        """Make `part` what the disk is, durably. Raises OSError, DiskError."""
        mode = stat.S_IMODE(self._disk.stat().st_mode)
        with self._disk.open("rb", buffering=0) as source, part.open("wb", buffering=0) as target:
            os.fchmod(target.fileno(), mode)
            try:
                clone(source.fileno(), target.fileno())
            except OSError as error:
                if error.errno not in _NO_REFLINKS:
                    raise
                if not self._copies:
                    raise DiskError(
                        f"{self._disk}: its file system can't share blocks of files (reflinks: XFS and Btrfs can): "
                        f"put the disk on one that can, or say --copy for a plain copy, which takes time and room"
                    ) from error
                _copy_sparse(source.fileno(), target.fileno())
            os.fsync(target.fileno())

    def remove(self, name: str) -> None:
        path = self._disk.with_name(name)
        try:
            path.unlink(missing_ok=True)
            self._sync_directory()
        except OSError as error:
            raise DiskError(f"{path}: can't be removed: {error.strerror}") from error

    def _sync_directory(self) -> None:
        directory = os.open(self._disk.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def clone(source: int, target: int) -> None:
    """Have a file share another one's blocks. Raises OSError."""
    fcntl.ioctl(target, _FICLONE, source)


def _copy_sparse(source: int, target: int) -> None:
    """Copy what is in a file; its holes stay holes. Raises OSError."""
    size, at = os.fstat(source).st_size, 0
    os.ftruncate(target, size)
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            raise
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            piece = os.pread(source, min(_COPY_BYTES, end - at), at)
            if not piece:
                raise OSError(errno.EIO, "the disk has become shorter")
            at += os.pwrite(target, piece, at)


class LogicalVolumeSnapshots:
    """LVM's own, in the same volume group; a thin volume's need no size."""

    def __init__(self, disk: str) -> None:
        self._disk = disk
        fields = "vg_name,lv_name,lv_size,segtype"
        words = _lvm("lvs", "--noheadings", "--nosuffix", "--units", "k", "--separator", "|", "-o", fields, disk)
        try:
            self._group, self._volume, size_kib, kind = (word.strip() for word in words.strip().split("|"))
            self._size_kib = int(float(size_kib))
        except ValueError as error:
            raise DiskError(f"{disk}: lvs says what is not understood: {words.strip()[:80]!r}") from error
        self._is_thin = kind == "thin"

    def names(self) -> list[str]:
        words = _lvm("lvs", "--noheadings", "-o", "lv_name", self._group)
        return _in_order([word.strip() for word in words.splitlines()], self._volume)

    def take(self, out_of_sync_bytes: int) -> str:
        name = _next(self.names(), self._volume)
        room_kib = out_of_sync_bytes // KIB + _LVM_MORE_KIB + self._size_kib * _LVM_PERCENT // 100
        size = ["--setactivationskip", "n"] if self._is_thin else ["--size", f"{room_kib}k"]
        _lvm("lvcreate", "--snapshot", "--name", name, *size, f"{self._group}/{self._volume}")
        return name

    def remove(self, name: str) -> None:
        _lvm("lvremove", "--force", f"{self._group}/{name}")


def _lvm(*words: str) -> str:
    """What one of LVM's commands prints. Raises DiskError with what it complains about."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=HELPER_TIMEOUT_S)
    except FileNotFoundError as error:
        raise DiskError(f"{words[-1]}: is a block device, and there is no {words[0]} (LVM) for snapshots") from error
    except subprocess.TimeoutExpired as error:
        raise DiskError(f"{words[0]} did not end within {HELPER_TIMEOUT_S:g} s") from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise DiskError(f"{' '.join(words[:1])} {words[-1]}: {said}")
    return done.stdout
