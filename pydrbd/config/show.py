"""What a running resource was configured with, as drbdsetup's `show` lays it out: values, without who gave them."""

from __future__ import annotations

from collections.abc import Iterator

from pydrbd.config.dump import quote_word
from pydrbd.config.model import Host, Resource, VolumeConfig
from pydrbd.config.options import SECRET_OPTION, SECTIONS, Kind, Option

__all__ = ["show_resource"]

_INDENT = "    "
_SECRET = '"(not shown)"'
"""What is shown may be read by more people than the configuration."""


def show_resource(resource: Resource, me: Host, peer: Host, *, defaults: bool = False) -> str:
    """One resource of this node; options that are as by default are left out, or shown with `defaults`."""
    lines = [f"resource {quote_word(resource.name)} {{"]
    lines += _section("options", me.options, 1, defaults)
    lines += _section("net", resource.net, 1, defaults)
    lines += [f"{_INDENT}_remote_host {{", *_address(peer, 2), f"{_INDENT}}}"]
    lines += [f"{_INDENT}_this_host {{", *_address(me, 2)]
    for volume in me.volumes.values():
        lines += _volume(volume, defaults)
    return "\n".join([*lines, f"{_INDENT}}}", "}"]) + "\n"


def _address(host: Host, depth: int) -> Iterator[str]:
    yield f"{_INDENT * depth}{'address':<16} {host.address.family} {host.address};"


def _volume(volume: VolumeConfig, defaults: bool) -> Iterator[str]:
    indent = _INDENT * 3
    yield f"{_INDENT * 2}volume {volume.vnr} {{"
    yield f"{indent}{'device':<16} minor {volume.minor};"
    if not volume.is_diskless:
        yield f'{indent}{"disk":<16} "{volume.disk}";'
    if volume.meta_disk is not None:
        index = "" if volume.meta_disk.index is None else f" [{volume.meta_disk.index}]"
        path = "internal" if volume.meta_disk.is_internal else f'"{volume.meta_disk.path}"'
        yield f"{indent}{'meta-disk':<16} {path}{index};"
    yield from _section("disk", volume.disk_options, 3, defaults)
    yield f"{_INDENT * 2}}}"


def _section(name: str, options: object, depth: int, defaults: bool) -> Iterator[str]:
    lines = [_INDENT * (depth + 1) + line for line in _options(name, options, defaults)]
    if lines:
        yield f"{_INDENT * depth}{name} {{"
        yield from lines
        yield f"{_INDENT * depth}}}"


def _options(section: str, options: object, defaults: bool) -> Iterator[str]:
    for option in SECTIONS[section].values():
        value = getattr(options, option.attribute)
        if value != option.default:
            word = _SECRET if option.name == SECRET_OPTION else _word(option, value)
            yield f"{option.name:<16} {word};"
        elif defaults:
            yield f"{option.name:<16} {_word(option, value)}; # default"


def _word(option: Option, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if option.kind is Kind.STRING:
        return f'"{value}"'
    unit = option.unit.suffix.removeprefix("_")
    return f"{value}s" if unit == "sectors" else str(value)
