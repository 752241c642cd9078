"""The commands as users type them, on devices over NBD; settings from options, environment and files."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path

import pytest
from pydrbd_fence.cli import run
from pydrbd_fence.errors import Refused, UsageError
from pydrbd_fence.opening import open_devices
from pydrbd_fence.process import leave_cpu_cgroup
from pydrbd_fence.settings import read_settings
from pydrbd_fence.timeouts import derive_timeouts
from pydrbd_fence.usage import COMMANDS, OPTIONS
from pydrbd_fence.watchdog import list_watchdogs

from tests.fence.harness import NbdServer, NoPower


class Called:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def sbd(nbd, tmp_path):
    """`sbd(*words)` on the server's device; `sbd.device` is it."""

    def call(*words, device=nbd.address, environ=None, sleep=lambda s: None):
        out, err = [], []
        argv = [*(["-d", device] if device else []), "-I", "1", *map(str, words)]
        code = run(argv, power=NoPower(), environ=environ or {}, files=[], out=out.append, err=err.append, sleep=sleep)
        return Called(code, "".join(out), "".join(err))

    call.device = nbd.address
    return call


def test_create_derives_and_prints_what_pacemaker_needs(sbd):
    """One value, all others from it, and the cluster properties that fit."""
    done = sbd("-1", 10, "create")
    assert done.code == 0, done.err
    assert f"Device {sbd.device} is initialized." in done.out
    assert "msgwait 20 s" in done.out
    assert "stonith-watchdog-timeout=20s" in done.out and "stonith-timeout=" in done.out
    dump = sbd("dump").out
    assert "Timeout (watchdog) : 10\n" in dump and "Timeout (msgwait)  : 20\n" in dump
    assert "Timeout (io)       : 1\n" in sbd("-v", "dump").out


@pytest.mark.parametrize("words", [("-1", 30, "-4", 10), ("-1", 1), ("-4", 5), ("-1", 5, "-3", 6)])
def test_create_refuses_bad_times(sbd, nbd, words):
    """Nothing is written."""
    done = sbd(*words, "create")
    assert done.code == 1 and "must be" in done.err
    assert not any(nbd.data)


def test_allocate_and_list(sbd):
    """sbd's columns: slot, name, command, sender."""
    sbd("create")
    assert "Slot for alpha has been allocated" in sbd("allocate", "Alpha").out
    sbd("allocate", "beta")
    assert sbd("-n", "beta", "message", "alpha", "exit").code == 0
    assert sbd("list").out == "0\talpha\texit\tbeta\n1\tbeta\tclear\t\n"
    assert sbd("message", "alpha", "clear").code == 0
    assert "0\talpha\tclear\t" in sbd("list").out


def test_what_can_not_be_done_ends_with_1_and_words(sbd, nbd):
    """sbd's exit code for everything, and a reason on stderr."""
    assert "no SBD header" in sbd("list").err
    sbd("create")
    for words, reason in (
        (("message", "gamma", "reset"), "gamma has no slot"),
        (("message", "gamma", "dance"), "is no message"),
        (("dance",), "is no command"),
        (("list", "more"), "is no command"),
        ((), "Not enough arguments"),
        (("-1", "x", "create"), "no number"),
        (("-9", "create"), "not recognized"),
        (("allocate", "a b"), "no node name"),
    ):
        done = sbd(*words)
        assert done.code == 1 and reason in done.err, words
    nbd.stop()
    gone = sbd("list")
    assert gone.code == 1 and gone.out == f"== disk {sbd.device} unreadable!\n"
    assert sbd("list", device="").code == 1


def test_a_device_that_hangs_ends_the_command_in_time(sbd, nbd):
    """The time for one I/O is the limit; the command does not hang with it."""
    sbd("create")
    nbd.running.clear()
    done = sbd("list")
    assert done.code == 1 and "no answer within 1 s" in done.err
    nbd.running.set()


def test_help_and_watchdogs(sbd):
    """The help names every command; a machine without watchdogs has none."""
    text = sbd("-h").out
    for word in ("create", "dump", "list", "allocate", "message", "watch", "query-watchdog", "test-watchdog"):
        assert word in text
    assert "Discovered" in sbd("query-watchdog").out


