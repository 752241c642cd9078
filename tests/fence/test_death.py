"""Success means death, and silence means death: a real Primary that is stopped acknowledges nothing any more.

alpha is a node in a pid namespace: pydrbd-sbd with all its power, and pydrbd as Primary with a client that writes
without a pause. beta, its peer, lives outside. Both reach the sbd device through servers of their own, so that alpha's
may stall alone. Every acknowledgement is noted with its time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pydrbd.admin.nbd_client import NbdClient, RequestFailed
from pydrbd.admin.nbd_handshake import NbdClientError
from pydrbd.wire.nbd import Command
from tests.fence.harness import DAEMON_TIMES, NbdServer
from tests.fence.test_daemon import MASKED, ROOT, Dog, wait_until
from tests.runtime.test_rendezvous import free_ports

pytestmark = pytest.mark.timeout(240)
LIMIT_S = 60.0
NODE = MASKED.replace('exec "$@"', '$SBD &\n$PYDRBD &\nwhile :; do sleep 1; done')
BLOCK_BYTES = 4096
LATE_S = 1.0
"""So much later than a busy machine should, a node may die: less than what msgwait has to spare."""


def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Client:
    """Writes numbered blocks to one place, one at a time; `answers` has the number and time of each acknowledgement."""

    def __init__(self, path):
        self.answers = []
        self._client = NbdClient.connect(path, "r0", depth=1, timeout_s=LIMIT_S)
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def _write(self):
        number = 0
        with contextlib.suppress(NbdClientError, RequestFailed, OSError), self._client:
            while True:
                number += 1
                block = number.to_bytes(8, "big").ljust(BLOCK_BYTES, b"\0")
                self._client.submit(
                    Command.WRITE, payload=block, on_reply=lambda error, _, number=number: self._note(error, number)
                )
                self._client.drain()

    def _note(self, error, number):
        if not error:
            self.answers.append((number, now()))

    @property
    def last(self):
        return self.answers[-1] if self.answers else (0, 0.0)


class HardwareWatchdog(threading.Thread):
    """What a driver does: without a feed in its time, the machine is gone. A stopped daemon can't prevent it."""

    def __init__(self, dog, power_off):
        super().__init__(daemon=True)
        self.dog, self.power_off = dog, power_off
        self.acted = False
        self.over = threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.02):
            if self.dog.feeds and now() - self.dog.feeds[-1] > DAEMON_TIMES.watchdog_s:
                self.acted = True
                self.power_off()
                return


class Pair:
    """alpha in its namespace, beta beside it."""

    def __init__(self, place, processes, unshare, device):
        self.place = place
        self.processes = processes
        self.config = place / "r0.res"
        hosts = "".join(
            f"on {name} {{ device minor 0; disk {place}/{name}.img; meta-disk internal; address 127.0.0.1:{port}; }}\n"
            for name, port in zip(("alpha", "beta"), free_ports(2), strict=True)
        )
        self.config.write_text(f"resource r0 {{ net {{ connect-int 1; ping-int 1; }}\n{hosts}}}\n")
        for name in ("alpha", "beta"):
            with (place / f"{name}.img").open("wb") as disk:
                disk.truncate(8 << 20)
            self.pydrbd(name, "create-md", "r0")
        self.dog = Dog(place / "dog")
        env = {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'fence'}",
            "SBD_PACEMAKER": "no",
            "SBD_SYNC_RESOURCE_STARTUP": "no",
            "SBD": f"{sys.executable} -P -m pydrbd_fence -d {device} -n alpha -R -T -t 1 -w {place}/dog"
            " --foreground watch",
            "PYDRBD": " ".join(self.words("alpha", "serve", "r0")),
        }
        words = [unshare, "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts", "--ipc"]
        with (place / "alpha.log").open("w") as log:
            self.alpha = processes.start([*words, "sh", "-c", NODE], env=env, stdout=log, stderr=log)
        self.beta = processes.start(
            self.words("beta", "serve", "r0"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def words(self, name, *verb):
        common = ("-c", self.config, "--node", name, "--run-dir", self.place / f"run-{name}")
        return [str(word) for word in (sys.executable, "-P", "-m", "pydrbd", *verb, *common)]

    def pydrbd(self, name, *verb):
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            self.words(name, *verb), env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        return done.returncode

    def socket(self, name):
        return self.place / f"run-{name}" / "r0.nbd.sock"

    def power_off(self):
        """All of alpha is gone at once."""
        pid = self.alpha.pid
        with contextlib.suppress(OSError, IndexError):
            os.kill(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]), signal.SIGKILL)

    def freeze_sbd(self):
        """The daemon stops where it is: it feeds nothing, and ends nothing."""
        found = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._is_sbd(entry)
        ]
        assert len(found) == 1, found
        os.kill(found[0], signal.SIGSTOP)

    def _is_sbd(self, entry):
        with contextlib.suppress(OSError):
            return str(self.place / "dog").encode() in (entry / "cmdline").read_bytes() and (
                entry / "comm"
            ).read_text() == "sbd\n"
        return False


