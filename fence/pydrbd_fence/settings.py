"""What the user wants: sbd's options, then the environment, then /etc/default/sbd (or /etc/sysconfig/sbd).

Values are checked here, so that a daemon that starts has understood all of them.
"""

from __future__ import annotations

import getopt
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import SbdError, UsageError
from .layout import check_name
from .nbd import is_nbd, parse_address
from .panel import DEVICES_MAX
from .timeouts import WATCHDOG_S
from .usage import KEYS, LONG, SHORT

__all__ = ["CONFIG_FILES", "PRIORITY_DIRECTORY", "Settings", "read_config", "read_settings"]

CONFIG_FILES = (Path("/etc/default/sbd"), Path("/etc/sysconfig/sbd"))
PRIORITY_DIRECTORY = "/run/pydrbd-sbd/priority"
STARTUP_S = 120
YES, NO = ("1", "yes", "true", "on"), ("0", "no", "false", "off")


@dataclass(frozen=True, slots=True)
class Settings:
    """One command line with all that stands behind it. None: not said."""

    words: tuple[str, ...]
    devices: tuple[str, ...]
    node: str
    watchdog_s: int | None
    allocate_s: int | None
    loop_s: int | None
    msgwait_s: int | None
    io_s: int | None
    warn_s: int | None
    restart_s: int
    startup_s: int
    delay_start: int | None
    """Seconds to wait before the start; None: as long as msgwait, or twice the watchdog."""
    start_clean: bool
    pacemaker: bool
    cluster_first: bool
    watchdog: str
    """The watchdog's path, or "" for none."""
    set_watchdog_time: bool
    diskless_watchdog_s: int
    action: str
    flush: bool
    crashdump_s: int
    realtime: bool
    root_cgroup: str
    """Leave a cpu cgroup: `auto` (one without a real-time budget), `yes`, `no`."""
    pidfile: str
    foreground: bool
    simulate: bool
    verbosity: int
    help: bool
    priority_directory: str
    sync_startup: bool


def read_config(files: Sequence[Path]) -> dict[str, str]:
    """The assignments of the first file that is there, quotes taken off as a shell does."""
    for file in files:
        try:
            text = file.read_text()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"{file} can't be read: {error.strerror}") from error
        found: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            try:
                words = shlex.split(line, comments=True)
            except ValueError as error:
                raise UsageError(f"{file}:{number}: {error}") from error
            found |= dict(word.split("=", 1) for word in words if "=" in word)
        return found
    return {}


def number(text: str, what: str, least: int = 0) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise UsageError(f"{what}: {text!r} is no number of at least {least}")
    return int(text)


def truth(text: str, what: str) -> bool:
    if text.lower() in YES:
        return True
    if text.lower() in NO or not text:
        return False
    raise UsageError(f"{what}: {text!r} is neither yes nor no")


def parse_devices(listed: Sequence[str]) -> tuple[str, ...]:
    """One to three different devices: paths from / on, or NBD addresses."""
    for device in listed:
        if is_nbd(device):
            parse_address(device)
        elif not device.startswith("/"):
            raise UsageError(f"{device!r} is no device: a path begins with /, an address with nbd:// or nbd+unix://")
    if len(set(listed)) != len(listed):
        raise UsageError("a device is named twice")
    if len(listed) > DEVICES_MAX:
        raise UsageError(f"{len(listed)} devices are named, at most {DEVICES_MAX} work")
    return tuple(listed)


def parse_delay(text: str) -> int | None:
    """0 for no delay, None for sbd's own (`yes`), or seconds."""
    if text.isdigit() and int(text) > 1:
        return int(text)
    return None if truth(text, "SBD_DELAY_START") else 0


def parse_root_cgroup(text: str) -> str:
    """`auto`, `yes` or `no`."""
    if text == "auto":
        return text
    return "yes" if truth(text, "SBD_MOVE_TO_ROOT_CGROUP") else "no"


