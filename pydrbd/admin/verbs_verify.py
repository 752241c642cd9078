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

__all__ = ["verify"]

_LOOK_EVERY_S: Final = 0.2


def verify(context: Context, resource: str, places: dict[str, int | None], *, wait: bool) -> int:
    """Start it, from and to these sectors; with `wait` come back at its end. Raises CopiesDiffer, CommandFailed."""
    request(context, resource, "verify", {name: sector for name, sector in places.items() if sector is not None})
    return _follow(context.client(resource), resource) if wait else 0


def _follow(client: ControlClient, resource: str) -> int:
    """Look on until no volume is being verified any more."""
    shown: Progress | None = None
    try:
        while True:
            volumes = client.status()["volumes"]
            running = [volume["verify"] for volume in volumes if volume.get("verify")]
            if not running:
                break
            total = sum(verify["total_bits"] for verify in running) * BIT_SIZE_BYTES
            left = sum(verify["left_bits"] for verify in running) * BIT_SIZE_BYTES
            if shown is None:
                shown = Progress(f"{resource} verify", total)
            shown.update(total - left, total)
            time.sleep(_LOOK_EVERY_S)
    finally:
        if shown is not None:
            shown.clear()
    return _judge(resource, volumes)


def _judge(resource: str, volumes: list[dict[str, Any]]) -> int:
    broken = [volume["vnr"] for volume in volumes if volume["cstate"] != "Connected"]
    if broken:
        raise CommandFailed(f"{resource}: the connection was lost: start it again and it goes on where it was")
    differ_kib = sum(volume["out_of_sync_bits"] for volume in volumes) * BIT_SIZE_BYTES // KIB
    if differ_kib:
        raise CopiesDiffer(
            f"{resource}: {differ_kib} KiB are out of sync: the log says where; "
            f"'pydrbd disconnect {resource}' and 'connect' copies them from the Primary"
        )
    return 0
