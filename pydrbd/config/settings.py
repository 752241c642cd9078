"""`pydrbd.toml` beside the configuration: what DRBD's language has no words for.

[resource.r0]
nbd = ["unix:/run/r0.sock", "tcp:127.0.0.1:10809"]
io = "auto"
tls = "require"
tls-certificate = "/etc/pydrbd/cert.pem"
tls-key = "/etc/pydrbd/key.pem"
tls-authority = "/etc/pydrbd/authority.pem"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydrbd.config.values import did_you_mean
from pydrbd.errors import ConfigError, UsageError
from pydrbd.limits import CONFIG_FILE_BYTES_MAX, TLS_NAMES_MAX

__all__ = [
    "SETTINGS_FILE_NAME",
    "SETTINGS_KEYS",
    "Listen",
    "ResourceSettings",
    "Settings",
    "TlsSettings",
    "listen_option",
    "load_settings",
    "parse_listen",
    "parse_settings",
]

SETTINGS_FILE_NAME: Final = "pydrbd.toml"
SETTINGS_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "nbd": "A list of places where NBD clients may connect, as in unix:/run/r0.sock, tcp:127.0.0.1:10809,"
        " tcp:[::1]:10809 or, for guests of this machine, vsock:10809; they take the place of the socket in the"
        " run directory.",
        "nbd-list": "true (default) or false: whether a client may have the exports listed; one whose name it knows it"
        " can open in either case.",
        "nbd-read-only": "true or false (default): each volume also under the name RES@ro (RES/N@ro), which can only be"
        " read, and on a Secondary, too: there from a disk that changes as the Primary writes.",
        "nbd-extended-headers": "true or false (default): whether a client may have NBD's extended headers, with"
        " lengths of 64 bits; recent ones then always do, and each of their requests costs more.",
        "tls": "off (default); allow: an NBD client may ask for TLS; require: it must, except on a Unix socket, which"
        " only its owner can open.",
        "tls-certificate": "A PEM file with our certificate, and those between it and the authority.",
        "tls-key": "A PEM file with its key, without a password.",
        "tls-authority": "A PEM file with the authority's certificates: clients must then show a valid one of it."
        " Without, TLS only hides what is said, and anybody may come in.",
        "tls-psk": "A file with a line USER:KEY for each client, as GnuTLS's psktool writes it, which only its owner"
        " may open: clients come by such a key, and no longer by a certificate. Needs Python 3.13 or later.",
        "tls-clients": "A list of names: only clients whose certificate has one of them as its common name or as a DNS"
        " name may come in, or whose key is that of such a user. Needs tls-authority or tls-psk.",
        "link-tls": "off (default), or require: the two nodes speak TLS with each other, both with a certificate of"
        " tls-authority. A kernel can't; both nodes must say the same.",
        "link-tls-peer": "The name that the peer's certificate must have; without, the one behind on in the .res file.",
        "witness": "Where a witness (pydrbd witness) listens, which decides for quorum majority who of two nodes may go"
        " on alone: tcp:HOST:PORT or unix:PATH. Both nodes must name the same one.",
        "witness-key": "A file with the key that the witness shares with both nodes.",
        "io": "auto (default): direct where it can; direct (O_DIRECT); buffered (the page cache).",
    }
)
"""What `[resource.NAME]` may hold, in words."""
_TLS_MODES: Final = ("off", "allow", "require")
_IO_MODES: Final = ("auto", "direct", "buffered")
_UNIX_PATH_BYTES_MAX: Final = 107
_VSOCK_PORT_ANY: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Listen:
    """Where somebody may connect: a Unix socket's `path`, a vsock `port`, or (with path "") a TCP `host` and `port`."""

    path: str = ""
    host: str = ""
    port: int = 0
    is_vsock: bool = False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        if self.is_vsock:
            return f"vsock:{self.port}"
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What `[resource.NAME]` says of TLS, for NBD clients and between the nodes. Relative paths were made absolute."""

    mode: str = "off"
    certificate: str = ""
    key: str = ""
    authority: str = ""
    clients: tuple[str, ...] = ()
    link: bool = False
    link_peer: str = ""
    psk: str = ""


@dataclass(frozen=True, slots=True)
class ResourceSettings:
    """`[resource.NAME]`."""

    nbd: tuple[Listen, ...] = ()
    io: str = "auto"
    nbd_list: bool = True
    nbd_read_only: bool = False
    nbd_extended_headers: bool = False
    tls: TlsSettings = field(default_factory=TlsSettings)
    witness: Listen | None = None
    witness_key: str = ""
    """The file's path."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole file; `resource(name)` gives the defaults for one that it does not name."""

    resources: Mapping[str, ResourceSettings] = field(default_factory=lambda: MappingProxyType({}))
    metrics: Listen | None = None
    """Where `pydrbd metrics` listens."""

    def resource(self, name: str) -> ResourceSettings:
        return self.resources.get(name, ResourceSettings())


