"""The installed units under a real systemd, process 1 of a namespace in a guest: they start, work, and end in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fence.test_daemon import wait_until
from tests.fence.test_softdog import load_softdog, uptime_s
from tests.install.conftest import LIMIT_S
from tests.lab.guest import Done, Guest, GuestFailed
from tests.lab.lab import Lab, why_not

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(2 * LIMIT_S)]
SYSTEMD = Path("/lib/systemd/systemd")
TARGETS = """sysinit basic shutdown umount final sockets timers paths slices network-online nss-lookup local-fs rescue
  emergency multi-user"""
PREPARE = f"""
mount --bind $TREE/usr/local /usr/local
mkdir -p /run/units/corosync.service.requires
cp /usr/local/lib/systemd/system/* /run/units/
for name in {' '.join(TARGETS.split())}; do cp /lib/systemd/system/$name.target /run/units/; done
ln -s multi-user.target /run/units/default.target
ln -s ../pydrbd-sbd.service /run/units/corosync.service.requires/
printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/true\\n' >/run/units/corosync.service
cat >/run/sbd <<'END'
SBD_DEVICE=/dev/ubda
SBD_PACEMAKER=no
SBD_SYNC_RESOURCE_STARTUP=no
SBD_WATCHDOG_DEV=/dev/watchdog1
END
mount --bind /run/sbd /etc/default/sbd
echo alpha >/run/hostname
mount --bind /run/hostname /etc/hostname
mount -t tmpfs none /var/lib
truncate -s 8M /run/r0.img
cat >/run/etc.res <<'END'
resource r0 {{
  on alpha {{ device minor 0; disk /run/r0.img; meta-disk internal; address 10.77.0.11:7788; }}
  on beta {{ device minor 0; disk /run/b.img; meta-disk internal; address 10.77.0.12:7788; }}
}}
END
mkdir -p /run/units/pydrbd@.service.d
printf '[Service]\\nExecStart=\\nExecStart=/usr/local/sbin/pydrbd -c /run/etc.res --run-dir /run/pydrbd serve %%i\\n' \\
  >/run/units/pydrbd@.service.d/lab.conf
mkdir -p /run/units/pydrbd-nbd@.service.d
printf '[Service]\\nExecStart=\\nExecStart=/usr/local/sbin/pydrbd -c /run/etc.res --run-dir /run/pydrbd nbd-attach \
--foreground %%i\\n' >/run/units/pydrbd-nbd@.service.d/lab.conf
cat >/run/init <<'END'
mount -t cgroup2 none /sys/fs/cgroup
export container=lab SYSTEMD_UNIT_PATH=/run/units
exec /lib/systemd/systemd --system
END
(unshare --pid --fork --mount --mount-proc --cgroup sh /run/init &) </dev/null >/run/systemd.log 2>&1
"""
"""Only the configuration's place differs from a real machine's: /etc is not the guest's to write to."""


class Machine:
    """The guest, and systemd in it."""

    def __init__(self, guest: Guest, tree: Path) -> None:
        self.guest = guest
        guest.shell(f"TREE={tree}\n{PREPARE}", timeout_s=LIMIT_S)
        wait_until(lambda: self.run("systemctl", "is-system-running").output.strip() == "running", "systemd", LIMIT_S)

    def run(self, *words: str) -> Done:
        """A command where systemd is process 1."""
        script = 'exec nsenter -t $(pgrep -x systemd | head -1) -a "$@"'
        return self.guest.run("sh", "-c", script, "sh", *words, timeout_s=LIMIT_S, check=False)

    def systemctl(self, *words: str) -> str:
        done = self.run("systemctl", *words)
        assert done.code == 0, done.output + self.run("systemctl", "status", "--no-pager", words[-1]).output
        return done.output

    def show(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--value", "-p", name, unit).strip()


@pytest.fixture
def machine(tree: Path) -> Iterator[Machine]:
    """A guest with systemd, the units of the installed tree, and an sbd device."""
    if not SYSTEMD.exists():
        pytest.skip("not installed: systemd")
    if reason := why_not():
        pytest.skip(reason)
    with Lab() as lab:
        guest = lab.add_guest("alpha")
        try:
            guest.start()
        except GuestFailed as error:
            pytest.skip(f"a guest can't be started here: {error}")
        load_softdog(guest)
        guest.load("nbd")
        yield Machine(guest, tree)


def test_a_resource_is_a_service(machine: Machine) -> None:
    """Up when `start` returns, back after a crash, and down in good order: nothing new is out of sync."""
    pydrbd = "/usr/local/sbin/pydrbd -c /run/etc.res --run-dir /run/pydrbd"
    machine.guest.shell(f"{pydrbd} create-md r0")
    machine.systemctl("start", "pydrbd@r0")
    assert machine.show("pydrbd@r0", "ActiveState") == "active"
    assert "role:Secondary" in machine.guest.shell(f"{pydrbd} status r0")
    machine.guest.shell(f"{pydrbd} primary --force r0")
    machine.guest.shell("printf written >/run/data; truncate -s 1M /run/data")
    machine.guest.shell("nbdcopy --flush /run/data 'nbd+unix:///r0?socket=/run/pydrbd/r0.nbd.sock'", timeout_s=LIMIT_S)
    first = machine.show("pydrbd@r0", "MainPID")
    machine.systemctl("kill", "--signal=KILL", "pydrbd@r0")
    wait_until(
        lambda: machine.show("pydrbd@r0", "MainPID") not in (first, "0")
        and machine.show("pydrbd@r0", "ActiveState") == "active",
        "it is back",
        LIMIT_S,
    )
    assert machine.guest.shell("head -c 7 /run/r0.img") == "written"
    machine.systemctl("stop", "pydrbd@r0")
    assert machine.show("pydrbd@r0", "Result") == "success"
    assert "nothing new is out of sync" in machine.guest.shell(f"{pydrbd} apply-al r0")


def test_a_resource_is_a_block_device_by_a_service(machine: Machine) -> None:
    """Attached when `start` returns; its helper is killed, and the next one takes the device over; `stop` detaches."""
    pydrbd = "/usr/local/sbin/pydrbd -c /run/etc.res --run-dir /run/pydrbd"
    machine.guest.shell(f"{pydrbd} create-md r0")
    machine.systemctl("start", "pydrbd@r0")
    machine.guest.shell(f"{pydrbd} primary --force r0")
    machine.systemctl("start", "pydrbd-nbd@r0")
    assert machine.guest.shell("cat /sys/block/nbd0/backend").strip() == "pydrbd:r0"
    machine.guest.shell("mkfs.ext4 -q /dev/nbd0; mkdir -p /run/m; mount /dev/nbd0 /run/m")
    first = machine.show("pydrbd-nbd@r0", "MainPID")
    machine.systemctl("kill", "--signal=KILL", "pydrbd-nbd@r0")
    wait_until(
        lambda: machine.show("pydrbd-nbd@r0", "MainPID") not in (first, "0")
        and machine.show("pydrbd-nbd@r0", "ActiveState") == "active",
        "it is back",
        LIMIT_S,
    )
    machine.guest.shell("echo written >/run/m/file; umount /run/m; e2fsck -fn /dev/nbd0", timeout_s=LIMIT_S)
    machine.systemctl("stop", "pydrbd-nbd@r0")
    assert machine.show("pydrbd-nbd@r0", "Result") == "success"
    assert machine.guest.run("test", "-e", "/sys/block/nbd0/pid", check=False).code != 0


def test_the_fence_begins_and_ends_with_the_cluster(machine: Machine) -> None:
    """Corosync brings it, watched before Corosync begins; it ends with it, disarmed. Hardened, it still can reset."""
    sbd = "/usr/local/sbin/pydrbd-sbd -d /dev/ubda"
    machine.guest.shell(f"{sbd} -1 2 -I 1 create", timeout_s=LIMIT_S)
    machine.systemctl("start", "corosync")
    assert machine.show("pydrbd-sbd", "ActiveState") == "active"
    assert "watching" in machine.guest.shell(f"{sbd} -v list")
    pid = machine.show("pydrbd-sbd", "MainPID")
    assert machine.run("cat", f"/proc/{pid}/oom_score_adj").output.strip() == "-1000"
    assert "SCHED_RR" in machine.run("chrt", "-p", pid).output
    machine.systemctl("stop", "corosync")
    assert machine.show("pydrbd-sbd", "ActiveState") == "inactive"
    ended_s = uptime_s(machine.guest)
    wait_until(lambda: uptime_s(machine.guest) > ended_s + 6, "the guest lives on", LIMIT_S)
    machine.systemctl("start", "corosync")
    machine.guest.shell(f"({sbd} -n beta message alpha reset &) </dev/null >/dev/null 2>&1")
    wait_until(lambda: not machine.guest.runs, "a reset", LIMIT_S)
    assert machine.guest.console_path.read_text(errors="replace").count("Linux version") == 2
