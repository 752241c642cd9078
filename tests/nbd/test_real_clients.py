"""The clients that people use (libnbd's, QEMU's, fio) work against the server."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
import trio

from pydrbd.runtime.nbd_server import NbdServer
from tests.nbd.conftest import DISK_SIZE_BYTES

pytestmark = pytest.mark.interop


@pytest.fixture
async def run(server, socket_path, processes, need, short_tmp):
    """`await run("nbdinfo", "{disk}")` runs a client, the URIs filled in: (exit code, what it said)."""
    uris = {name: f"nbd+unix:///{name}?socket={socket_path}" for name in ("disk", "ro", "secondary", "nope")}

    async def run(command, *words, said=b""):
        argv = [need(command), *(word.format(**uris, default=f"nbd+unix:///?socket={socket_path}") for word in words)]
        with trio.fail_after(30):
            done = await trio.run_process(
                argv,
                stdin=said,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                env=processes.env,
                cwd=short_tmp,
            )
        return done.returncode, done.stdout.decode()

    return run


async def test_nbdinfo_sees_everything_that_the_export_can_do(run):
    """Size, flags, block sizes, description; and read-only."""
    code, said = await run("nbdinfo", "{disk}")
    assert code == 0
    for line in [
        f"export-size: {DISK_SIZE_BYTES} (64M)",
        "description: a disk of memory",
        "is_read_only: false",
        "can_flush: true",
        "can_fua: true",
        "can_trim: true",
        "can_zero: true",
        "can_multi_conn: true",
        "block_size_minimum: 1",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ]:
        assert line in said
    code, said = await run("nbdinfo", "{ro}")
    assert code == 0
    assert "is_read_only: true" in said
    assert "can_trim: false" in said


async def test_nbdinfo_lists_the_exports(run):
    code, said = await run("nbdinfo", "--list", "{default}")
    assert code == 0
    assert re.findall(r'^export="(.*)":$', said, re.MULTILINE) == ["disk", "ro"]


@pytest.mark.parametrize(
    ("name", "reason"), [("nope", "there is no export"), ("secondary", "secondary is Secondary here")]
)
async def test_an_export_that_cannot_be_opened_is_refused(run, name, reason, server):
    """The client fails cleanly, and the server counts no protocol error for it."""
    code, said = await run("qemu-img", "info", "{" + name + "}")
    assert code == 1
    assert reason in said
    code, _ = await run("nbdinfo", "{" + name + "}")
    assert code == 1
    assert server.statistics().failed == 0


async def test_nbdcopy_writes_and_reads_the_whole_disk(run, short_tmp, engine):
    """Four connections (multi-conn), there and back, byte for byte."""
    data = os.urandom(1 << 20) * (DISK_SIZE_BYTES >> 20)
    (short_tmp / "in").write_bytes(data)
    assert await run("nbdcopy", "--flush", "in", "{disk}") == (0, "")
    assert engine.flush_count > 0
    assert engine.contents(0, DISK_SIZE_BYTES) == data
    assert await run("nbdcopy", "{disk}", "out") == (0, "")
    assert (short_tmp / "out").read_bytes() == data


async def test_qemu_img_converts_and_compares(run, short_tmp):
    """qcow2 to the export and back; holes become WRITE_ZEROES."""
    (short_tmp / "in").write_bytes(os.urandom(5 << 20) + bytes(DISK_SIZE_BYTES - (5 << 20)))
    assert (await run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "in", "{disk}"))[0] == 0
    code, said = await run("qemu-img", "compare", "-f", "raw", "-F", "raw", "in", "{disk}")
    assert (code, said) == (0, "Images are identical.\n")


async def test_qemu_io_uses_every_command(run, engine):
    """Write, FUA write, zeroes, discard, flush, and patterns read back; errors where they belong."""
    commands = [
        "write -P 0x11 0 1M",
        "write -f -P 0x22 64k 64k",
        "write -z 128k 64k",
        "discard 192k 64k",
        "flush",
        "read -P 0x11 0 64k",
        "read -P 0x22 64k 64k",
        "read -P 0 128k 128k",
        "read -P 0x11 256k 768k",
        "write -P 0x33 63M 1M",
        "read -P 0x33 63M 1M",
    ]
    code, said = await run("qemu-io", "-f", "raw", *(word for c in commands for word in ("-c", c)), "{disk}")
    assert code == 0, said
    assert "verification failed" not in said
    assert engine.fua_count >= 1
    assert engine.flush_count >= 1
    code, said = await run("qemu-io", "-f", "raw", "-c", "write 0 4k", "{ro}")
    assert code == 1


async def test_fio_verifies_what_it_wrote(run):
    """Random writes at depth 32 with checksums, over one connection."""
    code, said = await run(
        "fio",
        "--name=t",
        "--ioengine=nbd",
        "--uri={disk}",
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--bs_unaligned",
        "--iodepth=32",
        "--size=8m",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
        "--fsync=64",
    )
    assert code == 0, said
    assert "err= 0" in said


LIBNBD = """
import errno, nbd, sys
h = nbd.NBD()
h.set_handshake_flags(0 if sys.argv[2] == "old" else nbd.HANDSHAKE_FLAG_MASK)
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
size = h.get_size()
h.pwrite(b"x" * 4096, size - 4096)
assert h.pread(4096, size - 4096) == b"x" * 4096

def refused(expected, call, *words):
    try:
        call(*words)
    except nbd.Error as error:
        assert error.errnum == expected, (call, error)
    else:
        raise AssertionError(call)

refused(errno.EINVAL, h.pread, 2, size - 1)
refused(errno.ENOSPC, h.pwrite, b"xy", size - 1)
refused(errno.ENOSPC, h.zero, 2, size - 1)
refused(errno.EINVAL, h.pread, (32 << 20) + 1, 0)
refused(errno.EINVAL, h.cache, 512, 0)
assert h.aio_is_ready()
h.flush()
h.shutdown()
"""


@pytest.mark.parametrize("style", ["fixed", "old"])
async def test_libnbd_gets_the_right_errors(run, style):
    """With its own checks off; by GO, and by EXPORT_NAME with 124 zeroes from a client that is not fixed newstyle."""
    code, _ = await run("/usr/bin/python3", "-c", "import nbd")
    if code:
        pytest.skip("python3-libnbd is not installed for /usr/bin/python3")
    code, said = await run("/usr/bin/python3", "-", "{disk}", style, said=LIBNBD.encode())
    assert code == 0, said


async def test_tcp_serves_the_same(engine, need, nursery, processes):
    """nbdcopy over loopback TCP."""
    server = NbdServer(engine)
    host, port = server.listen_tcp("127.0.0.1", 0)
    await nursery.start(server.serve)
    with trio.fail_after(30):
        done = await trio.run_process(
            [need("nbdcopy"), f"nbd://{host}:{port}/disk", "null:"], capture_stderr=True, check=False, env=processes.env
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert server.statistics().requests >= DISK_SIZE_BYTES >> 25
