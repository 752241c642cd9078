"""Every option of the table: what it takes, what it refuses, and that drbdsetup has the same table."""

from __future__ import annotations

import dataclasses

import pytest

from pydrbd.config import parse_config, sections
from pydrbd.config.options import OPTIONS, SECTIONS, Kind, Unit
from pydrbd.errors import ConfigError
from tests.config.drbdadm import option_tables

CLASSES = {
    "global": sections.GlobalOptions,
    "options": sections.ResourceOptions,
    "net": sections.NetOptions,
    "disk": sections.DiskOptions,
    "startup": sections.StartupOptions,
    "handlers": sections.Handlers,
}
NUMBERS = [option for option in OPTIONS if option.kind is Kind.NUMBER]
ENUMS = [option for option in OPTIONS if option.kind is Kind.ENUM]
SWITCHES = [option for option in OPTIONS if option.kind is Kind.BOOL]
STRINGS = [option for option in OPTIONS if option.kind is Kind.STRING]


OF_9 = {
    "auto-promote", "auto-promote-timeout", "quorum", "on-no-quorum", "on-suspended-primary-outdated", "quorum-lost",
}  # fmt: skip
"""In effect here, too."""


def by_name(option):
    return f"{option.section}.{option.name}"


def value_of(option, statement):
    """What an option is worth in a resource that has this statement (A is the protocol that any other goes with)."""
    if option.section == "global":
        config = parse_config(f"global {{ {statement} }}")
        return getattr(config.global_, option.attribute)
    protocol = "protocol A;" if option.name == "on-congestion" else ""
    hosts = "".join(
        f"on {name} {{ device minor 1; disk /d; meta-disk internal; address 10.0.0.{at}:1; }}"
        for at, name in enumerate(("alice", "bob"), 1)
    )
    config = parse_config(f"resource r {{ {protocol} {option.section} {{ {statement} }} {hosts} }}")
    return getattr(getattr(config.resources[0], option.section), option.attribute)


def test_the_sections_have_the_fields_of_the_table():
    """Names (with units), order and defaults of the dataclasses are the table's."""
    for section, kind in CLASSES.items():
        fields = [(field.name, field.default) for field in dataclasses.fields(kind)]
        assert fields == [(option.attribute, option.default) for option in SECTIONS[section].values()]


@pytest.mark.interop
@pytest.mark.parametrize("section", ["net", "disk", "options"])
def test_drbdsetup_has_the_same_table(section):
    """Names, order, defaults, ranges, units and words of DRBD 8.4, as its own tool prints them."""
    theirs = option_tables()[section]
    ours_of_8_4 = {name: option for name, option in SECTIONS[section].items() if name not in OF_9}
    assert list(ours_of_8_4) == list(theirs)
    prefixes = {Unit.SECTORS: "s", Unit.KIB_PER_SECOND: "k"}
    for option in ours_of_8_4.values():
        printed = theirs[option.name]
        if option.kind is Kind.NUMBER:
            ours = (option.minimum, option.maximum, option.default)
            assert tuple(int(printed.findtext(word)) for word in ("min", "max", "default")) == ours, option
            assert printed.findtext("unit_prefix") == prefixes.get(option.unit, "1"), option
        elif option.kind is Kind.BOOL:
            assert printed.findtext("default") == ("yes" if option.default else "no"), option
        elif option.kind is Kind.ENUM:
            words = {word for word in option.choices if "*" not in word}
            assert {handler.text for handler in printed.iter("handler")} == words, option


