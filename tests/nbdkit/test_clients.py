"""The clients of tests/chaos/test_clients.py, at a node inside of nbdkit; and nbdkit's TLS-PSK."""

from __future__ import annotations

import json
import os
import secrets

import pytest

pytestmark = pytest.mark.interop
USER = "alice"
PATTERNS = (
    *("write -P 0xa5 0 1M", "write -f -P 0x5a 512k 64k", "write -z 128k 64k", "write -z -u 256k 64k"),
    *("discard 700k 64k", "flush", "read -P 0xa5 0 128k", "read -P 0 128k 64k", "read -P 0 256k 64k"),
    *("read -P 0x5a 512k 64k", "aio_write -P 0x77 4M 8M", "aio_flush", "read -P 0x77 4M 8M"),
)
ENOUGH_BYTES = 48 << 20


def test_the_clients_of_the_server_are_content_with_nbdkit_too(pair, need):
    """qemu-io's patterns, fio's checksums over 16 connections, qemu-img's map; both disks are the same."""
    need("qemu-io", "qemu-img", "fio", "nbdcopy")
    process = pair.start_primary()
    said = pair.run("qemu-io", "-f", "raw", *(word for line in PATTERNS for word in ("-c", line)), pair.uri)
    assert "verification failed" not in said and "rror" not in said
    fio = ("--name=many", "--ioengine=nbd", f"--uri={pair.uri}", "--numjobs=16", "--offset=12m", "--size=2m",
        "--offset_increment=2m", "--rw=randwrite", "--bssplit=512/10:4k/60:64k/30", "--iodepth=8", "--fsync=32",
        "--verify=crc32c", "--verify_fatal=1", "--output-format=json")  # fmt: skip
    said = pair.run("fio", *fio)
    jobs = json.loads(said[said.index("{") :])["jobs"]
    assert len(jobs) == 16
    assert all(job["error"] == 0 and job["write"]["io_kbytes"] == job["read"]["io_kbytes"] == 2048 for job in jobs)
    found = json.loads(pair.run("qemu-img", "map", "--output=json", "-f", "raw", pair.uri))
    assert {extent["zero"] for extent in found} == {True, False}
    copy = pair.directory / "copy"
    pair.run("nbdcopy", pair.uri, str(copy))
    assert "identical" in pair.run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(copy), pair.uri)
    pair.end(process)
    assert pair.same(ENOUGH_BYTES)


@pytest.fixture
def keys(short_tmp):
    """Two files of keys, as nbdkit and libnbd read them: the server's, and another one of the same user."""
    for name in ("known", "other"):
        path = short_tmp / f"{name}.psk"
        path.write_text(f"{USER}:{secrets.token_hex(32)}\n")
        path.chmod(0o600)
    return short_tmp / "known.psk", short_tmp / "other.psk"


def test_only_who_has_the_shared_key_gets_in(pair, keys, need):
    """nbdkit's TLS-PSK in front of a replicated disk: the key copies in and out, another key or none is refused."""
    need("nbdcopy", "nbdinfo")
    known, other = keys
    process = pair.start_primary(options=("--tls=require", f"--tls-psk={known}"))
    data = pair.directory / "data"
    data.write_bytes(os.urandom(4 << 20))

    def uri(path):
        return f"nbds+unix://{USER}@/?socket={pair.socket}&tls-psk-file={path}"

    pair.run("nbdcopy", "--flush", str(data), uri(known))
    pair.run("nbdcopy", uri(known), str(pair.directory / "back"))
    assert (pair.directory / "back").read_bytes()[: 4 << 20] == data.read_bytes()
    pair.run("nbdinfo", "--size", uri(other), code=1)
    pair.run("nbdinfo", "--size", pair.uri, code=1)
    pair.end(process)
    assert pair.image("b").read_bytes()[: 4 << 20] == data.read_bytes()
