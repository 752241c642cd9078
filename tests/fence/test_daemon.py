"""The daemon as a process: real devices over NBD and loop, a FIFO for the watchdog, and a power that ends nothing."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pydrbd_fence.device import open_device
from pydrbd_fence.disk import SbdDisk
from pydrbd_fence.extension import Letter, State
from pydrbd_fence.timeouts import derive_timeouts

from tests.fence.harness import DAEMON_TIMES as TIMES

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 30.0


def wait_until(condition, what, limit_s=LIMIT_S):
    """Poll until it is true; the assertion names what did not come."""
    nothing = threading.Event()
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        nothing.wait(0.05)


class Dog:
    """The reader's end of a FIFO that stands for the watchdog: when it was fed, and how it was closed."""

    def __init__(self, path):
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.feeds = []
        self.bytes = b""
        self.closed = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while True:
            poll.poll()
            data = os.read(self._fd, 4096)
            if data:
                self.bytes += data
                self.feeds.append(time.clock_gettime(time.CLOCK_BOOTTIME))
            elif self.bytes:
                self.closed = True
                return

    def rest(self):
        """What was written after the first close, by a process that has ended."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._fd, 4096)
        return b""

    def __repr__(self):
        return f"Dog({len(self.feeds)} feeds, {'closed' if self.closed else 'open'}, {self.bytes[-1:]})"


class Node:
    """One daemon, its FIFO, its power file."""

    def __init__(self, place, processes, addresses, name, *options):
        self.name = name
        self.dog = Dog(place / f"{name}.dog")
        self.power = place / f"{name}.power"
        self.log = place / f"{name}.log"
        self.words = [word for address in addresses for word in ("-d", address)]
        argv = [sys.executable, "-m", "tests.fence.daemon", self.power, *self.words, "-n", name, "-T", "-t", "1"]
        argv += ["-w", self.dog.path, "-p", place / f"{name}.pid", "--priority-dir", place / name, *options, "watch"]
        env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'fence'}"}
        with self.log.open("w") as log:
            self.process = processes.start(argv, env=env, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT)

    def ended(self):
        return self.power.read_text().split() if self.power.exists() else []

    def is_watched(self):
        assert self.process.poll() is None, self.log.read_text()
        return len(self.dog.feeds) > 1


def foreground(*options):
    return ("--foreground", "-R", *options)


def send(node, sender, target, word, env=None):
    """`message` by the same program, as a user types it."""
    argv = [sys.executable, "-m", "tests.fence.daemon", "/nonexistent/power", *node.words, "-n", sender]
    return subprocess.run(
        [*argv, "--priority-dir", "/nonexistent", "message", target, word],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'fence'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def alpha(nbd, disk, short_tmp, processes):
    """A daemon that watches alpha."""
    node = Node(short_tmp, processes, [nbd.address], "alpha", *foreground())
    wait_until(node.is_watched, "the first feed")
    return node


def test_a_pill_of_ours_kills_in_seconds_and_is_acknowledged(alpha, disk):
    """The slot says so before the node ends; the watchdog is left armed, and the sender need not wait for msgwait."""
    wait_until(lambda: disk.read_slot(0).state is State.watching, "state watching")
    sent = send(alpha, "beta", "alpha", "off")
    assert sent.returncode == 0, sent.stderr
    assert "is dead" in sent.stdout
    assert alpha.ended()[0] == "off"
    record = disk.read_slot(0)
    assert record.state is State.dying and record.taken_id == disk.read_letter(0).letter_id
    wait_until(lambda: alpha.dog.closed, "the watchdog's close")
    assert not alpha.dog.bytes.endswith(b"V")
    alpha.process.wait(LIMIT_S)


def test_test_and_exit(alpha, disk):
    """`test` is answered; `exit` disarms with V, leaves no message, and a pill for the node that left is refused."""
    done = send(alpha, "beta", "alpha", "test")
    assert done.returncode == 0 and "took it" in done.stdout, done.stderr
    assert send(alpha, "beta", "alpha", "exit").returncode == 0
    assert alpha.process.wait(LIMIT_S) == 0
    wait_until(lambda: alpha.dog.closed, "the watchdog's close")
    assert alpha.dog.bytes.endswith(b"V") and alpha.ended() == []
    assert disk.read_letter(0) == Letter() and disk.read_slot(0).state is State.left
    refused = send(alpha, "beta", "alpha", "reset")
    assert refused.returncode == 1 and "ended cleanly" in refused.stderr


def test_sigterm_leaves_cleanly(alpha):
    """As systemd stops it."""
    alpha.process.terminate()
    assert alpha.process.wait(LIMIT_S) == 0
    wait_until(lambda: alpha.dog.closed, "the watchdog's close")
    assert alpha.dog.bytes.endswith(b"V") and alpha.ended() == []


def test_a_stalled_device_starves_the_watchdog_and_kills(alpha, nbd):
    """No answer, no error: feeds end within io + loop, and the node is ended by the watchdog's time."""
    nbd.running.clear()
    stalled = time.clock_gettime(time.CLOCK_BOOTTIME)
    wait_until(alpha.ended, "the end of the node")
    action, at = alpha.ended()
    assert action == "reboot"
    assert alpha.dog.feeds[-1] - stalled <= TIMES.fresh_s + 1
    assert float(at) - stalled <= TIMES.death_s + 1
    wait_until(lambda: alpha.dog.closed, "the watchdog's close")
    assert not alpha.dog.bytes.endswith(b"V")


