"""Messages that are put together from what was found: each by its words and its exit code."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from pydrbd.admin.demo_pair import LocalPair
from pydrbd.admin.exit_codes import CommandFailed
from pydrbd.admin.snapshots import FileSnapshots
from pydrbd.config import parse_config
from pydrbd.core.lease import Lease
from pydrbd.errors import ConfigError, DiskError, UsageError
from pydrbd.runtime.build import blueprint
from pydrbd.runtime.lease_files import LeaseFiles
from pydrbd.runtime.nbd_server import NbdServer

HOST = "on {0} {{ device minor 0; disk /dev/b; meta-disk internal; address {1}; }}"


# --- the configuration ---


def text_of(*hosts: tuple[str, str]) -> str:
    return "resource r0 { " + " ".join(HOST.format(*host) for host in hosts) + " }\n"


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        (
            [("alpha", "10.0.0.1:1"), ("beta", "10.0.0.2:1"), ("gamma", "10.0.0.3:1")],
            "resource 'r0' has 3 host sections; pydrbd (as DRBD 8.4) connects exactly two: --peer NAME says which",
        ),
        ([("alpha", "10.0.0.1:1")], "connects exactly two"),
        (
            [("alpha", "10.0.0.1:1"), ("beta", "ipv6 [::1]:1")],
            "resource 'r0': one address is ipv4, the other is not",
        ),
    ],
    ids=["three", "one", "families"],
)
def test_hosts_that_are_no_pair(tmp_path: Path, hosts: list[tuple[str, str]], words: str) -> None:
    """78, with the place."""
    file = tmp_path / "r0.res"
    file.write_text(text_of(*hosts))
    with pytest.raises(ConfigError) as caught:
        blueprint(file, "r0", "alpha")
    assert caught.value.exit_code == 78 and str(caught.value).startswith(f"{file}:1:") and words in str(caught.value)


def test_a_device_with_a_word_too_many() -> None:
    """78: `minor` is forgotten."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text_of(("a", "10.0.0.1:1"), ("b", "10.0.0.2:1")).replace("minor 0", "/dev/drbd0 0"), "r.res")
    assert caught.value.exit_code == 78 and "unexpected '0': 'device' takes " in str(caught.value)


# --- demo ---


def test_a_demo_without_room(run, tmp_path: Path) -> None:
    """74."""
    run("demo", "--dir", tmp_path, "--size", "999999G").complains(
        74, f"{tmp_path} has ", " free, and two disks of ", "give another --dir or a smaller --size"
    )


def test_a_demo_in_a_place_that_is_not_there(run, tmp_path: Path) -> None:
    """64."""
    run("demo", "--dir", tmp_path / "none").complains(
        64, f"can't make a directory in {tmp_path}/none: ", "another --dir"
    )


def test_a_demo_whose_meta_data_can_not_be_made(tmp_path: Path) -> None:
    """10, with the exit code and the end of the log."""
    node = SimpleNamespace(name="alpha", command=lambda _verb: [], log_path=tmp_path, log_end=lambda: "its last words")

    class Pair(LocalPair):
        def __init__(self) -> None: ...
        def __iter__(self):
            return iter([node])

        def spawn(self, *_words):
            return SimpleNamespace(wait=lambda _timeout: 65, returncode=65)

    with pytest.raises(CommandFailed, match=r"create-md failed on alpha \(exit code 65\):\nits last words") as caught:
        Pair().create_meta_data()
    assert caught.value.exit_code == 10


# --- places and disks ---


def test_an_nbd_socket_whose_path_is_too_long(tmp_path: Path) -> None:
    """64."""
    path = tmp_path / ("x" * 120)
    with pytest.raises(UsageError, match=r"the NBD socket path .* is longer than \d+ bytes: use a shorter") as caught:
        NbdServer(SimpleNamespace()).listen_unix(path)
    assert caught.value.exit_code == 64


def test_a_snapshot_that_can_not_be_removed(tmp_path: Path) -> None:
    """74."""
    (tmp_path / "disk.before-resync-1").mkdir()
    with pytest.raises(DiskError, match=r"disk\.before-resync-1: can't be removed: ") as caught:
        FileSnapshots(tmp_path / "disk", copies=False).remove("disk.before-resync-1")
    assert caught.value.exit_code == 74


def test_a_kernel_that_does_not_say_which_device_it_has_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """69."""
    pytest.importorskip("pyroute2")
    from pydrbd.admin.nbd_netlink import NbdKernel, NbdKernelError

    kernel = object.__new__(NbdKernel)
    monkeypatch.setattr(kernel, "_ask", lambda *_words: [], raising=False)
    here, there = socket.socketpair()
    with here, there, pytest.raises(NbdKernelError, match="attached a device, and did not say which") as caught:
        kernel.connect(None, [here], size_bytes=4096, server_flags=0, dead_timeout_s=1, backend="pydrbd r0")
    assert caught.value.exit_code == 69


def test_a_process_that_ends_while_its_events_are_read(place, process) -> None:
    """69."""
    process.raw = b'{"code": 1, "text": "", "data": null}\n'
    place("events2", "--now", "r0").complains(10)
    process.raw = b""
    place("events2", "r0").complains(69, "r0")


# --- the witness ---


def test_the_words_of_a_witness(run, short_tmp: Path) -> None:
    """64 for what can't be listened at, 78 for a key that can't be read."""
    state, place = short_tmp / "leases", f"unix:{short_tmp}/w"
    run("witness", "--state", state).complains(64, "witness: --listen says where, or --forget which lease")
    run("witness", "--state", state, "--listen", "udp:1").complains(64, "--listen can't be 'udp:1'")
    run("witness", "--state", state, "--listen", "tcp:no such host:1").complains(
        64, "can't listen at tcp:no such host:1"
    )
    run("witness", "--state", state, "--listen", place, "--key-file", short_tmp / "none").complains(
        78, f"the key of the witness, {short_tmp}/none, can't be read: "
    )


def test_the_directory_of_a_witness(run, short_tmp: Path) -> None:
    """69 while another one has it, 65 for a damaged lease, 64 for a lease that nobody has."""
    state, place = short_tmp / "leases", f"unix:{short_tmp}/w"
    files = LeaseFiles(state)
    files.write("r0:a,b", Lease("a", 1, 1))
    run("witness", "--state", state, "--listen", place).complains(69, f"another witness keeps its leases in {state}")
    files.close()
    run("witness", "--state", state, "--forget", "r1:a,b").complains(
        64, "nobody has the lease of r1:a,b, but of: r0:a,b"
    )
    (file,) = state.glob("*.lease")
    file.write_text("{")
    run("witness", "--state", state, "--listen", place).complains(
        65, f"{file} is no lease: who held it is not known; remove the file only while both nodes are connected"
    )
    run("witness", "--state", short_tmp / "none", "--forget", "r0:a,b").complains(64, "there is no directory")
