"""net-options, disk-options, resource-options: other options for what runs, whatever the configuration says.

They are forgotten at the end of the process, and by the next `adjust`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydrbd.config.consistency import check_resource
from pydrbd.config.dump import quote_word
from pydrbd.config.option_sections import read_options
from pydrbd.config.options import SECTIONS
from pydrbd.config.syntax import read_statements
from pydrbd.config.values import Setting
from pydrbd.runtime.build import Blueprint, settle

__all__ = ["overridden", "parse_options"]


def parse_options(section: str, options: Mapping[str, str]) -> list[Setting]:
    """The settings that these words make; raises ConfigError as for a file."""
    text = "".join(f"{name} {quote_word(value)};" if value else f"{name};" for name, value in options.items())
    return read_options(section, read_statements(text, "command line"), [])


def overridden(plan: Blueprint, section: str, settings: Sequence[Setting], volume: int | None) -> Blueprint:
    """The blueprint with these options of `net`, `disk` or `options` instead. Raises ConfigError."""
    values: dict[str, Any] = {SECTIONS[section][one.name].attribute: one.value for one in settings}
    resource, me = plan.resource, plan.me
    if section == "disk":
        volumes = {
            vnr: each if volume not in (None, vnr) else replace(each, disk_options=replace(each.disk_options, **values))
            for vnr, each in me.volumes.items()
        }
        changed = replace(me, volumes=MappingProxyType(volumes))
        hosts = tuple(changed if host is me else host for host in resource.hosts)
        resource, me = replace(resource, hosts=hosts, disk=replace(resource.disk, **values)), changed
    elif section == "net":
        resource = replace(resource, net=replace(resource.net, **values))
    else:
        changed = replace(me, options=replace(me.options, **values))
        hosts = tuple(changed if host is me else host for host in resource.hosts)
        resource, me = replace(resource, hosts=hosts), changed
    check_resource(resource, settings)
    return settle(plan.config, resource, me, plan.peer, plan.settings)
