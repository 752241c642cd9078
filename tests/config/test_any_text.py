"""No text makes the configuration raise anything but ConfigError; what it takes survives `dump`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pydrbd.config import dump_config, parse_config
from pydrbd.config.options import OPTIONS
from pydrbd.config.settings import parse_settings
from pydrbd.errors import ConfigError

DATA = Path(__file__).parent.parent / "data/config"
GOOD = [path.read_text() for path in sorted(DATA.glob("*.res"))]
VOCABULARY = r"""
{ } ; [ ] " # \ yes no none internal minor 0 1 7 10s 4k 999999999999 C /dev/drbd3 drbd_x "a" "" "skip" "["
global common resource on floating volume net disk options startup handlers syncer proxy skip protocol rate after
device meta-disk flexible-meta-disk address connection connection-mesh host hosts path port node-id ignore-on
ipv4 ipv6 [::1] 10.0.0.1:1 :2 alice bob r0 both stacked-on-top-of
"""
WORDS = [
    "\n",
    *VOCABULARY.split(),
    *(option.name for option in OPTIONS),
    *(choice for option in OPTIONS for choice in option.choices),
]


def check(text):
    """Either a ConfigError with a place in the text, or a configuration that dump keeps."""
    try:
        config = parse_config(text, "t.res")
    except ConfigError as error:
        assert error.message and error.file
        lines = text.split("\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        return
    assert parse_config(dump_config(config), "t.res") == config
    for resource in config:
        with contextlib.suppress(ConfigError):
            resource.pair("alice")


@given(st.text())
@example("\\")
@example('"\\')
@example("resource r { on")
@settings(max_examples=300)
def test_random_text(text):
    """Any characters."""
    check(text)


@given(st.lists(st.sampled_from(WORDS), max_size=40))
@settings(max_examples=400)
def test_random_words(words):
    """Keywords, options, values and punctuation in any order."""
    check(" ".join(words))


@given(
    st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(WORDS)), min_size=1, max_size=4)
)
@settings(max_examples=300)
def test_good_files_with_words_replaced(text, changes):
    """Near the right way is where the mistakes are."""
    pieces = text.split(" ")
    for at, word in changes:
        pieces[at % len(pieces)] = word
    check(" ".join(pieces))


@given(st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 10**6), st.characters(codec="utf-8")), max_size=4))
@settings(max_examples=300)
def test_good_files_with_characters_replaced(text, changes):
    """One to four characters of a good file."""
    for at, character in changes:
        place = at % len(text)
        text = text[:place] + character + text[place + 1 :]
    check(text)


@given(st.text())
@settings(max_examples=200)
def test_random_settings(text):
    """pydrbd.toml likewise."""
    with contextlib.suppress(ConfigError):
        parse_settings(text)


SECTION_VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


@given(SECTION_VALUES, SECTION_VALUES, st.text(st.sampled_from('ab"\\;{} #'), max_size=20))
@settings(max_examples=200)
def test_any_string_survives_dump(disk, command, secret):
    """Quotes, backslashes, braces and comment signs in paths, commands and secrets."""
    words = [value.replace("\\", "\\\\").replace('"', '\\"') for value in (disk or "x", command, secret)]
    text = (
        'resource r {{ handlers {{ fence-peer "{1}"; }} net {{ shared-secret "{2}"; }}'
        'on a {{ device minor 1; disk "{0}"; meta-disk internal; address 10.0.0.1:1; }} }}'
    ).format(*words)
    config = parse_config(text)
    (resource,) = config
    assert (resource.hosts[0].volumes[0].disk, resource.handlers.fence_peer) == (disk or "x", command)
    assert resource.net.shared_secret == secret
    assert parse_config(dump_config(config)) == config
