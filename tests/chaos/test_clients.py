"""Two nodes started by hand from one file, and the NBD clients that people use; afterwards both disks are the same."""

from __future__ import annotations

import filecmp
import json
import os
import random
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pydrbd.units import KIB, MIB
from tests.chaos.conftest import assert_clean_logs

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
SIZE_BYTES = 64 * MIB


@pytest.fixture
def export(synced_pair):
    """A pair in sync: (the pair, the URI of the Primary's export)."""
    pair = synced_pair(size_bytes=SIZE_BYTES)
    return pair, f"nbd+unix:///r0?socket={pair.nodes[0].nbd_socket}"


@pytest.fixture
def run(need, short_tmp, processes):
    """`run("nbdcopy", ...)` runs a command that must succeed; what it said."""

    def run(command, *words):
        done = subprocess.run(
            [need(command), *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
            cwd=short_tmp,
            env=processes.env,
        )
        assert done.returncode == 0, f"{command} {shlex.join(map(str, words))} failed:\n{done.stdout}"
        return done.stdout

    return run


def image_file(path, size_bytes, seed):
    """Random data with holes in it."""
    rng = random.Random(seed)
    with path.open("wb") as file:
        for offset in range(0, size_bytes, 256 * KIB):
            if rng.random() < 0.6:
                file.seek(offset)
                file.write(rng.randbytes(min(256 * KIB, size_bytes - offset)))
        file.truncate(size_bytes)
    return path


def assert_same_on_both(pair, size_bytes):
    """Quiet, in sync, and byte for byte the same."""
    pair.wait_until(pair.in_sync, "both to be in sync")
    compared = pair.compare(size_bytes)
    assert compared.block_count and not compared.difference_count, compared
    assert_clean_logs(pair)


def size_of(run, uri):
    return int(run("nbdinfo", "--size", uri))


def extents(run, uri, context):
    """(offset, length, flags) of each extent, as nbdinfo says it."""
    lines = run("nbdinfo", f"--map={context}", uri).splitlines()
    return [tuple(map(int, line.split()[:3])) for line in lines]


def test_nbdinfo_shows_the_map_of_both_contexts(export, run):
    """Holes of the disk; and, while the peer is away, what was written without it, which nothing is any more later."""
    pair, uri = export
    whole = size_of(run, uri)
    run("qemu-io", "-f", "raw", "-c", "write 4M 1M", "-c", "discard 8M 1M", "-c", "flush", uri)
    allocated = extents(run, uri, "base:allocation")
    assert sum(length for _, length, _ in allocated) == whole
    assert any(offset <= 8 * MIB and offset + length >= 9 * MIB and flags == 3 for offset, length, flags in allocated)
    assert any(offset <= 4 * MIB and offset + length >= 5 * MIB and flags == 0 for offset, length, flags in allocated)
    assert extents(run, uri, "pydrbd:out-of-sync") == [(0, whole, 0)]
    pair.nodes[1].kill()
    run("qemu-io", "-f", "raw", "-c", "write 20M 64k", "-c", "flush", uri)
    assert (20 * MIB, 64 * KIB, 1) in extents(run, uri, "pydrbd:out-of-sync")
    pair.nodes[1].start()
    pair.wait_until(pair.in_sync, "both to be in sync")
    assert extents(run, uri, "pydrbd:out-of-sync") == [(0, whole, 0)]
    run("qemu-io", "-f", "raw", "-c", "read -P 0 8M 1M", uri)


def test_nbdinfo_nbdcopy_and_qemu_img_carry_whole_images_in_and_out(export, run, short_tmp, seed):
    """Every byte that nbdcopy or qemu-img convert writes is what the other one reads, and is on both disks."""
    pair, uri = export
    size_bytes = size_of(run, uri)
    assert SIZE_BYTES - MIB < size_bytes < SIZE_BYTES
    assert "can_multi_conn: true" in run("nbdinfo", uri)
    for number, (copy_in, copy_out) in enumerate(
        [
            (("nbdcopy",), ("qemu-img", "convert", "-f", "raw", "-O", "raw")),
            (("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw"), ("nbdcopy",)),
        ]
    ):
        image = image_file(short_tmp / f"in{number}", size_bytes, seed + number)
        back = short_tmp / f"out{number}"
        run(*copy_in, image, uri)
        run(*copy_out, uri, back)
        assert filecmp.cmp(image, back, shallow=False), f"{copy_in[0]} in, {copy_out[0]} out: not the same"
        assert_same_on_both(pair, size_bytes)


def test_qemu_io_writes_zeroes_discards_and_flushes(export, run):
    """Patterns are read back as they were written; zeroes and discards reach the peer too."""
    pair, uri = export
    size_bytes = size_of(run, uri)
    commands = [
        "write -P 0xa5 0 1M",
        "write -f -P 0x5a 512k 64k",
        "write -P 0x11 1M 512",
        "write -z 128k 64k",
        "write -z -u 256k 64k",
        "write -z -u -n 320k 64k",
        "discard 700k 64k",
        "flush",
        "read -P 0xa5 0 128k",
        "read -P 0 128k 64k",
        "read -P 0 256k 128k",
        "read -P 0x5a 512k 64k",
        "read -P 0x11 1M 512",
        "aio_write -P 0x77 4M 8M",
        "aio_flush",
        "read -P 0x77 4M 8M",
    ]
    said = run("qemu-io", "-f", "raw", *(word for command in commands for word in ("-c", command)), uri)
    assert "verification failed" not in said
    assert "rror" not in said
    assert_same_on_both(pair, size_bytes)


def test_fio_verifies_what_it_wrote(export, run):
    """Checksums in every block: 4k at depth 32, mixed sizes with flushes, 4 MiB over two connections at once."""
    pair, uri = export
    size_bytes = size_of(run, uri)
    common = ["--ioengine=nbd", f"--uri={uri}", "--verify=crc32c", "--verify_fatal=1", "--group_reporting"]
    run("fio", "--name=small", *common, "--rw=randrw", "--bs=4k", "--iodepth=32", "--size=16m", "--io_size=12m")
    run("fio", "--name=mixed", *common, "--rw=randwrite", "--bssplit=512/20:4k/40:20k/20:128k/20",
        "--iodepth=16", "--offset=16m", "--size=24m", "--fsync=64")  # fmt: skip
    run("fio", "--name=large", *common, "--rw=write", "--bs=4m", "--iodepth=4", "--offset=40m", "--size=8m",
        "--numjobs=2", "--offset_increment=8m")  # fmt: skip
    assert_same_on_both(pair, size_bytes)


def test_fio_verifies_over_sixteen_connections(export, run):
    """Each connection writes a place of its own at random, with flushes, and reads it back while the others write."""
    pair, uri = export
    said = run("fio", "--name=many", "--ioengine=nbd", f"--uri={uri}", "--numjobs=16", "--size=3m",
        "--offset_increment=3m", "--rw=randwrite", "--bssplit=512/10:4k/60:64k/30", "--iodepth=8", "--fsync=32",
        "--verify=crc32c", "--verify_fatal=1", "--output-format=json")  # fmt: skip
    jobs = json.loads(said[said.index("{") :])["jobs"]
    assert len(jobs) == 16
    assert all(job["error"] == 0 and job["write"]["io_kbytes"] == job["read"]["io_kbytes"] == 3072 for job in jobs)
    assert_same_on_both(pair, size_of(run, uri))


NBDFUSE = """
nbdfuse -P ready files/disk "$URI" &
until [ -s ready ]; do kill -0 $!; sleep 0.05; done
mkfs.ext4 -q -F files/disk
mount -o loop files/disk mounted
cp -a "$TREE" mounted/tree
sync -f mounted
rm -r mounted/tree/tests
umount mounted
e2fsck -fn files/disk
mount -o loop,ro files/disk mounted
diff -r --exclude=tests "$TREE" mounted/tree
umount mounted
umount files
wait
"""
"""In a mount namespace: what a failure leaves mounted goes with it."""


def test_a_file_system_lives_on_nbdfuse(export, run, short_tmp, need):
    """The export as a file, a file system in it; both disks hold it, and the peer's is in order where it lies."""
    need("nbdfuse", "mkfs.ext4", "e2fsck")
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("only root with /dev/fuse mounts it")
    pair, uri = export
    tree = short_tmp / "tree"
    for place in ("pydrbd", "tests"):
        shutil.copytree(ROOT / "tests" / "harness", tree / place, ignore=shutil.ignore_patterns("__pycache__"))
    for place in ("files", "mounted"):
        (short_tmp / place).mkdir()
    run("env", f"URI={uri}", f"TREE={tree}", "unshare", "--mount", "sh", "-eu", "-c", NBDFUSE)
    assert_same_on_both(pair, size_of(run, uri))
    run("e2fsck", "-fn", pair.nodes[1].disk_path)


def test_qemu_img_sees_both_contexts_and_keeps_an_image_of_its_own_there(export, run):
    """Its map of holes, its map of a dirty bitmap that is ours, and a qcow2 image that its own check finds in order."""
    pair, uri = export
    size_bytes = size_of(run, uri)
    run("qemu-img", "create", "-q", "-f", "qcow2", uri, "32M")
    commands = ["write -P 0x44 0 4M", "write -z 1M 64k", "discard 2M 1M", "write -P 0x55 30M 1M", "flush"]
    run("qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command)), uri)
    run("qemu-img", "bench", "-q", "-f", "qcow2", "-w", "-c", "500", "-d", "32", "--flush-interval=50", uri)
    assert "No errors were found" in run("qemu-img", "check", "-f", "qcow2", uri)
    found = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", uri))
    assert sum(extent["length"] for extent in found) == size_bytes
    assert {extent["zero"] for extent in found} == {True, False}
    pair.nodes[1].kill()
    run("qemu-io", "-f", "raw", "-c", "write 20M 64k", "-c", "flush", uri)
    dirty = "driver=nbd,server.type=unix,server.path=%s,export=r0,x-dirty-bitmap=pydrbd:out-of-sync"
    found = json.loads(run("qemu-img", "map", "--output=json", "--image-opts", dirty % pair.nodes[0].nbd_socket))
    # QEMU shows what is set in a bitmap as no data.
    assert (20 * MIB, 64 * KIB) in [(one["start"], one["length"]) for one in found if not one["data"]]
    pair.nodes[1].start()
    assert_same_on_both(pair, size_bytes)


@pytest.mark.slow
def test_the_nbd_projects_own_tester_is_content(make_pair, run):
    """nbd-tester-client, and the recorded session that lies beside it in NBD's sources; docs/clients.md says how.

    The other session there (integrityhuge-test.tr) has requests of more than the 32 MiB that an export says it takes.
    """
    found = shutil.which("nbd-tester-client")
    if found is None:
        pytest.skip("there is no nbd-tester-client: docs/clients.md says how it is built")
    tester = Path(found).resolve()
    recorded = tester.with_name("integrity-test.tr")
    if not recorded.exists():
        pytest.skip(f"{recorded} is not there")
    pair = make_pair(size_bytes=SIZE_BYTES)
    (pair.directory / "pydrbd.toml").write_text("[resource.r0]\nnbd-read-only = true\n")
    for node in pair:
        node.start()
    pair.nodes[0].grant("primary", force=True)
    pair.wait_until(pair.in_sync, "the first sync")
    place = ("-u", pair.nodes[0].nbd_socket, "-N")
    run(tester, "-i", "-t", recorded, *place, "r0")  # it takes a disk of zeroes for granted
    for words in (["-h"], [], ["-w"], ["-w", "-f"]):
        assert "complete" in run(tester, *words, *place, "r0")
    assert run(tester, "-o", *place, "r0").count("OK\n") == 3
    run(tester, "-w", "-F", *place, "r0@ro")
    assert_same_on_both(pair, SIZE_BYTES - MIB)
