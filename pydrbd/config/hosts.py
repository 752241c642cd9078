"""Reads what says where things are: `on`, `floating`, `volume`, `device`, `disk`, `meta-disk`, `address`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from pydrbd.config.lexer import Kind, Token
from pydrbd.config.model import Address, MetaDisk, Notice
from pydrbd.config.option_sections import expect_block, read_options, read_proxy
from pydrbd.config.raw import RawHost, RawResource, RawVolume
from pydrbd.config.syntax import Statement
from pydrbd.config.values import did_you_mean, expect_words

__all__ = [
    "MINOR_MAX",
    "VNR_MAX",
    "VOLUME_KEYWORDS",
    "parse_address",
    "parse_port",
    "read_host",
    "read_volume",
    "read_volume_statement",
]

VOLUME_KEYWORDS: Final = ("device", "disk", "meta-disk", "flexible-meta-disk")
"""The statements about a volume; outside of a `volume N { }` they are about volume 0."""

VNR_MAX: Final = 65534
MINOR_MAX: Final = (1 << 20) - 1
_INDEX_MAX: Final = (1 << 31) - 1
_HOST_KEYWORDS: Final = (*VOLUME_KEYWORDS, "address", "volume", "options", "proxy", "node-id")
_FAMILIES: Final = ("ipv4", "ipv6", "sdp", "ssocks")
_NUMBERED_DEVICE: Final = re.compile(r"/dev/drbd([0-9]+)")
_ADDRESS_AND_PORT: Final = re.compile(r"(\[.*\]|[^\[:]+):[0-9]+")
_MINOR_WORDS: Final = "a device name, 'minor N', or both"


def read_host(statement: Statement, resource: RawResource, notices: list[Notice]) -> None:
    """An `on NAME... { }` or `floating ADDRESS;` or `floating ADDRESS { }`."""
    if statement.name == "floating":
        host = RawHost((), statement.place, parse_address(statement, statement.arguments))
        block = statement.block or ()
    else:
        block = expect_block(statement, len(statement.arguments))
        host = RawHost(_host_names(statement), statement.place)
        for token in statement.arguments:
            resource.host_names.add(f"host '{token.text}' in resource '{resource.name}'", token)
    for child in block:
        _read_host_statement(child, host, notices)
    resource.hosts.append(host)


def read_volume(statement: Statement, volumes: dict[int, RawVolume], notices: list[Notice]) -> None:
    """A `volume N { }`; a second one with the same number adds to the first."""
    block = expect_block(statement, 1)
    vnr = _integer(statement.arguments, 0, VNR_MAX, statement, "a volume number")
    volume = volumes.setdefault(vnr, RawVolume(vnr))
    for child in block:
        if child.name not in VOLUME_KEYWORDS:
            raise child.place.error(
                f"'{child.name}' does not belong in a 'volume' section{did_you_mean(child.name, VOLUME_KEYWORDS)}"
            )
        read_volume_statement(child, volume, notices)


def read_volume_statement(statement: Statement, volume: RawVolume, notices: list[Notice]) -> None:
    """One of VOLUME_KEYWORDS; `disk` is a device or, with braces, the options of the volume."""
    name = statement.name
    if name == "disk" and statement.block is not None:
        volume.seen.add("'disk' section", statement.keyword)
        volume.disk_settings += read_options("disk", expect_block(statement), notices)
        return
    volume.seen.add(f"'{name.removeprefix('flexible-')}'", statement.keyword)
    if name == "device":
        volume.device = _parse_device(statement)
    elif name == "disk":
        (volume.disk,) = _non_empty(statement, expect_words(statement, 1, "a device or file, or none"))
    else:
        volume.meta_disk = _parse_meta_disk(statement)


def parse_address(statement: Statement, tokens: Sequence[Token]) -> Address:
    """`[ipv4] ADDRESS:PORT` or `ipv6 [ADDRESS]:PORT`; `statement` is the one that the tokens stand in."""
    family, rest = "ipv4", list(tokens)
    if tokens and tokens[0].text in _FAMILIES:
        family, rest = tokens[0].text, list(tokens[1:])
    if family in ("sdp", "ssocks"):
        raise tokens[0].place.error(f"pydrbd has no transport '{family}': it speaks TCP over ipv4 and ipv6")
    if not rest:
        raise statement.last.end.error(f"'{statement.name}' needs an address and a port")
    text = "".join(token.text for token in rest)
    place = rest[0].place
    if any(token.kind is Kind.STRING for token in rest):
        raise place.error("an address is written without quotes")
    for at in range(1, len(rest)):
        if _ADDRESS_AND_PORT.fullmatch("".join(token.text for token in rest[:at])):
            raise rest[at - 1].end.error(f"';' missing after '{statement.name}' and its address (found {rest[at]})")
    host, colon, port = text.rpartition(":")
    if not colon or host.startswith("[") != host.endswith("]"):
        raise place.error(f"'{text}' is not an address with a port: {_address_form(family)} is")
    if family == "ipv4" and ":" in host:
        raise place.error(f"'{text}' looks like an IPv6 address: these are written ipv6 [ADDRESS]:PORT")
    if family == "ipv6" and not host.startswith("["):
        raise place.error(f"'{text}' is not an IPv6 address in brackets with a port, as {_address_form(family)} is")
    host = host.removeprefix("[").removesuffix("]") if family == "ipv6" else host
    try:
        _ = IPv4Address(host) if family == "ipv4" else IPv6Address(host)
    except AddressValueError:
        raise place.error(f"'{host}' is not a numeric {family} address, as in {_address_form(family)}") from None
    return Address(family, host, parse_port(rest[-1], port))


def parse_port(token: Token, text: str) -> int:
    """A TCP port, 1 to 65535; `token` is where it stands."""
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= 65535:
        raise token.place.error(f"'{text}' is not a TCP port: 1 to 65535")
    return int(text)


def _read_host_statement(statement: Statement, host: RawHost, notices: list[Notice]) -> None:
    name = statement.name
    if name in VOLUME_KEYWORDS:
        volume = host.volumes.setdefault(0, RawVolume(0))
        volume.is_implicit = True
        read_volume_statement(statement, volume, notices)
    elif name == "volume":
        read_volume(statement, host.volumes, notices)
    elif name == "options":
        host.options += read_options("options", expect_block(statement), notices)
    elif name == "address":
        host.seen.add("'address'", statement.keyword)
        if not host.names:
            raise statement.place.error("a 'floating' section has its address in front of the '{'")
        if statement.block is not None:
            raise statement.last.end.error("';' missing: 'address' is no section")
        host.address = parse_address(statement, statement.arguments)
    elif name == "proxy":
        notices.append(Notice("section 'proxy' has no effect in pydrbd", statement.place))
        host.proxy = (*host.proxy, *read_proxy((statement,)))
    elif name == "node-id":
        expect_words(statement, 1, "a number")  # DRBD 9's; the two of 8.4 need no numbers
    else:
        section = "on" if host.names else "floating"
        raise statement.place.error(
            f"'{name}' does not belong in an '{section}' section{did_you_mean(name, _HOST_KEYWORDS)}"
        )


def _host_names(statement: Statement) -> tuple[str, ...]:
    for token in statement.arguments:
        if token.kind is Kind.SYMBOL or not token.text:
            raise token.place.error(f"{token} is not a host name")
    if not statement.arguments:
        raise statement.keyword.end.error("'on' needs the name of a host")
    return tuple(token.text for token in statement.arguments)


def _parse_device(statement: Statement) -> tuple[str, int]:
    """(name, minor) of `device NAME;`, `device minor N;` and `device NAME minor N;`; a name may lack its /dev/."""
    words = expect_words(statement, 3, _MINOR_WORDS)
    tokens = statement.arguments
    if words[0] == "minor" and len(words) < 3:
        return "", _integer(tokens[1:], 0, MINOR_MAX, statement, "a minor number")
    if len(words) == 2 or (len(words) == 3 and words[1] != "minor"):
        raise tokens[1].place.error(f"unexpected {tokens[1]}: 'device' takes {_MINOR_WORDS}")
    name = words[0] if words[0].startswith("/") else f"/dev/{words[0]}"
    minor = _integer(tokens[2:], 0, MINOR_MAX, statement, "a minor number") if len(words) == 3 else None
    numbered = _NUMBERED_DEVICE.fullmatch(name)
    if numbered is not None:
        own_minor = int(numbered[1][-10:])
        if own_minor > MINOR_MAX or minor not in (None, own_minor):
            raise tokens[0].place.error(f"the number in '{words[0]}' must be its minor number, 0 to {MINOR_MAX}")
        return name, own_minor
    if minor is None:
        raise tokens[0].place.error(f"'{words[0]}' has no minor number: say 'device minor N' or 'device /dev/drbdN'")
    if not name.startswith("/dev/drbd_"):
        raise tokens[0].place.error(f"'{words[0]}' can't be a device name of DRBD: it must start with /dev/drbd_")
    return name, minor


def _parse_meta_disk(statement: Statement) -> MetaDisk:
    """`meta-disk internal`, `meta-disk PATH` (flexible), `meta-disk PATH [INDEX]`, `flexible-meta-disk PATH`."""
    tokens = statement.arguments
    opening = next((at for at, token in enumerate(tokens) if token.is_symbol("[")), None)
    if statement.name != "meta-disk" or statement.block is not None or opening != 1:
        (path,) = _non_empty(statement, expect_words(statement, 1, "internal or a device"))
        if "/" not in path and path != "internal" and did_you_mean(path, ("internal",)):
            raise tokens[0].place.error(
                f"'{statement.name} {path}' is neither internal nor the path of a device; did you mean 'internal'?"
            )
        return MetaDisk(path)
    if len(tokens) != 4 or not tokens[3].is_symbol("]"):
        raise tokens[1].place.error("an index is written as a number in brackets: [0]")
    if tokens[0].text == "internal":
        raise tokens[1].place.error("internal meta-data has no index")
    _non_empty(statement, (tokens[0].text,))
    return MetaDisk(tokens[0].text, _integer(tokens[2:3], 0, _INDEX_MAX, statement, "an index"))


def _integer(tokens: Sequence[Token], minimum: int, maximum: int, statement: Statement, what: str) -> int:
    if not tokens:
        raise statement.last.end.error(f"'{statement.name}' needs {what}")
    text = tokens[0].text
    if not re.fullmatch("[0-9]{1,12}", text) or not minimum <= int(text) <= maximum:
        raise tokens[0].place.error(f"{tokens[0]} is not {what}: {minimum} to {maximum}")
    return int(text)


def _non_empty(statement: Statement, words: tuple[str, ...]) -> tuple[str, ...]:
    if "" in words:
        raise statement.arguments[0].place.error(f"'{statement.name}' can't be empty")
    return words


def _address_form(family: str) -> str:
    return "10.0.0.1:7788" if family == "ipv4" else "ipv6 [fd00::1]:7788"
