"""`adjust`: a changed configuration, compared with what runs, and taken over as far as that goes without a restart.

    NOW      takes effect at once
    CONNECT  when the nodes meet next; at once if they are not connected
    ATTACH   when the disk is attached next; at once if there is none
    RESTART  only a new process can do it: then nothing is taken over

The comparison is a function of two blueprints; `adjust` does it for a service.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import trio

from pydrbd.config.model import Host
from pydrbd.config.options import SECRET_OPTION, SECTIONS, Option
from pydrbd.core.reconfigure import AT_ATTACH, AT_MEETING
from pydrbd.core.states import ConnState
from pydrbd.errors import ConfigError, PydrbdError, UsageError, exit_code_of
from pydrbd.runtime.affinity import use_processors
from pydrbd.runtime.build import Blueprint, blueprint
from pydrbd.runtime.rendezvous import try_address
from pydrbd.runtime.run_time_options import overridden, parse_options

if TYPE_CHECKING:
    from pydrbd.runtime.service import Service

__all__ = ["Difference", "When", "adjust", "differences", "set_options"]


class When(Enum):
    """When a change takes effect."""

    NOW = "now"
    CONNECT = "connect"
    ATTACH = "attach"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the configuration says otherwise than what runs."""

    text: str
    when: When


_NET_AT_MEETING: Final = {*AT_MEETING, "sndbuf_size_bytes", "rcvbuf_size_bytes"}
_DISK_AT_ATTACH: Final = ("discard-zeroes-if-aligned", "md-flushes")


def differences(old: Blueprint, new: Blueprint) -> list[Difference]:
    """All of them, in the order of the configuration."""
    parts = (_hosts, _resource, _net, _volumes, _handlers, _settings)
    return [difference for part in parts for difference in part(old, new)]


def _hosts(old: Blueprint, new: Blueprint) -> Iterator[Difference]:
    for which, before, after in (("this node", old.me, new.me), ("the peer", old.peer, new.peer)):
        if before.names != after.names:
            yield Difference(f"{which}: {before.name} -> {after.name}", When.RESTART)
        if before.address != after.address:
            words = f"address of {after.name}: {before.address} -> {after.address}"
            family = before.address.family == after.address.family
            yield Difference(words, When.CONNECT if family else When.RESTART)
    numbers = [_numbers(plan.me) for plan in (old, new)]
    if numbers[0] != numbers[1]:
        yield Difference(f"volumes: {_shown(numbers[0])} -> {_shown(numbers[1])}", When.RESTART)


def _numbers(host: Host) -> dict[int, int]:
    return {vnr: volume.minor for vnr, volume in host.volumes.items()}


def _shown(minors: Mapping[int, int]) -> str:
    return ", ".join(f"{vnr} (minor {minor})" for vnr, minor in minors.items())


def _options(section: str, old: object, new: object) -> Iterator[tuple[Option, str]]:
    """The effective options that differ, each with its words."""
    for option in SECTIONS[section].values():
        before, after = getattr(old, option.attribute), getattr(new, option.attribute)
        if before != after and option.effective:
            values = "changed" if option.name == SECRET_OPTION else f"{_word(before)} -> {_word(after)}"
            yield option, f"{section}: {option.name} {values}"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) or "none"


def _resource(old: Blueprint, new: Blueprint) -> Iterator[Difference]:
    for _option, words in _options("options", old.me.options, new.me.options):
        yield Difference(words, When.NOW)


def _net(old: Blueprint, new: Blueprint) -> Iterator[Difference]:
    for option, words in _options("net", old.resource.net, new.resource.net):
        yield Difference(words, When.CONNECT if option.attribute in _NET_AT_MEETING else When.NOW)


def _volumes(old: Blueprint, new: Blueprint) -> Iterator[Difference]:
    for vnr, after in new.me.volumes.items():
        before = old.me.volumes.get(vnr)
        if before is None:
            continue
        for option, words in _options("disk", before.disk_options, after.disk_options):
            late = option.attribute in AT_ATTACH or option.name in _DISK_AT_ATTACH
            yield Difference(f"volume {vnr}: {words}", When.ATTACH if late else When.NOW)
        for name, was, now in (
            ("disk", before.disk, after.disk),
            ("meta-disk", before.meta_disk, after.meta_disk),
        ):
            if was != now:
                yield Difference(f"volume {vnr}: {name} {was or 'none'} -> {now or 'none'}", When.ATTACH)


