"""snapshot-resync-target and unsnapshot-resync-target: for the handlers around a resync of this node's disk.

    handlers {
      before-resync-target "pydrbd snapshot-resync-target";
      after-resync-target  "pydrbd unsnapshot-resync-target";
    }

While a resync runs, its target is neither what it was nor what the peer has. If the peer dies in that time, the
snapshot is the last good copy. A resync that is cut off begins anew with a disk that is Inconsistent by then: of that
no snapshot is taken, and the older one is kept until a resync has come to its end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from pydrbd.admin.context import Context, Target
from pydrbd.admin.meta_disk import places_of
from pydrbd.admin.output import complain, say
from pydrbd.admin.snapshots import Snapshots, snapshots_of
from pydrbd.errors import DiskError, UsageError
from pydrbd.units import BIT_SIZE_BYTES

__all__ = ["names_of_handler", "snapshot", "unsnapshot"]


def names_of_handler(names: list[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """The volume that a handler is about, if nothing is named. Raises UsageError."""
    if names:
        return names
    resource = environment.get("DRBD_RESOURCE")
    if not resource:
        raise UsageError("name a volume: this is not a handler, where DRBD_RESOURCE and DRBD_VOLUME do so")
    numbers = environment.get("DRBD_VOLUME", "").split()
    return [f"{resource}/{number}" for number in numbers] or [resource]


def snapshot(context: Context, target: Target, *, copies: bool, is_needed: bool) -> int:
    """Take a snapshot of a disk that is not Inconsistent. Raises DiskError, which forbids the resync.

    `copies`: a plain copy, where blocks can't be shared. Unless `is_needed` an error is only said.
    """
    for volume, disk, state in _disks(context, target):
        try:
            snapshots = snapshots_of(disk, copies=copies)
            there = snapshots.names()
            if state["disk"] == "Inconsistent":
                kept = f"{there[-1]} is kept" if there else "there is no older snapshot"
                say(f"{volume}: is Inconsistent already, as after a resync that was cut off: {kept}")
                continue
            name = snapshots.take(state["out_of_sync_bits"] * BIT_SIZE_BYTES)
        except DiskError as error:
            if is_needed:
                raise
            complain(f"{volume}: no snapshot, and the resync goes on without: {error}")
            continue
        say(f"{volume}: {name} is as the disk was before the resync")
    return 0


def unsnapshot(context: Context, target: Target, *, keep: int) -> int:
    """Remove all snapshots but the `keep` newest, unless the disk is still Inconsistent. Raises DiskError."""
    for volume, disk, state in _disks(context, target):
        snapshots: Snapshots = snapshots_of(disk, copies=False)
        there = snapshots.names()
        if state["disk"] == "Inconsistent":
            say(f"{volume}: is Inconsistent: its snapshots are kept")
            continue
        for name in there[: len(there) - keep] if keep < len(there) else []:
            snapshots.remove(name)
            say(f"{volume}: {name} is removed")
    return 0


def _disks(context: Context, target: Target) -> Iterator[tuple[Target, str, dict[str, Any]]]:
    """Each volume with its disk and its state; only a running process knows the latter. Raises NotRunningError."""
    states = {volume["vnr"]: volume for volume in context.ask_running(target.resource)["volumes"]}
    for volume, place in places_of(context, target):
        if volume.vnr in states:
            yield volume, place.path, states[volume.vnr]
