"""sh-status: each volume's configuration and state as variables of a shell, with a call of its function in between.

    _sh_status_process() { echo "$_res_name/$_volume: $_cstate"; }
    eval "$(pydrbd sh-status)"

The names are drbdadm's. Nothing is ever stacked: those three are empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from shlex import quote
from typing import Any

from pydrbd import __version__
from pydrbd.admin.context import Context
from pydrbd.admin.output import complain, say
from pydrbd.config.model import Resource

__all__ = ["sh_status"]

_API: int = 1
"""DRBD 8.4's."""

_OF_A_VOLUME = ("role", "peer", "disk", "pdsk")
_FLAGS = ("susp", "aftr_isp", "peer_isp", "user_isp")


def sh_status(context: Context, names: list[str]) -> int:
    """Print them for all resources of this node, running or not. Raises ConfigError."""
    config = context.config
    if names and names != ["all"]:
        complain("This command will ignore resource names!")
    say(f"_drbd_version={quote(__version__)}\n_drbd_api={_API}\n_config_file={quote(config.file)}\n\n")
    for resource in config:
        if context.is_mine(resource):
            say("\n".join(_of_resource(context, context.resource(resource.name))))
    return 0


def _of_resource(context: Context, resource: Resource) -> Iterator[str]:
    yield f"_conf_res_name={quote(resource.name)}"
    yield f"_conf_file_line={quote(f'{resource.place.file}:{resource.place.line}')}"
    yield ""
    yield from ("_stacked_on=", "_stacked_on_device=", "_stacked_on_minor=")
    data = context.running(resource.name)
    live = {volume["vnr"]: volume for volume in data["volumes"]} if data is not None else {}
    for volume in resource.pair(context.node)[0].volumes.values():
        yield f"_conf_volume={volume.vnr}"
        yield f"_minor={volume.minor}"
        yield f"_res_name={quote(resource.name)}"
        yield f"_volume={volume.vnr}"
        yield from _states(live.get(volume.vnr), suspended=bool(data and data["suspended"]))
        yield "_sh_status_process"
        yield ""


def _states(now: dict[str, Any] | None, *, suspended: bool) -> Iterable[str]:
    if now is None or (now["cstate"], now["disk"]) == ("StandAlone", "Diskless"):
        yield from ("_known=Unconfigured", "", "_cstate=Unconfigured")
        yield from (f"_{name}=" for name in _OF_A_VOLUME)
        yield from (f"_flags_{name}=" for name in _FLAGS)
        yield "_resynced_percent="
        return
    held = now["resync_suspended"].split(",")
    flags = (suspended, "dependency" in held, "peer" in held, "user" in held)
    values = (now["role"], now["peer_role"], now["disk"], now["peer_disk"])
    yield from ("_known=Configured", "", f"_cstate={now['cstate']}")
    yield from (f"_{name}={value}" for name, value in zip(_OF_A_VOLUME, values, strict=True))
    yield ""
    yield from (f"_flags_{name}={'1' if is_set else ''}" for name, is_set in zip(_FLAGS, flags, strict=True))
    yield ""
    yield f"_resynced_percent={now['resync']['percent_done']:.1f}" if now["resync"] else "_resynced_percent="
