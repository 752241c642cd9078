"""net-options, disk-options, resource-options: other options for a running resource, until the next adjust."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydrbd.admin.context import Context, Target
from pydrbd.admin.verbs_adjust import say_changes
from pydrbd.config.options import SECRET_OPTION, SECTIONS
from pydrbd.errors import UsageError

__all__ = ["set_options"]

_SECTIONS: Final[Mapping[str, str]] = {"net-options": "net", "disk-options": "disk", "resource-options": "options"}


def set_options(context: Context, target: Target, verb: str, given: Mapping[str, Any]) -> int:
    """Take over the options of `given` that are of the verb's section. Raises UsageError if there are none."""
    section = _SECTIONS[verb]
    options = {name: given[name] for name in SECTIONS[section] if given.get(name) is not None}
    if not options:
        raise UsageError(f"{verb}: which option? As in pydrbd {verb} --{next(iter(SECTIONS[section]))}=VALUE {target}")
    if SECRET_OPTION in options:
        raise UsageError(
            f"{verb}: --{SECRET_OPTION} on a command line can be read by every user of this machine: "
            f"set it in the configuration, then pydrbd adjust {target}"
        )
    context.ask_running(target.resource)
    client = context.client(target.resource)
    arguments: dict[str, Any] = {"section": section, "options": options}
    if target.vnr is not None:
        arguments["volume"] = target.vnr
    data = client.grant("options", arguments).data or {}
    say_changes(target.resource, data.get("changes", []), dry_run=False)
    return 0
