"""serve, up and down with real processes; what can go wrong at a start."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.admin.conftest import FakeProcess
from tests.admin.snapshots import a_snapshot


def pid_of(place) -> int:
    return json.loads(ask(place, "status"))["data"]["pid"]


def ask(place, verb: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(place.run_dir / "r0.ctl.sock"))
        sock.sendall(json.dumps({"verb": verb}).encode() + b"\n")
        return sock.makefile().readline()


def has_ended(pid: int) -> bool:
    """Gone, or a zombie: it is this process's child, which nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_life_of_a_node(node):
    """create-md, up, primary, status, the refusals of a disk in use, secondary, down: each says what it did."""
    node.config.write_text(node.config.read_text().replace("resource r0 {", "resource r0 { net { csums-alg crc32c; }"))
    assert node("create-md", "r0").code == 0
    up = node("up", "r0")
    nbd = f"nbd+unix:///r0?socket={node.run_dir}/r0.nbd.sock"
    assert (up.code, up.out) == (0, f"r0 is up: Secondary, Inconsistent, Connecting; NBD: {nbd}\n")
    told = f"pydrbd: {node.config}:2:21: option 'csums-alg' has no effect in pydrbd yet\n"
    assert up.err in (told, "")  # until it has an effect
    assert (node.run_dir / "r0.ctl.sock").stat().st_mode & 0o777 == 0o600
    assert (node.run_dir / "r0.log").stat().st_mode & 0o777 == 0o600
    pid = pid_of(node)
    again = node("up", "r0")
    assert (again.code, again.err) == (0, "") and pid_of(node) == pid  # already running is fine, nothing is told twice
    node("primary", "r0").complains(17, "r0: State change failed: (-2) Need access to UpToDate data")
    assert node("primary", "--force", "r0").code == 0
    assert node("status", "r0").out == "r0 role:Primary\n  disk:UpToDate\n  beta connection:Connecting\n"
    assert node("dstate", "r0").out == "UpToDate/DUnknown\n"
    node("dump-md", "r0").complains(20, "Device '0' is configured!", f"pid {pid}")
    node("wait-connect", "-t", "0.1", "r0").complains(5, "WFConnection")
    live = node("get-gi", "r0").out
    assert node("secondary", "r0").code == 0 and node("role", "r0").out == "Secondary/Unknown\n"
    assert node("down", "r0").code == 0 and has_ended(pid)
    left = sorted(path.name for path in node.run_dir.iterdir())
    assert left[-1] == "r0.log" and [name.endswith(".size") for name in left[:-1]] == [True]  # how large its disk was
    assert node("get-gi", "r0").out.split(":")[1:4] == live.split(":")[1:4]
    assert node("down", "r0").code == 0  # is down already


def test_two_nodes_find_each_other(node):
    """Two processes from one file: connected, the first sync waited for, the same identifiers on both."""
    for name in ("alpha", "beta"):
        assert node("create-md", "r0", node=name).code == 0
    beta_run = node.directory / "run-b"

    def beta(verb, *words):
        return node.run(verb, "-c", node.config, "--node", "beta", "--run-dir", beta_run, *words)

    assert node("up", "r0").code == 0 and beta("up", "r0").code == 0
    try:
        assert node("wait-connect", "-t", "20", "r0").code == 0
        assert node("primary", "--force", "r0").code == 0
        assert beta("wait-sync", "-t", "20", "r0").code == 0 and node("wait-sync", "-t", "20", "r0").code == 0
        assert node("status", "r0").out == (
            "r0 role:Primary\n  disk:UpToDate\n  beta role:Secondary\n    replication:Established peer-disk:UpToDate\n"
        )
        beta("primary", "r0").complains(17, "(-1) Multiple primaries not allowed by config")
        assert json.loads(beta("status", "--json").out)[0]["connections"][0]["name"] == "alpha"
        assert node("disconnect", "r0").code == 0 and node("cstate", "r0").out == "StandAlone\n"
        node("wait-connect", "r0").complains(10, "is StandAlone")
        assert node("connect", "r0").code == 0
    finally:
        assert beta("down", "r0").code == 0


def test_up_without_a_disk_that_will_do(node):
    """`up` says why there is no disk; the process runs all the same, and `attach` takes the disk up when it will do."""
    node("up", "r0").complains(65, "alpha0.img: no DRBD meta-data", "create-md", "it runs without its disk")
    assert node("dstate", "r0").out == "Diskless/DUnknown\n"
    node("attach", "r0").complains(65, "no DRBD meta-data")
    assert node("create-md", "r0").code == 0
    with node.disk("alpha").open("r+b") as disk:
        fcntl.flock(disk, fcntl.LOCK_EX)
        node("up", "r0").complains(69, "alpha0.img: is already in use by", "it runs without its disk")
    assert node("attach", "r0").code == 0 and node("dstate", "r0").out == "Inconsistent/DUnknown\n"


