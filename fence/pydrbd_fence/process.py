"""What the daemon does to itself, so that it goes on judging when everything else hangs.

Every step says whether it worked; none is fatal: in a container some are refused, and the watchdog holds all the same.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import pwd
import threading
from pathlib import Path

from .errors import Refused

__all__ = ["THREAD_STACK_BYTES", "PidFile", "become_realtime", "harden", "leave_cpu_cgroup", "look_like_sbd"]

THREAD_STACK_BYTES = 256 << 10
PR_SET_NAME = 15
MCL_CURRENT, MCL_FUTURE = 1, 2
M_ARENA_MAX = -8
OOM_NEVER = "-1000"
PIDFILE_OF_SBD = "/run/sbd.pid"


def look_like_sbd(user: str = "hacluster") -> list[str]:
    """Be found by Pacemaker 2.1, which wants a process named `sbd` that its own user may signal.

    Its controller runs as hacluster: a saved uid of that user makes kill() legal. /run/sbd.pid must not name us: for a
    program that is not /usr/sbin/sbd Pacemaker deletes it.
    """
    complaints = []
    if ctypes.CDLL(None).prctl(PR_SET_NAME, b"sbd", 0, 0, 0) != 0:
        complaints.append("the process can't be named sbd: Pacemaker will not see a watchdog")
    try:
        if os.geteuid() == 0:
            os.setresuid(0, 0, pwd.getpwnam(user).pw_uid)
    except (KeyError, OSError) as error:
        complaints.append(f"{user} may not signal this process ({error}): Pacemaker may not see a watchdog")
    return complaints


def harden(realtime: bool) -> list[str]:
    """Memory locked, never chosen by the OOM killer, no garbage collection from here on. Call it before threads."""
    complaints = []
    threading.stack_size(THREAD_STACK_BYTES)
    try:
        Path("/proc/self/oom_score_adj").write_text(OOM_NEVER)
    except OSError as error:
        complaints.append(f"the OOM killer may choose this process: {error.strerror}")
    if realtime:
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "mallopt"):
            # Every thread would reserve 64 MiB for itself, all of it locked.
            libc.mallopt(M_ARENA_MAX, 1)
        if libc.mlockall(MCL_CURRENT | MCL_FUTURE) != 0:
            complaints.append(f"memory is not locked: {os.strerror(ctypes.get_errno())}")
    gc.collect()
    gc.freeze()
    gc.disable()
    return complaints


def become_realtime() -> list[str]:
    """The calling thread before all others of this machine; what it starts as another process is not."""
    try:
        priority = os.sched_get_priority_max(os.SCHED_RR)
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        return [f"no real-time priority: {error.strerror}"]
    return []


def leave_cpu_cgroup(mode: str, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> list[str]:
    """In cgroups of version 1 a cpu group without a real-time budget refuses real time: move to the root group.

    `auto` moves out of such a group only, `yes` out of any, `no` never. Call it before threads.
    """
    if mode == "no":
        return []
    try:
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            names = controllers.split(",")
            if "cpu" not in names or place == "/":
                continue
            top = cgroups / ("cpu" if (cgroups / "cpu").is_dir() else controllers)
            budget = int((top / place.lstrip("/") / "cpu.rt_runtime_us").read_text())
            if mode == "yes" or budget == 0:
                (top / "cgroup.procs").write_text(str(os.getpid()))
    except (OSError, ValueError) as error:
        return [f"its cpu cgroup could not be left ({error}): there may be no real-time priority"]
    return []


class PidFile:
    """A file with our pid, locked while we live: a second daemon of the same name is refused."""

    def __init__(self, path: str) -> None:
        if Path(path).resolve() == Path(PIDFILE_OF_SBD).resolve():
            raise Refused(f"{path} belongs to SBD's own daemon, and Pacemaker would delete it: choose another one")
        self._path = path
        self._fd = -1

    def take(self) -> None:
        """Refused if another daemon holds it, or it can't be written."""
        try:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid():10d}\n".encode(), 0)
        except BlockingIOError as error:
            raise Refused(f"{self._path}: another pydrbd-sbd is watching already") from error
        except OSError as error:
            raise Refused(f"{self._path} can't be written: {error.strerror}") from error

    def give_back(self) -> None:
        if self._fd >= 0:
            Path(self._path).unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
