"""The configuration as text, as `drbdadm dump` of DRBD 8.4 lays it out.

What hosts inherit of `device`, `disk` and `meta-disk` is spelled out in each of them; options stay where they were
given. Loading the text again gives an equal configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from pydrbd.config.model import Config, Host, Proxy, Resource, VolumeConfig, Written
from pydrbd.config.values import Setting

__all__ = ["dump_config", "dump_resource", "quote_word"]

_PLAIN: Final = re.compile(r"[A-Za-z0-9._/-]+")
_INDENT: Final = "    "
_VALUE_COLUMN: Final = 24


def dump_config(config: Config) -> str:
    """The whole configuration, with a comment line for where each resource was defined."""
    lines = [_comment(config.file)]
    if config.written_global:
        lines += [*_section("global", 0, (_bare(setting) for setting in config.written_global)), ""]
    common = list(_written(config.common))
    if common:
        lines += ["common {", *common, "}", ""]
    for resource in config.resources:
        where = _comment(f"defined at {resource.place.file}:{resource.place.line}")
        lines += [where, *dump_resource(resource), ""]
    return "\n".join(lines) + "\n"


def dump_resource(resource: Resource) -> list[str]:
    """The lines of one resource."""
    lines = [f"resource {quote_word(resource.name)} {{"]
    for host in resource.hosts:
        lines += _host(host)
    return [*lines, *_written(resource.written), "}"]


def quote_word(text: str) -> str:
    """A word as the lexer reads it: in double quotes if it needs them."""
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _comment(text: str) -> str:
    return "# " + "".join(character if character.isprintable() else "?" for character in text)


def _written(written: Written) -> Iterator[str]:
    for name, settings in (
        ("options", written.options),
        ("net", written.net),
        ("disk", written.disk),
        ("startup", written.startup),
    ):
        if settings:
            yield from _section(name, 1, _settings(settings, 2))
    if written.proxy:
        yield from _section("proxy", 1, _proxy(written.proxy, 2))
    if written.handlers:
        yield from _section("handlers", 1, _settings(written.handlers, 2))


def _host(host: Host) -> Iterator[str]:
    if host.is_floating:
        yield f"{_INDENT}floating {host.address.family} {host.address} {{"
    else:
        yield f"{_INDENT}on {' '.join(quote_word(name) for name in host.names)} {{"
    if host.written_options:
        yield from _section("options", 2, _settings(host.written_options, 3))
    for volume in host.volumes.values():
        if volume.is_implicit:
            yield from _volume(volume, 2)
        else:
            yield from _section(f"volume {volume.vnr}", 2, _volume(volume, 3))
    if not host.is_floating:
        yield _line("address", f"{host.address.family} {host.address}", 2)
    if host.proxy:
        yield from _proxy(host.proxy, 2)
    yield f"{_INDENT}}}"


def _volume(volume: VolumeConfig, depth: int) -> Iterator[str]:
    if volume.written_disk:
        yield from _section("disk", depth, _settings(volume.written_disk, depth + 1))
    yield _line(
        "device",
        f"{quote_word(volume.device)} minor {volume.minor}" if volume.device else f"minor {volume.minor}",
        depth,
    )
    yield _line("disk", quote_word(volume.disk), depth)
    meta_disk = volume.meta_disk
    if meta_disk is None:
        return
    if meta_disk.is_internal:
        yield _line("meta-disk", "internal", depth)
    else:
        index = "" if meta_disk.index is None else f" [{meta_disk.index}]"
        yield f"{_INDENT * depth}{'meta-disk':<16} {quote_word(meta_disk.path)}{index};"


def _settings(settings: Iterable[Setting], depth: int) -> Iterator[str]:
    for setting in settings:
        yield _line(setting.name, " ".join(quote_word(word) for word in setting.words), depth)


def _proxy(statements: Iterable[Proxy], depth: int) -> Iterator[str]:
    for statement in statements:
        keyword, *rest = statement.words
        arguments = " ".join(map(_proxy_argument, rest))
        if statement.block is not None:
            head = f"{_proxy_keyword(keyword)} {arguments}".rstrip()
            yield from _section(head, depth, _proxy(statement.block, depth + 1))
        elif depth == 2:
            yield _line(_proxy_keyword(keyword), arguments, depth)
        else:
            yield f"{_INDENT * depth}{_proxy_keyword(keyword)} {arguments}".rstrip() + ";"


def _proxy_keyword(word: str) -> str:
    return '"skip"' if word == "skip" else quote_word(word)  # a bare skip would hide what follows


def _proxy_argument(word: str) -> str:
    return word if re.fullmatch(r"[A-Za-z0-9_/.:%-]+|[\[\]]", word) else quote_word(word)


def _section(head: str, depth: int, lines: Iterable[str]) -> Iterator[str]:
    yield f"{_INDENT * depth}{head} {{"
    yield from lines
    yield f"{_INDENT * depth}}}"


def _line(name: str, value: str, depth: int) -> str:
    """`name value;`, with the values of all depths in one column and short ones to its right."""
    if not value:
        return f"{_INDENT * depth}{name};"
    width = max(_VALUE_COLUMN - len(_INDENT) * depth, 0)
    return f"{_INDENT * depth}{name:<{width}} {value:>3};"


def _bare(setting: Setting) -> str:
    return f"{_INDENT}{' '.join((setting.name, *(quote_word(word) for word in setting.words)))};"
