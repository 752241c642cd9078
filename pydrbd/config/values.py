"""From the words of an option to its value: numbers with units, yes and no, names, strings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final

from pydrbd.config.lexer import Kind as TokenKind
from pydrbd.config.lexer import Place, Token
from pydrbd.config.options import Kind, Option, Unit
from pydrbd.config.syntax import Statement
from pydrbd.units import GIB, KIB, MIB, SECTOR_SIZE_BYTES, ceil_div

__all__ = ["Setting", "Value", "did_you_mean", "expect_words", "parse_number", "parse_setting", "parse_switch"]

Value = bool | int | str | tuple[str, ...]

_NUMBER: Final = re.compile(r"([0-9]{1,40})([kKmMgGs]?)")
_FACTORS: Final = {"k": KIB, "m": MIB, "g": GIB, "s": SECTOR_SIZE_BYTES}


@dataclass(frozen=True, slots=True)
class Setting:
    """One option as the file has it: its words (for `dump`) and its value, in the option's unit."""

    section: str
    name: str
    words: tuple[str, ...]
    value: Value
    place: Place = field(compare=False)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'xyz'?` if one of the known words is close, else nothing."""
    close = get_close_matches(word, known, 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def expect_words(statement: Statement, maximum: int, what: str) -> tuple[str, ...]:
    """The texts of 1 to `maximum` arguments of a statement that ends with `;`; ConfigError names `what` is missing."""
    arguments = statement.arguments
    if statement.block is not None:
        raise statement.last.end.error(f"'{statement.name}' is no section: it takes {what} and a ';'")
    if not arguments:
        raise statement.last.end.error(f"'{statement.name}' needs {what}")
    if len(arguments) > maximum:
        raise arguments[maximum - 1].end.error(
            f"';' missing after {arguments[maximum - 1]} (found {arguments[maximum]})"
        )
    for token in arguments:
        if token.kind is TokenKind.SYMBOL:
            raise token.place.error(f"unexpected {token}: '{statement.name}' takes {what}")
    return tuple(token.text for token in arguments)


def parse_setting(option: Option, statement: Statement) -> Setting:
    """An option with its value; ConfigError if it is not what the option takes."""
    words, value = _parse(option, statement)
    return Setting(option.section, option.name, words, value, statement.place)


def parse_switch(option: Option, statement: Statement) -> Setting:
    """The old spelling `no-tcp-cork;` of `tcp-cork no;`."""
    if statement.arguments or statement.block is not None:
        raise statement.keyword.end.error(f"';' missing after '{statement.name}': it takes no value")
    return Setting(option.section, option.name, ("no",), False, statement.place)


def parse_number(text: str, unit: Unit) -> int | None:
    """A number in the option's unit; a suffix k, M, G (powers of 1024) or s (sectors) is rounded up to it.

    As in drbdadm a suffix means bytes where the unit is one of bytes, and is a plain factor elsewhere.
    None if it is not a number.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    number = int(match[1])
    return ceil_div(number * _FACTORS[match[2].lower()], unit.size_bytes) if match[2] else number


def _parse(option: Option, statement: Statement) -> tuple[tuple[str, ...], Value]:
    if option.kind is Kind.FLAG:
        if statement.arguments or statement.block is not None:
            raise statement.keyword.end.error(f"';' missing after '{option.name}': it takes no value")
        return (), True
    if option.kind is Kind.BOOL:
        return _parse_bool(option, statement)
    if option.kind is Kind.WORDS:
        words = expect_words(statement, max(1, len(statement.arguments)), option.kind.value)
        return words, words
    (text,) = expect_words(statement, 1, option.kind.value)
    token = statement.arguments[0]
    if option.kind is Kind.NUMBER:
        return (text,), _in_range(option, token)
    if option.kind is Kind.ENUM:
        return (text,), _parse_choice(option, token)
    if len(text.encode()) > option.maximum:
        raise token.place.error(f"the value of '{option.name}' is longer than {option.maximum} bytes")
    return (text,), text


def _parse_bool(option: Option, statement: Statement) -> tuple[tuple[str, ...], bool]:
    if not statement.arguments and statement.block is None:
        return ("yes",), True
    (text,) = expect_words(statement, 1, option.kind.value)
    if text not in ("yes", "no"):
        raise statement.arguments[0].place.error(f"'{option.name}' takes yes or no, not '{text}'")
    return (text,), text == "yes"


def _in_range(option: Option, token: Token) -> int:
    number = parse_number(token.text, option.unit)
    if number is None:
        units = "an optional k, M, G" if option.unit is not Unit.SECTORS else "an optional s, k, M, G"
        raise token.place.error(f"'{option.name}' takes a number with {units}, not '{token.text}'")
    if not option.minimum <= number <= option.maximum:
        limits = f"{option.minimum} to {option.maximum}{_unit_words(option.unit)}"
        raise token.place.error(f"'{option.name} {token.text}' is out of range: {limits}")
    return number


def _unit_words(unit: Unit) -> str:
    return {
        Unit.NONE: "",
        Unit.SECONDS: " seconds",
        Unit.DECISECONDS: " tenths of a second",
        Unit.BYTES: " bytes",
        Unit.SECTORS: " sectors of 512 bytes",
        Unit.KIB_PER_SECOND: " KiB/s",
    }[unit]


def _parse_choice(option: Option, token: Token) -> str:
    text = token.text.upper() if option.name == "protocol" else token.text
    if any(fnmatchcase(text, choice) for choice in option.choices):
        return text
    known = ", ".join(choice.replace("?*", "NAME") for choice in option.choices)
    raise token.place.error(
        f"'{option.name}' can't be '{token.text}' (but {known}){did_you_mean(text, option.choices)}"
    )
