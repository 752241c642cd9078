"""What the figures were measured on, and with which versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import pydrbd

__all__ = ["describe_machine", "versions"]

_ASK = {
    "fio": ("fio", "--version"),
    "nbdkit": ("nbdkit", "--version"),
    "qemu": ("qemu-storage-daemon", "--version"),
}


def describe_machine(directory: Path) -> dict[str, object]:
    """Processor, memory, kernel, load, and the file system of the disks in `directory`."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpu_count": os.cpu_count(),
        "memory_mib": int(memory[1]) // 1024 if memory else None,
        "kernel": platform.release(),
        "file_system": _first_line("stat", "-f", "-c", "%T", str(directory)),
        "load_average": os.getloadavg(),
    }


def versions(*programs: str) -> dict[str, str]:
    """Of ours, and of these programs."""
    return {
        "pydrbd": pydrbd.__version__,
        "python": platform.python_version(),
        "trio": importlib.metadata.version("trio"),
        "cffi": importlib.metadata.version("cffi"),
        **{name: _first_line(*_ASK[name]).removeprefix(f"{_ASK[name][0]} version ") for name in programs},
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _first_line(*command: str) -> str:
    """The first line that a program prints; empty if it is not installed or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
