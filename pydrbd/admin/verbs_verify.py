"""verify: start an online verify, and with --wait follow it to its end."""

from __future__ import annotations

import time
from typing import Any, Final

from pydrbd.admin.context import Context
from pydrbd.admin.control_client import ControlClient
from pydrbd.admin.exit_codes import CommandFailed, CopiesDiffer
from pydrbd.admin.progress import Progress
from pydrbd.admin.verbs_state import request
from pydrbd.units import BIT_SIZE_BYTES, KIB

__all__ = ["HOW_TO_REPAIR", "follow", "verify"]

_LOOK_EVERY_S: Final = 0.2

HOW_TO_REPAIR: Final = "'pydrbd disconnect {resource}' and 'connect' copies them from the Primary"
"""What differs."""


def verify(context: Context, resource: str, places: dict[str, int | None], *, wait: bool) -> int:
    """Start it, from and to these sectors; with `wait` come back at its end. Raises CopiesDiffer, CommandFailed."""
    request(context, resource, "verify", {name: sector for name, sector in places.items() if sector is not None})
    return _judge(resource, follow(context.client(resource), f"{resource} verify")) if wait else 0


def follow(client: ControlClient, title: str) -> list[dict[str, Any]]:
    """Look on until no volume is being verified any more, and show how far it is; the volumes as they are then."""
    shown: Progress | None = None
    try:
        while True:
            volumes = client.status()["volumes"]
            running = [volume["verify"] for volume in volumes if volume.get("verify")]
            if not running:
                return list(volumes)
            total = sum(verify["total_bits"] for verify in running) * BIT_SIZE_BYTES
            left = sum(verify["left_bits"] for verify in running) * BIT_SIZE_BYTES
            if shown is None:
                shown = Progress(title, total)
            shown.update(total - left, total)
            time.sleep(_LOOK_EVERY_S)
    finally:
        if shown is not None:
            shown.clear()


def _judge(resource: str, volumes: list[dict[str, Any]]) -> int:
    broken = [volume["vnr"] for volume in volumes if volume["cstate"] != "Connected"]
    if broken:
        raise CommandFailed(f"{resource}: the connection was lost: start it again and it goes on where it was")
    differ_kib = sum(volume["out_of_sync_bits"] for volume in volumes) * BIT_SIZE_BYTES // KIB
    if differ_kib:
        repair = HOW_TO_REPAIR.format(resource=resource)
        raise CopiesDiffer(f"{resource}: {differ_kib} KiB are out of sync: the log says where; {repair}")
    return 0
