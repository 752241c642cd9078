"""DRBD's objects one by one: new-resource ... del-resource; and sh-status, which shows them to a shell."""

from __future__ import annotations

import subprocess

import pytest

from tests.admin.snapshots import a_resync, a_snapshot, a_volume
from tests.config.drbdadm import find_drbdadm


def test_a_life_in_small_steps(node):
    """As drbdadm of 8.4 brings a resource up and down without `up` and `down`."""
    node("new-minor", "r0").complains(10, "(158) Unknown resource", "new-resource r0 first")
    assert node("create-md", "r0").code == 0
    for _ in range(2):
        assert node("new-resource", "r0").code == 0
    assert node("cstate", "r0").out == "StandAlone\n" and node("dstate", "r0").out.startswith("Diskless/")
    assert node("new-minor", "r0/0").code == node("sh-new-minor", "minor-0").code == 0
    node("new-minor", "r0/7").complains(64, "no volume 7")
    assert node("attach", "r0").code == node("connect", "r0").code == 0
    assert node("dstate", "r0").out.startswith("Inconsistent/") and node("cstate", "r0").out == "WFConnection\n"
    node("del-minor", "r0").complains(10, "r0/0: Failure: (160) Minor still configured (down it first)", "Inconsistent")
    node("del-resource", "r0").complains(10, "(125) Device has a net-config (use disconnect first)")
    assert node("disconnect", "r0").code == 0
    node("del-resource", "r0").complains(10, "(159) Resource still in use (delete all minors first)")
    assert node("detach", "r0").code == 0
    assert node("del-minor", "r0/0").code == 0
    assert node("del-resource", "r0").code == 0
    node("role", "r0").complains(69, "not running")
    assert node("del-resource", "r0").code == 0


def test_up_goes_on_from_a_bare_process(node):
    """It attaches and connects what new-resource has left."""
    assert node("create-md", "r0").code == node("new-resource", "r0").code == 0
    assert node("up", "r0").code == node("adjust", "r0").code == 0
    assert node("cstate", "r0").out == "WFConnection\n" and node("dstate", "r0").out.startswith("Inconsistent/")


def test_a_primary_is_not_deleted(place, process):
    """Also without a disk: its clients use the peer's."""
    process.answer("status", data=a_snapshot(a_volume(disk="Diskless"), connection="StandAlone"))
    place("del-minor", "r0").complains(10, "(160)", "Primary, Diskless")
    place("del-resource", "r0").complains(10, "(159)")


def in_a_shell(text: str) -> list[str]:
    """What a script that takes it in is told of each volume."""
    show = '_sh_status_process() { echo "$_res_name/$_volume $_minor $_known $_cstate $_role/$_peer $_disk/$_pdsk'
    show += ' ${_flags_susp:-0}${_flags_aftr_isp:-0}${_flags_peer_isp:-0}${_flags_user_isp:-0} $_resynced_percent"; }\n'
    done = subprocess.run(["/bin/sh", "-euc", show + text], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_sh_status_is_taken_in_by_a_shell(place, process):
    """In sync; in a resync that is held, while I/O is; not running."""
    told = in_a_shell(place("sh-status").out)
    assert told == ["r0/0 0 Configured Connected Primary/Secondary UpToDate/UpToDate 0000 "]
    held = {"resync": a_resync(), "resync_suspended": "user,dependency"}
    busy = a_volume(cstate="PausedSyncS", peer_disk="Inconsistent", **held)
    process.answer("status", data=a_snapshot(busy, suspended=True))
    told = in_a_shell(place("sh-status").out)
    assert told == ["r0/0 0 Configured PausedSyncS Primary/Secondary UpToDate/Inconsistent 1101 25.0"]
    (place.run_dir / "r0.ctl.sock").unlink()
    assert in_a_shell(place("sh-status").out) == ["r0/0 0 Unconfigured Unconfigured / / 0000 "]


@pytest.mark.interop
def test_sh_status_has_drbdadms_variables(place):
    """Its own, without those of the kernel that it asks, in the same order."""
    words = [find_drbdadm("8.4"), "-c", place.config, "-d", "sh-status"]
    theirs = subprocess.run(words, capture_output=True, text=True, timeout=30)
    of_theirs = [line.partition("=")[0] for line in theirs.stdout.splitlines() if line.startswith("_")]
    ours = [line.partition("=")[0] for line in place("sh-status").out.splitlines() if "=" in line]
    assert [name for name in ours if name in of_theirs] == of_theirs
