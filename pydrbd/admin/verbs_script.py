"""The commands for scripts around drbdadm: sh-resources, sh-dev, ...; dump-xml; show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pydrbd.admin.context import Context, Target
from pydrbd.admin.output import complain, say, warn
from pydrbd.config.model import Host, Resource, VolumeConfig
from pydrbd.errors import UsageError

__all__ = ["of_all", "of_each"]


def of_all(context: Context, verb: str, names: list[str]) -> int:
    """sh-nop, sh-resources, sh-mod-parms, dump-xml: about the whole configuration. Raises ConfigError."""
    config = context.config
    if verb == "dump-xml":
        return _dump_xml(context, names)
    if names:
        complain("This command will ignore resource names!")
    if verb == "sh-resources":
        say(" ".join(resource.name for resource in config if context.is_mine(resource)))
    elif verb == "sh-mod-parms":
        say(f"minor_count={config.global_.minor_count}")
    return 0


def of_each(context: Context, verb: str, *, defaults: bool) -> Callable[[Target], int]:
    """What one of the other verbs does to one target."""
    if verb == "show":
        return lambda target: _show(context, target, defaults=defaults)
    if verb == "sh-b-pri":
        return lambda target: _become_primary(context, target)
    if verb == "sh-lr-of":
        raise UsageError("sh-lower-resource only available in stacked mode, which pydrbd has not")
    if verb == "sh-udev" or verb in _PER_VOLUME:
        return lambda target: _per_volume(context, verb, target)
    return lambda target: _per_resource(context, verb, target)


def _per_resource(context: Context, verb: str, target: Target) -> int:
    """One of _PER_RESOURCE for one resource."""
    resource = context.resource(target.resource)
    for line in _PER_RESOURCE[verb](resource, resource.pair(context.node)[0]):
        say(line)
    return 0


def _per_volume(context: Context, verb: str, target: Target) -> int:
    """One of _PER_VOLUME for the volumes of a target. Raises UsageError if there is none of that number."""
    resource = context.resource(target.resource)
    me, _peer = resource.pair(context.node)
    wanted = [volume for volume in me.volumes.values() if target.vnr in (None, volume.vnr)]
    if not wanted:
        raise UsageError(f"{target.resource} has no volume {target.vnr} (it has {', '.join(map(str, me.volumes))})")
    if verb == "sh-udev" and target.vnr is None:
        raise UsageError(
            "sh-udev requires a specific volume id, but none is specified: "
            f"say minor-{wanted[0].minor}, or {target.resource}/{wanted[0].vnr}"
        )
    for volume in wanted:
        for line in _udev(context, resource, volume) if verb == "sh-udev" else _PER_VOLUME[verb](resource, volume):
            say(line)
    return 0


def _device(volume: VolumeConfig) -> str:
    return volume.device or f"/dev/drbd{volume.minor}"


def _meta_device(volume: VolumeConfig) -> str:
    meta = volume.meta_disk
    if meta is None:
        return "none"
    return volume.disk if meta.is_internal else meta.path


def _meta_index(volume: VolumeConfig) -> str:
    meta = volume.meta_disk
    if meta is None or meta.is_internal:
        return "internal"
    return "flex-external" if meta.index is None else str(meta.index)


def _udev(context: Context, resource: Resource, volume: VolumeConfig) -> Iterable[str]:
    plain = volume.is_implicit and not context.config.global_.udev_always_use_vnr
    yield f"RESOURCE={resource.name if plain else f'{resource.name}/{volume.vnr}'}"
    yield f"DEVICE={_device(volume).removeprefix('/dev/')}"
    yield f"DISK={volume.disk.removeprefix('/dev/')}"


_PER_VOLUME: Final[Mapping[str, Callable[[Resource, VolumeConfig], Iterable[str]]]] = {
    "sh-dev": lambda _resource, volume: [_device(volume)],
    "sh-minor": lambda _resource, volume: [str(volume.minor)],
    "sh-ll-dev": lambda _resource, volume: [volume.disk],
    "sh-md-dev": lambda _resource, volume: [_meta_device(volume)],
    "sh-md-idx": lambda _resource, volume: [_meta_index(volume)],
}
_PER_RESOURCE: Final[Mapping[str, Callable[[Resource, Host], Iterable[str]]]] = {
    "sh-resource": lambda resource, _me: [resource.name],
    "sh-ip": lambda _resource, me: [me.address.host for _volume in me.volumes],
}


def _dump_xml(context: Context, names: list[str]) -> int:
    """The configuration as drbdadm's dump-xml prints it."""
    from pydrbd.config.dump_xml import config_xml, resource_xml

    warn(context.config.notices)
    if not names or names == ["all"]:
        say(config_xml(context.config))
    else:
        for target in context.targets(names):
            say(resource_xml(context.config.resource(target.resource)))
    return 0


def _show(context: Context, target: Target, *, defaults: bool) -> int:
    """What a running resource was configured with."""
    context.ask_running(target.resource)
    data = context.client(target.resource).grant("show", {"defaults": defaults}).data or {}
    say(data["text"])
    return 0


def _become_primary(context: Context, target: Target) -> int:
    """Promote it if the configuration says so of this node (`become-primary-on`)."""
    from pydrbd.admin.verbs_state import request

    resource = context.resource(target.resource)
    me, _peer = resource.pair(context.node)
    wanted = resource.startup.become_primary_on
    if "both" in wanted or any(name in wanted for name in me.names):
        return request(context, target.resource, "primary", {"force": False})
    return 0

