"""snapshot-resync-target and unsnapshot-resync-target: reflink copies, plain ones, and LVM's, by a stubbed lvcreate."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest
import trio

from pydrbd.admin import snapshots
from pydrbd.admin.verbs_snapshot import names_of_handler
from pydrbd.errors import UsageError
from pydrbd.runtime.helper import run_command
from pydrbd.units import MIB
from tests.admin.conftest import Place
from tests.admin.snapshots import a_snapshot, a_volume

TAKE, REMOVE = "snapshot-resync-target", "unsnapshot-resync-target"
HANDLERS = Path(snapshots.__file__).parents[1] / "handler_bin"


def disk_is(process, state: str, bits: int = 25) -> None:
    """What the running process says of its disk."""
    process.answer("status", data=a_snapshot(a_volume(disk=state, out_of_sync_bits=bits)))


@pytest.fixture
def reflinks(monkeypatch):
    """Any file system can share blocks now, as far as the test can see."""
    monkeypatch.setattr(snapshots, "clone", snapshots._copy_sparse)


@pytest.fixture
def no_reflinks(monkeypatch):
    """None can."""

    def refuse(_source: int, _target: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(snapshots, "clone", refuse)


def taken(place: Place) -> list[str]:
    return sorted(path.name for path in place.directory.iterdir() if "before-resync" in path.name)


@pytest.mark.parametrize("state", ["UpToDate", "Outdated", "Consistent"])
def test_a_file_gets_a_copy_of_its_own_before_the_resync_and_loses_it_after(place, process, reflinks, state):
    """Beside the disk, with its mode, and all that is in it."""
    disk = place.disk("alpha")
    disk.write_bytes(b"good" * 1000)
    disk.chmod(0o640)
    disk_is(process, state)
    result = place(TAKE, "r0/0")
    name = "alpha0.img.before-resync.1"
    assert (result.code, result.out) == (0, f"r0/0: {name} is as the disk was before the resync\n")
    made = disk.with_name(name)
    assert made.read_bytes() == b"good" * 1000 and stat.S_IMODE(made.stat().st_mode) == 0o640
    disk_is(process, "UpToDate")
    result = place(REMOVE, "r0/0")
    assert (result.code, result.out) == (0, f"r0/0: {name} is removed\n")
    assert taken(place) == []


def test_a_resync_that_was_cut_off_keeps_the_good_copy(place, process, reflinks):
    """The disk is Inconsistent when it begins anew: no snapshot of that, and none is removed until it is good again."""
    disk = place.disk("alpha")
    disk.write_bytes(b"good")
    disk_is(process, "Outdated")
    assert place(TAKE, "r0").code == 0
    disk.write_bytes(b"half")
    disk_is(process, "Inconsistent")
    result = place(TAKE, "r0")
    assert result.code == 0 and "alpha0.img.before-resync.1 is kept" in result.out
    assert place(REMOVE, "r0").out == "r0/0: is Inconsistent: its snapshots are kept\n"
    assert disk.with_name("alpha0.img.before-resync.1").read_bytes() == b"good"
    assert taken(place) == ["alpha0.img.before-resync.1"]


def test_a_new_disk_has_nothing_to_be_kept(place, process, reflinks):
    disk_is(process, "Inconsistent")
    assert place(TAKE, "r0").out.endswith(": there is no older snapshot\n") and taken(place) == []


def test_some_may_be_kept(place, process, reflinks):
    """--keep 2 leaves the two newest; they are counted, not sorted as words."""
    disk_is(process, "UpToDate")
    place.disk("alpha").with_name("alpha0.img.before-resync.9").touch()
    for _ in range(3):
        assert place(TAKE, "r0").code == 0
    assert place(REMOVE, "--keep", "2", "r0").out.splitlines() == [
        "r0/0: alpha0.img.before-resync.9 is removed",
        "r0/0: alpha0.img.before-resync.10 is removed",
    ]
    assert taken(place) == ["alpha0.img.before-resync.11", "alpha0.img.before-resync.12"]
    assert place(REMOVE, "--keep=5", "r0").out == "" and len(taken(place)) == 2
    place(REMOVE, "--keep=-1", "r0").complains(64, "--keep")


def test_without_reflinks_it_says_so_and_forbids_the_resync(place, process, no_reflinks):
    """74; the words name what helps. Nothing is left behind."""
    place(TAKE, "r0").complains(74, "alpha0.img", "can't share blocks", "XFS and Btrfs", "--copy")
    assert taken(place) == []


def test_without_reflinks_and_with_best_effort_the_resync_goes_on(place, process, no_reflinks):
    """0, and the log has the words."""
    result = place(TAKE, "--best-effort", "r0")
    result.complains(0, "r0/0: no snapshot, and the resync goes on without", "--copy")
    assert taken(place) == []


@pytest.mark.parametrize("tail", [b"", b"end"])
def test_a_plain_copy_is_only_made_when_it_is_asked_for(place, process, no_reflinks, tail):
    """It has the same holes, and the same bytes."""
    disk = place.disk("alpha")
    with disk.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"in the middle")
        file.seek(8 * MIB - len(tail))
        file.write(tail)
    assert place(TAKE, "--copy", "r0").code == 0
    made = disk.with_name("alpha0.img.before-resync.1")
    assert made.read_bytes() == disk.read_bytes()
    assert made.stat().st_blocks * 512 < MIB


def test_a_full_file_system_leaves_no_half_of_a_copy(place, process, no_reflinks, monkeypatch):
    """74, and what was begun is gone."""

    def full(_source: int, _target: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(snapshots, "_copy_sparse", full)
    place(TAKE, "--copy", "r0").complains(74, "No space left on device", "there is no snapshot")
    assert taken(place) == []


def test_a_disk_that_is_not_there(place, process):
    place.disk("alpha").unlink()
    place(TAKE, "r0").complains(74, "alpha0.img", "No such file")


def test_a_disk_that_is_no_disk(place, process):
    place.disk("alpha").unlink()
    place.disk("alpha").mkdir()
    place(TAKE, "r0").complains(74, "alpha0.img", "neither a file nor a block device")


def test_only_a_running_process_knows_what_the_disk_is_worth(place):
    place(TAKE, "r0").complains(69, "not running")


@pytest.mark.parametrize("verb", [TAKE, REMOVE])
def test_a_dry_run_only_says_so(place, process, verb):
    assert place(verb, "-d", "r0/0").out.endswith(" r0/0\n") and taken(place) == []


def test_a_handler_names_its_volume_by_its_environment(place, process, reflinks, monkeypatch):
    """As DRBD's own scripts; on a command line a name is needed."""
    monkeypatch.delenv("DRBD_RESOURCE", raising=False)
    place(TAKE).complains(64, "name a volume")
    monkeypatch.setenv("DRBD_RESOURCE", "r0")
    monkeypatch.setenv("DRBD_VOLUME", "0")
    assert place(TAKE).code == 0 and len(taken(place)) == 1
    assert names_of_handler([], {"DRBD_RESOURCE": "r0", "DRBD_VOLUME": "0 2"}) == ["r0/0", "r0/2"]
    assert names_of_handler([], {"DRBD_RESOURCE": "r0"}) == ["r0"]
    assert names_of_handler(["r1"], {"DRBD_RESOURCE": "r0"}) == ["r1"]
    with pytest.raises(UsageError):
        names_of_handler([], {})


