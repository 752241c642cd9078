"""The leases of a witness on disk: a file each, replaced as a whole, durable before anybody is told."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import IO, Final

from pydrbd.core.lease import Lease
from pydrbd.errors import BusyError, DiskError, MetaDataError
from pydrbd.limits import WITNESS_LEASE_FILE_BYTES_MAX, WITNESS_LEASES_MAX, WITNESS_NAME_BYTES_MAX
from pydrbd.runtime.durable_file import make_directory, replace_file

__all__ = ["LeaseFiles"]

_SUFFIX: Final = ".lease"
_VERSION: Final = 1
_WORD: Final = 2**64


class LeaseFiles:
    """A directory of leases, in the use of one witness at a time."""

    def __init__(self, directory: Path) -> None:
        """Raises DiskError, BusyError if another witness has it, MetaDataError for a file that is damaged."""
        self._directory = directory
        try:
            make_directory(directory)
            self._lock = _lock(directory / "lock")
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self.leases = self._read_all()
            # A lease that can't be written down is not given: better said now than when a Primary waits for it.
            replace_file(directory / "writable", f"{os.getpid()}\n")
        except OSError as error:
            self.close()
            raise self._unusable(error) from error
        except BaseException:
            self.close()
            raise

    def _unusable(self, error: OSError) -> DiskError:
        return DiskError(f"witness: its leases can't be kept in {self._directory}: {error.strerror}")

    def close(self) -> None:
        self._lock.close()

    def _read_all(self) -> dict[str, Lease]:
        files = sorted(self._directory.glob(f"*{_SUFFIX}"))
        if len(files) > WITNESS_LEASES_MAX:
            raise MetaDataError(f"{self._directory} has more than {WITNESS_LEASES_MAX} leases")
        return dict(_read(file) for file in files)

    def write(self, name: str, lease: Lease) -> None:
        """Durable when this returns. Raises OSError: then either the old or the new one is there."""
        document = {
            "version": _VERSION, "name": name, "holder": lease.holder, "generation": f"{lease.generation:016X}",
            "term": lease.term,
        }  # fmt: skip
        file = self._directory / (hashlib.sha256(name.encode()).hexdigest()[:32] + _SUFFIX)
        replace_file(file, json.dumps(document))


def _lock(path: Path) -> IO[bytes]:
    stream = path.open("wb")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.close()
        raise BusyError(f"another witness keeps its leases in {path.parent}") from error
    return stream


def _read(file: Path) -> tuple[str, Lease]:
    try:
        with file.open("rb") as stream:
            content = stream.read(WITNESS_LEASE_FILE_BYTES_MAX + 1)
        if len(content) > WITNESS_LEASE_FILE_BYTES_MAX:
            raise ValueError
        document = json.loads(content)
        name, holder, term = document["name"], document["holder"], document["term"]
        generation = int(document["generation"], 16)
        good = document["version"] == _VERSION and isinstance(name, str) and isinstance(holder, str)
        if not good or type(term) is not int or not (0 <= term < _WORD and 0 <= generation < _WORD):
            raise ValueError
        if max(len(name.encode()), len(holder.encode())) > WITNESS_NAME_BYTES_MAX:
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MetaDataError(
            f"{file} is no lease: who held it is not known; remove the file only while both nodes are connected"
        ) from error
    return name, Lease(holder, generation, term)
