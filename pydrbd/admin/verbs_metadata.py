"""create-md, dump-md, apply-al, and outdate: work on the meta-data of a disk that no process has attached."""

from __future__ import annotations

import secrets
import socket
import time

from pydrbd.admin.context import Context, Target
from pydrbd.admin.exit_codes import WorseThanOutdated
from pydrbd.admin.meta_disk import MetaDisk, open_meta_disk, places_of, refuse_if_attached
from pydrbd.admin.output import complain, say
from pydrbd.errors import MetaDataError, UsageError
from pydrbd.metadata.create import conflicts, detect, plan_create, plan_wipe
from pydrbd.metadata.dump import bitmap_dump_bytes, dump_md
from pydrbd.metadata.layout import Layout, MetaKind
from pydrbd.metadata.opening import KnownSize, open_meta_data
from pydrbd.runtime.known_sizes import KnownSizes, state_dir
from pydrbd.units import BIT_SIZE_BYTES, KIB, ceil_div

__all__ = ["apply_al", "check_resize", "create_md", "dump_meta_data", "outdate", "wipe_md"]


def create_md(context: Context, target: Target, *, force: bool, al_stripes: int, al_stripe_size_kib: int) -> int:
    """Write fresh meta-data. Without `force`, anything that is found on the disk is named and refused."""
    places = places_of(context, target)
    for volume, _place in places:
        refuse_if_attached(context, volume)
    for volume, place in places:
        with open_meta_disk(volume, place, read_only=False) as disk:
            layout = _new_layout(disk, al_stripes, al_stripe_size_kib)
            _check_empty(disk, layout, force=force)
            data_sectors = None if layout.kind is MetaKind.INTERNAL else disk.data_sectors
            writes = plan_create(layout, data_sectors=data_sectors, device_uuid=secrets.randbits(64) | 1)
            disk.write(writes[:1])
            disk.write(writes[1:-1])
            disk.write(writes[-1:])
        say(f"{volume}: New drbd meta data block successfully created ({layout.kind.value}, on {place.md_path}).")
    return 0


def _new_layout(disk: MetaDisk, al_stripes: int, al_stripe_size_kib: int) -> Layout:
    """The geometry that the meta-data will have; raises MetaDataError if there is no room for it."""
    stripe_size_4k = ceil_div(al_stripe_size_kib, BIT_SIZE_BYTES // KIB)
    try:
        if disk.place.kind is MetaKind.INTERNAL:
            return Layout.internal(disk.meta_sectors, al_stripes, stripe_size_4k)
        if disk.place.kind is MetaKind.FLEXIBLE:
            return Layout.flexible(disk.meta_sectors, al_stripes, stripe_size_4k)
        if (al_stripes, stripe_size_4k) != (1, 8):
            raise MetaDataError("an indexed meta-disk has a fixed activity log: it can't be striped")
        return Layout.indexed(disk.place.index, disk.meta_sectors)
    except MetaDataError as error:
        raise type(error)(f"{disk.name}: {error}") from error


def _check_empty(disk: MetaDisk, layout: Layout, *, force: bool) -> None:
    """Raises MetaDataError over what is found, unless forced: then what may be lost is said."""
    findings = detect(disk.read, disk.meta_sectors)
    if not findings:
        return
    lost = conflicts(findings, layout)
    found = "; ".join(finding.text for finding in findings)
    if not force:
        words = f"this would damage what is there: {'; '.join(lost)}" if lost else f"found {found}"
        raise MetaDataError(
            f"{disk.name}: {words}. Nothing was written; 'pydrbd create-md --force {disk.target}' does it"
        )
    complain(f"{disk.name}: found {found}: writing meta-data all the same (--force)")


def dump_meta_data(context: Context, target: Target, *, force: bool) -> int:
    """Print the meta-data in drbdmeta's text form; refused while its activity log is not applied, unless `force`."""
    for volume, place in places_of(context, target):
        refuse_if_attached(context, volume)
        with open_meta_disk(volume, place, read_only=True) as disk:
            superblock, layout = disk.superblock()
            if not (superblock.is_clean or force):
                raise MetaDataError(
                    f'{disk.name}: Found meta data is "unclean", please apply-al first (pydrbd apply-al {volume}), '
                    f"or see it as it is with --force"
                )
            bitmap = disk.read(layout.bitmap_offset_bytes, bitmap_dump_bytes(superblock))
        now = time.time()
        say(
            f"# DRBD meta data dump\n# {time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(now))} [{int(now)}]\n"
            f"# {socket.gethostname()}> pydrbd dump-md {volume}\n#\n"
        )
        say(dump_md(superblock, layout, bitmap))
    return 0


def outdate(context: Context, target: Target) -> int:
    """Mark the data on disk as out of date; nothing is changed if one volume's can't be. Raises WorseThanOutdated."""
    places = places_of(context, target)
    for dry_run in (True, False):
        for volume, place in places:
            with open_meta_disk(volume, place, read_only=dry_run) as disk:
                superblock, layout = disk.superblock()
                try:
                    outdated = superblock.outdated()
                except MetaDataError as error:
                    raise WorseThanOutdated(f"{disk.name}: {error}") from None
                if not dry_run:
                    disk.write([(layout.superblock_offset_bytes, outdated.encode())])
    return 0


def wipe_md(context: Context, target: Target, *, force: bool) -> int:
    """Make the meta-data of a disk that nobody has vanish: what it knew of the data is gone. Raises UsageError."""
    if not force:
        raise UsageError(f"{target}: after this nobody knows any more what the data is worth: wipe-md --force does it")
    for volume, place in places_of(context, target):
        refuse_if_attached(context, volume)
        with open_meta_disk(volume, place, read_only=False) as disk:
            _superblock, layout = disk.superblock()
            disk.write(plan_wipe(layout))
        say(f"{volume}: DRBD meta data block successfully wiped out ({place.md_path}).")
    return 0


def check_resize(context: Context, target: Target) -> int:
    """Note how large a disk with internal meta-data is, so that this is found when it has grown. Raises MetaDataError.

    A running process has done so when it attached the disk.
    """
    running = context.running(target.resource)
    attached = {volume["vnr"] for volume in running["volumes"] if volume["has_disk"]} if running else set()
    for volume, place in places_of(context, target):
        if place.kind is MetaKind.INTERNAL and volume.vnr not in attached:
            with open_meta_disk(volume, place, read_only=True) as disk:
                superblock, layout = disk.superblock()
            size = KnownSize(layout.md_device_sectors, superblock.device_uuid)
            KnownSizes(state_dir(context.run_dir)).write(place, (size,))
    return 0


def apply_al(context: Context, target: Target) -> int:
    """Turn what the activity log says into out-of-sync bits, as attaching does too."""
    for volume, place in places_of(context, target):
        refuse_if_attached(context, volume)
        with open_meta_disk(volume, place, read_only=False) as disk:
            try:
                opened = open_meta_data(disk.read, place.kind, place.index, disk.meta_sectors, disk.data_sectors)
            except MetaDataError as error:
                raise type(error)(f"{disk.name}: {error}") from error
            for stage in opened.applied.stages:
                disk.write(stage)
        for note in opened.applied.notes:
            complain(f"{volume}: {note}")
        if not opened.applied.stages:
            say(f"{volume}: Nothing to apply: the activity log is clean.")
        elif opened.applied.newly_marked_bits:
            kib = opened.applied.newly_marked_bits * BIT_SIZE_BYTES // KIB
            say(f"{volume}: Marked additional {kib} KB as out-of-sync based on AL.")
        else:
            say(f"{volume}: The activity log is applied; nothing new is out of sync.")
    return 0
