"""Clients with keys that were shared beforehand: files of keys, whom they let in, and real clients.

Debian 12's Python has no PSK. A stand-in takes its place, and Debian 13's Python serves libnbd and QEMU.
"""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from pydrbd.config.settings import parse_settings
from pydrbd.errors import ConfigError
from pydrbd.runtime.build import admission
from pydrbd.runtime.tls import TlsFailed
from pydrbd.runtime.tls_keys import TLS_KEY_FILE_BYTES_MAX, TLS_KEY_USER_BYTES_MAX, KeyIdentity
from pydrbd.units import MIB

ROOT = Path(__file__).resolve().parents[2]
KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
LIMIT_S = 60
FETCH_LIMIT_S = 90
PACKAGES = "python3.13,python3-trio,python3-cffi-backend"


class Context:
    """Where ssl has no PSK: what is asked of a context for it."""

    num_tickets = 2

    def __init__(self, protocol):
        assert protocol == ssl.PROTOCOL_TLS_SERVER

    def set_psk_server_callback(self, callback):
        self.key = callback


@pytest.fixture
def psk(monkeypatch):
    monkeypatch.setattr(ssl, "HAS_PSK", True, raising=False)
    monkeypatch.setattr(ssl, "SSLContext", Context)


@pytest.fixture
def file(tmp_path):
    """`file(text)`: the path of a file of keys."""

    def file(text, mode=0o600):
        path = tmp_path / "keys.psk"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return str(path)

    return file


def test_a_user_with_its_key_is_who_it_says(psk, file):
    """Only TLS 1.3, without tickets; each connection has a context of its own."""
    identity = KeyIdentity(file(f"backup:{KEY.hex()}\n\n vm:{OTHER.hex()} \r\n"))
    visit, another = identity.visit(server_side=True), identity.visit(server_side=True)
    assert (visit.context.minimum_version, visit.context.num_tickets) == (ssl.TLSVersion.TLSv1_3, 0)
    assert (visit.context.key("backup"), another.context.key("vm")) == (KEY, OTHER)
    assert (visit.check(None), another.check(None)) == (["backup"], ["vm"])
    assert visit.blame() == ", 'backup' has another key here"


def test_who_is_unknown_has_a_key_that_nobody_knows(psk, file):
    """Another one each time, so that the handshake goes on, and fails as with a wrong key."""
    visit = KeyIdentity(file(f"backup:{KEY.hex()}\n")).visit(server_side=True)
    assert visit.blame() == ", it came without a key"
    with pytest.raises(TlsFailed, match="it came without a key"):
        visit.check(None)
    keys = {visit.context.key(user) for user in ("who", "who", "", None)}
    assert len(keys) == 4 and min(map(len, keys)) >= 16 and KEY not in keys
    visit.context.key("who" * TLS_KEY_USER_BYTES_MAX)
    assert visit.blame().startswith(", 'whowho") and len(visit.blame()) < 2 * TLS_KEY_USER_BYTES_MAX
    with pytest.raises(TlsFailed, match="it came without a key"):
        visit.check(None)


def test_allowed_names_are_those_of_users(psk, file):
    """A right key alone does not do."""
    visit = KeyIdentity(file(f"backup:{KEY.hex()}\nvm:{OTHER.hex()}\n"), ("vm",)).visit(server_side=True)
    visit.context.key("backup")
    with pytest.raises(TlsFailed, match="its key is that of 'backup': not allowed here"):
        visit.check(None)
    visit.context.key("vm")
    assert visit.check(None) == ["vm"]


def test_renewed_keys_count_and_broken_ones_do_not(psk, file, caplog):
    """The next connection has them; what can't be used leaves things as they are, with an error in the log."""
    identity = KeyIdentity(file(f"backup:{KEY.hex()}\n"))
    file(f"backup:{OTHER.hex()}\nvm:{KEY.hex()}\n")
    assert identity.visit(server_side=True).context.key("backup") == OTHER
    file("backup:SECRET\n")
    assert identity.visit(server_side=True).context.key("vm") == KEY
    assert "those from before still count" in caplog.text and "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("", 0o600, "TLS can't use {}: there is no key in it"),
        ("a:" + KEY.hex(), 0o640, "TLS does not use {}: others than its owner may open it (chmod 600)"),
        ("a:" + KEY.hex(), 0o604, "TLS does not use {}: others than its owner may open it (chmod 600)"),
        ("\na", 0o600, "TLS can't use {}, line 2: it is not USER:KEY, with the key in hexadecimal"),
        ("a:SECRET", 0o600, "TLS can't use {}, line 1: it is not USER:KEY"),
        (":" + KEY.hex(), 0o600, "TLS can't use {}, line 1: it is not USER:KEY"),
        ("#61:" + KEY.hex(), 0o600, "TLS can't use {}, line 1: it is not USER:KEY"),
        (b"\xff:" + KEY.hex().encode(), 0o600, "TLS can't use {}, line 1: it is not USER:KEY"),
        ("a" * 129 + ":" + KEY.hex(), 0o600, "TLS can't use {}, line 1: its user's name is longer than 128 bytes"),
        ("a:" + KEY.hex()[:30], 0o600, "TLS can't use {}, line 1: a key has 16 to 64 bytes"),
        ("a:" + KEY.hex() * 3, 0o600, "TLS can't use {}, line 1: a key has 16 to 64 bytes"),
        (f"a:{KEY.hex()}\n" * 2, 0o600, "TLS can't use {}, line 2: its user has a key already"),
        ("\n" * (TLS_KEY_FILE_BYTES_MAX + 1), 0o600, f"TLS can't use {{}}: it is longer than {TLS_KEY_FILE_BYTES_MAX}"),
    ],
)
def test_a_file_that_can_not_be_used_is_the_users_error(psk, file, text, mode, message):
    """Which line, and why; nothing of a key is said."""
    path = file(text, mode)
    with pytest.raises(ConfigError) as caught:
        KeyIdentity(path)
    assert str(caught.value).startswith(message.format(path))
    assert "SECRET" not in str(caught.value) and KEY.hex()[:8] not in str(caught.value)


