"""Runs drbd-utils' parsers: drbdadm of DRBD 8.4 and of 9, and drbdsetup-84's table of options."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

__all__ = ["OUTPUTS", "find_drbdadm", "option_tables", "run_drbdadm"]

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", "/lib/drbd", "/usr/lib/drbd"])
OUTPUTS = {"8.4": "drbdadm-84", "9": "drbdadm"}
"""The command of each version (drbdadm of 9 starts the other one where the kernel's DRBD is 8.4)."""


def _find(command: str) -> str:
    found = shutil.which(command, path=_PATH)
    if found is None:
        pytest.skip(f"not installed: {command} (of drbd-utils)")
    return found


def find_drbdadm(version: str) -> str:
    """The command of a version; skips the test if it is not there."""
    return _find(OUTPUTS[version])


def run_drbdadm(version: str, file: Path) -> str | None:
    """What `drbdadm dump` prints for a file; None if it refuses the file."""
    done = subprocess.run([_find(OUTPUTS[version]), "-c", file, "dump"], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


@cache
def option_tables() -> dict[str, dict[str, ElementTree.Element]]:
    """Section to option name to the `<option>` that drbdsetup-84 prints."""
    commands = {"net": "net-options", "disk": "attach", "options": "resource-options"}
    return {section: dict(_options(command)) for section, command in commands.items()}


def _options(command: str) -> Iterator[tuple[str, ElementTree.Element]]:
    argv = [_find("drbdsetup-84"), "xml-help", command]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    for option in ElementTree.fromstring(text).iter("option"):
        if option.get("name") != "set-defaults":
            yield option.get("name", ""), option
