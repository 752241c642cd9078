"""What the process of a resource does not start for: each with its words and its exit code."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from pydrbd.admin import verbs_process
from pydrbd.limits import SYSTEMD_SOCKETS_MAX
from pydrbd.runtime import nbd_server
from pydrbd.runtime.control import ControlServer

NOT_OURS = "192.0.2.1"
KEY = "-----BEGIN PRIVATE KEY-----\nSECRETSECRET\n-----END PRIVATE KEY-----\n"


def settings(node, text):
    (node.directory / "pydrbd.toml").write_text(f"[resource.r0]\n{text}\n")


def refused(node, code, *words):
    result = node("serve", "r0")
    result.complains(code, *words)
    assert "SECRET" not in result.err and not (node.run_dir / "r0.ctl.sock").exists()


@pytest.mark.parametrize("mode", ['tls = "require"', 'link-tls = "require"'], ids=["clients", "peer"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "TLS can't read "), ("", "TLS can't use "), (KEY, "TLS can't use ")],
    ids=["missing", "empty", "no key"],
)
def test_tls_files_that_can_not_be_used(node, mode, content, words):
    """78, for clients and for the peer; which files, and nothing of what is in them."""
    names = {name: node.directory / f"{name}.pem" for name in ("certificate", "key", "authority")}
    if content is not None:
        for path in names.values():
            path.write_text(content)
    settings(node, "\n".join([mode, *(f'tls-{name} = "{path}"' for name, path in names.items())]))
    refused(node, 78, words, str(names["certificate"]))


def test_an_nbd_socket_that_somebody_serves(node):
    """69: by another process, or by one that is alive and does not accept."""
    path = node.run_dir / "r0.nbd.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)  # who has looked once fills its backlog
        refused(node, 69, f"another process serves NBD on {path}")
        refused(
            node, 69, f"the NBD socket {path} can't be taken over: Resource temporarily unavailable"
        )  # its backlog is full
    assert path.exists()


def test_an_nbd_socket_that_somebody_takes_in_that_moment(node, monkeypatch):
    """69: nobody was there when we looked."""
    path = node.run_dir / "r0.nbd.sock"
    monkeypatch.setattr(nbd_server, "_remove_stale_socket", lambda _path: None)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        refused(node, 69, f"another process has just taken the NBD socket {path}")


def test_a_control_socket_that_somebody_takes_in_that_moment(node, monkeypatch):
    """69: of two that are started at once, one runs."""
    monkeypatch.setattr(ControlServer, "_take_over", lambda _self: None)
    path = node.run_dir / "r0.ctl.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        node("serve", "r0").complains(69, f"{path} exists already")


def test_an_nbd_address_of_another_machine(node):
    """69, as an address for the peer that is none of ours."""
    settings(node, f'nbd = ["tcp:{NOT_OURS}:10809"]')
    refused(node, 69, f"can't serve NBD on {NOT_OURS}:10809: this address is none of this machine's")


def test_too_many_sockets_from_systemd(node, monkeypatch):
    """64, and none of them is touched."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(SYSTEMD_SOCKETS_MAX + 1))
    refused(node, 64, f"systemd gives {SYSTEMD_SOCKETS_MAX + 1} sockets: at most {SYSTEMD_SOCKETS_MAX} are served")


def test_a_process_that_never_answers(node, monkeypatch):
    """10 after a minute: it is killed, and where to look is said."""
    silent = node.directory / "silent"
    silent.write_text(f"#!{sys.executable}\nimport signal\nsignal.pause()\n")
    silent.chmod(0o755)
    monkeypatch.setattr(verbs_process.sys, "executable", str(silent))
    monkeypatch.setattr(verbs_process, "UP_TIMEOUT_S", 0.1)
    node("up", "r0").complains(10, "r0: its process did not answer within 0.1 s, and was stopped: look into ", "r0.log")


def test_a_verb_that_failed_without_a_word(place, process):
    """10, and which it was."""
    process.answer("primary", 0)
    place("primary", "r0").complains(10, "r0: primary failed")


def test_a_run_directory_without_room(node):
    """The error names the file, so that whoever makes room knows where."""
    node.run_dir.mkdir(exist_ok=True)
    (node.run_dir / "r0.pid").symlink_to("/dev/full")
    refused(node, 74, f"{node.run_dir}/r0.pid: No space left on device: make room")


def test_a_process_that_ends_without_a_word(node, monkeypatch):
    """As one whose log is on a full disk: `up` says where to look for the reason why nothing is said."""
    silent = node.directory / "silent"
    silent.write_text("#!/bin/sh\nexit 74\n")
    silent.chmod(0o755)
    monkeypatch.setattr(verbs_process.sys, "executable", str(silent))
    log = f"{node.run_dir}/r0.log"
    node("up", "r0").complains(74, f"r0: its process ended without a word: can {log} be written, is there room?")


def test_a_start_that_is_refused_leaves_the_pid_of_who_runs(node):
    """By it the cluster's agent ends a node that does not answer any more."""
    node.run_dir.mkdir(exist_ok=True)
    pid_file = node.run_dir / "r0.pid"
    pid_file.write_text("1\n")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(node.run_dir / "r0.nbd.sock"))
        theirs.listen()
        refused(node, 69, "another process serves NBD on")
    assert pid_file.read_text() == "1\n"
