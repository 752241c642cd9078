"""The lab keeps its promises: commands are bounded, power failures are real, nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import kernel_log, names
from tests.lab.guest import GuestFailed
from tests.lab.lab import Lab, why_not
from tests.lab.network import Network, namespaces

LINE = "[   12.100000] "
ROOT = Path(__file__).resolve().parents[2]


def test_a_name_tells_whether_its_lab_is_in_use() -> None:
    """Ours is in use; the same pid with another start time, or a pid that is gone, is not."""
    name = names.new_name()
    assert names.in_use(name) and names.lab_of(f"{name}-alpha") == name
    start = names.start_time(os.getpid())
    assert not names.in_use(f"pydrbd-lab-{os.getpid()}-{start - 1}-1")
    assert names.lab_of("pydrbd-lab-mine") is None and not names.in_use("pydrbd-lab-mine")


@pytest.mark.parametrize(
    "line",
    [
        "drbd r0: BAD! BarrierAck #1 received, expected #2!",
        "drbd r0: peer( Secondary -> Unknown ) conn( Connected -> ProtocolError ) pdsk( UpToDate -> DUnknown )",
        "drbd r0: unknown packet type 0x4711, l: 0!",
        "block drbd0: a line that nobody has thought of",
        "BUG: kernel NULL pointer dereference",
    ],
)
def test_an_unexpected_line_is_a_complaint(line: str) -> None:
    """Also one that nobody has thought of; a scenario may allow it by name."""
    assert kernel_log.complaints(LINE + line) == [LINE + line]
    assert kernel_log.complaints(LINE + line, [line[-10:].replace("(", ".").replace(")", ".")]) == []


@pytest.mark.parametrize(
    "line",
    [
        "drbd r0: peer( Secondary -> Unknown ) conn( Connected -> TearDown ) pdsk( UpToDate -> DUnknown ) ",
        "block drbd0: Resync done (total 1 sec; paused 0 sec; 65496 K/sec)",
        "SGI XFS with ACLs, security attributes, realtime, quota, no debug enabled",
    ],
)
def test_an_everyday_line_is_none(line: str) -> None:
    """What every pair of kernels writes, and what is not about DRBD."""
    assert kernel_log.complaints(LINE + line) == []


@pytest.mark.interop
def test_a_guest_runs_commands_and_loses_power() -> None:
    """Output, exit codes, time limits; disks survive SIGKILL, memory does not; nothing is left afterwards."""
    if reason := why_not():
        pytest.skip(reason)
    with Lab() as lab:
        guest = lab.add_guest("alpha")
        try:
            guest.start()
        except GuestFailed as error:
            pytest.skip(f"a guest can't be started here: {error}")
        assert guest.run("uname", "-n").output == "alpha\n"
        assert guest.run("sh", "-c", "exit 7", check=False).code == 7
        assert guest.run("sleep", "60", timeout_s=0.5, check=False).code is None
        with pytest.raises(GuestFailed, match="exit code 3"):
            guest.run("sh", "-c", "exit 3")
        assert guest.run("cat", text="x" * 100_000).output == "x" * 100_000
        guest.shell("printf written | dd of=/dev/ubda conv=fsync; touch /run/here")
        guest.power_off()
        guest.start()
        assert guest.shell("head -c 7 /dev/ubda; ls /run/here || echo ' gone'").startswith("written")
        assert guest.run("ls", "/run/here", check=False).code != 0
    assert lab.name not in namespaces() and not lab.directory.exists()
    assert not [path for path in names.guest_directories() if names.lab_of(path.name) == lab.name]


@pytest.mark.interop
def test_a_guest_that_can_not_start_says_why() -> None:
    """The message has the end of its console, where the reason is."""
    if reason := why_not():
        pytest.skip(reason)
    with Lab() as lab:
        guest = lab.add_guest("alpha")
        guest.address = "nowhere"
        with pytest.raises(GuestFailed, match=r"guest alpha did not start: (?s:.*)init failed"):
            guest.start()
        assert not guest.runs


@pytest.mark.interop
def test_the_lab_for_people_runs_commands_until_it_is_interrupted() -> None:
    """`make lab`: two guests, configured; a command line and a shell for each; SIGINT ends it, and nothing is left."""
    if reason := why_not():
        pytest.skip(reason)
    lab = [sys.executable, "-m", "tests.lab"]
    with subprocess.Popen(lab, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("Both end")), None)
            if line is None:
                pytest.skip("a guest can't be started here")
            directory = Path(line.split()[-1])
            asked = names.lab_of(directory.name)
            for name in ("a", "b"):
                done = ask(lab, asked, name, "drbdadm", "sh-resources")
                assert (done.returncode, done.stdout.split()) == (0, ["r0"]), done
            assert ask(lab, asked, "a", "false").returncode == 1
            assert "there are: a, b" in ask(lab, asked, "c", "true").stdout
            assert "a# a\n" in ask(lab, asked, "a", text="uname -n\nexit\n").stdout
            process.send_signal(signal.SIGINT)
            assert "the lab is gone" in process.stdout.read()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert asked not in namespaces() and not directory.exists()


def ask(lab: list[str], asked: str | None, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """`python -m tests.lab run ...`"""
    where = {**os.environ, "PYDRBD_LAB": asked or ""}
    return subprocess.run(
        [*lab, "run", *words], input=text, capture_output=True, text=True, cwd=ROOT, env=where, check=False
    )


@pytest.mark.interop
def test_what_a_killed_lab_has_left_is_swept() -> None:
    """A dead process's namespace, with a process in it, goes; one that is in use, or is none of ours, stays."""
    if reason := why_not():
        pytest.skip(reason)
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = f"pydrbd-lab-{owner.pid}-{names.start_time(owner.pid)}-1"
    ours = names.new_name()
    sleeper = None
    try:
        for name in (dead, ours):
            Network(name).open()
        sleeper = subprocess.Popen(["ip", "netns", "exec", dead, "sleep", "600"])
        assert dead not in names.leftovers()
        owner.communicate(b"\n")
        assert dead in names.leftovers() and ours not in names.leftovers()
        assert dead in names.sweep()
        assert sleeper.wait(10) != 0
        assert dead not in namespaces() and ours in namespaces()
    finally:
        for process in (owner, sleeper):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        names.remove(dead)
        names.remove(ours)
