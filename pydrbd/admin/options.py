"""From the words of the command line to a command and its arguments, and the help that says which there are."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from textwrap import wrap
from typing import Any, Final, NoReturn

from pydrbd.admin.command_table import COMMANDS, COMMON_OPTIONS, DRBDADM_OPTIONS, GROUPS, NAMES
from pydrbd.admin.exit_codes import exit_codes_text
from pydrbd.errors import UsageError

__all__ = ["Arguments", "find_command", "help_text", "parse", "parser_of", "suggestion"]

Arguments = argparse.Namespace
_ALL_OPTIONS: Final = (*COMMON_OPTIONS, *DRBDADM_OPTIONS)
_WITH_VALUE: Final = (
    *(name for names, metavar, *_ in _ALL_OPTIONS if metavar for name in names), "-t", "--config-to-test"
)  # fmt: skip
"""Those that may stand before a command, with a word of their own."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see '{self.prog} --help')")


def help_text() -> str:
    """`pydrbd --help`."""
    parts = ["pydrbd COMMAND [OPTIONS] {all|RES...}: one block device on two machines, served over NBD\n"]
    for key, title in GROUPS:
        lines = [f"  {name:<17} {command.summary}" for name, command in COMMANDS.items() if command.group == key]
        parts.append(f"{title}:\n" + "\n".join(lines) + "\n")
    parts.append("'pydrbd COMMAND --help' shows the options of a command.\n")
    parts.append("Options of every command, before or after it:\n" + _common_help(COMMON_OPTIONS))
    parts.append("For scripts that were written for drbdadm:\n" + _common_help(DRBDADM_OPTIONS))
    parts.append("Exit codes:\n" + exit_codes_text())
    return "\n".join(parts)


def _common_help(table: Iterable[tuple[tuple[str, ...], str, str, str]]) -> str:
    lines = []
    for names, metavar, _, words in table:
        first, *rest = wrap(words, 78)
        lines += [f"  {' '.join([names[0], metavar]).rstrip():<17} {first}", *(f"{'':20}{line}" for line in rest)]
    return "".join(f"{line}\n" for line in lines)


def find_command(words: list[str]) -> int | None:
    """Where in the command line the verb is; None if there is none."""
    index = 0
    while index < len(words):
        word = words[index]
        if not word.startswith("-"):
            return index
        index += 2 if word in _WITH_VALUE else 1
    return None


def parse(verb: str, words: list[str]) -> Arguments:
    """The options and names of one verb; `words` is the command line without it. Raises UsageError.

    A request for help prints it and leaves by SystemExit(0).
    """
    parser = parser_of(verb)
    words = ["--color=always" if word == "--color" else word for word in words]  # its value is behind '=', or missing
    found = parser.parse_intermixed_args(words)
    if found.setup_options:
        found = parser.parse_intermixed_args([*words, *found.setup_options])
    return found


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The options and names that a verb takes, its help too."""
    command = COMMANDS[verb]
    parser = _Parser(
        prog=f"pydrbd {verb}",
        usage=f"pydrbd {verb} [OPTIONS] {NAMES[command.names]}".rstrip(),
        description=f"{verb}: {command.summary}.",
        epilog="Exit codes: see 'pydrbd --help'.",
        allow_abbrev=False,
        conflict_handler="resolve",  # a command's own option counts where one of every command has the same name
    )
    common = parser.add_argument_group("options of every command")
    for names, metavar, attribute, words in _ALL_OPTIONS:
        if not metavar:
            common.add_argument(*names, dest=attribute, action="store_true", help=words)
        elif attribute == "setup_options":
            common.add_argument(*names, dest=attribute, metavar=metavar, action="append", default=[], help=words)
        else:
            common.add_argument(*names, dest=attribute, metavar=metavar, help=words)
    command.add_options(parser)
    if command.names == "one":
        parser.add_argument("names", metavar="RES", nargs=1)
    elif command.names == "none":
        parser.set_defaults(names=[])
    else:
        parser.add_argument("names", metavar="RES", nargs="*" if command.names in ("any", "handler") else "+")
    return parser


def suggestion(word: str, known: Mapping[str, Any]) -> str:
    """`; did you mean 'status'?`, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), 1)
    return f"; did you mean '{close[0]}'?" if close else ""
