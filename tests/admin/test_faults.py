"""One fault, one exit code: whatever verb meets it, and whether it works on the disk itself or asks a process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from pydrbd.admin.exit_codes import EXIT_CODES, blamed
from pydrbd.errors import ConfigError
from pydrbd.runtime import block_open

ON_DISK = (("dump-md",), ("apply-al",), ("get-gi",), ("show-gi",), ("wipe-md", "--force"), ("outdate",))
"""Verbs that look into the meta-data of a stopped resource; each needs a disk that has some."""

ON_NEW_DISK = (*ON_DISK, ("create-md",))
BY_PROCESS = (("up",), ("attach",))


@dataclass(frozen=True)
class Fault:
    """What is wrong with a disk, for as long as the block lasts, and what every verb ends with then."""

    make: object
    code: int
    verbs: tuple
    words: str


@contextmanager
def none(_disk, _monkeypatch):
    yield


@contextmanager
def missing(disk, _monkeypatch):
    disk.rename(disk.with_suffix(".away"))
    try:
        yield
    finally:
        disk.with_suffix(".away").rename(disk)


@contextmanager
def folder(disk, monkeypatch):
    with missing(disk, monkeypatch):
        disk.mkdir()
        try:
            yield
        finally:
            disk.rmdir()


@contextmanager
def in_use(disk, _monkeypatch):
    with disk.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


FAULTS = {
    "no meta-data": Fault(none, 65, ON_DISK, "no DRBD meta-data"),
    "missing": Fault(missing, 74, ON_NEW_DISK, "no such disk"),
    "a folder": Fault(folder, 74, ON_NEW_DISK, "is a directory"),
    "in use": Fault(in_use, 69, ON_NEW_DISK, "is already in use by"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_stopped_disk_has_one_code(place, monkeypatch, name):
    """By every verb that opens the disk itself."""
    fault = FAULTS[name]
    for verb in fault.verbs:
        with fault.make(place.disk("alpha"), monkeypatch):
            place(*verb, "r0").complains(fault.code, "alpha0.img", fault.words)


@pytest.mark.parametrize("name", FAULTS)
def test_a_process_that_meets_a_fault_ends_its_verbs_with_the_same_code(node, monkeypatch, name):
    """`up` starts the process, which runs on without its disk; `up` again and `attach` ask it to try once more."""
    fault = FAULTS[name]
    with fault.make(node.disk("alpha"), monkeypatch):
        for verb in (*BY_PROCESS, ("up",)):
            node(*verb, "r0").complains(fault.code, "alpha0.img", fault.words)
    assert node("dstate", "r0").out == "Diskless/DUnknown\n"


@pytest.mark.parametrize("verb", [verb[0] for verb in ON_NEW_DISK])
def test_a_disk_that_we_may_not_open(place, monkeypatch, verb):
    """77, whether it is read or written."""

    def refuse(path, flags, *_args, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(block_open.os, "open", refuse)
    force = ("--force",) if verb == "wipe-md" else ()
    place(verb, *force, "r0").complains(77, "alpha0.img: no permission to read")


@pytest.mark.parametrize("code", [65, 69, 74, 77, 78])
@pytest.mark.parametrize("verb", ["up", "attach"])
def test_what_a_process_met_is_what_its_verb_ends_with(place, process, verb, code):
    """The process says by which code; without one it is a refusal."""
    snapshot = process.answers["status"]["data"]
    for volume in snapshot["volumes"]:
        volume["disk"] = "Diskless"
    process.answer("attach", -8, "d: it will not do", {"exit_code": code})
    place(verb, "r0").complains(code, "r0: d: it will not do")
    process.answer("attach", -8, "d: it will not do")
    place(verb, "r0").complains(17, "r0: d: it will not do")


def test_a_configuration_that_we_may_not_read(place, monkeypatch):
    """77 as for any other file, not 78: nothing is wrong in it."""

    def refuse(self, *_args, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(type(place.config), "open", refuse)
    for verb in ("dump", "up", "create-md", "show"):
        place(verb, "r0").complains(77, str(place.config), "Permission denied")


def test_a_control_socket_that_we_may_not_use(place, process, monkeypatch):
    """77 by every verb that asks the process."""

    def refuse(self, address):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for verb in ("status", "primary", "attach", "down", "dump-md", "role", "up", "outdate", "wait-connect"):
        place(verb, "r0").complains(77, "r0.ctl.sock: Permission denied")


def test_a_resource_that_does_not_run_or_is_not_ours(place):
    """69 where a process is needed, 78 for a name that no configuration knows: by every verb."""
    for verb in ("primary", "secondary", "attach", "detach", "connect", "disconnect", "invalidate", "resize", "role"):
        place(verb, "r0").complains(69, "r0 is not running here")
        place(verb, "r9").complains(78, "r9")
    for verb in ("up", "down", "create-md", "dump-md", "outdate", "dump"):
        place(verb, "r9").complains(78, "r9")


def test_every_code_of_a_process_is_in_the_table():
    """What a process can name is documented, and what it can't is None."""
    for code in EXIT_CODES:
        error = blamed(code, "words")
        assert error is None or (error.exit_code == code and str(error) == "words")
    assert isinstance(blamed(78, ""), ConfigError)
    assert blamed(None, "") is None and blamed("65", "") is None and blamed(17, "") is None


@pytest.mark.parametrize("words", [("nbd-attach", "r0"), ("nbd-attach", "--dry-run", "r0"), ("nbd-detach", "r0")])
def test_what_speaks_netlink_is_not_installed(place, monkeypatch, words):
    """pyroute2 is an extra: without it one line says how to get it."""
    for name in ("pydrbd.admin.nbd_netlink", "pydrbd.admin.nbd_keeper", "pyroute2.netlink"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    place(*words).complains(69, "pip install pyroute2, or apt-get install python3-pyroute2")


def test_a_running_process_blames_the_same_as_the_command_line(node):
    """78 for a pydrbd.toml that is wrong, running or not; 64 for an option that can't be; and where to listen."""
    assert node("create-md", "r0").code == 0 and node("up", "r0").code == 0
    node("disk-options", "--al-extents=1", "r0").complains(64, "al-extents")
    settings = node.config.with_name("pydrbd.toml")
    settings.write_text("[resource.r0]\nio = 'perhaps'\n")
    for verb in ("up", "adjust"):
        node(verb, "r0").complains(78, "pydrbd.toml")
    node.run("witness", "--listen", "nowhere", "--state", node.directory / "leases").complains(64, "--listen can't be")
