"""pydrbd.toml: what it may say, and what is said about mistakes in it."""

from __future__ import annotations

import pytest

from pydrbd.config import Listen, ResourceSettings, Settings, load_settings
from pydrbd.config.settings import TlsSettings, parse_settings
from pydrbd.errors import ConfigError
from pydrbd.limits import CONFIG_FILE_BYTES_MAX, TLS_NAMES_MAX


def test_without_a_file_there_are_defaults(tmp_path):
    """The file is looked for beside the configuration, and need not exist."""
    assert load_settings(tmp_path / "drbd.conf") == Settings()
    assert Settings().resource("r0") == ResourceSettings(nbd=(), io="auto")


def test_a_resource_has_listening_addresses_and_an_io_mode(tmp_path):
    """In the file beside the configuration; other resources keep the defaults."""
    (tmp_path / "pydrbd.toml").write_text(
        '[resource.r0]\nnbd = ["unix:/run/r0.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:1", "vsock:9"]\nio = "direct"\n'
        '[resource."a b"]\n'
    )
    settings = load_settings(tmp_path / "drbd.conf")
    listens = (Listen("/run/r0.sock"), Listen(host="127.0.0.1", port=10809), Listen(host="::1", port=1))
    listens += (Listen(port=9, is_vsock=True),)
    assert settings.resource("r0") == ResourceSettings(listens, "direct")
    assert [str(listen) for listen in listens] == ["unix:/run/r0.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:1", "vsock:9"]
    assert settings.resource("a b") == settings.resource("r1") == ResourceSettings()


def test_tls_has_files_and_names(tmp_path):
    """Paths are those beside the file, unless they are whole; off is the default, whatever files are named."""
    (tmp_path / "pydrbd.toml").write_text(
        '[resource.r0]\ntls = "require"\ntls-certificate = "c.pem"\ntls-key = "/k.pem"\ntls-authority = "ca.pem"\n'
        'tls-clients = ["a", "b"]\nnbd-list = false\nnbd-read-only = true\n'
        'nbd-extended-headers = true\n[resource.r1]\ntls-key = "k"\n'
    )
    settings = load_settings(tmp_path / "drbd.conf")
    tls = TlsSettings("require", str(tmp_path / "c.pem"), "/k.pem", str(tmp_path / "ca.pem"), ("a", "b"))
    assert settings.resource("r0") == ResourceSettings(
        nbd_list=False, nbd_read_only=True, nbd_extended_headers=True, tls=tls
    )
    assert settings.resource("r1").tls.mode == "off"