@pytest.mark.parametrize("option", NUMBERS, ids=by_name)
def test_a_number_is_taken_up_to_its_limits(option):
    """The least and the greatest are taken in the option's own unit, and one less or more is refused."""
    for number in (option.minimum, option.default, option.maximum):
        assert value_of(option, f"{option.name} {number};") == number
    for number in (option.minimum - 1, option.maximum + 1, 10**39):
        with pytest.raises(ConfigError, match=r"out of range|takes a number"):
            value_of(option, f"{option.name} {number};")
    for text in ("x", "1x", "0x10", "1.5", '""', "1kk", "k"):
        with pytest.raises(ConfigError, match="takes a number"):
            value_of(option, f"{option.name} {text};")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("disk.size", "10", 10),
        ("disk.size", "10s", 10),
        ("disk.size", "10k", 20),
        ("disk.size", "3G", 3 << 21),
        ("disk.resync-rate", "10", 10),
        ("disk.resync-rate", "10m", 10 << 10),
        ("disk.c-max-rate", "499s", 250),
        ("disk.rs-discard-granularity", "1M", 1 << 20),
        ("net.sndbuf-size", "512k", 512 << 10),
        ("net.congestion-fill", "10G", 10 << 21),
        ("net.max-buffers", "8K", 8 << 10),
        ("net.timeout", "010", 10),
        ("net.timeout", '"10"', 10),
    ],
)
def test_a_suffix_counts_bytes_where_the_unit_does(name, text, value):
    """As drbdadm: K, M, G and s are bytes for sizes and rates (rounded up), and plain factors elsewhere."""
    section, _, option = name.partition(".")
    assert value_of(SECTIONS[section][option], f"{option} {text};") == value


@pytest.mark.parametrize("option", SWITCHES, ids=by_name)
def test_a_switch_has_four_spellings(option):
    """`x;`, `x yes;`, `x no;` and DRBD 8.3's `no-x;`."""
    spellings = {f"{option.name};": True, f"{option.name} yes;": True}
    spellings |= {f"{option.name} no;": False, f"no-{option.name};": False}
    for statement, value in spellings.items():
        assert value_of(option, statement) is value
    with pytest.raises(ConfigError, match="takes yes or no"):
        value_of(option, f"{option.name} on;")


@pytest.mark.parametrize("option", ENUMS, ids=by_name)
def test_an_enum_takes_its_words_only(option):
    """Each of them, and no number or near miss."""
    for choice in option.choices:
        word = choice.replace("?*", "alice")
        assert value_of(option, f"{option.name} {word};") == word
    for word in ("17", option.choices[0] + "s", "discard-node-", '""'):
        with pytest.raises(ConfigError, match="can't be"):
            value_of(option, f"{option.name} {word};")


@pytest.mark.parametrize("option", STRINGS, ids=by_name)
def test_a_string_is_taken_up_to_its_length(option):
    """With and without quotes, and measured in bytes."""
    assert value_of(option, f'{option.name} "a b";') == "a b"
    assert value_of(option, f"{option.name} net;") == "net"
    longest = "é" * (option.maximum // 2) + "x" * (option.maximum % 2)
    assert value_of(option, f'{option.name} "{longest}";') == longest
    with pytest.raises(ConfigError, match=f"longer than {option.maximum} bytes"):
        value_of(option, f'{option.name} "{longest}x";')


def test_flags_and_lists_of_words():
    """`stacked-timeouts` has no value, `become-primary-on` any number of them."""
    startup = SECTIONS["startup"]
    assert value_of(startup["stacked-timeouts"], "stacked-timeouts;") is True
    assert value_of(startup["become-primary-on"], 'become-primary-on alice "b c";') == ("alice", "b c")
    with pytest.raises(ConfigError, match="needs one or more words"):
        value_of(startup["become-primary-on"], "become-primary-on;")


def test_a_lower_case_protocol_is_the_protocol():
    """drbdadm takes it."""
    assert value_of(SECTIONS["net"]["protocol"], "protocol b;") == "B"


def test_an_option_without_effect_is_reported_once():
    """At its first place; an option that pydrbd acts on, or is of no concern to it, is not."""
    text = (
        "global { usage-count no; }\ncommon { net { sndbuf-size 0; timeout 50; } }\n"
        "resource r { net { sndbuf-size 1k; allow-two-primaries no; }\n handlers { fence-peer x; } }"
    )
    without_effect = [option.name for option in OPTIONS if not option.effective and not option.quiet]
    expected = [name for name in ("sndbuf-size", "fence-peer") if name in without_effect]
    notices = parse_config(text, "f").notices
    assert [str(notice) for notice in notices] == [
        f"f:{place}: option '{name}' has no effect in pydrbd yet"
        for name, place in (("sndbuf-size", "2:16"), ("fence-peer", "4:13"))
        if name in expected
    ]


def test_what_has_no_effect_that_anybody_could_see_is_taken_silently():
    """Without a notice: on current kernels they change nothing, or pydrbd never does what they would turn off."""
    text = "resource r { net { unplug-watermark 64; tcp-cork no; } disk { max-bio-bvecs 1; } }"
    assert parse_config(text).notices == ()