@pytest.fixture
def servers(short_tmp):
    """One export behind two servers: alpha's way to it, and everybody else's."""
    mine, others = NbdServer(short_tmp / "s1"), NbdServer(short_tmp / "s2")
    others.data = mine.data
    yield mine, others
    for server in (mine, others):
        server.stop()


@pytest.fixture
def pair(servers, short_tmp, processes, need):
    """Connected, alpha Primary and watched, its client writing."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    unshare = need("unshare")
    if subprocess.run([unshare, "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here")
    created = sbd(servers[0].address, "-1", DAEMON_TIMES.watchdog_s, "-I", DAEMON_TIMES.io_s, "create")
    assert created.returncode == 0, created.stderr
    pair = Pair(short_tmp, processes, unshare, servers[0].address)
    wait_until(lambda: pair.pydrbd("alpha", "primary", "--force", "r0") == 0, "alpha is Primary", LIMIT_S)
    assert pair.pydrbd("alpha", "wait-sync", "-t", "60", "r0") == 0
    pair.client = Client(pair.socket("alpha"))
    wait_until(lambda: pair.dog.feeds and pair.client.answers, "it is watched, and written to", LIMIT_S)
    watchdog = HardwareWatchdog(pair.dog, pair.power_off)
    pair.watchdog = watchdog
    yield pair
    watchdog.over.set()
    pair.power_off()
    pair.alpha.wait(LIMIT_S)


def sbd(device, *words):
    """The command on a machine outside of the pair; it stops nothing itself."""
    argv = [sys.executable, "-P", "-m", "pydrbd_fence", "-d", device, "-n", "admin"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "fence")}
    return subprocess.run(
        [*argv, *map(str, words)], env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def is_on(pair, number):
    """beta takes over, and has what alpha acknowledged last, or what came after it."""
    wait_until(lambda: pair.pydrbd("beta", "primary", "r0") == 0, "beta is Primary", LIMIT_S)
    with NbdClient.connect(pair.socket("beta"), "r0", depth=1) as client:
        return int.from_bytes(client.read(0, BLOCK_BYTES)[:8], "big") >= number


@pytest.mark.parametrize("frozen", [False, True], ids=["its daemon ends it", "its watchdog ends it"])
def test_a_node_whose_device_stalls_acknowledges_nothing_after_its_time(pair, servers, frozen):
    """It goes on until then, and not a moment longer: a sender that hears nothing may count on msgwait."""
    mine, others = servers
    stalled = now()
    mine.running.clear()
    if frozen:
        pair.freeze_sbd()
    sent = sbd(others.address, "message", "alpha", "off")
    told = now()
    assert sent.returncode == 0 and "msgwait is over" in sent.stdout, sent.stdout + sent.stderr
    pair.client.thread.join(LIMIT_S)
    assert not pair.client.thread.is_alive() and pair.alpha.wait(LIMIT_S) != 0
    number, last = pair.client.last
    assert stalled < last <= stalled + DAEMON_TIMES.death_s + LATE_S < told, (stalled, last, told)
    assert pair.watchdog.acted or not frozen
    assert is_on(pair, number)


def test_a_node_that_was_told_to_die_acknowledges_nothing_when_that_is_proved(pair, servers):
    """The pill is taken: `message` succeeds in about a second, and no acknowledgement is younger."""
    sent_at = now()
    sent = sbd(servers[1].address, "message", "alpha", "reset")
    told = now()
    assert sent.returncode == 0 and "took the pill" in sent.stdout, sent.stdout + sent.stderr
    pair.client.thread.join(LIMIT_S)
    number, last = pair.client.last
    assert not pair.client.thread.is_alive() and number and last < told, (sent_at, last, told)
    assert is_on(pair, number)


def test_the_client_would_be_answered_if_nobody_stopped_the_node(pair, servers):
    """The control: a stalled sbd device alone does not silence pydrbd. With nobody there to stop it, it answers on."""
    pair.watchdog.over.set()
    stalled = now()
    servers[0].running.clear()
    pair.freeze_sbd()
    wait_until(
        lambda: pair.client.last[1] > stalled + DAEMON_TIMES.msgwait_s, "an acknowledgement past msgwait", LIMIT_S
    )
