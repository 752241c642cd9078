"""adjust: make a resource what its configuration says, whether it runs already or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydrbd.admin.context import Context
from pydrbd.admin.control_client import ControlClient
from pydrbd.admin.exit_codes import CommandFailed
from pydrbd.admin.output import complain, say, warn
from pydrbd.admin.verbs_state import request

__all__ = ["Wishes", "adjust", "changes_of", "say_changes", "take_over"]

_HINTS: Final[Mapping[str, str]] = {
    "connect": "when the nodes meet next: pydrbd disconnect {0}, pydrbd connect {0}",
    "attach": "when the disk is attached next: pydrbd detach {0}, pydrbd attach {0}",
    "restart": "only by a restart: pydrbd down {0}, pydrbd up {0}",
}
"""When a change takes effect that does not do so at once."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What adjust is to leave alone, and how it connects."""

    skip_disk: bool = False
    skip_net: bool = False
    discard_my_data: bool = False


def adjust(context: Context, resource: str, wishes: Wishes, *, dry_run: bool) -> int:
    """Start it if it does not run; else take the configuration over, attach its disks, and connect it.

    Says what changes, and when. Raises CommandFailed if that takes a restart.
    """
    context.resource(resource)
    data = context.running(resource)
    if data is None:
        if dry_run:
            say(f"{resource}: would be started")
            return 0
        from pydrbd.admin.verbs_process import up

        return up(context, resource)
    client = context.client(resource)
    take_over(context, client, dry_run=dry_run)
    me, _peer = context.resource(resource).pair(context.node)
    with_disk = {volume.vnr for volume in me.volumes.values() if not volume.is_diskless}
    steps: list[tuple[str, dict[str, Any]]] = []
    if not wishes.skip_disk and any(v["disk"] == "Diskless" and v["vnr"] in with_disk for v in data["volumes"]):
        steps.append(("attach", {}))
    if not wishes.skip_net and data["connection"] == "StandAlone":
        steps.append(("connect", {"discard_my_data": wishes.discard_my_data}))
    for verb, arguments in steps:
        if dry_run:
            say(f"{resource}: would {verb}")
        else:
            request(context, resource, verb, arguments)
    return 0


def changes_of(context: Context, client: ControlClient, *, dry_run: bool = True) -> list[dict[str, Any]]:
    """What the configuration says otherwise than what runs; taken over unless `dry_run`."""
    path = str(context.config_path.absolute())
    data = client.grant("adjust", {"config": path, "dry_run": dry_run}).data or {}
    changes: list[dict[str, Any]] = data.get("changes", [])
    return changes


def take_over(context: Context, client: ControlClient, *, dry_run: bool = False) -> None:
    """Have a running process take over the configuration, and say what that changes. Raises CommandFailed."""
    changes = changes_of(context, client, dry_run=dry_run)
    warn(context.config.notices)
    restart = [change["text"] for change in changes if change["when"] == "restart"]
    if restart and not dry_run:
        words = "; ".join(restart)
        raise CommandFailed(
            f"{client.resource}: {words}: {_HINTS['restart'].format(client.resource)}; nothing was changed"
        )
    say_changes(client.resource, changes, dry_run=dry_run)


def say_changes(resource: str, changes: list[dict[str, Any]], *, dry_run: bool) -> None:
    """What takes effect now on stdout; what waits, and for what, on stderr."""
    for change in changes:
        hint = _HINTS.get(change["when"])
        late = f" ({hint.format(resource)})" if hint else ""
        if hint and not dry_run:
            complain(f"{resource}: {change['text']}{late}")
        else:
            say(f"{resource}: {change['text']}{late}")
