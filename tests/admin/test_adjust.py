"""adjust, and `up` of what runs already: a changed configuration is taken over, or what it takes is said."""

from __future__ import annotations

import json
import socket

import pytest

from tests.admin.conftest import config_text


def change(node, old: str, new: str) -> None:
    text = node.config.read_text()
    assert old in text
    node.config.write_text(text.replace(old, new))


@pytest.fixture
def running(node):
    """Alpha, up and alone."""
    assert node("create-md", "r0").code == 0
    assert node("up", "r0").code == 0
    return node


def pid(node) -> int:
    return json.loads((node.run_dir / "r0.pid").read_text())


def test_nothing_has_changed(running):
    """Silence, and no request but to look."""
    for words in (("adjust", "r0"), ("adjust", "-d", "r0"), ("adjust", "all")):
        result = running(*words)
        assert (result.code, result.out, result.err) == (0, "", "")


def test_a_corrected_address_is_taken_over_by_up_and_by_adjust(running, ports):
    """The half-started node no longer keeps the wrong port, and is still the same process."""
    before = pid(running)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running.config.write_text(config_text(running.directory, (port, ports[1])))
    result = running("up", "r0")
    assert result.out.startswith(f"r0: address of alpha: 127.0.0.1:{ports[0]} -> 127.0.0.1:{port}\nr0 is up: ")
    assert result.code == 0 and pid(running) == before
    assert running("wait-connect", "-t", "0.01", "r0").code == 5  # it looks for the peer
    listening = socket.create_connection(("127.0.0.1", port), timeout=20)
    listening.close()
    with socket.socket() as old:
        old.bind(("127.0.0.1", ports[0]))  # free again
    running.config.write_text(config_text(running.directory, ports))
    assert running("adjust", "r0").out == f"r0: address of alpha: 127.0.0.1:{port} -> 127.0.0.1:{ports[0]}\n"


def test_a_dry_run_only_tells(running):
    """What would change, and when; then it does."""
    disk = "disk { fencing resource-only; al-extents 500; }"
    change(running, "resource r0 {", f"resource r0 {{ net {{ ko-count 3; }} {disk}")
    now = "r0: net: ko-count 7 -> 3\nr0: volume 0: disk: fencing dont-care -> resource-only\n"
    late = (
        "r0: volume 0: disk: al-extents 1237 -> 500 "
        "(when the disk is attached next: pydrbd detach r0, pydrbd attach r0)\n"
    )
    told = running("adjust", "--dry-run", "r0")
    assert sorted(told.out.splitlines()) == sorted((now + late).splitlines()) and told.err == ""
    done = running("adjust", "r0")
    assert (done.code, done.out, done.err) == (0, now, f"pydrbd: {late}")
    assert running("adjust", "r0").out == ""
    assert running("detach", "r0").code == 0 and running("attach", "r0").code == 0
    assert running("down", "r0").code == 0
    assert "al-extents 500;" in running("dump-md", "--force", "r0").out  # the superblock says what was used


def test_another_disk_is_attached(node):
    """`up` without its disk, a corrected path, `up` again: the same process has it."""
    change(node, "alpha0.img", "wrong.img")
    node("up", "r0").complains(74, "wrong.img", "it runs without its disk")
    before = pid(node)
    change(node, "wrong.img", "alpha0.img")
    assert node("create-md", "r0").code == 0
    result = node("up", "r0")
    assert result.code == 0 and "r0: volume 0: disk" in result.out and "r0 is up: Secondary, Inconsistent" in result.out
    assert pid(node) == before


def test_adjust_attaches_and_connects(running):
    """What an operator has taken away comes back, unless he says so."""
    assert running("detach", "r0").code == 0 and running("disconnect", "r0").code == 0
    assert running("adjust", "-d", "r0").out == "r0: would attach\nr0: would connect\n"
    assert running("adjust", "--skip-disk", "--skip-net", "r0").code == 0
    assert running("dstate", "r0").out == "Diskless/DUnknown\n" and running("cstate", "r0").out == "StandAlone\n"
    assert running("adjust", "r0").code == 0
    assert running("dstate", "r0").out == "Inconsistent/DUnknown\n" and running("cstate", "r0").out == "WFConnection\n"


