"""Pacemaker itself, one node of it in namespaces of its own, with our daemon as its `sbd`, and without."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.fence.test_daemon import ROOT, Dog, Node, foreground, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]
LIMIT_S = 120.0
INIT = """
set -eu
mount --make-rprivate /
for file in /proc/sysrq-trigger /proc/sys/kernel/sysrq; do
  if [ -e "$file" ]; then mount --bind /dev/null "$file"; fi
done
for file in /proc/sysrq-trigger /proc/sys/kernel/sysrq; do
  if [ -e "$file" ] && ! [ "$(stat -c %t:%T "$file")" = 1:3 ]; then exit 9; fi
done
for pair in sbin:/usr/sbin ocf:/usr/lib/ocf; do
  mount -t overlay -o "lowerdir=$LAB/${pair%%:*}:${pair#*:}" none "${pair#*:}"
done
hostname alpha
ip link set lo up
for place in /run /dev/shm /var/lib/corosync /var/lib/pacemaker /var/log /etc/corosync; do
  mount -t tmpfs -o mode=755 none "$place"
done
chmod 1777 /dev/shm
mkdir -p /run/lock /var/log/corosync /etc/corosync/uidgid.d
for place in /run/crm /var/log/pacemaker /var/lib/pacemaker/cib /var/lib/pacemaker/pengine /var/lib/pacemaker/cores \\
  /var/lib/pacemaker/blackbox; do
  install -d -o hacluster -g haclient -m 750 "$place"
done
install -o hacluster -g haclient -m 600 "$LAB/cib.xml" /var/lib/pacemaker/cib/cib.xml
cp "$LAB/corosync.conf" /etc/corosync/
corosync -f >"$LAB/corosync.out" 2>&1 &
until corosync-cfgtool -s >/dev/null 2>&1; do sleep 0.1; done
if [ -n "$SBD" ]; then
  $SBD >"$LAB/sbd.out" 2>&1 &
  until [ -s /run/pydrbd-sbd.pid ]; do sleep 0.1; done
fi
PCMK_logfile=$LAB/pacemaker.log pacemakerd >"$LAB/pacemakerd.out" 2>&1 || :
touch "$LAB/over"
while :; do sleep 1; done
"""
"""Process 1 of the node. sysrq is masked, and reboot(2) ends only the pid namespace: the real daemon may run here."""

COROSYNC = """
totem {
 version: 2
 cluster_name: lab
 transport: knet
 crypto_cipher: none
 crypto_hash: none
}
nodelist {
 node {
  ring0_addr: 127.0.0.1
  name: alpha
  nodeid: 1
 }
}
quorum {
 provider: corosync_votequorum
 expected_votes: 1
}
logging {
 to_logfile: yes
 logfile: /var/log/corosync/corosync.log
 to_syslog: no
}
system {
 sched_rr: no
 move_to_root_cgroup: no
}
"""
CIB = """
<cib crm_feature_set="3.0.0" validate-with="pacemaker-3.0" epoch="1" num_updates="0" admin_epoch="0"><configuration>
<crm_config><cluster_property_set id="o"><nvpair id="o1" name="dc-deadtime" value="2s"/>
<nvpair id="o2" name="stonith-watchdog-timeout" value="10s"/></cluster_property_set></crm_config>
<nodes/><resources/><constraints/></configuration><status/></cib>
"""
"""With a watchdog's time: a Pacemaker that sees no watchdog refuses to work with it."""


class PacemakerNode:
    """The only node of its cluster; `inside` runs a command there."""

    def __init__(self, place, processes, unshare, daemon=True):
        self.place = place
        (place / "corosync.conf").write_text(COROSYNC)
        (place / "cib.xml").write_text(CIB)
        agents = place / "ocf/resource.d/pydrbd"
        agents.mkdir(parents=True)
        (place / "sbin").mkdir()
        for agent, where in (("agents/fence_pydrbd", place / "sbin"), ("ocf/disk", agents), ("ocf/nbd", agents)):
            shutil.copy(ROOT / "fence" / agent, where)
        self.command = place / "sbin/pydrbd-sbd"
        self.command.write_text(
            f'#!/bin/sh\nPYTHONPATH={ROOT}/fence exec {sys.executable} -P -m pydrbd_fence -I 1 "$@"\n'
        )
        self.command.chmod(0o755)
        self.dog = Dog(place / "dog")
        sbd = [sys.executable, "-P", "-m", "pydrbd_fence", "-n", "alpha", "-R", "-T", "-w", place / "dog"]
        env = {"LAB": str(place), "PYTHONPATH": str(ROOT / "fence"), "SBD": ""}
        if daemon:
            env["SBD"] = shlex.join([str(word) for word in (*sbd, "--foreground", "-v", "watch")])
            env |= {"SBD_WATCHDOG_TIMEOUT": "5", "SBD_SYNC_RESOURCE_STARTUP": "yes" if daemon else "no"}
        words = [unshare, "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts", "--ipc", "--net"]
        self.process = processes.start([*words, "sh", "-c", INIT], env=env, stdin=subprocess.DEVNULL)

    def init(self):
        """The pid of the node's process 1; None while it does not begin yet."""
        pid = self.process.pid
        return next(iter(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()), None)

    def run(self, *words):
        """A command in the node."""
        argv = ["nsenter", "-t", str(self.init()), "--all", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def inside(self, *words):
        """What a command prints there; "" if it does not end, or the node does not begin yet."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.run(*words).stdout if self.init() else ""
        return ""

    def cib(self):
        text = self.inside("cibadmin", "-Q")
        return ET.fromstring(text) if text.startswith("<") else ET.Element("none")

    def is_online(self):
        assert self.process.poll() is None, "the node has ended"
        return self.cib().find(".//node_state[@crmd='online'][@join='member']") is not None

    def log(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.place / "pacemaker.log").read_text()
        return ""

    def is_over(self):
        return (self.place / "over").exists()


@pytest.fixture
def pacemaker(short_tmp, processes, need):
    """`pacemaker(daemon)` starts the node."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    need("pacemakerd", "corosync", "nsenter", "ip", "cibadmin", "stonith_admin")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here")
    nodes = []

    def start(daemon=True):
        nodes.append(PacemakerNode(short_tmp, processes, need("unshare"), daemon))
        return nodes[0]

    yield start
    for node in nodes:
        if init := node.init():
            os.kill(int(init), signal.SIGKILL)  # a power cut: all that runs in the node ends with it
        node.process.wait(LIMIT_S)


