"""What else a command is refused for, or a disk: each with its words and its exit code."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from pydrbd.admin import verbs_nbd, verbs_wait
from pydrbd.errors import DiskError
from pydrbd.runtime import block_lock, block_open
from tests.admin.snapshots import a_snapshot, alone

URI = "--uri=nbd://alpha/r0"


# --- the words of nbd-attach and nbd-detach ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nbd-attach", URI, "/dev/nbd0"], "expected RES[/VNR], and perhaps /dev/nbdN"),
        (["nbd-attach", URI, "r0", "/dev/nbd0", "r1"], "expected RES[/VNR], and perhaps /dev/nbdN"),
        (["nbd-attach", URI, "r0/x"], "'r0/x' names no volume: expected RES or RES/VNR"),
        (["nbd-attach", "--uri=http://alpha/r0", "r0"], "'http://alpha/r0' is no NBD URI that a device can be made of"),
        (["nbd-attach", "--uri=nbd+unix:///r0", "r0"], "'nbd+unix:///r0' is no NBD URI that a device can be made of"),
        (["nbd-attach", "--uri=nbd://[::1/r0", "r0"], "'nbd://[::1/r0' is no NBD URI: "),
        (["nbd-detach", "r0", "r1"], "expected RES[/VNR] or /dev/nbdN"),
    ],
)
def test_what_names_no_device(place, words, message):
    """64, before the kernel is asked for anything."""
    place(*words).complains(64, message)


def test_a_resource_without_an_address_for_a_device(place, process):
    """69: vsock only, say."""
    process.answer("status", data=a_snapshot(nbd=["vsock:10809"]))
    place("nbd-attach", "r0").complains(69, "r0 has no NBD address that a device can be made of")


class Device:
    """A device of the kernel that is attached, by whom `backend` says."""

    path, index, is_attached = "/dev/nbd7", 7, True

    def __init__(self, backend: str):
        self.backend = backend

    def check_unused(self):
        pass

    def flush(self, _timeout_s):
        raise DiskError("/dev/nbd7: what was written can't be made durable")


def test_a_device_of_somebody_else_is_not_detached(place, monkeypatch):
    """69: nbd-client's, say."""
    monkeypatch.setattr(verbs_nbd, "_attached", lambda _names: Device(""))
    place("nbd-detach", "/dev/nbd7").complains(69, "/dev/nbd7 was not attached by 'pydrbd nbd-attach'")


def test_what_its_server_does_not_take_is_not_given_up_without_a_word(place, monkeypatch):
    """74: --force gives it up."""
    monkeypatch.setattr(verbs_nbd, "_attached", lambda _names: Device(verbs_nbd.BACKEND_PREFIX + "r0"))
    place("nbd-detach", "/dev/nbd7").complains(74, "can't be made durable: bring the server back first", "--force")


# --- a process that is not as it should be ---


@pytest.mark.parametrize("raw", [b"nonsense\n", b"[]\n", b'{"code": 1}\n'])
def test_a_stream_of_events_that_is_none(place, process, raw):
    process.raw = raw
    place("events2", "--now", "r0").complains(10)


def test_a_stream_that_sends_what_no_process_sends(place, process):
    """10, with the beginning of it."""
    process.answers["events"] = "nonsense"
    place("events2", "--now", "r0").complains(10, "r0: sends what no pydrbd process sends", "nonsense")


def test_a_wait_that_is_refused(place, process):
    """17, as any other request: by an older process, say."""
    process.answer("wait-connect", -17, "unknown verb 'wait-connect'")
    place("wait-connect", "-t", "1", "r0").complains(17, "unknown verb")


def test_what_is_no_control_socket(place):
    """10: somebody else's socket is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(place.run_dir / "r0.ctl.sock"))
        place("role", "r0").complains(10, "r0: no connection to ", "r0.ctl.sock")


def test_a_tentative_connection_needs_one_that_stands_alone(place, process):
    """10, and which command makes it so."""
    place("connect", "--tentative", "r0").complains(10, "r0: is Connected: pydrbd disconnect r0 first")


def test_a_tentative_connection_has_its_time(place, process, monkeypatch):
    """5, and it no longer looks for the peer."""
    states = ["StandAlone", "Connecting", "Connecting"]
    monkeypatch.setattr(verbs_wait, "_TENTATIVE_S", 0.0)
    process.answers["status"] = lambda _arguments: {
        "code": 1, "text": "", "data": alone(states.pop(0) if len(states) > 1 else states[0])
    }  # fmt: skip
    place("connect", "--tentative", "r0").complains(5, "the peer was not there within 0 s")
    assert process.asked[-1] == ("disconnect", {"force": True})


def test_an_exporter_is_there_already(place):
    """69: two of them would answer for one machine."""
    path = place.directory / "m.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        place("metrics", f"--listen=unix:{path}").complains(69, f"unix:{path}: somebody does already")


# --- disks ---


def refused(place, code: int, *words: str) -> None:
    """By create-md and by dump-md alike."""
    for verb in ("create-md", "dump-md"):
        place(verb, "r0").complains(code, f"{place.directory}/alpha0.img", *words)


def test_a_disk_that_leads_to_itself(place):
    place.disk("alpha").unlink()
    place.disk("alpha").symlink_to(place.disk("alpha"))
    refused(place, 74, "can't look at it: Too many levels of symbolic links")


def test_a_disk_behind_a_directory_that_is_closed(place, monkeypatch):
    """77: root would get in."""
    real = Path.stat

    def stat(path, **options):
        if path == place.disk("alpha"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    refused(place, 77, "no permission to look at it: run as a user who may")


def test_a_disk_that_becomes_another_while_it_is_opened(place, monkeypatch):
    """A block device was looked at, and a file is there."""
    monkeypatch.setattr(block_open, "_check_kind", lambda _path: True)
    refused(place, 74, "was replaced while we opened it: try again")


def test_a_file_system_without_locks(place, monkeypatch):
    def flock(_fd, _how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(block_lock.fcntl, "flock", flock)
    refused(place, 74, "can't be locked against other processes: No locks available")


@pytest.mark.parametrize(
    ("size_bytes", "code", "words"),
    [
        (0, 74, "is too small: 0 bytes, at least 4096 are needed"),
        (4095, 74, "is too small: 4095 bytes, at least 4096 are needed"),
        (4096, 74, "the device of 4096 bytes is too small for internal meta-data: it needs at least 1048576 bytes"),
        (1 << 19, 74, "the device of 524288 bytes is too small for internal meta-data"),
    ],
)
def test_a_disk_that_is_too_small(place, size_bytes, code, words):
    """For anything, or for meta-data and at least some data."""
    with place.disk("alpha").open("wb") as disk:
        disk.truncate(size_bytes)
    place("create-md", "r0").complains(code, f"{place.directory}/alpha0.img", words)


@pytest.mark.parametrize(
    ("words", "message"),
    [("1:2:3:4:2", "CONSISTENT is '2' in '1:2:3:4:2': expected 0 or 1"), (":" * 12, "expected at most four uuids")],
)
def test_identifiers_that_are_none(place, words, message):
    """64, and the meta-data is as it was."""
    assert place("create-md", "r0").code == 0
    before = place.disk("alpha").read_bytes()
    place("set-gi", "--force", f"--gi={words}", "r0").complains(64, message)
    assert place.disk("alpha").read_bytes() == before
