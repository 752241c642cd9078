"""doctor: look at everything about a resource, and say what is wrong and what mends it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from pydrbd.admin.context import Context, Target
from pydrbd.admin.doctor import Finding, Level, diagnose
from pydrbd.admin.exit_codes import os_error_text
from pydrbd.admin.output import say
from pydrbd.admin.run_log import last_connected, last_error, last_words, place_of
from pydrbd.admin.verbs_adjust import changes_of
from pydrbd.config.model import Host, Resource
from pydrbd.errors import BusyError, PydrbdError

__all__ = ["doctor", "report"]

_PROBE_S: Final = 2.0
"""How long the peer may take to accept a connection."""

_EXIT_ILL: Final = 10
_INDENT: Final = " " * 8


def doctor(context: Context, resource_name: str) -> int:
    """Print all findings of a resource; 0 if nothing is bad, else 10. Raises ConfigError for a name nobody knows."""
    resource = context.resource(resource_name)
    me, peer = resource.pair(context.node)
    findings = list(_look(context, resource, me, peer))
    for line in report(resource.name, me.name, findings):
        say(line)
    return _EXIT_ILL if any(finding.level is Level.BAD for finding in findings) else 0


def report(resource: str, node: str, findings: list[Finding]) -> list[str]:
    """The lines that are printed."""
    bad = sum(finding.level is Level.BAD for finding in findings)
    lines = [f"{resource} on {node}: {'nothing is wrong' if not bad else f'{bad} to mend'}"]
    for finding in findings:
        lines.append(f"  {finding.level.value:>4}  {finding.text}")
        lines += [f"{_INDENT}{command}" for command in finding.commands]
    return lines


def _look(context: Context, resource: Resource, me: Host, peer: Host) -> Iterator[Finding]:
    yield from _configuration(context, resource)
    data = context.running(resource.name)
    log = context.run_dir / f"{resource.name}.log"
    if data is None:
        yield _not_running(resource.name, log)
        yield from _port(me)
        yield from _disks_on_disk(context, resource)
        return
    yield from _changes(context, resource.name)
    handlers = resource.handlers
    with_handler = frozenset(name.replace("_", "-") for name in handlers.__slots__ if getattr(handlers, name))
    fencing = frozenset(volume.disk_options.fencing for volume in me.volumes.values())
    yield from diagnose(
        data,
        handlers=with_handler,
        fencing=fencing,
        since=last_connected(log),
        peer_diskless=frozenset(vnr for vnr, volume in peer.volumes.items() if volume.is_diskless),
        log=place_of(log),
        errors={vnr: last_error(log, vnr) for vnr in me.volumes},
    )
    if data["connection"] not in ("Connected", "StandAlone"):
        yield _peer_port(resource.name, me, peer)
    yield from _exports(data)


def _configuration(context: Context, resource: Resource) -> Iterator[Finding]:
    yield Finding(Level.GOOD, f"the configuration {context.config.file} can be read")
    for notice in context.config.notices:
        yield Finding(Level.NOTE, str(notice))
    secret, algorithm = resource.net.shared_secret, resource.net.cram_hmac_alg
    if secret and not algorithm:
        yield Finding(Level.BAD, "shared-secret without cram-hmac-alg: nobody has to know it", ("set cram-hmac-alg",))


def _changes(context: Context, name: str) -> Iterator[Finding]:
    """What the configuration says otherwise than what runs."""
    try:
        changes = changes_of(context, context.client(name))
        refused = any(change["when"] == "restart" for change in changes)  # adjust would take over none of them
        restart = f"pydrbd down {name} && pydrbd up {name} (under systemd: systemctl restart pydrbd@{name})"
        for change in changes:
            words = f"the configuration has changed since this runs: {change['text']}"
            yield Finding(Level.NOTE, words, (restart if refused else f"pydrbd adjust {name}",))
    except PydrbdError as error:
        yield Finding(Level.BAD, f"the configuration can't be taken over: {error}")


def _not_running(name: str, log: Path) -> Finding:
    said = last_words(log)
    last = f"; the last words in {log}: {said}" if said else ""
    return Finding(Level.BAD, f"it does not run here{last}", (f"pydrbd up {name}",))


def _port(me: Host) -> Iterator[Finding]:
    from pydrbd.runtime.rendezvous import Endpoints, bind

    family = socket.AF_INET6 if me.address.family == "ipv6" else socket.AF_INET
    place = (me.address.host, me.address.port)
    try:
        bind(Endpoints(family, place, place)).close()
    except (BusyError, OSError) as error:
        yield Finding(Level.BAD, os_error_text(error) if isinstance(error, OSError) else str(error))


def _disks_on_disk(context: Context, resource: Resource) -> Iterator[Finding]:
    """The meta-data of each disk that nobody has."""
    from pydrbd.admin.meta_disk import open_meta_disk, places_of

    try:
        places = places_of(context, Target(resource.name))
    except PydrbdError as error:
        yield Finding(Level.NOTE, str(error))
        return
    for target, place in places:
        try:
            with open_meta_disk(target, place, read_only=True) as disk:
                superblock, _layout = disk.superblock()
        except (PydrbdError, OSError) as error:
            text = os_error_text(error) if isinstance(error, OSError) else str(error)
            yield Finding(Level.BAD, text)
            continue
        state = superblock.disk_state_text()
        yield Finding(Level.GOOD, f"{place.path} has meta-data: {state} ({superblock.gi_text()})")


def _peer_port(name: str, me: Host, peer: Host) -> Finding:
    """Whether anybody answers where the peer should be."""
    where, there = str(peer.address), f"on {peer.name}"
    family = socket.AF_INET6 if peer.address.family == "ipv6" else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect((peer.address.host, peer.address.port))
        except ConnectionRefusedError:
            text = f"{peer.name}'s machine answers, but nobody listens on {where}: it is not up there, or StandAlone"
            mend = f"{there}: pydrbd up {name}, or pydrbd connect {name} if it is StandAlone"
            return Finding(Level.BAD, text, (f"{there}: pydrbd cstate {name}", mend))
        except OSError as error:
            words = error.strerror or str(error)
            text = f"{where} can't be reached ({words}): the machine, the network, a firewall, or a wrong address"
            return Finding(Level.BAD, text, (f"ping {peer.address.host}", "compare 'address' in both files"))
    text = f"somebody listens on {where}, but is not our peer yet: it may look for another address than {me.address}"
    return Finding(Level.NOTE, text, (f"{there}: pydrbd doctor {name}",))


def _exports(data: dict[str, Any]) -> Iterator[Finding]:
    """The sockets for NBD clients."""
    for uri in data["nbd"]:
        path = unquote(uri.partition("?socket=")[2])
        if path and not Path(path).is_socket():
            text = f"the socket for NBD clients, {path}, is gone"
            yield Finding(Level.BAD, text, (f"pydrbd down {data['name']} && pydrbd up {data['name']}",))
        elif data["role"] == "Primary":
            clients = sum(volume["clients"] for volume in data["volumes"])
            yield Finding(Level.GOOD, f"NBD clients find it at {uri} ({clients} connected)")
