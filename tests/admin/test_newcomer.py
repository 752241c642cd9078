"""What goes wrong for those who set up their first pair: each mistake is named where it is made."""

from __future__ import annotations

import errno
import socket
from contextlib import contextmanager

import pytest

from pydrbd.config.load import parse_config
from pydrbd.errors import BusyError, ConfigError
from pydrbd.runtime.rendezvous import Endpoints, bind
from tests.admin.conftest import config_text
from tests.admin.snapshots import a_snapshot, alone
from tests.lab.waiting import wait_until


@contextmanager
def both_up(node, run_dir):
    """Alpha and beta from one file; gives a function that runs a verb on beta."""

    def beta(verb, *words):
        return node.run(verb, "-c", node.config, "--node", "beta", "--run-dir", run_dir, *words)

    for name in ("alpha", "beta"):
        assert node("create-md", "r0", node=name).code == 0
    assert node("up", "r0").code == 0 and beta("up", "r0").code == 0
    try:
        yield beta
    finally:
        beta("down", "--force", "r0")


def test_a_typo_in_meta_disk_is_no_path(tmp_path):
    """`internl` would be a file of that name in whatever directory the process is in."""
    text = config_text(tmp_path).replace("meta-disk internal", "meta-disk internl", 1)
    with pytest.raises(ConfigError, match=r"'meta-disk internl' is neither internal nor .*did you mean 'internal'"):
        parse_config(text)


def test_a_port_that_is_roots_says_so(monkeypatch):
    """Permission denied is not `in use`."""

    class Refused(socket.socket):
        def bind(self, _address):
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pydrbd.runtime.rendezvous.socket.socket", Refused)
    with pytest.raises(BusyError, match=r"port 788 .*Permission denied: ports below 1024 are root's"):
        bind(Endpoints(socket.AF_INET, ("127.0.0.1", 788), ("127.0.0.1", 789)))


def test_a_busy_port_is_found_before_the_disk_is_touched(node, ports):
    """A node that can't listen does not apply an activity log first."""
    node("create-md", "r0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        node("up", "r0").complains(69, f"127.0.0.1 port {ports[0]}", "another node or program has this port")
    assert "Attaching" not in (node.run_dir / "r0.log").read_text()
    assert not (node.run_dir / "r0.ctl.sock").exists()


def test_up_names_the_disk(node):
    """With several volumes, and at three in the morning, 'the superblock' is not enough."""
    node("up", "r0").complains(65, f"{node.disk('alpha')}: no DRBD meta-data", "has grown since, must not get it")


def test_create_md_names_what_it_would_damage_once(place):
    """An ext4 file system that fills the disk."""
    with place.disk("alpha").open("r+b") as disk:
        disk.seek(1024 + 4)
        disk.write((8192).to_bytes(4, "little"))
        disk.seek(1024 + 56)
        disk.write(b"\x53\xef")
        disk.seek(1024 + 96)
        disk.write((0x40).to_bytes(4, "little"))
    result = place("create-md", "r0")
    result.complains(65, "an ext4 file system of 8388608 bytes", "Nothing was written", "create-md --force r0/0")
    assert result.err.count("ext4") == 1


def test_a_wrong_secret_is_told_to_who_waits(node):
    """Not only to the log."""
    right = node.config.read_text()
    net = 'resource r0 {{ net {{ cram-hmac-alg sha1; shared-secret "{}"; }}'
    other = node.directory / "other.res"
    other.write_text(right.replace("resource r0 {", net.format("b")))
    node.config.write_text(right.replace("resource r0 {", net.format("a")))
    for name in ("alpha", "beta"):
        assert node("create-md", "r0", node=name).code == 0
    assert node("up", "r0").code == 0
    run_dir = node.directory / "run-b"
    words = ("-c", other, "--node", "beta", "--run-dir", run_dir, "r0")
    assert node.run("up", *words).code == 0
    try:
        node("wait-connect", "r0").complains(10, "authentication failed: cram-hmac-alg or shared-secret differ")
    finally:
        assert node.run("down", *words).code == 0


def test_two_new_disks_are_not_in_sync(node):
    """wait-sync waits until one of them is chosen, and says that it takes somebody to do so."""
    with both_up(node, node.directory / "run-b") as beta:
        assert node("wait-connect", "-t", "20", "r0").code == 0
        waited = node("wait-sync", "-t", "0.3", "r0")
        assert waited.code == 5 and "Connected: neither copy is UpToDate" in waited.err
        assert "neither copy is UpToDate: waiting until one is chosen ('pydrbd primary --force r0'" in waited.err
        assert beta("primary", "--force", "r0").code == 0
        assert node("wait-sync", "-t", "20", "r0").code == 0


def test_a_pair_with_one_disk_is_not_in_sync(node):
    """On neither node, until the disk is there again."""
    with both_up(node, node.directory / "run-b") as beta:
        assert node("wait-connect", "-t", "20", "r0").code == 0
        assert node("new-current-uuid", "--clear-bitmap", "r0").code == 0
        assert node("wait-sync", "-t", "20", "r0").code == beta("wait-sync", "-t", "20", "r0").code == 0
        assert beta("detach", "r0").code == 0
        wait_until(lambda: node("dstate", "r0").out == "UpToDate/Diskless\n", "the peer to say that its disk is gone")
        assert node("wait-sync", "r0").code == beta("wait-sync", "r0").code == 74
        assert beta("attach", "r0").code == 0
        assert node("wait-sync", "-t", "20", "r0").code == beta("wait-sync", "-t", "20", "r0").code == 0


def test_a_peer_that_does_not_answer_has_not_refused(place, process):
    """The connection broke while it was asked."""
    process.answer("primary", -10, "State change failed: (-10) State change was refused by peer node")
    process.answer("status", data=alone())
    place("primary", "--force", "r0").complains(17, "(-10)", "the peer did not answer, and the connection is lost now")
    process.answer("status", data=a_snapshot())
    assert "did not answer" not in place("primary", "--force", "r0").err


def test_why_there_is_no_connection(place, process):
    """Whoever waits in vain reads the reason."""
    reason = "the peer's disk is too small"
    process.answer("wait-connect", 0, "wait-connect: timed out after 0.1 s")
    process.answer("status", data=alone())
    place("wait-connect", "-t", "0.000001", "r0").complains(5, "(WFConnection)")
    process.answer("status", data=alone() | {"connection_reason": reason})
    place("wait-connect", "-t", "0.000001", "r0").complains(5, f"(WFConnection: {reason})")