def test_a_watchdog_that_does_not_act_fails_its_test(sbd, tmp_path):
    """A file stands for it: armed, kicked once, disarmed with V, and called no protection."""
    file = tmp_path / "wd"
    file.touch()
    slept = []
    done = sbd("-w", file, "-T", "-1", 3, "--simulate", "test-watchdog", sleep=slept.append)
    assert done.code == 1 and "no protection" in done.err
    assert slept == [4] and file.read_bytes() == b"\0V"


def test_messages_go_to_the_majority_of_three(short_tmp, sbd, nbd):
    """One of three servers is gone: `message` works, `list` says which is unreadable and ends with 1."""
    servers = [NbdServer(short_tmp / f"s{i}") for i in range(2)]
    words = [word for server in servers for word in ("-d", server.address)]
    assert sbd(*words, "create").code == 0
    assert sbd(*words, "allocate", "alpha").code == 0
    servers[0].stop()
    assert sbd(*words, "message", "alpha", "exit").code == 0
    listed = sbd(*words, "list")
    assert listed.code == 1 and listed.out.count("0\talpha\texit") == 2
    servers[1].stop()
    assert sbd(*words, "message", "alpha", "exit").code == 1


def test_devices_with_different_times_are_refused(short_tmp, sbd):
    """A cluster has one msgwait."""
    server = NbdServer(short_tmp / "s2")
    sbd("create")
    sbd("-1", 10, "create", device=server.address)
    done = sbd("-d", server.address, "message", "alpha", "exit")
    assert done.code == 1 and "different times" in done.err
    server.stop()


def settings(*argv, environ=None, files=()):
    return read_settings(["-n", "x", *argv], environ or {}, files)


def test_settings_come_from_file_then_environment_then_options(tmp_path):
    """The stronger word wins, key by key."""
    file = tmp_path / "sbd"
    file.write_text(
        '# comment\nSBD_DEVICE="/dev/a; nbd://h/b"\nSBD_STARTMODE=clean\nSBD_WATCHDOG_TIMEOUT=9\n'
        "SBD_PACEMAKER=no\nSBD_DELAY_START=yes\nSBD_TIMEOUT_ACTION=noflush,off\nSBD_OPTS='-W -t 7'\n"
    )
    found = settings("watch", files=[tmp_path / "no", file])
    assert found.devices == ("/dev/a", "nbd://h/b") and found.start_clean and not found.pacemaker
    assert (found.diskless_watchdog_s, found.delay_start, found.restart_s) == (9, None, 7)
    assert (found.flush, found.action) == (False, "off")
    found = settings("-d", "/dev/c", "-S", "0", "-P", environ={"SBD_WATCHDOG_TIMEOUT": "4"}, files=[file])
    assert (found.devices, found.start_clean, found.pacemaker) == (("/dev/c",), False, True)
    assert found.diskless_watchdog_s == 4 and found.restart_s == 5


def test_defaults_are_sbds():
    """Pacemaker yes, always, no delay, /dev/watchdog, flush and reboot."""
    found = settings("watch")
    assert (found.pacemaker, found.start_clean, found.delay_start) == (True, False, 0)
    assert (found.watchdog, found.flush, found.action) == ("/dev/watchdog", True, "reboot")
    assert settings("-W", "-W").watchdog == "" and settings("-w", "/dev/null").watchdog == ""
    assert settings(environ={"SBD_DELAY_START": "1"}).delay_start is None
    assert settings(environ={"SBD_DELAY_START": "40"}).delay_start == 40


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        ((), {"SBD_STARTMODE": "maybe"}),
        ((), {"SBD_PACEMAKER": "perhaps"}),
        ((), {"SBD_WATCHDOG_TIMEOUT": "0"}),
        ((), {"SBD_TIMEOUT_ACTION": "explode"}),
        ((), {"SBD_DEVICE": "sdb"}),
        ((), {"SBD_DEVICE": "/a;/b;/c;/d"}),
        (("-d", "/a", "-d", "/a"), {}),
        (("-d", "nbd://"), {}),
        (("-n", "a b"), {}),
    ],
)
def test_bad_settings_are_refused(argv, environ):
    """Nothing is guessed."""
    with pytest.raises(UsageError):
        read_settings(argv, environ, [])


def test_no_thread_of_a_command_blocks_the_end(sbd, nbd):
    """What is left hanging is a daemon thread."""
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("device"))


