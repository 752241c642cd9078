"""create-md, dump-md, apply-al, get-gi, show-gi: on disks in files, with drbdmeta as the judge."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pydrbd.metadata.activity_log import ActivityLog
from pydrbd.metadata.layout import Layout
from pydrbd.metadata.superblock import MdFlag, Superblock
from tests.admin.snapshots import a_snapshot, a_volume

DISK_BYTES = 8 << 20
DISK_SECTORS = DISK_BYTES // 512
MINOR = 600_000 + os.getpid() % 100_000
ATTACHED_VERBS = ("create-md", "dump-md", "apply-al")


@pytest.fixture
def drbdmeta(need):
    """`drbdmeta(file, "get-gi")`: drbdmeta's output for internal meta-data in a file."""
    program = need("drbdmeta")

    def run(path: Path, *words: str) -> str:
        argv = [program, "--force", str(MINOR), "v08", str(path), "internal", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout

    yield run
    for path in (f"/var/lib/drbd/drbd-minor-{MINOR}.lkbd", f"/run/lock/drbd-147-{MINOR}"):
        with contextlib.suppress(OSError):
            Path(path).unlink()


def superblock_of(path: Path) -> Superblock:
    with path.open("rb") as disk:
        disk.seek(Layout.internal(path.stat().st_size // 512).superblock_offset_bytes)
        return Superblock.decode(disk.read(4096))


def edit(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as disk:
        disk.seek(offset)
        disk.write(data)


def make_used(path: Path, flags: MdFlag) -> Layout:
    """Turn fresh meta-data into that of a Primary that crashed with extent 0 in its activity log."""
    layout = Layout.internal(path.stat().st_size // 512)
    sb = replace(
        superblock_of(path), la_size_sectors=layout.usable_sectors, current_uuid=0xABCD_EF01_2345_6789, flags=flags
    ).marked_unclean()
    log = ActivityLog(67)
    plan = log.plan([0], 0)
    assert plan is not None
    edit(path, layout.al_offset_bytes + plan.ring_offset_bytes, plan.block)
    edit(path, layout.superblock_offset_bytes, sb.encode())
    return layout


def body(dump: str) -> str:
    """A dump without its first lines (time, host, command) and without the flags, which drbdmeta 9.22 does not tell."""
    lines = dump[dump.index("version ") :].splitlines()
    return "\n".join(line for line in lines if not line.strip().startswith("flags "))


# --- create-md ---


def test_create_md_gives_what_drbdmeta_reads(place, drbdmeta):
    """Fresh meta-data with a device uuid of its own, as drbdadm sets one; nothing of it is asked for."""
    result = place("create-md", "r0")
    assert result.code == 0 and result.out.startswith("r0/0: New drbd meta data block successfully created")
    ours = superblock_of(place.disk("alpha"))
    assert ours.device_uuid and ours == replace(
        Superblock.fresh(Layout.internal(DISK_SECTORS)), device_uuid=ours.device_uuid
    )
    assert f"device-uuid 0x{ours.device_uuid:016X};" in drbdmeta(place.disk("alpha"), "dump-md")
    place("create-md", "r0", node="beta")
    assert superblock_of(place.disk("beta")).device_uuid != ours.device_uuid


def test_create_md_over_a_file_system(place, need):
    """An ext4 is named, nothing is written; with --force it is overwritten, and that is said."""
    disk = place.disk("alpha")
    subprocess.run([need("mkfs.ext4"), "-q", "-F", disk], check=True, capture_output=True)
    before = disk.read_bytes()
    place("create-md", "r0").complains(65, "found an ext", "file system of 8388608 bytes", "damage", "--force r0/0")
    assert disk.read_bytes() == before
    result = place("create-md", "--force", "r0")
    assert result.code == 0 and "found an ext" in result.err and "successfully created" in result.out
    assert superblock_of(disk).current_uuid == 4


@pytest.mark.parametrize(
    ("offset", "magic", "name"),
    [(0, b"LUKS\xba\xbe\x00\x02", "a LUKS encrypted volume"), (5000, b"\x01", "some data that is not recognised")],
)
def test_create_md_over_something_else(place, offset, magic, name):
    """Whatever is there is somebody's."""
    edit(place.disk("alpha"), offset, magic)
    place("create-md", "r0").complains(65, f"found {name}")


def test_create_md_over_meta_data(place):
    """DRBD's own meta-data is somebody's too."""
    assert place("create-md", "r0").code == 0
    before = superblock_of(place.disk("alpha"))
    place("create-md", "r0").complains(65, "found DRBD v08 internal meta-data", "create-md --force r0/0")
    assert superblock_of(place.disk("alpha")) == before
    assert place("create-md", "--force", "r0").code == 0
    assert superblock_of(place.disk("alpha")) != before


def test_create_md_with_a_striped_log(place, drbdmeta):
    """--al-stripes and --al-stripe-size-kB are drbdadm's."""
    assert place("create-md", "--al-stripes", "4", "--al-stripe-size-kB", "64", "r0").code == 0
    assert "al-stripes 4;\nal-stripe-size-4k 16;" in drbdmeta(place.disk("alpha"), "dump-md")


def test_create_md_outside_of_the_disk(place):
    """External meta-data goes to its own device, and the data stay."""
    meta = place.directory / "meta.img"
    meta.write_bytes(bytes(2 << 20))
    place.disk("alpha").write_bytes(b"\xaa" * DISK_BYTES)
    place.config.write_text(place.config.read_text().replace("meta-disk internal", f"flexible-meta-disk {meta}", 1))
    result = place("create-md", "r0")
    assert result.code == 0 and f"(flex-external, on {meta})" in result.out
    assert place.disk("alpha").read_bytes() == b"\xaa" * DISK_BYTES
    assert place("get-gi", "r0").out.startswith("0000000000000004:")


@pytest.mark.parametrize(
    ("prepare", "code", "words"),
    [
        (lambda disk: disk.unlink(), 74, ("no such disk", "truncate -s SIZE")),
        (lambda disk: os.truncate(disk, 4096), 74, ("alpha0.img", "small")),
        (lambda disk: os.truncate(disk, DISK_BYTES - 1), 74, ("not a multiple of 512",)),
        (lambda disk: (disk.unlink(), disk.mkdir()), 74, ("is a directory",)),
    ],
)
def test_disks_that_will_not_do(place, prepare, code, words):
    """Missing, too small, odd, no disk at all."""
    prepare(place.disk("alpha"))
    place("create-md", "r0").complains(code, *words)


@pytest.mark.parametrize("verb", ["create-md", "dump-md", "apply-al", "get-gi"])
def test_a_disk_that_somebody_uses(place, verb):
    """The disk is opened for nobody but us."""
    with place.disk("alpha").open("r+b") as disk:
        fcntl.flock(disk, fcntl.LOCK_EX)
        place(verb, "r0").complains(69, "alpha0.img: is already in use by")


@pytest.mark.parametrize("verb", ATTACHED_VERBS)
def test_the_disk_of_a_running_process(place, process, verb):
    """Exit code 20 and `is configured!`, as drbdmeta has it; nothing is touched."""
    process.answer("status", data=a_snapshot(pid=4711))
    place(verb, "r0").complains(20, "r0/0: Device '0' is configured!", "pid 4711", "pydrbd detach r0")


@pytest.mark.parametrize("verb", ATTACHED_VERBS)
def test_a_running_process_without_its_disk(place, process, verb):
    """After `detach` the meta-data are there for everybody."""
    assert place("create-md", "r0").code == 20
    process.answer("status", data=a_snapshot(a_volume(disk="Diskless", gi=None)))
    assert place("create-md", "--force", "r0").code == 0
    assert place(verb, *(["--force"] if verb == "create-md" else []), "r0").code == 0


def test_a_node_without_a_disk(place):
    """`disk none` has no meta-data."""
    place.config.write_text(place.config.read_text().replace(f"disk {place.disk('alpha')}", "disk none"))
    place("create-md", "r0").complains(78, "r0 has no disk on alpha")


def test_one_volume_of_several(place):
    """RES/VNR names the volume."""
    from tests.admin.conftest import config_text

    place.config.write_text(config_text(place.directory, volumes=2))
    place.disk("alpha", 1).write_bytes(bytes(DISK_BYTES))
    assert place("create-md", "r0/1").out.startswith("r0/1: New drbd meta data")
    place("get-gi", "r0/0").complains(65, "r0/0", "all zeros. A new disk needs create-md")
    place("create-md", "r0/5").complains(64, "r0 has no volume 5 (it has 0, 1)")


# --- dump-md and apply-al ---


def test_dump_md_is_drbdmetas(place, drbdmeta):
    """The same text, whatever the bitmap holds."""
    place("create-md", "r0")
    disk = place.disk("alpha")
    layout = make_used(disk, MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE)
    edit(disk, layout.superblock_offset_bytes, superblock_of(disk).marked_clean().encode())
    edit(disk, layout.bitmap_offset_bytes, random.Random(7).randbytes(40) + bytes(4056))
    result = place("dump-md", "r0")
    head = result.out.splitlines()[:3]
    assert result.code == 0 and head[0] == "# DRBD meta data dump" and head[2].endswith("> pydrbd dump-md r0/0")
    assert body(result.out) == body(drbdmeta(disk, "dump-md"))


def test_dump_md_of_an_unclean_log(place, drbdmeta):
    """It is refused in drbdmeta's words; with --force it shows what is there, and a warning in it."""
    place("create-md", "r0")
    make_used(place.disk("alpha"), MdFlag.CONSISTENT | MdFlag.PRIMARY_IND)
    place("dump-md", "r0").complains(65, 'Found meta data is "unclean", please apply-al first', "--force")
    assert body(place("dump-md", "--force", "r0").out) == body(drbdmeta(place.disk("alpha"), "dump-md"))


@pytest.mark.parametrize("primary", [True, False])
def test_apply_al_is_drbdmetas(place, drbdmeta, primary):
    """The same meta-data comes out, and the same count is told; a second time there is nothing to do."""
    place("create-md", "r0")
    disk = place.disk("alpha")
    make_used(disk, MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE | (MdFlag.PRIMARY_IND if primary else MdFlag(0)))
    theirs = place.directory / "theirs.img"
    theirs.write_bytes(disk.read_bytes())
    drbdmeta(theirs, "apply-al")
    result = place("apply-al", "r0")
    marked = "Marked additional 4096 KB as out-of-sync based on AL."
    assert result.code == 0
    assert result.out == f"r0/0: {marked if primary else 'The activity log is applied; nothing new is out of sync.'}\n"
    assert disk.read_bytes() == theirs.read_bytes()
    assert place("apply-al", "r0").out == "r0/0: Nothing to apply: the activity log is clean.\n"


# --- outdate, where no process runs ---


def test_outdate_of_a_stopped_resource_is_drbdmetas(place, drbdmeta):
    """The same meta-data comes out; a second time changes nothing."""
    place("create-md", "r0")
    disk = place.disk("alpha")
    make_used(disk, MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE | MdFlag.PEER_OUT_DATED)
    theirs = place.directory / "theirs.img"
    theirs.write_bytes(disk.read_bytes())
    drbdmeta(theirs, "outdate")
    assert place("outdate", "r0").code == 0
    assert disk.read_bytes() == theirs.read_bytes()
    assert superblock_of(disk).disk_state_text() == "Outdated"
    assert place("outdate", "r0").code == 0
    assert disk.read_bytes() == theirs.read_bytes()


def test_outdate_of_an_inconsistent_disk_is_refused_with_the_code_that_fencing_scripts_know(place):
    """5: the data is worse than that already; nothing is written. Without meta-data it is another fault."""
    place("outdate", "r0").complains(65, "r0/0")
    place("create-md", "r0")
    before = place.disk("alpha").read_bytes()
    place("outdate", "r0").complains(5, "the disk is Inconsistent")
    assert place.disk("alpha").read_bytes() == before


def test_a_damaged_log_is_refused(place):
    """A Primary's log that can't be read is no empty log."""
    place("create-md", "r0")
    layout = make_used(place.disk("alpha"), MdFlag.CONSISTENT | MdFlag.PRIMARY_IND)
    edit(place.disk("alpha"), layout.al_offset_bytes, b"\xff" * layout.al_size_bytes)
    place("apply-al", "r0").complains(65, "r0/0", "not one of its blocks is intact")


@pytest.mark.parametrize("verb", ["dump-md", "apply-al", "get-gi", "show-gi"])
def test_no_meta_data(place, verb):
    """A disk that has none."""
    place(verb, "r0").complains(65, "no DRBD meta-data", "A new disk needs create-md")


# --- generation identifiers ---


def test_get_gi_is_drbdmetas(place, drbdmeta):
    """One line, of a disk that is not attached."""
    place("create-md", "r0")
    make_used(place.disk("alpha"), MdFlag.CONSISTENT | MdFlag.PRIMARY_IND | MdFlag.PEER_OUT_DATED)
    result = place("get-gi", "r0")
    assert result.out == drbdmeta(place.disk("alpha"), "get-gi")
    assert result.out.endswith(":1:0:1:0:0:1:0\n")


def test_get_gi_of_a_running_process(place, process):
    """The process knows better than its disk."""
    assert place("get-gi", "r0").out == a_volume()["gi"] + "\n"


PICTURE = """\
r0/0, running: Primary, Connected, UpToDate/UpToDate:

.-- what this data is: the current generation
|                .-- the generation since which the bitmap counts changes (0: nothing to count)
|                |                .-- the generation before that one
|                |                |                .-- the generation before that
|                |                |                |
00000000000000A1:0000000000000000:00000000000000B1:00000000000000C1:1:1:1:1:0:0:0
                                      the data is consistent: yes --' | | | | | |
                          it was up to date when last heard of: yes --' | | | | |
                                     this node is or was Primary: yes --' | | | |
                                it is or was connected to its peer: yes --' | | |
                                  a full sync is needed, or was begun: no --' | |
                            the peer's disk is outdated or inconsistent: no --' |
                 this node crashed as a Primary and was not in sync since: no --'
"""


def test_show_gi_explains(place, process):
    """Every part has its word, and the lines lead where they should."""
    assert place("show-gi", "r0").out == PICTURE


def test_show_gi_of_a_disk(place):
    """It says where the numbers are from, and whether the log is still to be applied."""
    place("create-md", "r0")
    disk = place.disk("alpha")
    assert place("show-gi", "r0").out.startswith(f"r0/0, on {disk}: Inconsistent, clean:\n")
    make_used(disk, MdFlag.CONSISTENT)
    assert f"on {disk}: Outdated, its activity log is not applied yet" in place("show-gi", "r0").out


def test_set_gi_writes_what_drbdmeta_reads(place, drbdmeta):
    """Whole, or in part: a field that is missing or empty stays; the identifiers may stand beside the name, too."""
    assert place("create-md", "r0").code == 0
    whole = "00000000000000A0:00000000000000B0:00000000000000C0:00000000000000D0:1:1:0:1:0:1:0"
    told = place("set-gi", "--force", "--gi", whole, "r0")
    assert told.code == 0 and told.out.endswith(f"GI setting {whole}\n")
    assert drbdmeta(place.disk("alpha"), "get-gi") == f"{whole}\n"
    assert place("set-gi", "--force", "A2::C2", "r0/0").code == 0
    assert place("get-gi", "r0").out == whole.replace("A0", "A2").replace("C0", "C2") + "\n"
    same = drbdmeta(place.disk("alpha"), "set-gi", "A4::C4")
    assert "A4" in same and place("get-gi", "r0").out == whole.replace("A0", "A4").replace("C0", "C4") + "\n"


def test_set_gi_decides_whose_data_goes_so_it_asks(place, process):
    """Without --force it only shows what it would write; nonsense, no identifiers, and a disk in use are refused."""
    process.answer("status", data=a_snapshot(a_volume(disk="Diskless", gi=None)))
    assert place("create-md", "r0").code == 0
    before = place("get-gi", "r0").out
    place("set-gi", "--gi", "1:2", "r0").complains(64, "r0/0: this decides whose data is discarded")
    place("set-gi", "--force", "--gi", "1:x", "r0").complains(64, "uuid 'x'")
    place("set-gi", "--force", "r0").complains(64, "set-gi needs the identifiers")
    place("set-gi", "--force", "1:2").complains(64, "needs the name")
    process.answer("status", data=a_snapshot(a_volume(disk="UpToDate")))
    place("set-gi", "--force", "1:2", "r0").complains(20, "Device '0' is configured!")
    process.answer("status", data=a_snapshot(a_volume(disk="Diskless", gi=None)))
    assert place("get-gi", "r0").out == before