def _handlers(old: Blueprint, new: Blueprint) -> Iterator[Difference]:
    for field in fields(old.resource.handlers):
        before, after = getattr(old.resource.handlers, field.name), getattr(new.resource.handlers, field.name)
        if before != after:
            words = f"handlers: {field.name.replace('_', '-')} {before or 'none'} -> {after or 'none'}"
            yield Difference(words, When.NOW)


def _settings(old: Blueprint, new: Blueprint) -> Iterator[Difference]:
    before, after = old.settings, new.settings
    if before.io != after.io:
        yield Difference(f"pydrbd.toml: io {before.io} -> {after.io}", When.ATTACH)
    if before.nbd != after.nbd:
        shown = [", ".join(map(str, places)) or "the usual socket" for places in (before.nbd, after.nbd)]
        yield Difference(f"pydrbd.toml: nbd {shown[0]} -> {shown[1]}", When.RESTART)
    if before.nbd_list != after.nbd_list:
        yield Difference(f"pydrbd.toml: nbd-list {before.nbd_list} -> {after.nbd_list}".lower(), When.RESTART)
    if before.nbd_extended_headers != after.nbd_extended_headers:
        words = f"{before.nbd_extended_headers} -> {after.nbd_extended_headers}".lower()
        yield Difference(f"pydrbd.toml: nbd-extended-headers {words}", When.RESTART)
    if before.nbd_read_only != after.nbd_read_only:
        words = f"pydrbd.toml: nbd-read-only {before.nbd_read_only} -> {after.nbd_read_only}".lower()
        yield Difference(words, When.NOW)
    if (before.witness, before.witness_key) != (after.witness, after.witness_key):
        words = f"pydrbd.toml: witness {before.witness or 'none'} -> {after.witness or 'none'}, or its key"
        yield Difference(words, When.RESTART)
    if before.tls != after.tls:
        words = f"pydrbd.toml: tls {before.tls.mode} -> {after.tls.mode}, its files, or link-tls"
        yield Difference(words, When.RESTART)


async def adjust(service: Service, config_path: str, *, dry_run: bool) -> dict[str, Any]:
    """The answer to the control verb: what differs, and when it takes effect; taken over unless `dry_run`."""
    old = service.plan
    try:
        who = old.resource.name, service.node_name, old.chosen_peer
        new = await trio.to_thread.run_sync(blueprint, config_path, *who)
        found = differences(old, new)
        restart = any(difference.when is When.RESTART for difference in found)
        if not dry_run and not restart:
            if new.endpoints.local != old.endpoints.local:
                must_be_ours = not new.config.global_.disable_ip_verification
                try_address(new.endpoints, must_be_ours=must_be_ours)
            await _take_over(service, new)
    except (PydrbdError, OSError) as error:
        return {"code": 0, "text": str(error), "data": {"exit_code": exit_code_of(error)}}
    changes = [{"text": one.text, "when": _when(service, one).value} for one in found]
    return {"code": 1, "text": "", "data": {"changes": changes, "applied": not (dry_run or restart)}}


def _when(service: Service, difference: Difference) -> When:
    """What waits for a meeting or an attach has nothing to wait for if there is neither link nor disk."""
    waits = {
        When.CONNECT: service.node.cstate >= ConnState.WFReportParams,
        When.ATTACH: any(volume.disk is not None for volume in service.node.volumes.values()),
    }
    return difference.when if waits.get(difference.when, True) else When.NOW


async def set_options(service: Service, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to the control verb `options`: other options of one section, until the next adjust."""
    try:
        try:
            settings = parse_options(arguments["section"], arguments["options"])
        except ConfigError as error:
            raise UsageError(str(error)) from None
        new = overridden(service.plan, arguments["section"], settings, arguments.get("volume"))
        found = differences(service.plan, new)
        await _take_over(service, new)
    except (PydrbdError, OSError) as error:
        return {"code": 0, "text": str(error), "data": {"exit_code": exit_code_of(error)}}
    changes = [{"text": one.text, "when": _when(service, one).value} for one in found]
    return {"code": 1, "text": "", "data": {"changes": changes, "applied": True}}


async def _take_over(service: Service, new: Blueprint) -> None:
    service.plan = new
    service.helpers.configure(new)
    if service.owns_process:
        use_processors(new.me.options.cpu_mask, service.usual_processors)
    service.link.configure(new.endpoints, new.times)
    await service.control.command_node("reconfigure", {"options": new.node})
    service.resync_after.renew()