def test_what_takes_a_restart_changes_nothing(running):
    """Another volume: it is said, with the two commands, and no half of it is done."""
    running.config.write_text(config_text(running.directory, (17701, 17702), volumes=2))
    expected = "volumes: 0 (minor 0) -> 0 (minor 0), 1 (minor 1)"
    told = running("adjust", "r0")
    told.complains(10, expected, "only by a restart: pydrbd down r0, pydrbd up r0; nothing was changed")
    running("up", "r0").complains(10, expected)
    assert expected in running("adjust", "-d", "r0").out


def test_who_may_come_in_over_nbd_takes_a_restart(running):
    """TLS and the closed list: each is said, none of it is taken over."""
    running.config.with_name("pydrbd.toml").write_text(
        '[resource.r0]\nnbd-list = false\ntls = "allow"\ntls-certificate = "c"\ntls-key = "k"\n'
    )
    said = running("adjust", "r0").err
    assert "nbd-list true -> false" in said
    assert "tls off -> allow, its files" in said


def test_a_broken_configuration_changes_nothing(running):
    """The place of the mistake, as for any other command."""
    running.config.write_text("nonsense")
    running("adjust", "r0").complains(78, f"{running.config}:1:9")


def test_adjust_starts_what_does_not_run(node):
    """As drbdadm's does."""
    assert node("create-md", "r0").code == 0
    assert node("adjust", "-d", "r0").out == "r0: would be started\n" == node("adjust-with-progress", "-d", "r0").out
    assert node("adjust", "r0").out.startswith("r0 is up: Secondary, Inconsistent")


def test_options_that_both_agreed_on_wait_for_the_next_meeting(node):
    """Protocol and verify-alg of a connected pair: one waits, the other is told to the peer at once."""
    run_dir = node.directory / "run-b"

    def beta(verb, *words):
        return node.run(verb, "-c", node.config, "--node", "beta", "--run-dir", run_dir, *words)

    for name in ("alpha", "beta"):
        assert node("create-md", "r0", node=name).code == 0
    assert node("up", "r0").code == 0 and beta("up", "r0").code == 0
    try:
        assert node("wait-connect", "-t", "20", "r0").code == 0
        assert node("new-current-uuid", "--clear-bitmap", "r0").code == 0
        node("verify", "r0").complains(17, "(-14)")
        change(node, "resource r0 {", "resource r0 { net { protocol A; verify-alg crc32c; }")
        result = node("adjust", "r0")
        assert result.out == "r0: net: verify-alg none -> crc32c\n"
        assert "net: protocol C -> A (when the nodes meet next: pydrbd disconnect r0" in result.err
        assert node("verify", "--wait", "r0").code == 0
        assert node("status", "r0").out.startswith("r0 role:Secondary\n  disk:UpToDate\n  beta role:Secondary\n")
        assert node("disconnect", "r0").code == 0 and beta("adjust", "--skip-net", "r0").code == 0
        assert node("connect", "r0").code == 0 and beta("adjust", "r0").code == 0
        assert node("wait-connect", "-t", "20", "r0").code == 0
        assert " A r" in node("proc-drbd", "r0").out
    finally:
        beta("down", "--force", "r0")


def test_a_dry_run_of_any_other_verb_says_the_command(place):
    """Names are looked at, nothing is asked of anybody."""
    assert place("primary", "-d", "--force", "r0").out == (
        f"pydrbd primary -c {place.config} --node alpha --run-dir {place.run_dir} --force r0\n"
    )
    place("primary", "-d", "r7").complains(78, "no resource 'r7'")
    assert place("create-md", "--dry-run", "r0").code == 0
    place("dump-md", "r0").complains(65, "no DRBD meta-data")
