"""From what the files say to what holds: inheritance, and what must fit together.

An option comes from the most special place that gives it: volume in a host, volume in the resource, resource, common,
DRBD's default. In one place the last one wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, TypeVar

from pydrbd.config.consistency import check_resource, check_resync_after, check_shared_names
from pydrbd.config.model import Config, Host, Notice, Resource, VolumeConfig
from pydrbd.config.options import SECTIONS
from pydrbd.config.raw import RawConfig, RawHost, RawResource, RawVolume
from pydrbd.config.sections import (
    DiskOptions,
    GlobalOptions,
    Handlers,
    NetOptions,
    ResourceOptions,
    StartupOptions,
)
from pydrbd.config.values import Setting

__all__ = ["resolve_config"]

_GLOBAL_ORDER: Final = tuple(SECTIONS["global"])
_Options = TypeVar("_Options", DiskOptions, GlobalOptions, Handlers, NetOptions, ResourceOptions, StartupOptions)


def resolve_config(raw: RawConfig) -> Config:
    """The frozen configuration; ConfigError if something is missing or contradicts something else."""
    resources = tuple(_resolve_resource(resource, raw) for resource in raw.resources)
    check_shared_names(resources)
    check_resync_after(resources)
    settings = [*raw.global_settings, *_all_settings(raw)]
    known = {resource.name for resource in resources}
    return Config(
        global_=_merge(GlobalOptions, raw.global_settings),
        resources=resources,
        common=raw.common.written(),
        written_global=tuple(sorted(raw.global_settings, key=lambda setting: _GLOBAL_ORDER.index(setting.name))),
        file=raw.file,
        files=tuple(raw.files),
        notices=(
            *raw.notices,
            *_notices_without_effect(settings),
            *_notices_resync_after(settings, known),
            *_notices_quorum(raw, resources),
        ),
    )


def _resolve_resource(raw: RawResource, config: RawConfig) -> Resource:
    def inherited(section: str) -> list[Setting]:
        return [*config.common.of(section), *raw.sections.of(section)]

    resource = Resource(
        name=raw.name,
        hosts=tuple(_resolve_host(host, raw, inherited("options"), inherited("disk")) for host in raw.hosts),
        options=_merge(ResourceOptions, inherited("options")),
        net=_merge(NetOptions, inherited("net")),
        disk=_merge(DiskOptions, inherited("disk")),
        startup=_merge(StartupOptions, inherited("startup")),
        handlers=_merge(Handlers, inherited("handlers")),
        written=raw.sections.written(),
        place=raw.place,
    )
    check_resource(resource, [*inherited("net"), *inherited("disk")])
    return resource


def _resolve_host(raw: RawHost, resource: RawResource, options: list[Setting], disk: list[Setting]) -> Host:
    if raw.address is None:
        raise raw.place.error(f"resource '{resource.name}', {raw.label}: 'address' is missing")
    vnrs = sorted({*raw.volumes, *resource.volumes})
    if not vnrs:
        raise raw.place.error(f"resource '{resource.name}', {raw.label}: 'device', 'disk' and 'meta-disk' are missing")
    volumes = {vnr: _resolve_volume(vnr, raw, resource, disk) for vnr in vnrs}
    if len(volumes) > 1 and any(volume.is_implicit for volume in volumes.values()):
        raise raw.place.error(
            f"resource '{resource.name}', {raw.label}: with several volumes each needs its 'volume N {{ }}'"
        )
    return Host(
        names=raw.names,
        address=raw.address,
        volumes=MappingProxyType(volumes),
        options=_merge(ResourceOptions, [*options, *raw.options]),
        written_options=tuple(raw.options),
        proxy=raw.proxy,
        place=raw.place,
    )


def _resolve_volume(vnr: int, host: RawHost, resource: RawResource, disk_settings: list[Setting]) -> VolumeConfig:
    shared = resource.volumes.get(vnr) or RawVolume(vnr)
    own = host.volumes.get(vnr) or RawVolume(vnr, shared.is_implicit)
    device = own.device or shared.device
    disk = own.disk or shared.disk
    meta_disk = own.meta_disk or shared.meta_disk
    missing = [
        f"'{name}'"
        for name, is_missing in (
            ("device", device is None),
            ("disk", disk is None),
            ("meta-disk", meta_disk is None and disk != "none"),
        )
        if is_missing
    ]
    if device is None or disk is None or missing:
        volume_words = "" if own.is_implicit else f", volume {vnr}"
        raise host.place.error(
            f"resource '{resource.name}', {host.label}{volume_words}: {' and '.join(missing)}"
            f" {'is' if len(missing) == 1 else 'are'} missing (here, or in the resource for all hosts)"
        )
    written = (*shared.disk_settings, *own.disk_settings)
    return VolumeConfig(
        vnr=vnr,
        device=device[0],
        minor=device[1],
        disk=disk,
        meta_disk=meta_disk,
        disk_options=_merge(DiskOptions, [*disk_settings, *written]),
        named=frozenset(setting.name for setting in (*disk_settings, *written)),
        is_implicit=own.is_implicit,
        written_disk=written,
    )


def _merge(kind: type[_Options], settings: Iterable[Setting]) -> _Options:
    """The options of a section; a later setting overrides an earlier one."""
    values: dict[str, Any] = {}
    for setting in settings:
        values[SECTIONS[setting.section][setting.name].attribute] = setting.value
    return kind(**values)


def _all_settings(raw: RawConfig) -> Iterable[Setting]:
    for sections in (raw.common, *(resource.sections for resource in raw.resources)):
        yield from chain.from_iterable(sections.settings.values())
    for resource in raw.resources:
        volumes = chain(resource.volumes.values(), *(host.volumes.values() for host in resource.hosts))
        yield from chain.from_iterable(volume.disk_settings for volume in volumes)
        yield from chain.from_iterable(host.options for host in resource.hosts)


def _notices_without_effect(settings: Iterable[Setting]) -> Iterable[Notice]:
    """One notice for each option that is given and that pydrbd does not act on."""
    reported: set[tuple[str, str]] = set()
    for setting in settings:
        option = SECTIONS[setting.section][setting.name]
        if option.effective or option.quiet or (option.section, option.name) in reported:
            continue
        reported.add((option.section, option.name))
        yield Notice(f"option '{option.name}' has no effect in pydrbd yet", setting.place)


def _notices_quorum(raw: RawConfig, resources: Iterable[Resource]) -> Iterable[Notice]:
    """As in DRBD 9 it is not refused; but the promise of quorum is one of protocol C."""
    for written, resource in zip(raw.resources, resources, strict=True):
        asked = {host.options.quorum for host in resource.hosts} - {"off", "1"}
        if asked and resource.net.protocol != "C":
            yield Notice(
                f"resource '{resource.name}' has quorum and protocol {resource.net.protocol}: a Primary that does not "
                "know yet that its peer is gone answers writes that are lost when the peer is promoted; use protocol C",
                written.place,
            )


def _notices_resync_after(settings: Iterable[Setting], known: set[str]) -> Iterable[Notice]:
    for setting in settings:
        name = str(setting.value).partition("/")[0]
        if setting.name == "resync-after" and name not in known:
            yield Notice(f"'resync-after {setting.value}' names a resource that is not configured", setting.place)