def test_a_file_that_is_not_there_is_the_users_error(psk):
    with pytest.raises(ConfigError, match="TLS can't read /nowhere: No such file"):
        KeyIdentity("/nowhere")


def test_a_python_without_psk_says_so(file, monkeypatch):
    """As Python up to 3.12 is; by the setting."""
    monkeypatch.delattr(ssl, "HAS_PSK", raising=False)
    text = f'[resource.r0]\ntls = "require"\ntls-psk = "{file("a:" + KEY.hex())}"\n'
    with pytest.raises(ConfigError, match=r"tls-psk needs Python 3\.13 or later"):
        admission(parse_settings(text).resource("r0"))


@pytest.fixture(scope="module")
def newer_python(tmp_path_factory) -> tuple[list[str], dict[str, str]]:
    """Debian 13's Python: its command, and the environment in which it finds its own modules and ours."""
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("only root with mmdebstrap has a Python fetched that knows PSK")
    root = tmp_path_factory.mktemp("newer") / "root"
    fetch = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", "trixie", str(root)]
    try:
        done = subprocess.run(fetch, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_LIMIT_S)
    except subprocess.TimeoutExpired:
        pytest.skip("trixie can't be fetched here: nothing came for long")
    if done.returncode != 0:
        pytest.skip(f"trixie can't be fetched here: {done.stderr.strip()[-500:]}")
    libraries = root / f"usr/lib/{platform.machine()}-linux-gnu"
    (loader,) = libraries.glob("ld-linux*.so.*")
    argv = [str(loader), "--library-path", str(libraries), str(root / "usr/bin/python3.13")]
    return argv, {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": f"{root}/usr/lib/python3/dist-packages:{ROOT}"}


def save_keys(directory: Path, user: str, key: bytes) -> Path:
    """As a client has it; the directory is QEMU's word for it, and the file in it libnbd's."""
    directory.mkdir()
    (directory / "keys.psk").write_text(f"{user}:{key.hex()}\n")
    return directory


@pytest.mark.interop
@pytest.mark.slow
def test_real_clients_come_in_by_their_keys_and_no_other(newer_python, processes, need, short_tmp, file):
    """libnbd and QEMU with the right key; not with a wrong one, as a stranger, not allowed, or without TLS."""
    argv, env = newer_python
    keys = file(f"backup:{KEY.hex()}\nvm:{OTHER.hex()}\n")
    (short_tmp / "pydrbd.toml").write_text(
        f'[resource.r0]\ntls = "require"\ntls-psk = "{keys}"\ntls-clients = ["backup"]\n'
    )
    log = short_tmp / "log"
    with log.open("wb") as stderr:
        words = [*argv, "-m", "tests.nbd.psk_server", short_tmp / "drbd.conf"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        server = processes.start(words, env=env, cwd=ROOT, stderr=stderr, **pipes)
    port = int(server.stdout.readline() or pytest.fail(log.read_text()))

    def run(command: str, *words: object) -> tuple[int, str]:
        done = subprocess.run(
            [need(command), *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S, cwd=short_tmp, env=processes.env,
        )  # fmt: skip
        return done.returncode, done.stdout

    def uri(directory: Path, user: str) -> str:
        return f"nbds://{user}@127.0.0.1:{port}/disk?tls-psk-file={directory}/keys.psk"

    def qemu(directory: Path, user: str) -> tuple[int, str]:
        credentials = f"tls-creds-psk,id=t,endpoint=client,dir={directory},username={user}"
        image = f"driver=nbd,host=127.0.0.1,port={port},export=disk,tls-creds=t"
        return run("qemu-img", "info", "--object", credentials, "--image-opts", image)

    right = save_keys(short_tmp / "right", "backup", KEY)
    (short_tmp / "in").write_bytes(os.urandom(8 * MIB))
    assert run("nbdinfo", "--size", uri(right, "backup")) == (0, f"{8 * MIB}\n")
    assert run("nbdcopy", "--flush", "in", uri(right, "backup")) == (0, "")
    assert run("nbdcopy", uri(right, "backup"), "out") == (0, "")
    assert (short_tmp / "in").read_bytes() == (short_tmp / "out").read_bytes()
    code, said = qemu(right, "backup")
    assert code == 0, said
    assert "speaks TLS as backup" in log.read_text() and "WARNING" not in log.read_text()
    for name, user, key, words in (
        ("wrong", "backup", OTHER, "the TLS handshake failed: binder does not verify, 'backup' has another key here"),
        ("unknown", "who", KEY, "the TLS handshake failed: binder does not verify, 'who' is nobody's name here"),
        ("not allowed", "vm", OTHER, "its key is that of 'vm': not allowed here"),
    ):
        directory = save_keys(short_tmp / name.replace(" ", "-"), user, key)
        assert run("nbdinfo", uri(directory, user))[0] != 0, name
        assert qemu(directory, user)[0] != 0, name
        assert log.read_text().count(words) == 2, log.read_text()
    assert run("nbdinfo", f"nbd://127.0.0.1:{port}/disk")[0] != 0
    code, said = run("qemu-img", "info", f"nbd://127.0.0.1:{port}/disk")
    assert code != 0 and "TLS" in said
    assert KEY.hex() not in log.read_text() and OTHER.hex() not in log.read_text()
    server.communicate(timeout=LIMIT_S)
    assert server.returncode == 0, log.read_text()