def test_every_option_and_command_of_sbd_is_taken(need):
    """What Debian's sbd lists in its help is here, too: scripts and SBD_OPTS go on working."""
    done = subprocess.run([need("sbd"), "-h"], capture_output=True, text=True, timeout=60)
    text = done.stdout + done.stderr
    letters = set(re.findall(r"^-(\w)", text, re.MULTILINE)) | set("czD")
    words = set(re.findall(r"^([a-z][a-z-]+)(?:\t| <node>)", text, re.MULTILINE))
    assert len(letters) > 20 and {"watch", "message", "query-watchdog"} <= words
    assert letters <= {option.name[1:] for option in OPTIONS} and words <= set(COMMANDS)
    taken = [f"-{o.name[1:]}{'1' if o.argument else ''}" for o in OPTIONS if o.name[1:] in letters - set("dprSw")]
    assert settings(*taken, "watch").words == ("watch",)


def test_options_that_are_given_twice_switch_off():
    """-W and -P once and twice, and the old key for the watchdog."""
    assert settings("-W", environ={"SBD_WATCHDOG": "no"}).watchdog == "/dev/watchdog"
    assert settings(environ={"SBD_WATCHDOG": "no"}).watchdog == ""
    assert not settings("-PP").pacemaker and settings("-P").pacemaker
    assert settings(environ={"SBD_MOVE_TO_ROOT_CGROUP": "yes"}).root_cgroup == "yes"


@pytest.mark.parametrize(("mode", "budget", "moves"), [("auto", 0, True), ("auto", 9, False), ("yes", 9, True)])
def test_a_cpu_cgroup_without_a_real_time_budget_is_left(tmp_path, mode, budget, moves):
    """In a tree that stands for the kernel's."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("4:memory:/a\n3:cpu,cpuacct:/system.slice/x\n1:name=systemd:/b\n")
    group = tmp_path / "cpu/system.slice/x"
    group.mkdir(parents=True)
    (group / "cpu.rt_runtime_us").write_text(f"{budget}\n")
    assert leave_cpu_cgroup(mode, tmp_path, tmp_path) == []
    root = tmp_path / "cpu/cgroup.procs"
    assert root.exists() == moves and (not moves or root.read_text() == str(os.getpid()))
    assert leave_cpu_cgroup("no", tmp_path / "none", tmp_path) == []
    assert "may be no real-time priority" in leave_cpu_cgroup(mode, tmp_path / "none", tmp_path)[0]


def test_pacemaker_is_not_left_waiting():
    """A daemon that does not look at Pacemaker never gives the word that it would wait for."""
    with pytest.raises(Refused, match="SBD_SYNC_RESOURCE_STARTUP=no"):
        open_devices(settings("-PP", "watch"), lambda: 0.0, lambda s: None)


def test_the_machines_watchdogs_are_listed(tmp_path):
    """From sysfs, without opening one: that might arm it."""
    for name, identity in (("watchdog0", "iTCO_wdt"), ("watchdog1", "Software Watchdog")):
        (tmp_path / name / "device").mkdir(parents=True)
        (tmp_path / name / "identity").write_text(f"{identity}\n")
    (tmp_path / "drivers/iTCO_wdt").mkdir(parents=True)
    (tmp_path / "watchdog0/device/driver").symlink_to(tmp_path / "drivers/iTCO_wdt")
    (tmp_path / "watchdog2").mkdir()
    found = list_watchdogs(tmp_path)
    assert [(info.path, info.identity, info.driver) for info in found] == [
        ("/dev/watchdog0", "iTCO_wdt", "iTCO_wdt"),
        ("/dev/watchdog1", "Software Watchdog", ""),
        ("/dev/watchdog2", "unknown", ""),
    ]


def test_the_times_of_the_document_fit_each_other():
    """docs/cluster.md: what it tells Pacemaker is at least what `create` prints, and its figures are those."""
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()

    def number(pattern):
        (found,) = re.findall(pattern, text)
        return float(found)

    times = derive_timeouts(int(number(r"pydrbd-sbd -1 (\d+) create")))
    assert not times.complaints()
    assert number(r"stonith-timeout=(\d+)") >= int(times.pacemaker_values()["stonith-timeout"].rstrip("s"))
    assert number(r"printed: (\d+) s here") == times.msgwait_s
    assert number(r"times `token`, ([\d.]+) s here") == pytest.approx(2.2 * number(r"(?m)^    token: (\d+)") / 1000)
