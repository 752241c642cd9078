"""TLS with keys that are shared beforehand (PSK), in place of certificates, for NBD clients.

The file is GnuTLS's (psktool writes it, nbdkit and QEMU read it): a line `USER:KEY` for each, the key in hexadecimal.

It is TLS 1.3 alone: no session is kept that could be taken up without the key, a key exchange is always added, and
there is no cipher that hides nothing. OpenSSL has no certificate here, so who has no key gets nowhere. Beside one, it
would choose ciphers that do not fit the keys, and leave the keys aside.
"""

from __future__ import annotations

import logging
import os
import secrets
import ssl
import stat
from pathlib import Path
from typing import Any, Final

from pydrbd.errors import ConfigError
from pydrbd.runtime.tls import TlsFailed, Visit
from pydrbd.units import KIB

__all__ = ["TLS_KEY_FILE_BYTES_MAX", "TLS_KEY_USER_BYTES_MAX", "KeyIdentity", "read_keys"]

TLS_KEY_FILE_BYTES_MAX: Final = 256 * KIB
TLS_KEY_USER_BYTES_MAX: Final = 128
TLS_KEY_BYTES_MIN: Final = 16
TLS_KEY_BYTES_MAX: Final = 64
"""psktool makes keys of 32 bytes."""

_log = logging.getLogger(__name__)


class KeyIdentity:
    """Whose keys we have, and who of them may come in. A file that was renewed is read again, as certificates are."""

    def __init__(self, path: str, allowed_names: tuple[str, ...] = ()) -> None:
        """Raises ConfigError if the file, or this Python, can't be used."""
        if not getattr(ssl, "HAS_PSK", False):
            raise ConfigError("tls-psk needs Python 3.13 or later, with PSK in its ssl: this one knows certificates")
        self._allowed_names = frozenset(allowed_names)
        self._path = path
        try:
            self._stamp, self._keys = read_keys(path)
        except OSError as error:
            raise ConfigError(f"TLS can't read {path}: {error.strerror}") from None

    def visit(self, *, server_side: bool) -> Visit:
        """A context for one connection, which knows by whose key it came about."""
        assert server_side, "nobody connects by a key here"
        visitor = _Visitor(self._latest(), self._allowed_names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.set_psk_server_callback(visitor.key)  # type: ignore[attr-defined, unused-ignore] # from 3.13 on
        return Visit(context, visitor.check, visitor.blame)

    def _latest(self) -> dict[str, bytes]:
        try:
            if _stamp(Path(self._path).stat()) != self._stamp:
                self._stamp, self._keys = read_keys(self._path)
        except (ConfigError, OSError) as error:
            _log.error("the renewed TLS keys can't be used, those from before still count: %s", error)
        return self._keys


class _Visitor:
    """Who comes by one connection."""

    def __init__(self, keys: dict[str, bytes], allowed_names: frozenset[str]) -> None:
        self._keys = keys
        self._allowed_names = allowed_names
        self._user: str | None = None

    def key(self, user: str | None) -> bytes:
        """A user's key. Who is unknown has one that nobody knows, and fails as with a wrong key, and as late."""
        self._user = user or ""
        return self._keys.get(self._user) or secrets.token_bytes(TLS_KEY_BYTES_MIN)

    def check(self, certificate: dict[str, Any] | None) -> list[str]:
        """The user. Raises TlsFailed if it is not allowed, or there is none."""
        assert certificate is None, "none was asked for"
        if self._user is None or self._user not in self._keys:
            raise TlsFailed("it came without a key")
        if self._allowed_names and self._user not in self._allowed_names:
            raise TlsFailed(f"its key is that of {self._user!r}: not allowed here")
        return [self._user]

    def blame(self) -> str:
        """What is known of a handshake that failed."""
        if self._user is None:
            return ", it came without a key"
        shown = self._user[:TLS_KEY_USER_BYTES_MAX]
        return f", {shown!r} has another key here" if self._user in self._keys else f", {shown!r} is nobody's name here"


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """What changes when the file is renewed."""
    return status.st_mtime_ns, status.st_ino, status.st_size


def read_keys(path: str) -> tuple[tuple[int, ...], dict[str, bytes]]:
    """The file's stamp, and each user's key. Raises OSError, and ConfigError, which never says what a line holds."""
    with Path(path).open("rb") as stream:
        status = os.fstat(stream.fileno())
        if stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"TLS does not use {path}: others than its owner may open it (chmod 600)")
        content = stream.read(TLS_KEY_FILE_BYTES_MAX + 1)
    if len(content) > TLS_KEY_FILE_BYTES_MAX:
        raise ConfigError(f"TLS can't use {path}: it is longer than {TLS_KEY_FILE_BYTES_MAX} bytes")
    keys: dict[str, bytes] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            user, key = _read_line(line.strip(), f"{path}, line {number}")
            if user in keys:
                raise ConfigError(f"TLS can't use {path}, line {number}: its user has a key already")
            keys[user] = key
    if not keys:
        raise ConfigError(f"TLS can't use {path}: there is no key in it")
    return _stamp(status), keys


def _read_line(line: bytes, place: str) -> tuple[str, bytes]:
    name, colon, digits = line.partition(b":")
    try:
        user, key = name.decode(), bytes.fromhex(digits.decode())
    except ValueError:
        user, key = "", b""
    if not colon or not user or not key or user.startswith("#") or "\0" in user:  # "#": GnuTLS's names in hexadecimal
        raise ConfigError(f"TLS can't use {place}: it is not USER:KEY, with the key in hexadecimal")
    if len(name) > TLS_KEY_USER_BYTES_MAX:
        raise ConfigError(f"TLS can't use {place}: its user's name is longer than {TLS_KEY_USER_BYTES_MAX} bytes")
    if not TLS_KEY_BYTES_MIN <= len(key) <= TLS_KEY_BYTES_MAX:
        raise ConfigError(f"TLS can't use {place}: a key has {TLS_KEY_BYTES_MIN} to {TLS_KEY_BYTES_MAX} bytes")
    return user, key
