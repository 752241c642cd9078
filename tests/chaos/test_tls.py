"""A pair whose link and whose clients are encrypted, through a crash and a resync."""

from __future__ import annotations

import subprocess

import pytest

from pydrbd.units import MIB
from tests.certificates import Authority
from tests.chaos.conftest import assert_clean_logs

pytestmark = pytest.mark.interop


def test_an_encrypted_pair_survives_a_crash_and_both_copies_are_the_same(make_pair, need, processes):
    """Written over TLS, replicated over TLS; a killed Secondary comes back, and is synced over TLS."""
    pair = make_pair(size_bytes=32 * MIB)
    Authority().save(pair.directory / "pki", "alpha", "beta", side="node")
    (pair.directory / "pydrbd.toml").write_text(
        '[resource.r0]\ntls-certificate = "pki/node-cert.pem"\ntls-key = "pki/node-key.pem"\n'
        'tls-authority = "pki/ca-cert.pem"\nlink-tls = "require"\n'
    )
    for node in pair:
        node.start()
    pair.nodes[0].grant("primary", force=True)
    pair.wait_until(pair.in_sync, "the first sync")
    uri = f"nbd+unix:///r0?socket={pair.nodes[0].nbd_socket}"

    def write(*commands):
        words = [word for command in commands for word in ("-c", command)]
        subprocess.run([need("qemu-io"), "-f", "raw", *words, uri], check=True, timeout=60, env=processes.env)

    write("aio_write -P 1 0 8M", "aio_write -P 2 8M 8M", "aio_flush", "flush")
    pair.nodes[1].kill()
    write("write -P 3 4M 8M", "flush")
    pair.nodes[1].start()
    pair.wait_until(pair.in_sync, "both to be in sync")
    write("read -P 1 0 4M", "read -P 3 4M 8M", "read -P 2 12M 4M", "write -P 4 20M 1M", "flush")
    compared = pair.compare(31 * MIB)
    assert compared.block_count and not compared.difference_count, compared
    assert_clean_logs(pair)
