"""ocf:pydrbd:nbd with a real nbd driver in a guest: attach, use, detach; with the server there, stuck, or gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.guest import Guest, GuestFailed
from tests.lab.lab import Lab, why_not

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "fence" / "ocf" / "nbd"
PROGRAM = "/run/pydrbd-here"
LINK = "/dev/drbd/by-res/r0"
HELPER = "/run/pydrbd/nbd0.attach.pid"
SCHEMAS = Path("/usr/share/resource-agents")
OCF_LIB = Path("/usr/lib/ocf/lib/heartbeat")
RUNNING, NOT_RUNNING, GENERIC, PERMISSION, INSTALLED, CONFIGURED = 0, 7, 1, 4, 5, 6
SOCKET = "/run/nbd.sock"
FROZEN_S = 40
"""Longer than the limit of 30 s that one would think of, and than a fencing that is quick."""

GIVEN = {"export": "r0", "socket": SOCKET, "dead_timeout": "3", "program": PROGRAM}

pytestmark = pytest.mark.skipif(not (OCF_LIB / "ocf.py").exists(), reason="resource-agents is not installed")


def test_its_description_is_valid() -> None:
    """By the schema of ClusterLabs' agents."""
    xml = subprocess.run([AGENT, "meta-data"], capture_output=True, check=True, timeout=60).stdout
    for words in (["--valid"], ["--relaxng", "metadata.rng"]):
        done = subprocess.run(
            ["xmllint", "--noout", *words, "-"], input=xml, cwd=SCHEMAS, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({}, RUNNING, ""),
        ({"export": ""}, CONFIGURED, "export is missing: name the pydrbd resource"),
        ({"export": "r0/x"}, CONFIGURED, "'r0/x' names no volume"),
        ({"device": "/dev/sda"}, CONFIGURED, "device is '/dev/sda': expected /dev/nbd0, /dev/nbd1, ..."),
        ({"device": "/dev/nbd7"}, RUNNING, ""),
        ({"dead_timeout": "soon"}, CONFIGURED, "dead_timeout is 'soon': expected a number"),
        ({"dead_timeout": "0"}, CONFIGURED, "invalid number value: '0'"),
        ({"connections": "17"}, CONFIGURED, "invalid number from 1 to 16 value: '17'"),
        ({"program": "/nonexistent/pydrbd"}, INSTALLED, "/nonexistent/pydrbd is missing"),
        ({"failing": "69"}, INSTALLED, "pydrbd: what it says"),
        ({"failing": "77"}, PERMISSION, "pydrbd: what it says"),
        ({"failing": "70"}, GENERIC, "pydrbd: what it says"),
    ],
    ids=str,
)
def test_what_can_not_work_is_said_before_a_start(
    tmp_path: Path, changed: dict[str, str], code: int, words: str
) -> None:
    """Each mistake with OCF's code for it; also what pydrbd itself refuses or lacks."""
    program = tmp_path / "pydrbd"
    failing = changed.get("failing")
    body = f"echo pydrbd: what it says >&2; exit {failing}" if failing else f'exec {sys.executable} -P -m pydrbd "$@"'
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    given = {"export": "r0", "program": str(program)} | changed
    environment = {f"OCF_RESKEY_{key}": value for key, value in given.items()}
    done = subprocess.run(
        [AGENT, "validate-all"],
        env=os.environ | {"OCF_ROOT": "/usr/lib/ocf", "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code and words in done.stdout + done.stderr, done


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A guest with the nbd driver and a server of 8 MiB."""
    if reason := why_not():
        pytest.skip(reason)
    with Lab() as lab:
        guest = lab.add_guest("alpha")
        try:
            guest.start()
        except GuestFailed as error:
            pytest.skip(f"a guest can't be started here: {error}")
        guest.load("nbd")
        guest.write_file(PROGRAM, f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m pydrbd "$@"\n')
        guest.run("chmod", "+x", PROGRAM)
        guest.shell(f"truncate -s 8M /run/image; nbdkit -U {SOCKET} -P /run/nbdkit.pid -e r0 file /run/image")
        yield guest


def call(guest: Guest, action: str, **changed: str) -> int | None:
    words = [f"OCF_RESKEY_{key}={value}" for key, value in (GIVEN | changed).items()]
    done = guest.run(
        "env", "OCF_ROOT=/usr/lib/ocf", "OCF_CHECK_LEVEL=10", *words, str(AGENT), action, timeout_s=100, check=False
    )
    print(action, done)
    return done.code


@pytest.mark.interop
@pytest.mark.timeout(240)
def test_a_device_comes_and_goes(guest: Guest) -> None:
    """What was written through its link is in the export after the stop, with no sync in between.

    A helper that dies has a successor after the next monitor.
    """
    assert call(guest, "monitor") == NOT_RUNNING and call(guest, "stop") == RUNNING
    assert [call(guest, "start"), call(guest, "start"), call(guest, "monitor")] == [RUNNING] * 3
    assert guest.run("readlink", LINK).output == "/dev/nbd0\n"
    guest.shell(f"printf written | dd of={LINK} bs=4096 seek=1")
    first = guest.read_file(HELPER)
    guest.run("kill", "-KILL", first.strip())
    assert call(guest, "monitor") == RUNNING and guest.read_file(HELPER) != first
    assert call(guest, "stop") == RUNNING and call(guest, "monitor") == NOT_RUNNING
    assert guest.shell("dd if=/run/image bs=4096 skip=1 count=1 2>/dev/null | head -c 7") == "written"
    assert guest.run("test", "-e", LINK, check=False).code != 0
    assert call(guest, "start", socket="/run/nobody.sock") == GENERIC


@pytest.mark.interop
@pytest.mark.timeout(240)
@pytest.mark.parametrize("signal", ["STOP", "KILL"])
def test_a_server_that_is_stuck_or_gone_does_not_keep_the_device(guest: Guest, signal: str) -> None:
    """The monitor fails, the stop succeeds, the device is free for the next server."""
    assert call(guest, "start") == RUNNING
    guest.shell(f"printf lost | dd of=/dev/nbd0 bs=4096; kill -{signal} $(cat /run/nbdkit.pid)")
    assert call(guest, "monitor") in (GENERIC, NOT_RUNNING)
    assert call(guest, "stop") == RUNNING and call(guest, "monitor") == NOT_RUNNING
    guest.shell(f"kill -KILL $(cat /run/nbdkit.pid) || :; rm -f {SOCKET}")
    guest.shell(f"nbdkit -U {SOCKET} -P /run/nbdkit.pid -e r0 file /run/image")
    assert call(guest, "start") == RUNNING and call(guest, "monitor") == RUNNING
    assert call(guest, "stop") == RUNNING


@pytest.mark.interop
@pytest.mark.timeout(240)
def test_a_disk_that_is_frozen_for_long_is_no_dead_one(guest: Guest) -> None:
    """A write waits for its answer for as long as the fencing takes; no error reaches the file system."""
    assert call(guest, "start") == RUNNING
    guest.shell("kill -STOP $(cat /run/nbdkit.pid)")
    writer = guest.begin("sh", "-c", "printf late | dd of=/dev/nbd0 bs=4096 oflag=direct conv=sync", timeout_s=150)
    guest.run("sleep", str(FROZEN_S), timeout_s=150)
    guest.shell("kill -CONT $(cat /run/nbdkit.pid)")
    assert writer.wait().code == 0
    assert guest.shell("head -c 4 /run/image") == "late"
    assert call(guest, "stop") == RUNNING


@pytest.mark.interop
@pytest.mark.timeout(240)
def test_ocf_tester_passes(guest: Guest) -> None:
    """ClusterLabs' own test of an agent, with a real device."""
    options = [word for key, value in GIVEN.items() for word in ("-o", f"{key}={value}")]
    done = guest.run("ocf-tester", "-n", "dev", *options, str(AGENT), timeout_s=200, check=False)
    assert done.code == 0 and "passed all tests" in done.output, done.output
    assert call(guest, "monitor") == NOT_RUNNING
