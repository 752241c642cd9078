"""docs/failover.md: Keepalived itself on two machines of namespaces, and what may happen to them."""

from __future__ import annotations

import signal
from configparser import ConfigParser

import pytest

from tests.documents.machines import BEGIN, Machine, Machines, follow
from tests.documents.pages import DOCS, blocks

LIMIT_S = 60.0
NBD = "nbd+unix:///r0?socket=/run/pydrbd/r0.nbd.sock"
ADDRESS = "10.77.0.100"
DISK = "/srv/r0.img"


class Keepalived:
    """One in the foreground on each machine, in a session that can be killed as a whole."""

    def __init__(self, machines: Machines, processes) -> None:
        self._machines = machines
        self._processes = processes
        self._running: dict[str, object] = {}

    def start(self, *names: str) -> None:
        for name in names:
            inside = ["nsenter", "--target", str(self._machines.by_name[name].pid), "--mount", "--uts", "--net"]
            path = f"PATH={self._machines.by_name[name].path}"
            command = ["env", path, "keepalived", "--dont-fork", "--use-file=/etc/keepalived/keepalived.conf"]
            self._running[name] = self._processes.start([*inside, *command])

    def stop(self, name: str) -> None:
        """In good order: it runs notify_stop."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_S)

    def kill(self, name: str) -> None:
        """Without a word to anybody, as when the machine dies."""
        machine = self._machines.by_name[name]
        machine.run("kill -9 $(cat /run/keepalived.pid /run/keepalived/*.pid /run/vrrp.pid 2>/dev/null) || true")
        self._running.pop(name).wait(LIMIT_S)


def until(machine: Machine, script: str, expected: str) -> None:
    """Look until a script prints it; the test's own time limit bounds it."""
    done = machine.run(f'until [ "$({script})" = "{expected}" ]; do sleep 0.2; done 2>&1', LIMIT_S)
    assert done.returncode == 0, done.stdout


def is_master(machine: Machine) -> None:
    """Until it has the role and the address."""
    until(machine, "pydrbd role r0 | cut -d/ -f1", "Primary")
    until(machine, f"ip -o address show dev eth0 to {ADDRESS} | wc -l", "1")


@pytest.fixture
def pair(machines, processes, need):
    """Both as the page says, with Keepalived's life in our hands."""
    need("keepalived")
    follow(machines, BEGIN)
    follow(machines, DOCS / "failover.md")
    return machines, Keepalived(machines, processes)


def test_the_role_goes_with_the_address(pair):
    """The first one is master; it dies, the other one goes on with all its data; it returns, and takes nothing away."""
    machines, keepalived = pair
    alpha, beta = machines.by_name.values()
    keepalived.start("alpha")
    is_master(alpha)
    keepalived.start("beta")
    until(beta, "cat /run/pydrbd-notify.r0", "backup")
    assert alpha.run(f"nbdcopy /srv/image '{NBD}'").returncode == 0
    # The machine dies: nothing is heard of it, and its processes end at once.
    machines.cut("alpha")
    keepalived.kill("alpha")
    assert alpha.run("kill -9 $(cat /run/pydrbd/r0.pid)").returncode == 0
    is_master(beta)
    assert beta.run(f"nbdcopy '{NBD}' /srv/copy").returncode == 0
    # ... and comes back.
    assert alpha.run(f"ip address del {ADDRESS}/24 dev eth0 || true; rm -f /run/*.pid; pydrbd up r0").returncode == 0
    machines.join("alpha")
    keepalived.start("alpha")
    until(alpha, "pydrbd dstate r0", "UpToDate/UpToDate")
    until(alpha, "pydrbd role r0", "Secondary/Primary")
    until(alpha, "cat /run/pydrbd-notify.r0", "backup")
    # In good order, the other way.
    keepalived.stop("beta")
    is_master(alpha)
    assert beta.run("pydrbd role r0").stdout == "Secondary/Primary\n"
    image = alpha.run(f"nbdcopy '{NBD}' /srv/copy; cmp -n 8388608 /srv/image /srv/copy")
    assert image.returncode == 0, image.stdout + image.stderr
    keepalived.stop("alpha")


def test_a_wire_that_is_cut_is_the_split_brain_that_the_page_warns_of(pair):
    """Both are master then, both are Primary; when the wire is back they refuse each other, and nothing is changed.

    VRRP hears again, too: the one of lower priority gives the role away, so its copy is read where it lies.
    """
    machines, keepalived = pair
    alpha, beta = machines.by_name.values()
    keepalived.start("alpha")
    is_master(alpha)
    keepalived.start("beta")
    until(beta, "cat /run/pydrbd-notify.r0", "backup")
    machines.cut("beta")
    for machine in (alpha, beta):
        is_master(machine)
        done = machine.run(f"head -c 1M /dev/urandom >/srv/word; nbdcopy /srv/word '{NBD}'")
        assert done.returncode == 0, done.stderr
    machines.join("beta")
    until(beta, "cat /run/pydrbd-notify.r0", "backup")
    until(beta, "pydrbd role r0 | cut -d/ -f1", "Secondary")
    is_master(alpha)
    for machine in (alpha, beta):
        until(machine, "pydrbd cstate r0", "StandAlone")
        kept = machine.run(f"cmp -n 1048576 /srv/word {DISK}")
        assert kept.returncode == 0, kept.stdout + kept.stderr
    for name in ("alpha", "beta"):
        keepalived.stop(name)


def test_the_unit_does_what_the_page_says(pair):
    """Its commands promote and demote; systemd itself is not there."""
    machines, _keepalived = pair
    (unit,) = [block for block in blocks(DOCS / "failover.md") if block.words and block.words[-1].endswith("@.service")]
    read = ConfigParser(interpolation=None, strict=False)
    read.optionxform = str
    read.read_string(unit.text)
    alpha = machines.by_name["alpha"]
    for key, role in (("ExecStart", "Primary"), ("ExecStop", "Secondary")):
        assert alpha.run(read["Service"][key].replace("%i", "r0").removeprefix("/usr/local/sbin/")).returncode == 0
        assert alpha.run("pydrbd role r0").stdout == f"{role}/Secondary\n"
