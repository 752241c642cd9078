#!/usr/bin/python3
"""The first process of a machine: a guest with a root of its own that outlives power failures, and systemd.

What it writes below /etc, /usr, /var and /srv stays on its second disk, above the host's files (overlayfs). The server
of guest_init runs beside systemd: no unit's end touches it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "lab"))

import guest_init  # the lab's, by its place: a guest has no packages of ours

DISK = "/dev/ubdb"
PLACE = Path("/mnt/machine")
INSTALLED = Path("/mnt/installed")
"""What `make install` has made, for all machines."""

OWN = ("/etc", "/usr", "/var", "/srv")
TMPFS = ("/run", "/mnt", "/root", "/tmp")
MODULES = Path("/usr/lib/uml/modules")
SYSTEMD = "/lib/systemd/systemd"
BARE = ("etc/systemd/system/*.wants/*", "etc/systemd/system/*.requires/*", "etc/corosync/*.conf")
"""What the host has enabled or configured is not on a bare machine."""

MASKED = (
    "systemd-timesyncd", "systemd-binfmt", "systemd-update-utmp", "systemd-random-seed", "systemd-remount-fs",
    "systemd-pstore", "getty@tty1", "console-getty", "systemd-journal-flush", "systemd-udevd", "systemd-udev-trigger",
    "systemd-logind", "systemd-user-sessions", "e2scrub_reap", "ldconfig",
)  # fmt: skip
"""Units that take time and that nothing here needs."""

JOURNAL = """[Journal]
Storage=volatile
ForwardToConsole=yes
MaxLevelConsole=info
RateLimitIntervalSec=0
"""
"""On the console the log outlives every power failure."""


def own_root() -> None:
    """Lay this machine's disk over the host's files."""
    release = os.uname().release
    subprocess.run(["insmod", str(MODULES / release / "kernel/fs/overlayfs/overlay.ko")], check=True, env=_ENV)
    INSTALLED.mkdir()
    guest_init.mount("hostfs", str(INSTALLED), os.environ["LAB_INSTALLED"])
    PLACE.mkdir()
    if not guest_init.mount("ext4", str(PLACE), source=DISK):
        raise OSError(f"{DISK} can't be mounted")
    for directory in OWN:
        upper, work = PLACE / directory[1:], PLACE / f"work-{directory[1:]}"
        upper.mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
        added = f"{INSTALLED}{directory}"
        lower = f"{added}:{directory}" if Path(added).is_dir() else directory
        if not guest_init.mount("overlay", directory, f"lowerdir={lower},upperdir={upper},workdir={work}"):
            raise OSError(f"{directory} can't be made writable")


def first_boot() -> None:
    """What differs between machines, and what the host has that a bare machine has not."""
    mark = PLACE / "installed"
    if mark.exists():
        return
    name = os.environ["LAB_NAME"]
    for pattern in BARE:
        for path in sorted(Path("/").glob(pattern)):
            path.unlink()
    for unit in MASKED:
        Path(f"/etc/systemd/system/{unit}.service").symlink_to("/dev/null")
    Path("/etc/hostname").write_text(f"{name}\n")
    Path("/etc/hosts").write_text("127.0.0.1 localhost\n")
    Path("/etc/fstab").write_text("")
    Path("/etc/machine-id").write_text(name.encode().hex().ljust(32, "0")[:32] + "\n")
    Path("/etc/systemd/journald.conf.d").mkdir(exist_ok=True)
    Path("/etc/systemd/journald.conf.d/lab.conf").write_text(JOURNAL)
    Path("/usr/lib/modules").mkdir(exist_ok=True)
    Path(f"/usr/lib/modules/{os.uname().release}").symlink_to(MODULES / os.uname().release)
    mark.touch()
    os.sync()


def usual_names() -> None:
    """Its first disk, and softdog: user-mode Linux has a /dev/watchdog of its own that guards nothing."""
    Path("/dev/watchdog").unlink(missing_ok=True)
    Path("/dev/watchdog").symlink_to("watchdog1")
    Path("/dev/vdb").symlink_to("ubda")


_ENV = guest_init.ENVIRONMENT

if __name__ == "__main__":
    try:
        guest_init.prepare(TMPFS)
        own_root()
        first_boot()
        usual_names()
        guest_init.mount("cgroup2", "/sys/fs/cgroup")
        if os.fork() == 0:
            os.setsid()
            guest_init.Server().serve()
        os.execve(SYSTEMD, ["systemd", "--unit=multi-user.target", "--show-status=no"], {"PATH": _ENV["PATH"]})
    except BaseException as error:
        print(f"lab: the machine's init failed: {error!r}", file=sys.stderr, flush=True)
        raise