def test_pacemaker_sees_our_daemon_as_its_watchdog(pacemaker):
    """It is found as sbd, gives Pacemaker the word to start, and is what fencing of this node ends it by."""
    node = pacemaker()
    wait_until(node.is_online, "the node is online", LIMIT_S)
    seen = ".//nvpair[@name='have-watchdog'][@value='true']"
    wait_until(lambda: node.cib().find(seen) is not None, "have-watchdog", LIMIT_S)
    assert "watchdog" in node.inside("stonith_admin", "-L").split()
    assert "Received startup-trigger from SBD" in node.log()
    pid = node.inside("cat", "/run/pydrbd-sbd.pid").strip()
    assert f"Found sbd active as process {pid}\n" in node.log()
    assert not node.dog.closed

    node.inside("timeout", "10", "stonith_admin", "-F", "alpha", "-t", "5")
    wait_until(lambda: node.dog.closed, "the daemon's end", LIMIT_S)
    assert f"Signaling sbd[{pid}] to panic" in node.log()
    assert not node.dog.bytes.endswith(b"V"), "the watchdog is still armed: it ends the node"


def test_pacemaker_lists_and_uses_our_agents(pacemaker, nbd, disk, short_tmp, processes):
    """Found by their places, described, validated; a node that our daemon watches is fenced through fence_pydrbd."""
    if not Path("/usr/share/fence/fencing.py").exists():
        pytest.skip("not installed: fence-agents (make test installs it as root)")
    node = pacemaker()
    wait_until(node.is_online, "the node is online", LIMIT_S)
    assert "fence_pydrbd" in node.inside("stonith_admin", "--list-installed").split()
    described = ET.fromstring(node.inside("stonith_admin", "--metadata", "--agent", "fence_pydrbd"))
    assert described.find("./parameters/parameter[@name='devices']") is not None
    options = ("--option", f"devices={nbd.address}", "--option", "pcmk_host_list=beta")
    assert node.run("stonith_admin", "--validate", "--agent", "fence_pydrbd", *options).returncode == 0
    assert node.run("stonith_admin", "--validate", "--agent", "fence_pydrbd", "--option", "devices=sdb").returncode != 0
    assert node.inside("crm_resource", "--list-agents", "ocf:pydrbd").split() == ["disk", "nbd"]
    for name in ("disk", "nbd"):
        assert f'name="{name}"' in node.inside("crm_resource", "--show-metadata", f"ocf:pydrbd:{name}")

    (short_tmp / "beta").mkdir()
    beta = Node(short_tmp, processes, [nbd.address], "beta", *foreground())
    wait_until(beta.is_watched, "beta is watched", LIMIT_S)
    node.inside("stonith_admin", "--register", "sbd", "--agent", "fence_pydrbd", *options)
    assert "sbd" in node.inside("stonith_admin", "--list", "beta").split()
    assert node.run("stonith_admin", "--fence", "beta", "--timeout", "30").returncode == 0, node.log()[-3000:]
    assert beta.ended()[0] == "off"
    assert node.run("stonith_admin", "--fence", "gamma", "--timeout", "3").returncode != 0


def test_without_our_daemon_pacemaker_refuses_to_work(pacemaker):
    """The control: the same cluster has no watchdog, and the property that counts on one stops it."""
    node = pacemaker(daemon=False)
    wait_until(node.is_over, "the end of pacemakerd", LIMIT_S)
    assert "Found sbd active" not in node.log() and "watchdog" in node.log()