def test_a_server_that_returns_in_time_is_a_disk_regained(alpha, nbd, disk):
    """Away for a moment, all connections lost: the node lives, and takes messages again."""
    nbd.stop()
    wait_until(lambda: "lost device" in alpha.log.read_text(), "the loss")
    nbd.start()
    wait_until(lambda: "is back" in alpha.log.read_text(), "the return")
    done = send(alpha, "beta", "alpha", "test")
    assert done.returncode == 0, done.stderr
    assert alpha.ended() == [] and alpha.process.poll() is None


def test_sigkill_leaves_the_watchdog_armed(alpha):
    """Pacemaker ends nodes this way: no exit handler helps, no V is written."""
    alpha.process.kill()
    alpha.process.wait(LIMIT_S)
    wait_until(lambda: alpha.dog.closed, "the watchdog's close")
    assert not alpha.dog.bytes.endswith(b"V")


def test_sbds_own_tools_see_it_as_sbd(alpha):
    """The process is called sbd."""
    assert Path(f"/proc/{alpha.process.pid}/comm").read_text() == "sbd\n"


def test_a_second_daemon_and_bad_starts_are_refused(alpha, nbd, disk, short_tmp, processes):
    """The same pid file; a device with bad times; start mode clean with a pill in the box: 1, and words."""

    def start(*options, name="beta", pid="beta.pid"):
        argv = [sys.executable, "-m", "tests.fence.daemon", short_tmp / "p", "-d", nbd.address, "-n", name]
        argv += ["-p", short_tmp / pid, "-WW", "-s", "0", *options, "watch"]
        env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'fence'}"}
        process = processes.start(argv, env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        _, words = process.communicate(timeout=LIMIT_S)
        return process.returncode, words

    code, words = start(name="alpha", pid="alpha.pid")
    assert code == 1 and "another pydrbd-sbd" in words
    code, words = start(pid="../../run/sbd.pid")
    assert code == 1 and "belongs to SBD" in words
    disk.claim_slot("beta")
    disk.write_letter(1, Letter(2, "alpha"))
    code, words = start("-S", "1")
    assert code == 1 and "Manual intervention required" in words
    code, words = start("-I", "9")
    assert code == 1 and "bad times" in words
    code, words = start("-d", "nbd+unix:///sbd?socket=/nonexistent", "-S", "1")
    assert code == 1


def test_the_parent_returns_when_the_node_is_watched(nbd, disk, short_tmp, processes):
    """As systemd's Type=forking wants it; the daemon goes on, in real time where that is allowed."""
    node = Node(short_tmp, processes, [nbd.address], "alpha")
    assert node.process.wait(LIMIT_S) == 0, node.log.read_text()
    wait_until(lambda: node.dog.feeds, "a feed")
    pid = int((short_tmp / "alpha.pid").read_text())
    assert Path(f"/proc/{pid}/comm").read_text() == "sbd\n"
    assert send(node, "beta", "alpha", "exit").returncode == 0
    wait_until(lambda: not (short_tmp / "alpha.pid").exists(), "the end")
    assert node.dog.bytes.endswith(b"V")


def test_in_a_split_one_of_two_daemons_dies(nbd, disk, short_tmp, processes):
    """Both send at the same time; beta has the better data, and lives."""
    nodes = {}
    for name in ("alpha", "beta"):
        (short_tmp / name).mkdir()
        nodes[name] = Node(short_tmp, processes, [nbd.address], name, *foreground())
    (short_tmp / "beta" / "r0").write_text("100\n")
    for node in nodes.values():
        wait_until(node.is_watched, f"{node.name} is watched")
    slots = {record.name: index for index, record in disk.slots()}
    wait_until(lambda: disk.read_slot(slots["beta"]).priority == 100, "the priority in the slot")
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'fence'}"}
    senders = []
    for me, other in (("alpha", "beta"), ("beta", "alpha")):
        argv = [sys.executable, "-m", "tests.fence.daemon", "/nonexistent/power", *nodes[me].words, "-n", me]
        argv += ["--priority-dir", short_tmp / me, "message", other, "reset"]
        senders.append(processes.start(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    codes = [sender.wait(LIMIT_S) for sender in senders]
    assert codes == [1, 0], [sender.communicate() for sender in senders]
    assert nodes["alpha"].ended()[:1] == ["reboot"] and nodes["beta"].ended() == []


MASKED = """
set -e
for file in /proc/sysrq-trigger /proc/sys/kernel/sysrq; do
  if [ -e "$file" ]; then mount --bind /dev/null "$file"; fi
done
for file in /proc/sysrq-trigger /proc/sys/kernel/sysrq; do
  if [ -e "$file" ] && ! [ "$(stat -c %t:%T "$file")" = 1:3 ]; then exit 9; fi
done
mount -t tmpfs none /run
exec "$@"
"""
"""Debian's sbd ends its node for real: it only ever runs where sysrq is masked and reboot(2) ends a pid namespace."""


@pytest.mark.interop
def test_sbds_pill_kills_our_daemon(loops, stock, short_tmp, processes):
    """On a block device that sbd created: its `message` reaches our mailbox, and its `list` shows our slot."""
    path = loops()
    assert stock("-d", path, "-1", 2, "-2", 1, "-3", 1, "-4", 8, "create").returncode == 0
    node = Node(short_tmp, processes, [path], "alpha", *foreground())
    wait_until(node.is_watched, "the first feed")
    assert stock("-d", path, "list").stdout == "0\talpha\tclear\t\n"
    assert stock("-d", path, "-n", "beta", "message", "alpha", "exit").returncode == 0
    assert node.process.wait(LIMIT_S) == 0
    assert stock("-d", path, "list").stdout.startswith("0\talpha\tclear\t")
    again = Node(short_tmp, processes, [path], "beta", *foreground())
    wait_until(again.is_watched, "the first feed")
    began = time.monotonic()
    sender = processes.start(
        [stock.program, "-d", path, "-n", "alpha", "message", "beta", "reset"], stdout=subprocess.DEVNULL
    )
    wait_until(again.ended, "the end of the node")
    assert again.ended()[0] == "reboot" and time.monotonic() - began < 4
    assert sender.wait(LIMIT_S) == 0


@pytest.mark.interop
def test_our_pill_kills_sbds_daemon(loops, stock, short_tmp, processes, need):
    """Debian's sbd watches our device; our `reset` ends it, and is proved by msgwait, since it acknowledges nothing."""
    unshare = need("unshare")
    path = loops()
    disk = SbdDisk(open_device(path, 5))
    disk.create(derive_timeouts(2, 1, 1, 6, io_s=1), b"u" * 16)
    dog = Dog(short_tmp / "dog")
    words = [stock.program, "-R", "-T", "-w", dog.path, "-d", path, "-n", "gamma", "-v", "watch"]
    inside = [unshare, "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts", "--ipc"]
    script = MASKED.replace('exec "$@"', '"$@"\nwhile :; do sleep 1; done')
    env = {"SBD_PACEMAKER": "no", "SBD_SYNC_RESOURCE_STARTUP": "no"}
    watched = processes.start([*inside, "sh", "-c", script, "sh", *words], env=env)
    wait_until(lambda: len(dog.feeds) > 2, "sbd's first feeds")
    argv = [sys.executable, "-m", "tests.fence.daemon", "/nonexistent/power", "-d", path, "-n", "alpha"]
    began = time.monotonic()
    sent = subprocess.run(
        [*argv, "message", "gamma", "reset"],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'fence'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert sent.returncode == 0, sent.stderr
    assert "msgwait is over" in sent.stdout and time.monotonic() - began >= 6
    assert watched.poll() is not None and not dog.bytes.endswith(b"V")
    disk.close()


def test_a_crash_dump_is_not_cut_off_by_the_watchdog(alpha):
    """It is switched off for the dump (-C 0). A dump that does not come is no way out: then it is armed again."""
    sent = send(alpha, "beta", "alpha", "crashdump")
    assert sent.returncode == 0, sent.stderr
    assert alpha.ended()[0] == "crashdump"
    alpha.process.wait(LIMIT_S)
    wait_until(lambda: alpha.dog.closed, "the watchdog's close")
    assert (alpha.dog.bytes + alpha.dog.rest()).endswith(b"V\0"), alpha.dog


def test_a_time_for_the_crash_dump_leaves_the_watchdog_armed(nbd, disk, short_tmp, processes):
    """-C 30: the watchdog bites then, if the dump hangs."""
    node = Node(short_tmp, processes, [nbd.address], "alpha", *foreground("-C", "30"))
    wait_until(node.is_watched, "the first feed")
    assert send(node, "beta", "alpha", "crashdump").returncode == 0
    node.process.wait(LIMIT_S)
    wait_until(lambda: node.dog.closed, "the watchdog's close")
    assert b"V" not in node.dog.bytes and node.ended()[0] == "crashdump"


def test_a_simulation_decides_and_stops_nothing(nbd, disk, short_tmp, processes):
    """--simulate: a pill is logged, neither watchdog nor power is touched; nor may a sender count on its death."""
    node = Node(short_tmp, processes, [nbd.address], "alpha", *foreground("--simulate"))
    wait_until(lambda: "is watched now" in node.log.read_text(), "the first good vote")
    wait_until(lambda: disk.read_slot(0).state is State.left, "its slot says that nobody is stopped here")
    refused = send(node, "beta", "alpha", "off")
    assert refused.returncode == 1 and "no watchdog is armed" in refused.stderr
    disk.write_letter(0, Letter(3, "beta", True, True, 1, b"p" * 16, b"s" * 16))
    assert node.process.wait(LIMIT_S) == 0
    log = node.log.read_text()
    assert "Received command off from beta" in log and "only simulated" in log
    assert node.ended() == [] and node.dog.bytes == b""
    assert disk.read_slot(0).state is State.left and disk.read_slot(0).taken_id == bytes(16)
