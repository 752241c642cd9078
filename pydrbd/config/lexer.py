"""The words of a `.res` file, each with its place.

The alphabet is drbdadm's, so that what passes here passes there:

    word      letters, digits and `/ . _ - : %` (the last two for addresses only)
    "string"  anything on one line; a backslash takes the next character as it is
    symbol    { } ; [ ]
    # ...     a comment up to the end of the line
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pydrbd.errors import ConfigError

__all__ = ["Kind", "Lexer", "Place", "Token"]

_BLANKS: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_WORD: Final = re.compile(r"[A-Za-z0-9_/.:%-]+")
_STRING: Final = re.compile(r'"((?:[^"\\\n]|\\[^\n])*)"')
_ESCAPE: Final = re.compile(r"\\(.)")
_SKIPPED: Final = re.compile(r'#[^\n]*|"(?:[^"\\\n]|\\[^\n])*"|[{}]')
_SYMBOLS: Final = frozenset("{};[]")


@dataclass(frozen=True, slots=True)
class Place:
    """A spot in a configuration file; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def error(self, message: str) -> ConfigError:
        """The ConfigError that says `message` about this spot."""
        return ConfigError(message, file=self.file, line=self.line, column=self.column)

    def seen_from(self, other: Place) -> str:
        """How a message about `other` calls this place: `line 7`, or with its file's name if that is another one."""
        return f"line {self.line}" if self.file == other.file else f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Kind(Enum):
    """What a token is."""

    WORD = "word"
    STRING = "string"
    SYMBOL = "symbol"
    END = "end of file"


@dataclass(frozen=True, slots=True)
class Token:
    """One word of the file: its text without quotes, where it starts, and where it ends (exclusive)."""

    kind: Kind
    text: str
    place: Place
    end: Place

    def __str__(self) -> str:
        return "the end of the file" if self.kind is Kind.END else f"'{self.text}'"

    def is_symbol(self, symbol: str) -> bool:
        """Whether this is the unquoted `symbol`."""
        return self.kind is Kind.SYMBOL and self.text == symbol


class Lexer:
    """Reads tokens one after the other; `file` is only used to name places."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._offset = 0
        self._line = 1
        self._line_start = 0

    def next_token(self) -> Token:
        """The next token, Kind.END at the end of the file; ConfigError for what is no token."""
        blanks = _BLANKS.match(self._text, self._offset)
        assert blanks is not None
        self._advance(blanks.end())
        start = self._place()
        if self._offset == len(self._text):
            return Token(Kind.END, "", start, start)
        character = self._text[self._offset]
        if character in _SYMBOLS:
            return self._token(Kind.SYMBOL, character, start, self._offset + 1)
        if character == '"':
            return self._string(start)
        word = _WORD.match(self._text, self._offset)
        if word is None:
            raise start.error(_stray_character(character))
        return self._token(Kind.WORD, word[0], start, word.end())

    def skip_section(self, skip: Token) -> None:
        """Pass over everything up to and with the brace that closes the section after the word `skip`.

        What is inside need not be tokens; only braces outside of comments and strings count.
        """
        depth = 0
        for mark in _SKIPPED.finditer(self._text, self._offset):
            if mark[0] == "{":
                depth += 1
            elif mark[0] == "}":
                depth -= 1
                if depth < 0:
                    break
                if depth == 0:
                    self._advance(mark.end())
                    return
        raise skip.place.error("the section after 'skip' has no closing '}'" if depth > 0 else "'skip' needs a '{ }'")

    def _string(self, start: Place) -> Token:
        found = _STRING.match(self._text, self._offset)
        if found is None:
            raise start.error("this string has no closing '\"' on its line")
        text = _ESCAPE.sub(r"\1", found[1])
        if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
            raise start.error("this string is not UTF-8 text")
        return self._token(Kind.STRING, text, start, found.end())

    def _token(self, kind: Kind, text: str, start: Place, end_offset: int) -> Token:
        self._offset = end_offset
        return Token(kind, text, start, self._place())

    def _place(self) -> Place:
        return Place(self._file, self._line, self._offset - self._line_start + 1)

    def _advance(self, offset: int) -> None:
        newline_count = self._text.count("\n", self._offset, offset)
        if newline_count:
            self._line += newline_count
            self._line_start = self._text.rindex("\n", self._offset, offset) + 1
        self._offset = offset


def _stray_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"byte {code - 0xDC00:#04x} does not belong in a configuration file: is this one?"
    if not character.isprintable():
        return f"character U+{code:04X} does not belong in a configuration file: is this one?"
    return f"unexpected '{character}': a value with this character needs double quotes"
