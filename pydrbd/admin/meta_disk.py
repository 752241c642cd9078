"""A volume's disk, opened while the resource does not use it: for the commands that work on meta-data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydrbd.admin.context import Context, Target
from pydrbd.admin.exit_codes import ConfiguredError
from pydrbd.errors import ConfigError, DiskTooSmall, UsageError
from pydrbd.metadata.apply_al import Write
from pydrbd.metadata.layout import Layout, MetaKind
from pydrbd.metadata.opening import superblock_offset_bytes
from pydrbd.metadata.superblock import Superblock
from pydrbd.runtime.block_device import FileDevice
from pydrbd.runtime.build import DiskPlace, disk_place
from pydrbd.units import MD_BLOCK_SIZE_BYTES, SECTOR_SIZE_BYTES

__all__ = ["MetaDisk", "open_meta_disk", "places_of", "refuse_if_attached"]

_HAS_NO_DISK = ("Diskless",)


@dataclass(frozen=True, slots=True)
class MetaDisk:
    """An open pair of data and meta-data device (the same one for internal meta-data)."""

    target: Target
    place: DiskPlace
    data: FileDevice
    meta: FileDevice

    @property
    def name(self) -> str:
        """`r0/0 (/dev/sdb1)`, for messages."""
        return f"{self.target} ({self.place.md_path})"

    @property
    def meta_sectors(self) -> int:
        return self.meta.size_bytes // SECTOR_SIZE_BYTES

    @property
    def data_sectors(self) -> int:
        return self.data.size_bytes // SECTOR_SIZE_BYTES

    def read(self, offset_bytes: int, length: int) -> bytes:
        """What is on the meta-data device there; short, or nothing, at its end."""
        length = max(0, min(length, self.meta.size_bytes - offset_bytes))
        return self.meta.read_at(offset_bytes, length) if length else b""

    def write(self, writes: Iterable[Write]) -> None:
        """Write, and make it durable."""
        for offset_bytes, data in writes:
            self.meta.write_at(offset_bytes, data)
        self.meta.flush()

    def superblock(self) -> tuple[Superblock, Layout]:
        """What is there and where the rest is; raises MetaDataError."""
        offset = superblock_offset_bytes(self.place.kind, self.place.index, self.meta_sectors)
        block = self.read(offset, MD_BLOCK_SIZE_BYTES) if offset >= 0 else b""
        if len(block) < MD_BLOCK_SIZE_BYTES:
            raise DiskTooSmall(f"{self.name}: is too small for {self.place.kind.value} meta-data")
        superblock = Superblock.decode(block, f"{self.name}: the superblock at byte {offset}")
        return superblock, Layout.from_superblock(self.place.kind, self.meta_sectors, superblock, self.place.index)


def places_of(context: Context, target: Target) -> list[tuple[Target, DiskPlace]]:
    """The disks that a target means on this node, without those of diskless volumes. Raises ConfigError, UsageError."""
    me, _peer = context.resource(target.resource).pair(context.node)
    if target.vnr is not None and target.vnr not in me.volumes:
        known = ", ".join(str(vnr) for vnr in me.volumes)
        raise UsageError(f"{target.resource} has no volume {target.vnr} (it has {known})")
    wanted = [volume for volume in me.volumes.values() if target.vnr in (None, volume.vnr)]
    places = [
        (Target(target.resource, volume.vnr), place) for volume in wanted if (place := disk_place(volume)) is not None
    ]
    if not places:
        raise ConfigError(f"{target} has no disk on {me.name}, so it has no meta-data")
    return places


def refuse_if_attached(context: Context, target: Target) -> None:
    """Raises ConfiguredError if the running process has this volume's disk."""
    data = context.running(target.resource)
    if data is None:
        return
    for volume in data["volumes"]:
        if volume["vnr"] == target.vnr and volume["disk"] not in _HAS_NO_DISK:
            raise ConfiguredError(
                f"{target}: Device '{volume['minor']}' is configured! The running process (pid {data.get('pid')}) has "
                f"its disk: pydrbd detach {target.resource}, or pydrbd down {target.resource}, first"
            )


@contextmanager
def open_meta_disk(target: Target, place: DiskPlace, *, read_only: bool) -> Iterator[MetaDisk]:
    """Open a volume's devices for nobody but us. Raises DiskError, BusyError."""
    data = FileDevice(place.path, read_only=read_only)
    try:
        if place.kind is MetaKind.INTERNAL:
            yield MetaDisk(target, place, data, data)
            return
        meta = FileDevice(place.md_path, read_only=read_only, ours=place.md_bytes)
        try:
            yield MetaDisk(target, place, data, meta)
        finally:
            meta.close()
    finally:
        data.close()