def test_up_with_a_busy_port(node, ports):
    """`up` repeats what the process said, and ends with its code; nothing is left behind."""
    node("create-md", "r0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        node("up", "r0").complains(69, f"127.0.0.1 port {ports[0]}", "Address already in use")
    node("status", "r0").complains(69, "not running")


def test_up_after_a_crash(node):
    """The socket of a killed process is no obstacle."""
    node("create-md", "r0")
    node("up", "r0")
    pid = pid_of(node)
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(10_000)
    os.close(descriptor)
    assert (node.run_dir / "r0.ctl.sock").exists()
    assert node("status").out == "# No resource is running here.\n"
    node("status", "r0").complains(69, "not running")
    assert node("up", "r0").code == 0 and pid_of(node) != pid


def test_a_run_directory_that_can_not_be_made(place):
    """A file is in the way."""
    blocked = place.directory / "file"
    blocked.touch()
    result = place.run("up", "-c", place.config, "--node", "alpha", "--run-dir", blocked / "run", "r0")
    assert result.code == 74 and str(blocked) in result.err and result.err.startswith("pydrbd: ")


def test_serve_in_the_foreground(node, processes):
    """What systemd starts: it stays in the foreground, a second one gives up, SIGTERM ends it in good order."""
    node("create-md", "r0")
    words = [sys.executable, "-m", "pydrbd", "serve", "r0", "-c", node.config, "--node", "alpha"]
    words += ["--run-dir", node.run_dir]
    served = processes.start(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert any("up as alpha" in line for line in served.stderr)
    second = subprocess.run(words, capture_output=True, text=True, timeout=30, env=processes.env)
    assert second.returncode == 69 and "Traceback" not in second.stderr
    assert "pydrbd: r0 is running here already" in second.stderr
    assert node("status", "r0").code == 0
    served.send_signal(signal.SIGTERM)
    assert served.wait(20) == 0
    assert not (node.run_dir / "r0.ctl.sock").exists()


# --- down, against a process that only pretends ---


@pytest.fixture
def sleeper(processes):
    """A process whose end `down` waits for."""
    return processes.start([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


@pytest.fixture
def pretender(place, sleeper):
    """A fake process that is `sleeper`; `stop` ends it."""
    fake = FakeProcess(place.run_dir / "r0.ctl.sock")
    fake.answer("status", data=a_snapshot(pid=sleeper.pid))

    def stop(_arguments):
        sleeper.stdin.close()
        return {"code": 1, "text": "", "data": None}

    fake.answers["stop"] = stop
    yield fake
    fake.close()


def verbs(fake) -> list:
    return [(verb, arguments.get("force")) for verb, arguments in fake.asked if verb != "status"]


def test_down_is_secondary_disconnect_detach_stop(place, pretender, sleeper):
    """In this order, and it waits for the process to end."""
    assert place("down", "r0").code == 0
    assert verbs(pretender) == [("secondary", False), ("disconnect", False), ("detach", False), ("stop", None)]
    assert sleeper.wait(0) == 0  # it is waited for by then


def test_down_of_an_open_device_is_refused(place, pretender):
    """A client has it open: nothing is changed."""
    pretender.answer("secondary", -12, "State change failed: (-12) Device is held open by someone")
    place("down", "r0").complains(17, "r0: State change failed: (-12) Device is held open by someone")
    assert verbs(pretender) == [("secondary", False)]


def test_down_that_the_peer_refuses(place, pretender):
    """The peer lives on this node's disk: not without --force."""
    pretender.answers["disconnect"] = lambda arguments: (
        {"code": 1, "text": "", "data": None}
        if arguments["force"]
        else {"code": -10, "text": "State change failed: (-10) State change was refused by peer node", "data": None}
    )
    place("down", "r0").complains(17, "(-10) State change was refused by peer node")
    assert verbs(pretender) == [("secondary", False), ("disconnect", False)]
    assert place("down", "--force", "r0").code == 0
    assert verbs(pretender)[2:] == [("secondary", True), ("disconnect", True), ("detach", True), ("stop", None)]


def test_down_of_a_broken_configuration(place, pretender):
    """A running resource can be stopped whatever has become of its file."""
    place.config.write_text("nonsense")
    assert place("down", "r0").code == 0