def parse_action(text: str) -> tuple[bool, str]:
    """Flush first? And what then: `reboot`, `off` or `crashdump`."""
    flush, action = True, "reboot"
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word in ("flush", "noflush"):
            flush = word == "flush"
        elif word in ("reboot", "off", "crashdump"):
            action = word
        else:
            raise UsageError(f"time-out action: {word!r} is unknown")
    return flush, action


def read_settings(argv: Sequence[str], environ: Mapping[str, str], files: Sequence[Path] = CONFIG_FILES) -> Settings:
    """All settings; UsageError says which one is wrong."""
    keys = read_config(files) | {key: value for key, value in environ.items() if key in KEYS}
    try:
        early = shlex.split(keys.get("SBD_OPTS", "")) if "watch" in argv else []
        options, words = getopt.gnu_getopt([*early, *argv], SHORT, LONG)
    except (getopt.GetoptError, ValueError) as error:
        raise UsageError(str(error)) from error
    last = dict(options)
    count = {name: sum(option == name for option, _ in options) for name in ("-W", "-v", "-P")}

    def chosen(option: str, least: int = 0) -> int | None:
        return number(last[option], option, least) if option in last else None

    devices = [value for option, value in options if option == "-d"] or [
        part.strip() for part in keys.get("SBD_DEVICE", "").split(";") if part.strip()
    ]
    flush, action = parse_action(last.get("-r", keys.get("SBD_TIMEOUT_ACTION", "")))
    watchdog = last.get("-w", keys.get("SBD_WATCHDOG_DEV", "/dev/watchdog"))
    wanted = count["-W"] % 2 == 1 if count["-W"] else truth(keys.get("SBD_WATCHDOG") or "yes", "SBD_WATCHDOG")
    mode = keys.get("SBD_STARTMODE", "always") or "always"
    if mode not in ("always", "clean"):
        raise UsageError(f"SBD_STARTMODE: {mode!r} is neither always nor clean")
    try:
        node = check_name(last.get("-n") or platform.node())
    except SbdError as error:
        raise UsageError(str(error)) from error
    return Settings(
        words=tuple(words),
        devices=parse_devices(devices),
        node=node,
        watchdog_s=chosen("-1", 1),
        allocate_s=chosen("-2", 1),
        loop_s=chosen("-3", 1),
        msgwait_s=chosen("-4", 1),
        io_s=chosen("-I", 1),
        warn_s=chosen("-5"),
        restart_s=5 if chosen("-t") is None else int(last["-t"]),
        startup_s=STARTUP_S if chosen("-s") is None else int(last["-s"]),
        delay_start=parse_delay(keys.get("SBD_DELAY_START", "no")),
        start_clean=(chosen("-S") == 1) if "-S" in last else mode == "clean",
        pacemaker=bool(count["-P"] % 2) if count["-P"] else truth(keys.get("SBD_PACEMAKER", "yes"), "SBD_PACEMAKER"),
        cluster_first="-z" in last,
        watchdog=watchdog if wanted and watchdog not in ("", "/dev/null") else "",
        set_watchdog_time="-T" not in last,
        diskless_watchdog_s=number(keys.get("SBD_WATCHDOG_TIMEOUT", "") or str(WATCHDOG_S), "SBD_WATCHDOG_TIMEOUT", 1),
        action=action,
        flush=flush,
        crashdump_s=chosen("-C") or 0,
        realtime="-R" not in last,
        root_cgroup=parse_root_cgroup(keys.get("SBD_MOVE_TO_ROOT_CGROUP") or "auto"),
        pidfile=last.get("-p", keys.get("SBD_PIDFILE", "")),
        foreground="--foreground" in last,
        simulate="--simulate" in last,
        verbosity=count["-v"],
        help="-h" in last or "--help" in last,
        priority_directory=last.get("--priority-dir", os.fspath(PRIORITY_DIRECTORY)),
        sync_startup=truth(keys.get("SBD_SYNC_RESOURCE_STARTUP", "yes"), "SBD_SYNC_RESOURCE_STARTUP"),
    )
