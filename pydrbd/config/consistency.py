"""What must fit together: options with each other, hosts of a resource, and resources that share a machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address

from pydrbd.config.lexer import Place
from pydrbd.config.model import Host, Resource, VolumeConfig
from pydrbd.config.values import Setting, did_you_mean

__all__ = ["check_resource", "check_resync_after", "check_shared_names"]


def check_resource(resource: Resource, settings: Sequence[Setting]) -> None:
    """ConfigError if the resource contradicts itself; `settings` are all of its net and disk options, last wins."""
    _check_protocol(resource, {setting.name: setting.place for setting in settings})
    _check_policy_host(resource, settings)
    for host in resource.hosts[1:]:
        _check_same_volumes(resource, resource.hosts[0], host)


def check_shared_names(resources: Sequence[Resource]) -> None:
    """ConfigError if two hosts have one address and port, or two volumes of a host one minor, disk or meta-data."""
    seen: dict[tuple[str, ...], tuple[str, Place]] = {}
    for resource in resources:
        for host in resource.hosts:
            for key, what in _claims(host):
                label = f"resource '{resource.name}', {'on' if host.names else 'floating'} {host.name}"
                if key in seen:
                    first, place = seen[key]
                    raise host.place.error(
                        f"{label}: {what} is taken already, by {first} ({place.seen_from(host.place)})"
                    )
                seen[key] = label, host.place


def check_resync_after(resources: Sequence[Resource]) -> None:
    """ConfigError if resyncs wait for each other in a circle, or one for itself: none of them would ever go on."""
    after: dict[str, dict[str, None]] = {}
    for resource in resources:
        for volume in (volume for host in resource.hosts for volume in host.volumes.values()):
            if other := volume.disk_options.resync_after:
                after.setdefault(f"{resource.name}/{volume.vnr}", {})[_volume_name(other)] = None
    places = {resource.name: resource.place for resource in resources}
    for start in after:
        way, todo = [start], list(after[start])
        while todo:
            name = todo.pop()
            if name == start:
                raise places[start.partition("/")[0]].error(
                    f"'resync-after': '{start}' waits for itself, by way of {', '.join(way)}"
                )
            if name not in way:
                way.append(name)
                todo += after.get(name, {})


def _volume_name(text: str) -> str:
    name, _slash, vnr = text.partition("/")
    return f"{name}/{vnr or 0}"


def _check_protocol(resource: Resource, places: dict[str, Place]) -> None:
    """The kernel refuses these when it connects; better to say so at once."""
    net, disk = resource.net, resource.disk
    for is_wrong, name, why in (
        (
            net.allow_two_primaries and net.protocol != "C",
            "allow-two-primaries",
            "'allow-two-primaries' needs protocol C",
        ),
        (
            disk.fencing == "resource-and-stonith" and net.protocol == "A",
            "fencing",
            "'fencing resource-and-stonith' needs protocol B or C",
        ),
        (
            net.on_congestion != "block" and net.protocol != "A",
            "on-congestion",
            f"'on-congestion {net.on_congestion}' needs protocol A",
        ),
    ):
        if is_wrong:
            raise places[name].error(f"resource '{resource.name}': {why}, and its protocol is {net.protocol}")


def _check_policy_host(resource: Resource, settings: Iterable[Setting]) -> None:
    known = [name for host in resource.hosts for name in host.names]
    for setting in settings:
        value = str(setting.value)
        if setting.name != "after-sb-0pri" or value != resource.net.after_sb_0pri:
            continue
        name = value.removeprefix("discard-node-")
        if name != value and name not in known:
            raise setting.place.error(
                f"'{value}': '{name}' is no host of resource '{resource.name}'{did_you_mean(name, known)}"
            )


def _check_same_volumes(resource: Resource, first: Host, other: Host) -> None:
    for here, there in ((first, other), (other, first)):
        for vnr, volume in here.volumes.items():
            twin = there.volumes.get(vnr)
            if twin is None:
                raise there.place.error(
                    f"resource '{resource.name}': volume {vnr} is on {here.name}, but not on {there.name}"
                )
            if volume.is_implicit != twin.is_implicit:
                raise there.place.error(
                    f"resource '{resource.name}': volume 0 is in a 'volume 0 {{ }}' section on one of {here.name} and"
                    f" {there.name}, but not on the other"
                )


def _claims(host: Host) -> Iterator[tuple[tuple[str, ...], str]]:
    """What only one may have: a key to compare, and words for it."""
    yield ("address", str(ip_address(host.address.host)), str(host.address.port)), f"address {host.address}"
    for volume in host.volumes.values():
        for name in host.names or (host.name,):
            for kind, value, words in _volume_claims(volume):
                yield (name, kind, value), words


def _volume_claims(volume: VolumeConfig) -> Iterator[tuple[str, str, str]]:
    yield "minor", str(volume.minor), f"minor {volume.minor}"
    if not volume.is_diskless:
        yield "disk", volume.disk, f"disk {volume.disk}"
    meta_disk = volume.meta_disk
    if meta_disk is not None and not meta_disk.is_internal:
        index = "" if meta_disk.index is None else f" [{meta_disk.index}]"
        yield "meta-disk", meta_disk.path + index, f"meta-disk {meta_disk.path}{index}"
