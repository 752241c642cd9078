"""check --against-peer: are both copies the same? An online verify, followed to its end, with what it has found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydrbd.admin.context import Context
from pydrbd.admin.device_map import CELLS_MAX, KINDS, DeviceMap, draw_png, draw_svg, legend
from pydrbd.admin.exit_codes import CommandFailed, CopiesDiffer
from pydrbd.admin.output import say
from pydrbd.admin.progress import format_bytes
from pydrbd.admin.verbs_state import request
from pydrbd.admin.verbs_verify import HOW_TO_REPAIR, follow
from pydrbd.errors import UsageError
from pydrbd.units import BIT_SIZE_BYTES, KIB

__all__ = ["check"]

_RANGES_SHOWN_MAX: Final = 100

Values = dict[str, Any]


def check(
    context: Context, resource: str, places: dict[str, int | None], map_path: str | None, *, as_json: bool
) -> int:
    """Compare both copies of every volume while they are in use, and tell what differs.

    `places`: from and to which sector (default: all). Raises CopiesDiffer, CommandFailed (it did not get to its end),
    and as `verify`; UsageError for a map that is no picture.
    """
    path = _place_of_map(map_path)
    sectors = {name: sector for name, sector in places.items() if sector is not None}
    request(context, resource, "verify", {"start_sector": 0} | sectors)
    client = context.client(resource)
    follow(client, f"{resource} check")
    data = client.grant("verify-report", {"cells": CELLS_MAX}).data
    if data is None or not all(volume.get("report") for volume in data["volumes"]):
        raise CommandFailed(f"{resource}: has no report: was it restarted meanwhile?")
    volumes = data["volumes"]
    if path is not None:
        _draw(path, resource, volumes)
    if as_json:
        say(json.dumps({"name": resource, "volumes": [_as_json(volume) for volume in volumes]}, indent=2))
    else:
        for volume in volumes:
            _tell(resource, volume)
        if path is not None:
            say(f"{path}: {legend()}")
    return _judge(resource, [volume["report"] for volume in volumes])


def _place_of_map(map_path: str | None) -> Path | None:
    """Where the picture goes; looked at before the long work. Raises UsageError, OSError if it can't be written."""
    if map_path is None:
        return None
    path = Path(map_path)
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"--map: '{map_path}' is neither .png nor .svg")
    with path.open("ab"):
        return path


def _draw(path: Path, resource: str, volumes: list[Values]) -> None:
    maps = [
        DeviceMap(f"{resource}/{volume['vnr']}", volume["size_bytes"], volume["report"]["map"]) for volume in volumes
    ]
    path.write_bytes(draw_png(maps) if path.suffix.lower() == ".png" else draw_svg(maps).encode())


def _tell(resource: str, volume: Values) -> None:
    """A line about the volume, and one for each range that differs."""
    report = volume["report"]
    compared, different = report["compared_blocks"], report["different_blocks"]
    size = f"{BIT_SIZE_BYTES // KIB} KiB ({format_bytes(report['end_bytes'] - report['start_bytes'])})"
    result = f"{different} of them differ" if different else "all are the same"
    skipped = f"; {report['skipped_blocks']} could not be read" if report["skipped_blocks"] else ""
    say(f"{resource}/{volume['vnr']}: {compared} blocks of {size} compared: {result}{skipped}")
    for offset, length in report["ranges"][:_RANGES_SHOWN_MAX]:
        say(f"  differs: offset {offset}, {length} bytes")
    if len(report["ranges"]) > _RANGES_SHOWN_MAX or not report["ranges_complete"]:
        say("  ... and more: --json tells of them")


def _as_json(volume: Values) -> Values:
    report = volume["report"]
    return {
        "volume": volume["vnr"],
        "size": volume["size_bytes"],
        "start": report["start_bytes"],
        "end": report["end_bytes"],
        "complete": report["complete"],
        "block-size": BIT_SIZE_BYTES,
        "compared-blocks": report["compared_blocks"],
        "different-blocks": report["different_blocks"],
        "skipped-blocks": report["skipped_blocks"],
        "out-of-sync-blocks": report["marked_blocks"],
        "different": [{"offset": offset, "length": length} for offset, length in report["ranges"]],
        "different-complete": report["ranges_complete"],
    }


def _judge(resource: str, reports: list[Values]) -> int:
    """A difference that was found is one, whether or not the rest could be compared."""
    different = sum(report["different_blocks"] for report in reports)
    if different:
        size = format_bytes(different * BIT_SIZE_BYTES)
        raise CopiesDiffer(f"{resource}: the copies differ in {size}: {HOW_TO_REPAIR.format(resource=resource)}")
    if not all(report["complete"] for report in reports):
        raise CommandFailed(f"{resource}: not all could be compared: the connection was lost, or a disk has errors")
    return 0