def test_the_handler_of_the_documentation_works(place, process, short_tmp):
    """`pydrbd` in a handler is this one, with its configuration, node and run directory."""
    environment = {
        "PATH": f"{HANDLERS}:/usr/bin:/bin",
        "DRBD_RESOURCE": "r0",
        "DRBD_VOLUME": "0",
        "DRBD_CONF": str(place.config),
        "PYDRBD_PYTHON": os.sys.executable,
        "PYDRBD_PACKAGE": str(HANDLERS.parents[1]),
        "PYDRBD_NODE": "alpha",
        "PYDRBD_RUN_DIR": str(place.run_dir),
    }
    assert trio.run(run_command, "pydrbd snapshot-resync-target --copy", environment, "r0: test") == 0
    assert taken(place) == ["alpha0.img.before-resync.1"]
    disk_is(process, "UpToDate")
    assert trio.run(run_command, "pydrbd unsnapshot-resync-target", environment, "r0: test") == 0
    assert taken(place) == []


@pytest.mark.interop
def test_xfs_shares_the_blocks(place, process, need):
    """A real file system with reflinks: the copy takes no room, and stays as it was."""
    if os.geteuid():
        pytest.skip("only root may mount a file system")
    mkfs, mount, umount = need("mkfs.xfs", "mount", "umount")
    image, top = place.directory / "xfs.img", place.directory / "xfs"
    with image.open("wb") as file:
        file.truncate(320 * MIB)
    top.mkdir()
    subprocess.run([mkfs, "-q", "-m", "reflink=1", image], check=True, timeout=60)
    mounted = subprocess.run([mount, "-o", "loop", image, top], capture_output=True, text=True, timeout=60)
    if mounted.returncode:
        pytest.skip(f"no XFS on a loop device here: {mounted.stderr.strip()}")
    try:
        disk = top / "alpha0.img"
        disk.write_bytes(os.urandom(4 * MIB) * 8)
        os.sync()
        free = os.statvfs(top)
        before = disk.read_bytes()
        place.config.write_text(place.config.read_text().replace(f"{place.directory}/alpha0.img", str(disk)))
        assert place(TAKE, "r0").code == 0
        used = (free.f_bfree - os.statvfs(top).f_bfree) * free.f_frsize
        assert used < 4 * MIB, "the blocks are not shared"
        with disk.open("r+b") as file:
            file.write(b"x" * MIB)
        made = disk.with_name("alpha0.img.before-resync.1")
        assert made.read_bytes() == before != disk.read_bytes()
        disk_is(process, "UpToDate")
        assert place(REMOVE, "r0").code == 0 and not made.exists()
    finally:
        subprocess.run([umount, "-l", top], check=True, timeout=60)