def test_keys_take_the_place_of_certificates(tmp_path):
    """For clients; between the nodes certificates go on."""
    (tmp_path / "pydrbd.toml").write_text(
        '[resource.r0]\ntls = "allow"\ntls-psk = "keys.psk"\ntls-clients = ["backup"]\n[resource.r1]\ntls = "require"\n'
        'tls-psk = "/k"\nlink-tls = "require"\ntls-certificate = "/c"\ntls-key = "/k"\ntls-authority = "/a"\n'
    )
    settings = load_settings(tmp_path / "drbd.conf")
    assert settings.resource("r0").tls == TlsSettings("allow", clients=("backup",), psk=str(tmp_path / "keys.psk"))
    assert settings.resource("r1").tls == TlsSettings("require", "/c", "/k", "/a", link=True, psk="/k")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resource.r0.tls = 'on'", "resource.r0.tls can't be 'on' (but off, allow or require)"),
        ("resource.r0.tls = 'allow'", "resource.r0.tls is allow: it needs tls-certificate"),
        ("resource.r0 = {tls = 'require', tls-certificate = 'c'}", "resource.r0.tls is require: it needs tls-key"),
        ("resource.r0.tls-key = 1", "resource.r0.tls-key must be the path of a file"),
        (
            "resource.r0 = {tls = 'allow', tls-psk = 'k', tls-key = 'k'}",
            "resource.r0.tls-psk takes the place of tls-key, which only link-tls could use",
        ),
        ("resource.r0.tls-psk = 1", "resource.r0.tls-psk must be the path of a file"),
        ("resource.r0.tls-clients = ['']", "resource.r0.tls-clients must be a list of names"),
        ("resource.r0.tls-clients = ['a']", "resource.r0.tls-clients needs tls-authority or tls-psk"),
        ("resource.r0 = {tls-authority = 'a', tls-clients = []}", "resource.r0.tls-clients is empty"),
        ("resource.r0.link-tls = 'allow'", "resource.r0.link-tls can't be 'allow' (but off or require)"),
        (
            "resource.r0 = {link-tls = 'require', tls-certificate = 'c', tls-key = 'k'}",
            "resource.r0.link-tls is require: it needs tls-authority",
        ),
        ("resource.r0.link-tls-peer = 1", "resource.r0.link-tls-peer must be a name"),
        ("resource.r0.nbd-list = 0", "resource.r0.nbd-list can't be 0 (but true or false)"),
        ("resource.r0.nbd-read-only = 'no'", "resource.r0.nbd-read-only can't be 'no' (but true or false)"),
        ("resourc = 1", "unknown key 'resourc'; did you mean 'resource'?"),
        ("resource = 1", "resource must be a table"),
        ("resource.r0 = 1", "resource.r0 must be a table"),
        ("resource.r0.ndb = []", "unknown key 'resource.r0.ndb'; did you mean 'nbd'?"),
        ("resource.r0.nbd = 'unix:/x'", "resource.r0.nbd must be a list of strings"),
        ("resource.r0.nbd = ['unix:/x', 7]", "resource.r0.nbd[1] can't be 7"),
        ("resource.r0.nbd = ['unix:']", "resource.r0.nbd[0] can't be 'unix:'"),
        ("resource.r0.nbd = ['/x']", "resource.r0.nbd[0] can't be '/x'"),
        ("resource.r0.nbd = ['tcp::5']", "resource.r0.nbd[0] can't be 'tcp::5'"),
        ("resource.r0.nbd = ['tcp:::1:5']", "resource.r0.nbd[0] can't be 'tcp:::1:5'"),
        ("resource.r0.nbd = ['vsock:0']", "resource.r0.nbd[0]: '0' is not a vsock port: 1 to 4294967294"),
        ("resource.r0.nbd = ['tcp:h:0']", "resource.r0.nbd[0]: '0' is not a TCP port: 1 to 65535"),
        ("resource.r0.nbd = ['tcp:h:65536']", "resource.r0.nbd[0]: '65536' is not a TCP port: 1 to 65535"),
        (f"resource.r0.nbd = ['unix:{'x' * 108}']", "resource.r0.nbd[0]: a socket's path has at most 107 bytes"),
        ("resource.r0.io = 'bufferd'", "resource.r0.io can't be 'bufferd' (but auto, direct or buffered)"),
        ("resource.r0.io = 3", "resource.r0.io can't be 3"),
        (
            f"resource.r0.tls-clients = {['x'] * (TLS_NAMES_MAX + 1)}",
            f"resource.r0.tls-clients has more than {TLS_NAMES_MAX} names",
        ),
        ("a = \n", "is not TOML: Invalid value (at line 1, column 5)"),
        ("a = " + "[" * 5000, "is not TOML: "),
    ],
)
def test_a_mistake_names_the_key(text, message):
    """With the file, and a guess where a word is nearly right."""
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, "pydrbd.toml")
    assert str(caught.value).startswith(f"pydrbd.toml: {message}")


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path):
    """A directory, and bytes that are no text."""
    (tmp_path / "pydrbd.toml").mkdir()
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load_settings(tmp_path / "drbd.conf")
    (tmp_path / "pydrbd.toml").rmdir()
    (tmp_path / "pydrbd.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_settings(tmp_path / "drbd.conf")


def test_a_file_without_end_is_a_mistake(tmp_path):
    """It is read no further than a configuration may be long."""
    (tmp_path / "pydrbd.toml").write_bytes(b"#" * (CONFIG_FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match=f"is longer than {CONFIG_FILE_BYTES_MAX} bytes"):
        load_settings(tmp_path / "r0.res")
