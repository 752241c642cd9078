"""DRBD 9's `connection { }` and `connection-mesh { }`, as far as they say what DRBD 8.4 can do: one peer, one path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydrbd.config.hosts import parse_address, parse_port
from pydrbd.config.lexer import Token
from pydrbd.config.model import Notice
from pydrbd.config.option_sections import expect_block, read_options
from pydrbd.config.raw import RawHost, RawResource
from pydrbd.config.syntax import Statement
from pydrbd.config.values import did_you_mean, expect_words

__all__ = ["read_connections"]

_KEYWORDS = ("host", "hosts", "net", "disk", "path")


def read_connections(resource: RawResource, notices: list[Notice]) -> None:
    """Merge a resource's only connection into it; ConfigError for what takes DRBD 9."""
    if not resource.connections:
        return
    connection = resource.connections[0]
    if len(resource.hosts) > 2 or len(resource.connections) > 1:
        second = connection if len(resource.hosts) > 2 else resource.connections[1]
        raise second.place.error(
            f"resource '{resource.name}' has connections between more than two hosts: that takes DRBD 9,"
            f" and pydrbd does what DRBD 8.4 does"
        )
    named: list[str] = []
    _read_block(connection, expect_block(connection, 1), resource, named, notices)
    if len(set(named)) != 2:
        raise connection.place.error(f"'{connection.name}' must name two hosts, not {len(set(named))}")


def _read_block(
    owner: Statement, block: Sequence[Statement], resource: RawResource, named: list[str], notices: list[Notice]
) -> None:
    path_count = 0
    for statement in block:
        name = statement.name
        if name == "host":
            _read_host(statement, resource, named)
        elif name == "hosts":
            expect_words(statement, max(1, len(statement.arguments)), "the names of two hosts")
            named += [_find_host(token, resource).names[0] for token in statement.arguments]
        elif name in ("net", "disk") and owner.name != "path":
            for setting in read_options(name, expect_block(statement), notices):
                resource.sections.of(setting.section).append(setting)
        elif name == "path" and owner.name == "connection" and path_count == 0:
            path_count += 1
            _read_block(statement, expect_block(statement), resource, named, notices)
        elif name == "path":
            raise statement.place.error("several paths take DRBD 9, and pydrbd does what DRBD 8.4 does: keep one")
        else:
            raise statement.place.error(
                f"'{name}' does not belong in a '{owner.name}' section{did_you_mean(name, _KEYWORDS)}"
            )


def _read_host(statement: Statement, resource: RawResource, named: list[str]) -> None:
    """`host NAME;`, `host NAME port PORT;` or `host NAME address ADDRESS;`."""
    tokens = statement.arguments
    if statement.block is not None or not tokens:
        raise statement.last.end.error("'host' needs the name of a host and a ';'")
    host = _find_host(tokens[0], resource)
    named.append(host.names[0])
    if len(tokens) == 1:
        return
    if tokens[1].text == "address":
        host.address = parse_address(statement, tokens[2:])
    elif tokens[1].text == "port" and len(tokens) == 3 and host.address is not None:
        host.address = replace(host.address, port=parse_port(tokens[2], tokens[2].text))
    else:
        raise tokens[1].place.error("after the host's name, 'address ADDRESS:PORT' or (if it has one) 'port PORT'")


def _find_host(token: Token, resource: RawResource) -> RawHost:
    for host in resource.hosts:
        if token.text in host.names:
            return host
    known = [name for host in resource.hosts for name in host.names]
    raise token.place.error(
        f"{token} is no host of resource '{resource.name}' (it has {', '.join(known) or 'none'})"
        f"{did_you_mean(token.text, known)}"
    )
