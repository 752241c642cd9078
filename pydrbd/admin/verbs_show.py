"""role, cstate, dstate, status, dump: what is, as drbdadm and drbdsetup print it."""

from __future__ import annotations

import json
from typing import Any

from pydrbd.admin.context import Context, Target
from pydrbd.admin.output import say, warn
from pydrbd.admin.running import names_here
from pydrbd.admin.status_json import status_json
from pydrbd.admin.status_kernel import proc_text
from pydrbd.admin.status_text import status_text
from pydrbd.errors import UsageError

__all__ = ["cstate", "dstate", "dump", "proc_drbd", "role", "status", "volumes_of"]


def role(context: Context, target: Target) -> int:
    """`Primary/Secondary`: this node and its peer, a line for each volume."""
    for volume in volumes_of(context.ask_running(target.resource), target):
        say(f"{volume['role']}/{volume['peer_role']}")
    return 0


def cstate(context: Context, target: Target) -> int:
    """`Connected`, `SyncTarget`, `WFConnection`, ...: a line for each volume."""
    for volume in volumes_of(context.ask_running(target.resource), target):
        say(volume["cstate"])
    return 0


def dstate(context: Context, target: Target) -> int:
    """`UpToDate/Inconsistent`: this node's disk and its peer's, a line for each volume."""
    for volume in volumes_of(context.ask_running(target.resource), target):
        say(f"{volume['disk']}/{volume['peer_disk']}")
    return 0


def volumes_of(data: dict[str, Any], target: Target) -> list[dict[str, Any]]:
    """The volumes of a snapshot that a target names; raises UsageError if it has none of that number."""
    found = [volume for volume in data["volumes"] if target.vnr in (None, volume["vnr"])]
    if not found:
        known = ", ".join(str(volume["vnr"]) for volume in data["volumes"])
        raise UsageError(f"{target.resource} has no volume {target.vnr} (it has {known})")
    return found


def _running(context: Context, names: list[str]) -> list[dict[str, Any]]:
    """The snapshots of these resources; without a name, of each one that runs here."""
    if names and names != ["all"]:
        return [context.ask_running(target.resource) for target in context.targets(names)]
    everything = (context.running(name) for name in names_here(context.run_dir))
    return [data for data in everything if data is not None]


def status(
    context: Context, names: list[str], *, as_json: bool, verbose: bool, statistics: bool, colours: bool = False
) -> int:
    """One paragraph for each resource; without a name, for each one that runs here."""
    found = _running(context, names)
    if as_json:
        say(json.dumps([status_json(data) for data in found], indent=2))
    elif found:
        texts = [status_text(data, verbose=verbose, statistics=statistics, colours=colours) for data in found]
        say("\n".join(texts))
    else:
        say("# No resource is running here.")
    return 0


def proc_drbd(context: Context, names: list[str]) -> int:
    """What /proc/drbd would show, were it the kernel's."""
    say(proc_text(_running(context, names)))
    return 0


def dump(context: Context, names: list[str]) -> int:
    """The configuration as it was understood, in drbdadm's layout."""
    from pydrbd.config.dump import dump_config, dump_resource

    warn(context.config.notices)
    if not names or names == ["all"]:
        say(dump_config(context.config))
        return 0
    for target in context.targets(names):
        say("\n".join(dump_resource(context.config.resource(target.resource))))
    return 0
