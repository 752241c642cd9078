"""DRBD 8.4's `.res` language as frozen values: start reading in load.py (files) and model.py (what comes out)."""

from __future__ import annotations

from pydrbd.config.dump import dump_config
from pydrbd.config.load import load_config, parse_config
from pydrbd.config.model import Address, Config, Host, MetaDisk, Notice, Resource, VolumeConfig
from pydrbd.config.sections import (
    DiskOptions,
    GlobalOptions,
    Handlers,
    NetOptions,
    ResourceOptions,
    StartupOptions,
)
from pydrbd.config.settings import Listen, ResourceSettings, Settings, load_settings

__all__ = [
    "Address",
    "Config",
    "DiskOptions",
    "GlobalOptions",
    "Handlers",
    "Host",
    "Listen",
    "MetaDisk",
    "NetOptions",
    "Notice",
    "Resource",
    "ResourceOptions",
    "ResourceSettings",
    "Settings",
    "StartupOptions",
    "VolumeConfig",
    "dump_config",
    "load_config",
    "load_settings",
    "parse_config",
]
