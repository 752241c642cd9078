"""Clients that are newer than Debian 12's, with extended headers: libnbd's tools from 1.18 on, QEMU's from 8.2 on.

Where the machine's own are older, Debian 13's are unpacked beside them, and run with the libraries that they came with.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pydrbd.units import GIB, MIB
from tests.chaos.conftest import assert_clean_logs

pytestmark = [pytest.mark.interop, pytest.mark.slow]

RELEASE = "trixie"
PACKAGES = "libnbd-bin,qemu-utils"
KNOW_EXTENDED = {"nbdinfo": (1, 18), "qemu-img": (8, 2)}
LIMIT_S = 100
FETCH_LIMIT_S = 90
SIZE_BYTES = 64 * MIB
SETTINGS = "[resource.r0]\nnbd-extended-headers = true\n"


def version(*command: str) -> tuple[int, ...]:
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> list[str]:
    """What goes before a client's name, to have one that is new enough: nothing, or the loader of Debian 13's tree."""
    if all(shutil.which(name) and version(name) >= first for name, first in KNOW_EXTENDED.items()):
        return []
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("no client here knows extended headers, and only root with mmdebstrap has newer ones fetched")
    tree = tmp_path_factory.mktemp("newer")
    fetch = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", RELEASE, str(tree / "root")]
    try:
        done = subprocess.run(fetch, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_LIMIT_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{RELEASE} can't be fetched here: nothing came for long")
    if done.returncode != 0:
        pytest.skip(f"{RELEASE} can't be fetched here: {done.stderr.strip()[-500:]}")
    libraries = tree / f"root/usr/lib/{platform.machine()}-linux-gnu"
    (loader,) = libraries.glob("ld-linux*.so.*")
    return [str(loader), "--library-path", str(libraries), str(tree / "root/usr/bin")]


@pytest.fixture
def run(before, short_tmp, processes):
    """`run("nbdcopy", ...)` runs the newer one, which must succeed; what it said."""

    def run(command: str, *words: object, **env: str) -> str:
        argv = [*before[:-1], f"{before[-1]}/{command}"] if before else [command]
        done = subprocess.run(
            [*argv, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=LIMIT_S, cwd=short_tmp, env=processes.env | env,
        )  # fmt: skip
        assert done.returncode == 0, f"{command} {shlex.join(map(str, words))} failed:\n{done.stdout}"
        return done.stdout

    return run


def primary(make_pair, size_bytes: int):
    """Two empty disks that are known to be equal: (the pair, the URI of the Primary's export)."""
    pair = make_pair(size_bytes=size_bytes)
    (pair.directory / "pydrbd.toml").write_text(SETTINGS)
    for node in pair:
        node.start()
    first = pair.nodes[0]
    pair.wait_until(lambda: first.status()["connection"] == "Connected", "both to be connected")
    first.grant("new-current-uuid", clear_bitmap=True)
    first.grant("primary")
    return pair, f"nbd+unix:///r0?socket={first.nbd_socket}"


def assert_same_on_both(pair, size_bytes: int) -> None:
    pair.wait_until(pair.in_sync, "both to be in sync")
    compared = pair.compare(size_bytes)
    assert compared.block_count and not compared.difference_count, compared
    assert_clean_logs(pair)


def test_whole_images_go_in_and_out(make_pair, run, short_tmp):
    """By libnbd on four connections, and by QEMU: what one has written the other one reads, and is on both disks."""
    pair, uri = primary(make_pair, SIZE_BYTES)
    assert "using extended packets" in run("nbdinfo", uri)
    size_bytes = int(run("nbdinfo", "--size", uri))
    raw = ("-f", "raw", "-O", "raw")
    for number, (copy_in, copy_out) in enumerate(
        [
            (("nbdcopy", "--connections=4", "--flush"), ("qemu-img", "convert", *raw)),
            (("qemu-img", "convert", "-n", *raw), ("nbdcopy", "--connections=4")),
        ]
    ):
        image, back = short_tmp / f"in{number}", short_tmp / f"out{number}"
        image.write_bytes(os.urandom(8 * MIB) + bytes(8 * MIB) + os.urandom(8 * MIB))
        os.truncate(image, size_bytes)
        run(*copy_in, image, uri)
        run(*copy_out, uri, back)
        assert image.read_bytes() == back.read_bytes(), f"{copy_in[0]} in, {copy_out[0]} out: not the same"
        assert "Images are identical." in run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri)
    assert_same_on_both(pair, size_bytes)


def test_every_command_of_qemu_io_does_what_it_says(make_pair, run):
    """Patterns are read back; zeroes and discards, FUA; and the map shows what is out of sync."""
    pair, uri = primary(make_pair, SIZE_BYTES)
    commands = [
        "write -P 0xa5 0 1M", "write -f -P 0x5a 512k 64k", "write -z 128k 64k", "write -z -u 256k 64k",
        "write -z -u -n 320k 64k", "discard 700k 64k", "flush", "read -P 0xa5 0 128k", "read -P 0 128k 64k",
        "read -P 0 256k 128k", "read -P 0x5a 512k 64k", "aio_write -P 0x77 4M 8M", "aio_flush", "read -P 0x77 4M 8M",
    ]  # fmt: skip
    said = run("qemu-io", "-f", "raw", *(word for command in commands for word in ("-c", command)), uri)
    assert "verification failed" not in said and "rror" not in said, said
    pair.nodes[1].kill()
    run("qemu-io", "-f", "raw", "-c", "write 20M 64k", "-c", "flush", uri)
    lines = run("nbdinfo", "--map=pydrbd:out-of-sync", uri).splitlines()
    assert [f"{20 * MIB}", f"{MIB // 16}", "1"] in [line.split() for line in lines]
    pair.nodes[1].start()
    assert_same_on_both(pair, SIZE_BYTES - MIB)


def test_more_than_4_gib_at_once(make_pair, run):
    """One request for more than 32 bits can say: libnbd's map, and QEMU's zeroes."""
    pair, uri = primary(make_pair, 6 * GIB)
    size_bytes = int(run("nbdinfo", "--size", uri))
    said = run("nbdinfo", "--map", uri, LIBNBD_DEBUG="1")
    assert f"nbd_block_status_64: enter: count={size_bytes} offset=0" in said, said
    commands = [f"write -P 7 {offset} 1M" for offset in (0, 4 * GIB + MIB)]
    commands += ["write -z -u -n 0 5G", "read -P 0 0 1M", f"read -P 0 {4 * GIB + MIB} 1M"]
    words = (word for command in commands for word in ("-c", command))
    said = run("qemu-io", "-f", "raw", "--trace", "nbd_send_request", *words, uri)
    assert f".from = 0, .len = {5 * GIB}, " in said and "verification failed" not in said, said
    extents = json.loads(run("nbdinfo", "--map", "--json", uri))
    assert sum(extent["length"] for extent in extents) == size_bytes
    assert {extent["type"] for extent in extents} == {3}
    assert all(Path(node.disk_path).stat().st_blocks < 64 * MIB // 512 for node in pair)
    assert_clean_logs(pair)
