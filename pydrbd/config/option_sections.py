"""Reads the sections that hold options: net, disk, options, startup, handlers, global; DRBD 8.3's syncer; proxy."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from pydrbd.config.lexer import Kind as TokenKind
from pydrbd.config.model import Notice, Proxy
from pydrbd.config.options import SECTIONS, Kind, find_option, section_of
from pydrbd.config.other_versions import DRBD9_OPTIONS, SYNCER_OPTIONS
from pydrbd.config.raw import RawSections
from pydrbd.config.syntax import Statement
from pydrbd.config.values import Setting, did_you_mean, parse_setting, parse_switch
from pydrbd.errors import ConfigError

__all__ = ["SECTION_KEYWORDS", "expect_block", "read_options", "read_proxy", "read_section"]

SECTION_KEYWORDS: Final = ("options", "net", "disk", "startup", "handlers", "syncer", "proxy")
"""The sections that `common` and a resource may have."""

_RENAMED: Final = {("handlers", "outdate-peer"): "fence-peer"}


def expect_block(statement: Statement, argument_max: int = 0) -> tuple[Statement, ...]:
    """The statements in a section's braces; ConfigError if there are none, or more words than that before them."""
    if statement.block is None:
        raise statement.last.end.error(f"'{{' missing: '{statement.name}' is a section")
    if len(statement.arguments) > argument_max:
        token = statement.arguments[argument_max]
        before = statement.arguments[argument_max - 1] if argument_max else statement.keyword
        raise token.place.error(f"'{{' expected after {before}, found {token}")
    return statement.block


def read_section(statement: Statement, into: RawSections, notices: list[Notice]) -> None:
    """One of SECTION_KEYWORDS; ConfigError if it is the second of its kind."""
    block = expect_block(statement)
    into.seen.add(f"'{statement.name}' section", statement.keyword)
    if statement.name == "syncer":
        _read_syncer(statement, block, into, notices)
    elif statement.name == "proxy":
        notices.append(Notice("section 'proxy' has no effect in pydrbd", statement.place))
        into.proxy = read_proxy(block)
    else:
        for setting in read_options(statement.name, block, notices):
            into.of(setting.section).append(setting)


def read_options(section: str, block: Sequence[Statement], notices: list[Notice]) -> list[Setting]:
    """The options in a section, in order (`fencing` of a net section is of section "disk")."""
    settings = []
    for statement in block:
        setting = _read_option(section, statement, notices)
        if setting is not None:
            settings.append(setting)
    return settings


def read_proxy(block: Sequence[Statement]) -> tuple[Proxy, ...]:
    """A proxy section as it is: nothing is checked, nothing has an effect."""
    return tuple(
        Proxy(
            tuple(token.text for token in (statement.keyword, *statement.arguments)),
            None if statement.block is None else read_proxy(statement.block),
        )
        for statement in block
    )


def _read_option(section: str, statement: Statement, notices: list[Notice]) -> Setting | None:
    name = _RENAMED.get((section, statement.name), statement.name)
    if section == "net" and name == "fencing":
        section = "disk"  # DRBD 9 moved it to net
    option = find_option(section, name)
    if option is not None:
        return parse_setting(option, statement)
    if name.startswith("no-"):
        switched = find_option(section, name.removeprefix("no-"))
        if switched is not None and switched.kind is Kind.BOOL:
            return parse_switch(switched, statement)
    if name in DRBD9_OPTIONS.get(section, {}):
        notices.append(_ignore_drbd9_option(section, statement))
        return None
    raise _unknown_option(section, statement)


def _ignore_drbd9_option(section: str, statement: Statement) -> Notice:
    """The notice for an option of DRBD 9 that changes nothing here; ConfigError if its value would."""
    words = " ".join(token.text for token in statement.arguments) or "yes"
    harmless = DRBD9_OPTIONS[section][statement.name]
    if statement.block is None and any(fnmatchcase(words, pattern) for pattern in harmless):
        return Notice(f"option '{statement.name}' is DRBD 9's and has no effect in pydrbd", statement.place)
    raise statement.place.error(f"'{statement.name} {words}' is DRBD 9's; pydrbd does what DRBD 8.4 does: remove it")


def _unknown_option(section: str, statement: Statement) -> ConfigError:
    name = statement.name
    home = section_of(name)
    if home is not None and statement.keyword.kind is TokenKind.WORD:
        hint = f": it belongs in the '{home}' section"
    else:
        hint = did_you_mean(name, tuple(SECTIONS[section]))
    return statement.place.error(f"'{name}' is not an option of the '{section}' section{hint}")


def _read_syncer(statement: Statement, block: Sequence[Statement], into: RawSections, notices: list[Notice]) -> None:
    notices.append(
        Notice("section 'syncer' is DRBD 8.3's: its options count as those of disk, net and options", statement.place)
    )
    for child in block:
        option = SYNCER_OPTIONS.get(child.name)
        if option is None:
            raise child.place.error(
                f"'{child.name}' is not an option of the 'syncer' section"
                f"{did_you_mean(child.name, tuple(SYNCER_OPTIONS))}"
            )
        into.of(option.section).append(parse_setting(option, child))
