"""A real kernel with a real watchdog, in a guest: armed by its ioctls, closed properly, and it bites when it must."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fence.harness import DAEMON_TIMES
from tests.fence.test_daemon import wait_until
from tests.lab.guest import MODULES, Guest, GuestFailed
from tests.lab.lab import Lab, why_not

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]
ROOT = Path(__file__).resolve().parents[2]
SBD = f"env PYTHONPATH={ROOT}/fence SBD_PACEMAKER=no SBD_SYNC_RESOURCE_STARTUP=no {sys.executable} -P -m pydrbd_fence"
DEVICE = "/dev/ubda"
WATCHDOG = "/dev/watchdog1"
PID = "/run/pydrbd-sbd.pid"
LIMIT_S = 60.0
LOCKED_KIB_MAX = 48 << 10
"""Less than one of sbd's four processes."""


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A guest with softdog, and an sbd device that is its first disk."""
    if reason := why_not():
        pytest.skip(reason)
    with Lab() as lab:
        guest = lab.add_guest("alpha")
        try:
            guest.start()
        except GuestFailed as error:
            pytest.skip(f"a guest can't be started here: {error}")
        load_softdog(guest)
        guest.shell(f"{SBD} -d {DEVICE} -1 {DAEMON_TIMES.watchdog_s} -I {DAEMON_TIMES.io_s} create", timeout_s=LIMIT_S)
        yield guest


def load_softdog(guest: Guest) -> None:
    """So that it can be switched off: this kernel's does not let go otherwise."""
    guest.shell(f"insmod $(find {MODULES / guest.release} -name softdog.ko) nowayout=0")


def watch(guest: Guest, *options: str) -> int:
    """The daemon, as systemd starts it: the command returns when the node is watched."""
    guest.shell(f"{SBD} -d {DEVICE} -w {WATCHDOG} {' '.join(options)} watch", timeout_s=LIMIT_S)
    return int(guest.read_file(PID))


def test_the_daemon_goes_on_judging_when_all_else_hangs(guest: Guest) -> None:
    """Real time, memory locked, never chosen by the OOM killer; its helpers are ordinary processes."""
    pid = watch(guest)
    status = guest.read_file(f"/proc/{pid}/status")
    locked_kib = int(re.search(r"VmLck:\s+(\d+)", status)[1])  # type: ignore[index]
    resident_kib = int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]
    assert 0 < resident_kib <= locked_kib < LOCKED_KIB_MAX, (resident_kib, locked_kib)
    assert guest.read_file(f"/proc/{pid}/oom_score_adj").strip() == "-1000"
    policies = {int(thread): policy_of(guest, thread) for thread in guest.shell(f"ls /proc/{pid}/task").split()}
    assert policies.pop(pid) == ("SCHED_RR", 99)
    # Its eyes too; only the log's writer is an ordinary thread.
    assert sorted(policies.values()) == [("SCHED_OTHER", 0), ("SCHED_RR", 99), ("SCHED_RR", 99)]


def wait_reset(guest: Guest) -> None:
    """A reset boots the same kernel again; the line to its init is lost by that, so the guest is started anew."""
    wait_until(lambda: not guest.runs, "a reset", LIMIT_S)
    boots = guest.console_path.read_text(errors="replace").count("Linux version")
    assert boots == 2, f"{boots} boots: it did not reset\n{guest.console()}"
    guest.power_off()
    guest.start()


def policy_of(guest: Guest, thread: str) -> tuple[str, int]:
    text = guest.shell(f"chrt -p {thread}")
    policy = re.search(r"policy: (SCHED_\w+)", text)
    priority = re.search(r"priority: (\d+)", text)
    assert policy and priority, text
    return policy[1], int(priority[1])


def test_exit_disarms_and_a_stopped_daemon_is_bitten(guest: Guest) -> None:
    """After `exit` the guest lives on, past the watchdog's time; with a daemon that feeds no more it resets."""
    watch(guest)
    guest.shell(f"{SBD} -d {DEVICE} -n beta message alpha exit")
    wait_until(lambda: guest.shell(f"[ -e {PID} ] || echo over"), "the daemon has ended", LIMIT_S)
    ended_s = uptime_s(guest)
    wait_until(lambda: uptime_s(guest) > ended_s + 3 * DAEMON_TIMES.watchdog_s, "the guest lives on", LIMIT_S)
    pid = watch(guest)
    guest.shell(f"kill -STOP {pid}")
    wait_reset(guest)


def uptime_s(guest: Guest) -> float:
    return float(guest.read_file("/proc/uptime").split()[0])


@pytest.mark.slow
def test_a_pill_resets_the_machine_and_the_next_boot_lives(guest: Guest) -> None:
    """By the daemon's own hand; what lies in the mailbox was for the boot before."""
    watch(guest)
    guest.shell(f"({SBD} -d {DEVICE} -n beta message alpha reset &) </dev/null >/dev/null 2>&1")
    wait_reset(guest)
    load_softdog(guest)
    watch(guest)
    assert "alpha\tclear" in guest.shell(f"{SBD} -d {DEVICE} list")


@pytest.mark.slow
def test_watchdogs_are_listed_and_tested(guest: Guest) -> None:
    """query-watchdog arms nothing; test-watchdog proves that it bites."""
    text = guest.shell(f"{SBD} query-watchdog")
    assert f"[1] {WATCHDOG}\n" in text  # this kernel has no word of its identity in sysfs
    guest.begin("sh", "-c", f"{SBD} -w {WATCHDOG} -1 2 test-watchdog")
    wait_reset(guest)
