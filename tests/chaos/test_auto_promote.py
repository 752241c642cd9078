"""auto-promote on a pair of processes: clients come to either node, and the role follows them."""

from __future__ import annotations

import subprocess

import pytest

from pydrbd.units import MIB
from tests.chaos.conftest import assert_clean_logs

pytestmark = pytest.mark.interop

SIZE_BYTES = 8 * MIB


@pytest.fixture
def run(need, processes):
    """`run("nbdinfo", ...)` runs a client: (exit code, what it said)."""

    def run(*words):
        argv = [need(words[0]), *words[1:]]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
                              env=processes.env)  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def nodes(synced_pair):
    """Two nodes in sync, both Secondary, both with auto-promote."""
    pair = synced_pair(size_bytes=SIZE_BYTES)
    pair.nodes[0].grant("secondary")
    for node in pair:
        node.grant("options", section="options", options={"auto-promote": "yes", "auto-promote-timeout": "100"})
    pair.wait_until(lambda: roles(pair) == ["Secondary", "Secondary"], "both to be Secondary")
    yield pair.nodes
    assert_clean_logs(pair)


def roles(pair):
    return [node.volume()["role"] for node in pair]


def uri(node):
    return f"nbd+unix:///r0?socket={node.nbd_socket}"


def promotions(node):
    return node.log_path.read_text().count("role( Secondary -> Primary )")


def test_clients_of_either_node_find_it_primary(nodes, run):
    """QEMU writes through one node and reads through the other at once: the second one waits for the role."""
    a, b = nodes
    for node, other, byte in ((b, a, "0x5a"), (a, b, "0xa5")):
        code, said = run("qemu-io", "-f", "raw", "-c", f"write -P {byte} 64k 64k", uri(node))
        assert code == 0 and "wrote 65536/65536" in said, said
        code, said = run("qemu-io", "-f", "raw", "-c", f"read -P {byte} 64k 64k", uri(other))
        assert code == 0 and "read 65536/65536" in said and "failed" not in said, said


def test_who_only_looks_promotes_nobody(nodes, run):
    """nbdinfo --list asks for information about each export, and no more."""
    _a, b = nodes
    before = promotions(b)
    code, said = run("nbdinfo", "--list", uri(b))
    assert code == 0 and "export-size: 8347648" in said, said
    assert promotions(b) == before and roles(nodes) == ["Secondary", "Secondary"]
    assert run("nbdinfo", uri(b))[0] == 0  # this one opens it
    assert promotions(b) > before


def test_a_client_is_told_why_the_node_can_not_be_promoted(nodes, run):
    """DRBD's words reach QEMU while the peer's operator has the role, which no leaving client takes from him."""
    a, b = nodes
    b.grant("options", section="options", options={"auto-promote-timeout": "0"})
    a.grant("primary")
    assert run("qemu-io", "-f", "raw", "-c", "write 0 4k", uri(a))[0] == 0
    code, said = run("qemu-img", "info", uri(b))
    assert code == 1 and "Multiple primaries not allowed by config" in said, said
    assert roles(nodes) == ["Primary", "Secondary"]
