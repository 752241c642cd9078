"""The shape of a `.res` file: statements, each ended by `;` or by a section in braces.

    statement  =  word argument... ( ";"  |  "{" statement... "}" )
    argument   =  word | string | "[" | "]"

What the words mean is parser.py's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydrbd.config.lexer import Kind, Lexer, Place, Token
from pydrbd.limits import CONFIG_NESTING_MAX

__all__ = ["Statement", "read_statements"]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `block` is None when it ended with a `;`."""

    keyword: Token
    arguments: tuple[Token, ...]
    block: tuple[Statement, ...] | None

    @property
    def name(self) -> str:
        return self.keyword.text

    @property
    def place(self) -> Place:
        return self.keyword.place

    @property
    def last(self) -> Token:
        """The last token before the `;` or the `{`."""
        return self.arguments[-1] if self.arguments else self.keyword


def read_statements(text: str, file: str) -> tuple[Statement, ...]:
    """All statements of a file's text; ConfigError with the place of the first mistake."""
    return _read_section(Lexer(text, file), None, 0)


def _read_section(lexer: Lexer, opener: Statement | None, depth: int) -> tuple[Statement, ...]:
    """The statements up to the brace that closes `opener`'s section, or up to the end of the file."""
    statements: list[Statement] = []
    while True:
        token = lexer.next_token()
        if token.is_symbol("}") and opener is not None:
            return tuple(statements)
        if token.kind is Kind.END:
            if opener is None:
                return tuple(statements)
            raise token.place.error(f"'}}' missing: the '{opener.name}' section of line {opener.place.line} is open")
        if token.kind is Kind.SYMBOL:
            raise token.place.error(_misplaced(token.text))
        if token.text == "skip" and token.kind is Kind.WORD:
            lexer.skip_section(token)
        else:
            statements.append(_read_statement(lexer, token, depth))


def _read_statement(lexer: Lexer, keyword: Token, depth: int) -> Statement:
    arguments: list[Token] = []
    while True:
        token = lexer.next_token()
        head = Statement(keyword, tuple(arguments), None)
        if token.is_symbol(";"):
            return head
        if token.is_symbol("{"):
            if depth == CONFIG_NESTING_MAX:
                raise token.place.error(f"sections are nested more than {CONFIG_NESTING_MAX} deep")
            return Statement(keyword, head.arguments, _read_section(lexer, head, depth + 1))
        if token.is_symbol("}") or token.kind is Kind.END:
            raise head.last.end.error(f"';' missing after {head.last}")
        arguments.append(token)


def _misplaced(symbol: str) -> str:
    if symbol == "}":
        return "unexpected '}': no section is open here"
    if symbol == ";":
        return "unexpected ';': no statement ends here (none belongs after a '}')"
    return f"unexpected '{symbol}': a keyword is expected here"
