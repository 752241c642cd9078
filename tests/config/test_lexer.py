"""Words, strings, comments and the places they are at."""

from __future__ import annotations

import pytest

from pydrbd.config.lexer import Kind, Lexer
from pydrbd.config.syntax import read_statements
from pydrbd.errors import ConfigError


def tokens(text):
    lexer = Lexer(text, "f")
    found = []
    while (token := lexer.next_token()).kind is not Kind.END:
        found.append(token)
    return found


def test_every_token_knows_its_line_and_column():
    """Lines and columns count from 1, through comments, tabs and DOS line ends; `end` is just behind the token."""
    found = tokens('a;#x\r\n\t"b c"\n  # only this\n{d [0]')
    assert [(token.text, token.place.line, token.place.column, token.end.column) for token in found] == [
        ("a", 1, 1, 2),
        (";", 1, 2, 3),
        ("b c", 2, 2, 7),
        ("{", 4, 1, 2),
        ("d", 4, 2, 3),
        ("[", 4, 4, 5),
        ("0", 4, 5, 6),
        ("]", 4, 6, 7),
    ]


def test_a_backslash_takes_the_next_character_as_it_is():
    """`\\n` is an n, not a line end: as drbdadm has it."""
    (token,) = tokens(r'"a\n \" \\ # ; { }"')
    assert token.text == 'an " \\ # ; { }'
    assert token.kind is Kind.STRING


def test_what_skip_hides_need_not_be_words():
    """Braces in comments and strings don't count; all else is passed over, and the places behind it are right."""
    text = 'skip any thing { $%& "}" # }\n { \x01 " } }\n a b;'
    (statement,) = read_statements(text, "f")
    assert (statement.name, statement.place.line, statement.place.column) == ("a", 3, 2)


def test_sections_nest():
    """A statement ends with `;` or with a section, whose statements it holds."""
    outer, last = read_statements("a b { c; d e { } }\nf;", "f")
    assert [token.text for token in outer.arguments] == ["b"]
    assert [(inner.name, inner.block) for inner in outer.block] == [("c", None), ("d", ())]
    assert last.block is None


@pytest.mark.parametrize("character", "+@,=()$*?'`~^|&<>!\\é\x07\x00\ufeff")
def test_a_character_without_quotes_is_refused_at_its_place(character):
    """drbdadm takes letters, digits and `/ . _ -` without quotes; all else needs them."""
    with pytest.raises(ConfigError) as caught:
        tokens(f"ab {character}")
    assert (caught.value.line, caught.value.column) == (1, 4)
