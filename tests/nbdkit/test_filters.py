"""nbdkit's filters that change what a client sees of the disk, or when nbdkit ends; and a demotion below a stack."""

from __future__ import annotations

import struct

import pytest

from pydrbd.admin.nbd_client import NbdClient
from pydrbd.wire.nbd import Command, NbdError
from tests.nbdkit.conftest import LIMIT_S

pytestmark = pytest.mark.interop
MIB = 1 << 20
STACK = ("--filter=log", "--filter=stats", "--filter=rate", "--filter=delay")
STACK_WORDS = ("logfile=/dev/null", "statsfile=/dev/null", "rate=4G", "delay-write=1ms")


def test_the_partition_filter_serves_a_part_of_both_disks(pair):
    """An MBR with one partition is written; through the filter a client sees just that, and both disks get it."""
    process = pair.start_primary()
    entry = struct.pack("<8B2I", 0, 0, 2, 0, 0x83, 0, 3, 0, MIB // 512, 4 * MIB // 512)
    with pair.client() as client:
        client.write(0, bytes(446) + entry + bytes(48) + b"\x55\xaa")
        client.flush()
    pair.end(process)
    process = pair.start("partition=1", "primary=true", options=("--filter=partition",))
    pair.call("a", "wait-connect")
    with pair.client() as client:
        assert client.size_bytes == 4 * MIB
        client.write(0, b"p" * 4096)
        client.flush()
    pair.end(process)
    assert pair.image("b").read_bytes()[MIB : MIB + 4096] == b"p" * 4096 and pair.same(8 * MIB)


def test_the_exitlast_filter_ends_the_node_with_its_last_client(pair):
    """The last client goes: nbdkit and the node in it end in good order, and nothing is out of sync."""
    process = pair.start_primary(options=("--filter=exitlast",))
    with pair.client() as client:
        client.write(0, b"l" * 4096)
        client.flush()
    assert process.wait(LIMIT_S) == 0, pair.log.read_text()
    assert pair.image("b").read_bytes()[:4096] == b"l" * 4096
    assert "nothing new is out of sync" in pair.call("a", "apply-al")


def test_writes_under_way_at_a_demotion_fail_below_a_stack_of_filters(pair):
    """They wait while I/O is suspended: a forced demotion answers each with ESHUTDOWN, and none hangs."""
    pair.start_primary(*STACK_WORDS, options=STACK)
    errors = []
    with pair.client() as client:
        pair.call("a", "suspend-io")
        for offset in range(0, 32768, 4096):
            client.submit(
                Command.WRITE, offset, 4096, payload=bytes(4096), on_reply=lambda error, _data: errors.append(error)
            )
        pair.call("a", "secondary", "--force")
        client.drain()
    assert errors == [NbdError.ESHUTDOWN] * 8
    assert "role:Secondary" in pair.call("a", "status")


def test_the_peer_takes_over_from_a_long_stack(pair):
    """nbdkit is killed after a flush through log, stats, rate and delay: the peer has every byte."""
    process = pair.start_primary(*STACK_WORDS, options=STACK)
    with pair.client() as client:
        client.write(0, b"s" * MIB)
        client.flush()
        process.kill()
        process.wait(LIMIT_S)
    pair.call("b", "primary")
    with NbdClient.connect(pair.run_dir("b") / "r0.nbd.sock", "r0") as client:
        assert client.read(0, MIB) == b"s" * MIB
