"""The configuration as XML, as `drbdadm dump-xml` prints it: for programs that read it.

What hosts and volumes inherit of `device`, `disk` and `meta-disk` is spelled out; options stay where they were given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape, quoteattr

from pydrbd.config.model import Config, Host, Resource, VolumeConfig, Written
from pydrbd.config.values import Setting

__all__ = ["config_xml", "resource_xml"]

_INDENT = "    "


def config_xml(config: Config) -> str:
    """The whole configuration."""
    lines = [f"<config file={quoteattr(config.file)}>"]
    if common := list(_sections(config.common, 2)):
        lines += [f"{_INDENT}<common>", *common, f"{_INDENT}</common>"]
    for resource in config.resources:
        lines += _resource(resource, 1)
    return "\n".join([*lines, "</config>"]) + "\n"


def resource_xml(resource: Resource) -> str:
    """One resource."""
    return "\n".join(_resource(resource, 0)) + "\n"


def _resource(resource: Resource, depth: int) -> Iterator[str]:
    place = f"{resource.place.file}:{resource.place.line}"
    indent = _INDENT * depth
    yield f"{indent}<resource name={quoteattr(resource.name)} conf-file-line={quoteattr(place)}>"
    for host in resource.hosts:
        yield from _host(host, depth + 1)
    yield from _sections(resource.written, depth + 1)
    yield f"{indent}</resource>"


def _host(host: Host, depth: int) -> Iterator[str]:
    indent = _INDENT * depth
    yield f"{indent}<host name={quoteattr(' '.join(host.names))}>" if host.names else f"{indent}<host>"
    if host.written_options:
        yield from _section("options", host.written_options, depth + 1)
    for volume in host.volumes.values():
        yield from _volume(volume, depth + 1)
    address = host.address
    yield f'{indent}{_INDENT}<address family="{address.family}" port="{address.port}">{address.host}</address>'
    yield f"{indent}</host>"


def _volume(volume: VolumeConfig, depth: int) -> Iterator[str]:
    indent, inner = _INDENT * depth, _INDENT * (depth + 1)
    yield f'{indent}<volume vnr="{volume.vnr}">'
    if volume.written_disk:
        yield from _section("disk", volume.written_disk, depth + 1)
    named = volume.device if volume.device.startswith("/dev/drbd_") else ""
    yield f'{inner}<device minor="{volume.minor}">{escape(named)}</device>'
    yield f"{inner}<disk>{escape(volume.disk)}</disk>"
    if volume.meta_disk is not None:
        index = "" if volume.meta_disk.index is None else f' index="{volume.meta_disk.index}"'
        yield f"{inner}<meta-disk{index}>{escape(volume.meta_disk.path)}</meta-disk>"
    yield f"{indent}</volume>"


def _sections(written: Written, depth: int) -> Iterator[str]:
    for name in ("options", "net", "disk", "startup", "handlers"):
        if settings := getattr(written, name):
            yield from _section(name, settings, depth)


def _section(name: str, settings: Iterable[Setting], depth: int) -> Iterator[str]:
    indent = _INDENT * depth
    yield f'{indent}<section name="{name}">'
    for setting in settings:
        value = f" value={quoteattr(' '.join(setting.words))}" if setting.words else ""
        yield f"{indent}{_INDENT}<option name={quoteattr(setting.name)}{value}/>"
    yield f"{indent}</section>"