# --- LVM ---

FAILS = '[ {name} != "$fails" ] || {{ echo "  no room" >&2; exit 5; }}\n'
LVS = """\
case " $* " in
  *" vg_name,"*) [ "$kind" ] || { echo "  Failed to find logical volume" >&2; exit 5; }
                 echo "  vg0|r0|1048576.00|$kind" ;;
  *) printf '  %s\\n' r0 other r0.before-resync $lvs ;;
esac
"""


class Lvm:
    """The three commands, first on the PATH: they write down how they were called."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log = directory / "lvm.log"
        self._monkeypatch = monkeypatch
        bin_dir = directory / "bin"
        bin_dir.mkdir()
        for name, body in (("lvs", LVS), ("lvcreate", ""), ("lvremove", "")):
            script = bin_dir / name
            script.write_text(f"#!/bin/sh\necho {name} $* >>{self._log}\n{FAILS.format(name=name)}{body}")
            script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
        monkeypatch.setattr(snapshots.stat, "S_ISREG", lambda _mode: False)
        monkeypatch.setattr(snapshots.stat, "S_ISBLK", lambda _mode: True)
        self.has("linear")

    def has(self, kind: str, *volumes: str, fails: str = "") -> None:
        for name, value in (("kind", kind), ("lvs", " ".join(volumes)), ("fails", fails)):
            self._monkeypatch.setenv(name, value)

    def called(self, *names: str) -> list[str]:
        return [line for line in self._log.read_text().splitlines() if line.split()[0] in names]


@pytest.fixture
def lvm(short_tmp, monkeypatch):
    return Lvm(short_tmp, monkeypatch)


def test_a_logical_volume_gets_a_snapshot_with_room_for_what_will_be_written(place, process, lvm):
    """What is out of sync, 10 MiB, and a tenth of the volume; the number follows those that there are."""
    disk_is(process, "Outdated", bits=256)
    assert place(TAKE, "r0").out == "r0/0: r0.before-resync.1 is as the disk was before the resync\n"
    room_kib = 256 * 4 + 10 * 1024 + 1048576 // 10
    assert lvm.called("lvcreate") == [f"lvcreate --snapshot --name r0.before-resync.1 --size {room_kib}k vg0/r0"]
    lvm.has("linear", "r0.before-resync.1", "r0.before-resync.10", "r0.before-resync.2")
    assert "r0.before-resync.11 is as" in place(TAKE, "r0").out


def test_a_thin_volume_needs_no_size(place, process, lvm):
    lvm.has("thin")
    assert place(TAKE, "r0").code == 0
    assert lvm.called("lvcreate") == ["lvcreate --snapshot --name r0.before-resync.1 --setactivationskip n vg0/r0"]


def test_snapshots_of_a_logical_volume_are_removed(place, process, lvm):
    """Ours, and no other volume."""
    lvm.has("thin", "r0.before-resync.1", "r0.before-resync.2", "r00.before-resync.1", "r0.before-resync.x")
    assert place(REMOVE, "--keep=1", "r0").out == "r0/0: r0.before-resync.1 is removed\n"
    assert lvm.called("lvremove") == ["lvremove --force vg0/r0.before-resync.1"]


def test_a_volume_group_without_room_forbids_the_resync(place, process, lvm):
    """With LVM's own words."""
    lvm.has("linear", fails="lvcreate")
    place(TAKE, "r0").complains(74, "lvcreate vg0/r0: no room")
    place(TAKE, "--best-effort", "r0").complains(0, "no room")


def test_a_partition_is_no_logical_volume(place, process, lvm):
    lvm.has("")
    place(TAKE, "r0").complains(74, "lvs", "alpha0.img", "Failed to find logical volume")
    lvm.has("a|b")
    place(TAKE, "r0").complains(74, "what is not understood")


def test_without_lvm_a_block_device_has_no_snapshots(place, process, lvm, monkeypatch):
    monkeypatch.setenv("PATH", str(place.directory / "none"))
    place(TAKE, "r0").complains(74, "alpha0.img", "there is no lvs (LVM)")


def test_one_of_lvms_commands_that_hangs(place, process, lvm, monkeypatch):
    """It does not keep the resync for ever."""

    def hang(words, **_options):
        raise subprocess.TimeoutExpired(words, 1)

    monkeypatch.setattr(snapshots.subprocess, "run", hang)
    place(TAKE, "r0").complains(74, "lvs did not end within")
