"""Each mistake is reported at its line and column, in words; and drbdadm refuses the same files."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from pydrbd.config import load_config, parse_config
from pydrbd.errors import ConfigError
from pydrbd.limits import CONFIG_FILE_BYTES_MAX
from tests.config.drbdadm import OUTPUTS, run_drbdadm

TABLE = tomllib.loads((Path(__file__).parent.parent / "data/config/mistakes.toml").read_text())
COMMON = "device minor 1; disk /dev/b; meta-disk internal;"


def resource(body="", alice="", bob="", name="r", common=COMMON, address="10.0.0.1:7788;"):
    """A good resource: `common` is line 2, `body` line 3, `alice` line 5, `bob` line 8."""
    return (
        f"resource {name} {{\n{common}\n{body}\n"
        f"on alice {{ address {address}\n{alice}\n}}\n"
        f"on bob {{ address 10.0.0.2:7788;\n{bob}\n}}\n}}\n"
    )


def text_of(mistake):
    return (
        mistake["text"] if "text" in mistake else resource(**{k: mistake[k] for k in mistake.keys() - {"at", "says"}})
    )


def refusal_of(text):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "t.res")
    return caught.value


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in TABLE for name in TABLE[kind]])
def test_a_mistake_is_reported_at_its_place(kind, name):
    """Line, column and words of each."""
    mistake = TABLE[kind][name]
    error = refusal_of(text_of(mistake))
    assert ([error.line, error.column], error.message) == (mistake["at"], mistake["says"])
    assert str(error) == f"t.res:{error.line}:{error.column}: {mistake['says']}"


def test_a_good_resource_is_good():
    """What the mistakes are made in has none itself."""
    assert [host.name for host in parse_config(resource(), "t.res").resources[0].hosts] == ["alice", "bob"]


@pytest.mark.interop
@pytest.mark.parametrize("name", TABLE["refused"])
def test_drbdadm_refuses_it_too(name, tmp_path):
    """We are not stricter than both versions of drbdadm, but where the table says so."""
    file = tmp_path / "t.res"
    file.write_text(text_of(TABLE["refused"][name]))
    assert any(run_drbdadm(version, file) is None for version in OUTPUTS)


@pytest.mark.interop
@pytest.mark.parametrize("name", TABLE["stricter"])
def test_where_we_are_stricter_drbdadm_takes_it(name, tmp_path):
    """The second part of the table is not a place for what belongs in the first."""
    file = tmp_path / "t.res"
    file.write_text(text_of(TABLE["stricter"][name]))
    assert any(run_drbdadm(version, file) is not None for version in OUTPUTS)


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        (b"\x7fELF\x02\x01\x01\x00", 1, "character U+007F does not belong in a configuration file: is this one?"),
        (b"resource \xff", 10, "byte 0xff does not belong in a configuration file: is this one?"),
        (b'global { usage-count "\xe9"; }', 22, "this string is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_text_is_a_mistake(tmp_path, content, column, message):
    """A wrong path on the command line is said to be one. (Latin-1 in a comment is nobody's business.)"""
    file = tmp_path / "t.res"
    file.write_bytes(b"# caf\xe9\n" + content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value) == f"{file}:2:{column}: {message}"


def test_a_mistake_in_an_included_file_names_that_file(tmp_path):
    """And a duplicate names both files."""
    (tmp_path / "main.conf").write_text('include "one.res";\ninclude "two.res";\n')
    (tmp_path / "one.res").write_text(resource())
    (tmp_path / "two.res").write_text("\n" + resource())
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "main.conf")
    assert str(caught.value) == (
        f"{tmp_path}/two.res:2:10: a second resource 'r' (the first is in {tmp_path}/one.res:1)"
    )


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("missing", "can't be read: No such file or directory"),
        ("directory", "is not a regular file"),
        ("long", f"is longer than {CONFIG_FILE_BYTES_MAX} bytes: is it a configuration file?"),
        ("loop", "can't be read: Too many levels of symbolic links"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path, target, reason):
    """As the main file and as an included one."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "long").write_bytes(b"#" * (CONFIG_FILE_BYTES_MAX + 1))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / target)
    assert str(caught.value) == f"the configuration file '{tmp_path}/{target}' {reason}"
    (tmp_path / "main.conf").write_text(f"include {target};")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "main.conf")
    assert (caught.value.line, caught.value.column) == (1, 9)
    assert str(caught.value).endswith(f"include: the configuration file '{tmp_path}/{target}' {reason}")
