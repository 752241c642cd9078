"""How large each disk with internal meta-data was when it was last in use, on this machine.

Internal meta-data lies at the end of its disk: after a disk has grown while nobody had it, only this tells where. A
kernel node's drbdmeta keeps the same in /var/lib/drbd; that is read here, too, and left alone.

The files are beside the sockets in a run directory of the user's own, and in a place that survives a reboot when that
is one of the usual directories in /run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydrbd.metadata.layout import MetaKind
from pydrbd.metadata.opening import KnownSize
from pydrbd.runtime.build import DiskPlace
from pydrbd.runtime.durable_file import make_directory, replace_file
from pydrbd.units import SECTOR_SIZE_BYTES

__all__ = ["KnownSizes", "state_dir"]

_KERNELS = Path("/var/lib/drbd")


def state_dir(run_dir: Path) -> Path:
    """Where what must outlive a reboot is kept for the processes of this run directory."""
    if run_dir == Path("/run/pydrbd"):
        return Path("/var/lib/pydrbd")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and run_dir == Path(runtime) / "pydrbd":
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "pydrbd"
    return run_dir


class KnownSizes:
    """One small file for each disk."""

    def __init__(self, directory: Path, kernels: Path = _KERNELS) -> None:
        self._directory = directory
        self._kernels = kernels

    def read(self, place: DiskPlace) -> tuple[KnownSize, ...]:
        """Every size that the disk is known to have had; what can't be read is not known."""
        if place.kind is not MetaKind.INTERNAL:
            return ()
        found: list[KnownSize] = []
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self._path(place).read_text())
            if content["disk"] == place.path:
                uuid = int(content["device_uuid"], 16)
                found += [KnownSize(int(size) // SECTOR_SIZE_BYTES, uuid) for size in content["sizes_bytes"]]
        with contextlib.suppress(OSError, ValueError):
            first, _, rest = (self._kernels / f"drbd-minor-{place.minor}.lkbd").read_text().partition("\n")
            size, _, name = first.partition("\t")
            if name == place.path:
                words = rest.split()
                uuid = int(words[1], 16) if len(words) > 1 and words[0] == "uuid:" else 0
                found.append(KnownSize(int(size) // SECTOR_SIZE_BYTES, uuid))
        return tuple(found)

    def write(self, place: DiskPlace, known: Iterable[KnownSize]) -> None:
        """Remember these sizes, durably, in place of the ones before. Raises OSError."""
        if place.kind is not MetaKind.INTERNAL:
            return
        sizes = sorted(known, key=lambda size: size.md_sectors)
        content = {
            "disk": place.path,
            "device_uuid": f"{sizes[-1].device_uuid:016X}",
            "sizes_bytes": [size.md_sectors * SECTOR_SIZE_BYTES for size in sizes],
        }
        make_directory(self._directory)
        replace_file(self._path(place), json.dumps(content) + "\n")

    def _path(self, place: DiskPlace) -> Path:
        return self._directory / f"disk-{hashlib.sha256(os.fsencode(place.path)).hexdigest()[:16]}.size"
