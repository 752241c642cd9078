"""`dump` prints what drbdadm prints, and what it prints means the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from pydrbd.config import dump_config, load_config, parse_config
from pydrbd.config.dump import quote_word
from tests.config.drbdadm import run_drbdadm

DATA = Path(__file__).parent.parent / "data/config"
FILES = [*sorted(path.name for path in DATA.glob("*.res")), "included/main.conf"]
OF_9 = {"auto-promote.res", "drbd9.res"}  # what of DRBD 9 has an effect here, too
NOT_9 = {"fencing.res", "legacy.res"}


def lines_of(text):
    """Without comments; and without the time-outs that drbdadm 8.4 makes up for every global section."""
    return [line for line in text.splitlines() if not line.startswith(("#", "    cmd-timeout"))]


def meaning(config):
    """All but the order in which options are written, and what DRBD 9 has dropped."""
    return [
        (resource.name, resource.hosts, resource.options, resource.net, resource.disk, resource.handlers)
        for resource in config
    ]


@pytest.mark.parametrize("name", FILES)
def test_what_is_dumped_loads_to_the_same(name):
    """And dumping it again changes nothing."""
    config = load_config(DATA / name)
    text = dump_config(config)
    again = parse_config(text, name)
    assert again == config
    assert lines_of(dump_config(again)) == lines_of(text)


@pytest.mark.interop
@pytest.mark.parametrize("name", FILES)
def test_drbdadm_of_8_4_prints_the_same_lines(name):
    """Byte for byte, besides comments."""
    theirs = run_drbdadm("8.4", DATA / name)
    assert (theirs is None) == (name in OF_9)
    if theirs is not None:
        ours = dump_config(load_config(DATA / name))
        # on a host that is in none of its resources drbdadm leaves the option out
        assert lines_of(theirs) == [line for line in lines_of(ours) if "resync-after" not in line]


@pytest.mark.interop
@pytest.mark.parametrize("name", FILES)
def test_what_drbdadm_of_9_prints_means_the_same(name):
    """Its lay-out is another one (inherited statements stay in the resource, there are node-ids)."""
    theirs = run_drbdadm("9", DATA / name)
    assert (theirs is None) == (name in NOT_9)
    if theirs is not None:
        assert meaning(parse_config(theirs)) == meaning(load_config(DATA / name))


@pytest.mark.interop
@pytest.mark.parametrize("name", FILES)
def test_drbdadm_takes_what_we_dump(name, tmp_path):
    """The 8.4 one, unless the file asks for what only DRBD 9 has; and it prints the same again."""
    text = dump_config(load_config(DATA / name))
    file = tmp_path / "dumped.res"
    file.write_text(text)
    theirs = run_drbdadm("8.4", file)
    assert (theirs is None) == (name in OF_9)
    if theirs is not None:
        assert lines_of(theirs) == [line for line in lines_of(text) if "resync-after" not in line]


def test_everything_in_a_global_section_is_dumped():
    """In drbdadm's order, and with the statements that it forgets."""
    statements = [
        "disable-ip-verification;",
        "minor-count 64;",
        "dialog-refresh 0;",
        "cmd-timeout-short 1;",
        "cmd-timeout-medium 2;",
        "cmd-timeout-long 3;",
        "usage-count no;",
        "udev-always-use-vnr;",
    ]
    config = parse_config(f"global {{ {' '.join(reversed(statements))} }}")
    assert [line.strip() for line in dump_config(config).splitlines()[2:-2]] == statements
    assert parse_config(dump_config(config)) == config


def test_the_options_of_a_volume_in_a_resource_are_kept():
    """drbdadm 8.4's dump loses them: spelled out in every host they are kept."""
    text = (
        "resource r { volume 0 { device minor 1; disk /d; meta-disk internal; disk { size 10M; } }"
        "on a { address 10.0.0.1:1; } on b { address 10.0.0.2:1; } }"
    )
    dumped = dump_config(parse_config(text))
    assert dumped.count("size     10M;") == 2
    assert parse_config(dumped) == parse_config(text)


@pytest.mark.parametrize(
    ("word", "quoted"),
    [("a-b_c.d/e9", "a-b_c.d/e9"), ("", '""'), ("a b", '"a b"'), ("a:b", '"a:b"'), ('a"\\b', '"a\\"\\\\b"')],
)
def test_a_word_is_quoted_where_drbdadm_quotes_it(word, quoted):
    """Letters, digits and `- . / _` go without."""
    assert quote_word(word) == quoted
