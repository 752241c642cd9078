"""Reads the top of a file: global, common, resources; `include` is left to load.py."""

from __future__ import annotations

from typing import Final

from pydrbd.config.connections import read_connections
from pydrbd.config.hosts import VOLUME_KEYWORDS, read_host, read_volume, read_volume_statement
from pydrbd.config.lexer import Kind, Token
from pydrbd.config.model import Notice
from pydrbd.config.option_sections import SECTION_KEYWORDS, expect_block, read_options, read_section
from pydrbd.config.options import SECTIONS, section_of
from pydrbd.config.raw import RawConfig, RawResource, RawSections, RawVolume
from pydrbd.config.syntax import Statement
from pydrbd.config.values import did_you_mean, expect_words, parse_setting

__all__ = ["read_statement"]

_TOP_KEYWORDS: Final = ("global", "common", "resource", "include", "skip")
_COMMON_KEYWORDS: Final = (*SECTION_KEYWORDS, "protocol")
_RESOURCE_KEYWORDS: Final = (*_COMMON_KEYWORDS, *VOLUME_KEYWORDS, "volume", "on", "floating", "connection")
_MODULE_VERSION: Final = "require-drbd-module-version-"


def read_statement(statement: Statement, config: RawConfig) -> None:
    """One statement at the top of a file, but an `include`; ConfigError with the place of a mistake."""
    name = statement.name
    if name == "global":
        block = expect_block(statement)
        config.seen.add("'global' section", statement.keyword)
        config.global_settings += read_options("global", block, config.notices)
    elif name == "common":
        _read_common(statement, config)
    elif name == "resource":
        _read_resource(statement, config)
    elif name.startswith(_MODULE_VERSION):
        expect_words(statement, 1, "a version")
        config.notices.append(Notice(f"'{name}' has no effect: pydrbd needs no kernel module", statement.place))
    else:
        raise statement.place.error(
            f"'{name}' does not belong at the top of a file{_where_it_belongs(name, _TOP_KEYWORDS)}"
        )


def _read_common(statement: Statement, config: RawConfig) -> None:
    block = expect_block(statement)
    config.seen.add("'common' section", statement.keyword)
    for child in block:
        if child.name == "protocol":
            _read_protocol(child, config.common)
        elif child.name in SECTION_KEYWORDS:
            read_section(child, config.common, config.notices)
        else:
            hint = _where_it_belongs(child.name, _COMMON_KEYWORDS)
            raise child.place.error(f"'{child.name}' does not belong in the 'common' section{hint}")


def _read_resource(statement: Statement, config: RawConfig) -> None:
    if not statement.arguments:
        raise statement.keyword.end.error("'resource' needs a name")
    name = _resource_name(statement.arguments[0])
    block = expect_block(statement, 1)
    config.seen.add(f"resource '{name}'", statement.arguments[0])
    resource = RawResource(name, statement.place)
    for child in block:
        _read_resource_statement(child, resource, config.notices)
    read_connections(resource, config.notices)
    config.resources.append(resource)


def _read_resource_statement(statement: Statement, resource: RawResource, notices: list[Notice]) -> None:
    name = statement.name
    if name in VOLUME_KEYWORDS and not (name == "disk" and statement.block is not None):
        volume = resource.volumes.setdefault(0, RawVolume(0))
        volume.is_implicit = True
        read_volume_statement(statement, volume, notices)
    elif name in SECTION_KEYWORDS:
        read_section(statement, resource.sections, notices)
    elif name == "protocol":
        _read_protocol(statement, resource.sections)
    elif name in ("on", "floating"):
        read_host(statement, resource, notices)
    elif name == "volume":
        read_volume(statement, resource.volumes, notices)
    elif name in ("connection", "connection-mesh"):
        resource.connections.append(statement)
    elif name == "ignore-on":
        expect_words(statement, 1, "the name of a host")
        notices.append(Notice("'ignore-on' has no effect in pydrbd", statement.place))
    elif name == "stacked-on-top-of":
        raise statement.place.error(
            "pydrbd does not stack resources ('stacked-on-top-of'): a third site is a third 'on' section of one "
            "resource, and --peer says which two are a pair"
        )
    elif name == "template-file":
        raise statement.place.error("'template-file' is DRBD 9's; write the options in the resource or in 'common'")
    else:
        raise statement.place.error(
            f"'{name}' does not belong in a 'resource' section{_where_it_belongs(name, _RESOURCE_KEYWORDS)}"
        )


def _read_protocol(statement: Statement, sections: RawSections) -> None:
    """The old place of `protocol`, outside of the net section."""
    sections.of("net").append(parse_setting(SECTIONS["net"]["protocol"], statement))


def _resource_name(token: Token) -> str:
    """The name, which becomes part of socket names: ConfigError if it can't be a file's name."""
    name = token.text
    if token.kind is Kind.SYMBOL or not name or "/" in name or name.startswith((".", "-")) or not name.isprintable():
        raise token.place.error(f"{token} can't be the name of a resource: no '/', and no . or - at its beginning")
    if name == "all":
        raise token.place.error("'all' can't be the name of a resource: it stands for every resource")
    return name


def _where_it_belongs(name: str, keywords: tuple[str, ...]) -> str:
    section = section_of(name)
    if section:
        return f": it belongs in the '{section}' section"
    if name in SECTION_KEYWORDS:
        return ": it belongs in 'common' or in a resource"
    if name in _RESOURCE_KEYWORDS:
        return ": it belongs in a resource"
    return did_you_mean(name, keywords)
