"""new-resource, new-minor, del-minor, del-resource: DRBD's objects, one by one.

In the kernel a resource is made, then its minors, then they are attached and connected. Here a resource is a process,
which knows the volumes of its configuration from its start: new-resource starts it with nothing attached nor connected,
new-minor only looks whether the volume is there, and del-* refuse what the kernel refuses, in drbdsetup's words.
"""

from __future__ import annotations

from collections.abc import Callable

from pydrbd.admin.context import Context, Target
from pydrbd.admin.exit_codes import CommandFailed
from pydrbd.admin.verbs_process import new_resource, stop
from pydrbd.admin.verbs_show import volumes_of
from pydrbd.errors import NotRunningError

__all__ = ["action"]


def action(context: Context, verb: str) -> Callable[[Target], int]:
    """What one of the verbs does to one target."""
    if verb == "new-resource":
        return lambda target: new_resource(context, target.resource)
    if verb == "del-resource":
        return lambda target: _del_resource(context, target)
    if verb == "del-minor":
        return lambda target: _del_minor(context, target)
    return lambda target: _new_minor(context, target)


def _new_minor(context: Context, target: Target) -> int:
    """Raises CommandFailed where no process is, UsageError where it has no such volume."""
    try:
        volumes_of(context.ask_running(target.resource), target)
    except NotRunningError as error:
        words = f"{target}: Failure: (158) Unknown resource: new-resource {target.resource} first"
        raise CommandFailed(words) from error
    return 0


def _del_minor(context: Context, target: Target) -> int:
    """Raises CommandFailed for a volume that has a disk, or is Primary."""
    for volume in volumes_of(context.ask_running(target.resource), target):
        if volume["disk"] != "Diskless" or volume["role"] == "Primary":
            raise CommandFailed(
                f"{target.resource}/{volume['vnr']}: Failure: (160) Minor still configured (down it first): "
                f"it is {volume['role']}, {volume['disk']}"
            )
    return 0


def _del_resource(context: Context, target: Target) -> int:
    """End the process. Raises CommandFailed while one of its volumes could not go, or it is connected."""
    data = context.running(target.resource)
    if data is None:
        context.check_name(target.resource)
        return 0
    if data["connection"] != "StandAlone":
        raise CommandFailed(
            f"{target.resource}: Failure: (125) Device has a net-config (use disconnect first): it is "
            f"{data['connection']}"
        )
    if any(volume["disk"] != "Diskless" or volume["role"] == "Primary" for volume in data["volumes"]):
        raise CommandFailed(f"{target.resource}: Failure: (159) Resource still in use (delete all minors first)")
    return stop(context, target.resource)
