"""fence_pydrbd, called as Pacemaker calls it (key=value on stdin): success means death, leftovers don't matter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydrbd_fence.device import open_device
from pydrbd_fence.disk import SbdDisk
from pydrbd_fence.extension import Letter
from pydrbd_fence.timeouts import Timeouts

from tests.fence.test_daemon import ROOT, Node, foreground, wait_until

pytestmark = pytest.mark.interop
AGENT = ROOT / "fence" / "agents" / "fence_pydrbd"
SCHEMA = Path("/usr/share/cluster/relaxng/metadata.rng")
TIMES = Timeouts(2, 1, 1, 6, 1)


@pytest.fixture
def agent(nbd, short_tmp):
    """`agent(action, **parameters)` on an empty device with slots for alpha and beta."""
    python = Path("/usr/bin/python3")
    if not Path("/usr/share/fence/fencing.py").exists() or not python.exists():
        pytest.skip("not installed: fence-agents (make test installs it as root)")
    disk = SbdDisk(open_device(nbd.address, 5))
    disk.create(TIMES, b"u" * 16)
    for name in ("alpha", "beta"):
        disk.claim_slot(name)
    command = short_tmp / "pydrbd-sbd"
    command.write_text(
        f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -m tests.fence.daemon {short_tmp}/power -I 1 "$@"\n'
    )
    command.chmod(0o755)

    def call(action, **parameters):
        given = {"action": action, "devices": nbd.address, "sbd_path": command} | parameters
        text = "# a comment\n\nnodename=x\n" + "".join(
            f"{key}={value}\n" for key, value in given.items() if value is not None
        )
        env = {key: value for key, value in os.environ.items() if not key.startswith("SBD_")}
        env |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'fence'}", "PYTHONDONTWRITEBYTECODE": "1"}
        # As Debian runs it: with the system's Python, which has the fencing library's needs.
        return subprocess.run(
            [python, AGENT],
            input="# a comment\n\nnodename=x\n" + text,
            capture_output=True,
            text=True,
            env=env,
            timeout=60,
        )

    call.disk = disk
    yield call
    disk.close()


def test_metadata_is_valid(agent, need, tmp_path):
    """Against the fence agents' schema, with the actions that Pacemaker asks for."""
    text = agent("metadata", devices=None).stdout
    for action in ("on", "off", "reboot", "status", "list", "monitor", "metadata", "validate-all"):
        assert f'<action name="{action}"' in text
    assert '<parameter name="devices"' in text and '<parameter name="plug"' in text
    if not SCHEMA.exists():
        pytest.skip(f"no schema: {SCHEMA}")
    (tmp_path / "m.xml").write_text(text)
    words = [need("xmllint"), "--noout", "--nonet", "--relaxng", SCHEMA, tmp_path / "m.xml"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_node_watched_by_ours_is_fenced_on_its_acknowledgement(agent, nbd, short_tmp, processes):
    """reboot: the pill is taken, and only then there is success."""
    node = Node(short_tmp, processes, [nbd.address], "alpha", *foreground())
    wait_until(node.is_watched, "the first feed")
    done = agent("reboot", port="alpha")
    assert done.returncode == 0, done.stderr
    assert "Success: Rebooted" in done.stdout and node.ended()[0] == "reboot"
    assert agent("status", port="alpha").returncode == 2


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4, 5])
def test_leftovers_never_fake_or_block_a_fencing(agent, left):
    """Nobody reads: whatever lies in the box, `off` is sent, and takes msgwait."""
    agent.disk.write_letter(0, Letter(left, "gamma"))
    done = agent("off", port="alpha")
    assert done.returncode == 0 and "Already" not in done.stdout, done.stdout + done.stderr
    letter = agent.disk.read_letter(0)
    assert letter.command == 3 and letter.sender != "gamma"


def test_on_clears_and_status_tells(agent):
    """0 is on, 2 is off, 1 is a node that is not known."""
    assert agent("status", port="alpha").returncode == 0
    agent.disk.write_letter(0, Letter(2, "beta"))
    assert agent("status", port="alpha").returncode == 2
    assert agent("on", port="alpha").returncode == 0
    assert agent.disk.read_letter(0).command == 0
    assert agent("status", port="gamma").returncode == 1


def test_list_and_monitor(agent, nbd):
    """Names, one a line; a device that can't be written, or is gone, is no fence device."""
    done = agent("list")
    assert done.returncode == 0 and [line.split(",")[0] for line in done.stdout.split()] == ["alpha", "beta"]
    assert agent("monitor").returncode == 0
    nbd.error = 1
    assert agent("monitor").returncode == 1
    nbd.error = 0
    nbd.stop()
    assert agent("monitor").returncode == 1 and agent("list").returncode == 1
    assert agent("off", port="alpha").returncode == 1


def test_parameters_are_validated(agent):
    """Without touching a device; an unknown node or action is a failure."""
    assert agent("validate-all", port="alpha").returncode == 0
    assert agent("validate-all", port="alpha", devices="nbd://h/x").returncode == 0
    for devices in (None, "sdb", "/a,/b,/c,/d", "/a,/a"):
        assert agent("validate-all", port="alpha", devices=devices).returncode == 1, devices
    assert agent("validate-all", port="alpha", sbd_path="/nonexistent").returncode == 1
    assert agent("dance", port="alpha").returncode == 1
    assert agent("off").returncode == 1
    assert agent("off", port="gamma").returncode == 1