def load_settings(config_path: str | Path) -> Settings:
    """The settings beside the configuration file at `config_path`; the defaults if there are none."""
    file = Path(config_path).parent / SETTINGS_FILE_NAME
    try:
        with file.open("rb") as stream:
            content = stream.read(CONFIG_FILE_BYTES_MAX + 1)
        if len(content) > CONFIG_FILE_BYTES_MAX:
            raise _error(str(file), f"is longer than {CONFIG_FILE_BYTES_MAX} bytes")
        text = content.decode()
    except FileNotFoundError:
        return Settings()
    except UnicodeDecodeError as error:
        raise _error(str(file), f"is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise _error(str(file), f"can't be read: {error.strerror}") from error
    return parse_settings(text, str(file))


def parse_settings(text: str, file: str = SETTINGS_FILE_NAME) -> Settings:
    """The settings in a TOML text; ConfigError names the key (`resource.r0.nbd[1]`) and what is wrong with it."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _error(file, f"is not TOML: {error}") from error
    _check_keys(document, ("resource", "metrics"), "", file)
    tables = _table(document.get("resource", {}), "resource", file)
    resources = {name: _read_resource(name, table, file) for name, table in tables.items()}
    return Settings(MappingProxyType(resources), _read_metrics(document.get("metrics", {}), file))


def _read_metrics(value: object, file: str) -> Listen | None:
    table = _table(value, "metrics", file)
    _check_keys(table, ("listen",), "metrics.", file)
    return parse_listen(table["listen"], "metrics.listen", file) if "listen" in table else None


def _read_resource(name: str, value: object, file: str) -> ResourceSettings:
    key = f"resource.{name}"
    table = _table(value, key, file)
    _check_keys(table, tuple(SETTINGS_KEYS), f"{key}.", file)
    listens = table.get("nbd", [])
    if not isinstance(listens, list):
        raise _error(file, f"{key}.nbd must be a list of strings")
    io = table.get("io", "auto")
    if io not in _IO_MODES:
        guess = did_you_mean(str(io), _IO_MODES)
        raise _error(file, f"{key}.io can't be {io!r} (but auto, direct or buffered){guess}")
    parsed = tuple(_read_nbd(entry, f"{key}.nbd[{at}]", file) for at, entry in enumerate(listens))
    may_list = _read_switch(key, table, "nbd-list", True, file)
    read_only = _read_switch(key, table, "nbd-read-only", False, file)
    extended = _read_switch(key, table, "nbd-extended-headers", False, file)
    return ResourceSettings(
        parsed, io, may_list, read_only, extended, _read_tls(key, table, file), *_read_witness(key, table, file)
    )


def _read_switch(key: str, table: Mapping[str, object], name: str, default: bool, file: str) -> bool:
    value = table.get(name, default)
    if not isinstance(value, bool):
        raise _error(file, f"{key}.{name} can't be {value!r} (but true or false)")
    return value


def _read_witness(key: str, table: Mapping[str, object], file: str) -> tuple[Listen | None, str]:
    path = table.get("witness-key", "")
    if not isinstance(path, str) or "\0" in path or ("witness-key" in table and not path):
        raise _error(file, f"{key}.witness-key must be the path of a file")
    if "witness" not in table:
        if path:
            raise _error(file, f"{key}.witness-key is for a witness, and {key}.witness is missing")
        return None, ""
    return parse_listen(table["witness"], f"{key}.witness", file), str(Path(file).parent / path) if path else ""


def _read_tls(key: str, table: Mapping[str, object], file: str) -> TlsSettings:
    mode = table.get("tls", "off")
    if mode not in _TLS_MODES:
        raise _error(file, f"{key}.tls can't be {mode!r} (but off, allow or require)")
    link = table.get("link-tls", "off")
    if link not in ("off", "require"):
        raise _error(file, f"{key}.link-tls can't be {link!r} (but off or require)")
    paths: dict[str, str] = {}
    for name in ("psk", "certificate", "key", "authority"):
        path = table.get(f"tls-{name}", "")
        if not isinstance(path, str) or "\0" in path:
            raise _error(file, f"{key}.tls-{name} must be the path of a file")
        paths[name] = str(Path(file).parent / path) if path else ""
        if mode != "off" and not path and name in ("certificate", "key") and not paths["psk"]:
            raise _error(file, f"{key}.tls is {mode}: it needs tls-{name}, or tls-psk")
        if mode != "off" and path and name != "psk" and paths["psk"] and link == "off":
            raise _error(file, f"{key}.tls-psk takes the place of tls-{name}, which only link-tls could use")
        if link != "off" and not path and name != "psk":
            raise _error(file, f"{key}.link-tls is {link}: it needs tls-{name}")
    clients = table.get("tls-clients", [])
    if not isinstance(clients, list) or not all(isinstance(name, str) and name for name in clients):
        raise _error(file, f"{key}.tls-clients must be a list of names")
    if len(clients) > TLS_NAMES_MAX:
        raise _error(file, f"{key}.tls-clients has more than {TLS_NAMES_MAX} names")
    if clients and not paths["authority"] and not paths["psk"]:
        raise _error(file, f"{key}.tls-clients needs tls-authority or tls-psk, which says whose word names are")
    if "tls-clients" in table and not clients:
        raise _error(file, f"{key}.tls-clients is empty: nobody could come in")
    peer = table.get("link-tls-peer", "")
    if not isinstance(peer, str):
        raise _error(file, f"{key}.link-tls-peer must be a name")
    files = (paths["certificate"], paths["key"], paths["authority"])
    return TlsSettings(str(mode), *files, tuple(clients), link == "require", peer, paths["psk"])


def _read_nbd(entry: object, key: str, file: str) -> Listen:
    scheme, _, port = entry.partition(":") if isinstance(entry, str) else ("", "", "")
    if scheme != "vsock":
        return parse_listen(entry, key, file)
    if not (port.isascii() and port.isdigit() and len(port) < 11 and 0 < int(port) < _VSOCK_PORT_ANY):
        raise _error(file, f"{key}: '{port}' is not a vsock port: 1 to {_VSOCK_PORT_ANY - 1}")
    return Listen(port=int(port), is_vsock=True)


def parse_listen(entry: object, key: str, file: str) -> Listen:
    """`unix:PATH`, `tcp:HOST:PORT` or `tcp:[IPV6]:PORT`; ConfigError that names `file` and `key`."""
    scheme, _, rest = entry.partition(":") if isinstance(entry, str) else ("", "", "")
    if scheme == "unix" and rest:
        if "\0" in rest or len(rest.encode()) > _UNIX_PATH_BYTES_MAX:
            raise _error(file, f"{key}: a socket's path has at most {_UNIX_PATH_BYTES_MAX} bytes")
        return Listen(path=rest)
    host, _, port = rest.rpartition(":")
    bare_host = host.removeprefix("[").removesuffix("]")
    if scheme != "tcp" or not bare_host or (":" in host and not host.startswith("[")):
        raise _error(file, f"{key} can't be {entry!r} (but unix:PATH, tcp:HOST:PORT or tcp:[IPV6]:PORT)")
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise _error(file, f"{key}: '{port}' is not a TCP port: 1 to 65535")
    return Listen(host=bare_host, port=int(port))


def listen_option(entry: str) -> Listen:
    """The word of --listen. Raises UsageError."""
    try:
        return parse_listen(entry, "--listen", "command line")
    except ConfigError as error:
        raise UsageError(str(error)) from None


def _error(file: str, message: str) -> ConfigError:
    return ConfigError(f"{file}: {message}")


def _table(value: object, key: str, file: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _error(file, f"{key} must be a table")
    return value


def _check_keys(table: Mapping[str, object], known: tuple[str, ...], prefix: str, file: str) -> None:
    for key in table:
        if key not in known:
            raise _error(file, f"unknown key '{prefix}{key}'{did_you_mean(key, known)}")
