"""Exports that can only be read, on a pair of processes, with the clients that people use."""

from __future__ import annotations

import subprocess

import pytest

from pydrbd.units import MIB
from tests.chaos.conftest import assert_clean_logs

pytestmark = pytest.mark.interop

SIZE_BYTES = 8 * MIB


@pytest.fixture
def pair(make_pair):
    """A pair in sync, the first node Primary, both with nbd-read-only."""
    pair = make_pair(size_bytes=SIZE_BYTES)
    (pair.config_path.parent / "pydrbd.toml").write_text("[resource.r0]\nnbd-read-only = true\n")
    for node in pair:
        node.start()
    pair.nodes[0].grant("primary", force=True)
    pair.wait_until(pair.in_sync, "the first sync")
    yield pair
    assert_clean_logs(pair)


@pytest.fixture
def run(need, processes):
    """`run("nbdinfo", ...)` runs a client: (exit code, what it said)."""

    def run(*words):
        argv = [need(words[0]), *map(str, words[1:])]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
                              env=processes.env)  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def uri(node, name):
    return f"nbd+unix:///{name}?socket={node.nbd_socket}"


def test_a_copy_can_be_taken_from_the_secondary(pair, run, short_tmp):
    """What the Primary's client wrote is in it; nobody was promoted, and nothing can be written there."""
    a, b = pair.nodes
    code, said = run("qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 1M", "-c", "flush", uri(a, "r0"))
    assert code == 0, said
    for node in (a, b):
        code, said = run("nbdinfo", uri(node, "r0@ro"))
        assert code == 0 and "is_read_only: true" in said, said
        copy = short_tmp / f"{node.name}.raw"
        code, said = run("nbdcopy", uri(node, "r0@ro"), copy)
        assert code == 0 and copy.read_bytes()[MIB : 2 * MIB] == b"\x5a" * MIB, said
        code, said = run("qemu-io", "-f", "raw", "-c", "write 0 4k", uri(node, "r0@ro"))
        assert code == 1 and "wrote" not in said, said
    assert run("nbdinfo", uri(b, "r0"))[0] == 1
    assert [node.volume()["role"] for node in pair] == ["Primary", "Secondary"]


def test_it_is_there_only_when_asked_for(synced_pair, run):
    """Without the word in pydrbd.toml there is no such export."""
    pair = synced_pair(size_bytes=SIZE_BYTES)
    code, said = run("qemu-img", "info", uri(pair.nodes[1], "r0@ro"))
    assert code == 1 and "no export 'r0@ro' here; there is r0" in said, said
