"""get-gi, show-gi and set-gi: the generation identifiers, of the running process or else from the disk.

current:bitmap:younger history:older history:seven flags
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydrbd.admin.context import Context, Target
from pydrbd.admin.meta_disk import open_meta_disk, places_of, refuse_if_attached
from pydrbd.admin.output import say
from pydrbd.errors import UsageError

__all__ = ["gi_picture", "identifiers_among", "set_gi", "show_gi"]

_UUIDS: Final = (
    "what this data is: the current generation",
    "the generation since which the bitmap counts changes (0: nothing to count)",
    "the generation before that one",
    "the generation before that",
)
_FLAGS: Final = (
    "the data is consistent",
    "it was up to date when last heard of",
    "this node is or was Primary",
    "it is or was connected to its peer",
    "a full sync is needed, or was begun",
    "the peer's disk is outdated or inconsistent",
    "this node crashed as a Primary and was not in sync since",
)
_UUID_COLUMNS: Final = 17


def show_gi(context: Context, target: Target, *, picture: bool) -> int:
    """Print the identifiers of each volume: as one line (get-gi), or explained (show-gi)."""
    for volume, text, origin in list(_identifiers(context, target)):
        if picture:
            say(f"{volume}, {origin}:\n\n{gi_picture(text)}")
        else:
            say(text)
    return 0


def identifiers_among(given: str | None, names: list[str]) -> tuple[str, list[str]]:
    """What set-gi shall write, and whose; drbdadm's way is a word of its own beside the names. Raises UsageError."""
    words = [*filter(None, [given]), *(name for name in names if ":" in name)]
    if len(words) != 1:
        raise UsageError("set-gi needs the identifiers, once: --gi UUID:UUID:UUID:UUID:FLAG:..., as get-gi prints them")
    rest = [name for name in names if ":" not in name]
    if not rest:
        raise UsageError("set-gi needs the name of a resource, or of a volume, RES/VNR")
    return words[0], rest


def set_gi(context: Context, target: Target, text: str, *, force: bool) -> int:
    """Write other identifiers to a disk that nobody has. Raises UsageError, MetaDataError, ConfiguredError."""
    places = places_of(context, target)
    for volume, _place in places:
        refuse_if_attached(context, volume)
    for volume, place in places:
        with open_meta_disk(volume, place, read_only=not force) as disk:
            superblock, layout = disk.superblock()
            changed = superblock.with_gi_text(text)
            say(f"previously {superblock.gi_text()}")
            say(f"GI setting {changed.gi_text()}")
            if not force:
                raise UsageError(f"{volume}: this decides whose data is discarded: set-gi --force does it")
            disk.write([(layout.superblock_offset_bytes, changed.encode())])
    return 0


def _identifiers(context: Context, target: Target) -> Iterator[tuple[Target, str, str]]:
    """(volume, get-gi's line, where it is from)."""
    data = context.running(target.resource)
    live = {volume["vnr"]: volume for volume in data["volumes"]} if data is not None else {}
    for volume, place in places_of(context, target):
        now = live.get(volume.vnr)
        if now is not None and now["gi"] is not None:
            origin = f"running: {now['role']}, {now['cstate']}, {now['disk']}/{now['peer_disk']}"
            yield volume, now["gi"], origin
            continue
        with open_meta_disk(volume, place, read_only=True) as disk:
            superblock, _layout = disk.superblock()
        clean = "clean" if superblock.is_clean else "its activity log is not applied yet (apply-al or attach does it)"
        yield volume, superblock.gi_text(), f"on {place.md_path}: {superblock.disk_state_text()}, {clean}"


def gi_picture(text: str) -> str:
    """get-gi's line with a word on each of its parts, uuids above, flags below."""
    lines = []
    for position, words in enumerate(_UUIDS):
        lines.append(("|" + " " * (_UUID_COLUMNS - 1)) * position + f".-- {words}")
    lines.append(("|" + " " * (_UUID_COLUMNS - 1)) * (len(_UUIDS) - 1) + "|")
    lines.append(text)
    first_flag = _UUID_COLUMNS * len(_UUIDS)
    for position, (words, value) in enumerate(zip(_FLAGS, text.split(":")[len(_UUIDS) :], strict=True)):
        column = first_flag + 2 * position
        label = f"{words}: {'yes' if value == '1' else 'no'} "
        lines.append(label.rjust(column - 2, " ") + "--'" + " |" * (len(_FLAGS) - 1 - position))
    return "\n".join(lines) + "\n"
