"""data-integrity-alg between a kernel and pydrbd; and a wire that changes a block."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading

import pytest

from tests.interop import meddler
from tests.interop.pair import DISK_BYTES, variant
from tests.interop.test_protocols import CUT_OFF, REFUSED, start_with
from tests.lab.load import Op
from tests.lab.network import PREFIX, LabFailed
from tests.lab.nodes import PORT, resource_text
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

NO_ZEROES = "Feature flags enabled on protocol level: 0x7 TRIM THIN_RESYNC WRITE_SAME"
CAUGHT = (*CUT_OFF, "[Dd]igest integrity check FAILED", "ProtocolError", "broke the protocol", NO_ZEROES)
ADDRESS = f"{PREFIX}.10"
BLOCK = Op("write", 3 * 1024 * 1024, 4096, 4711)


def patterns(op):
    """Something of each sector: a chunk of the stream may begin anywhere."""
    content = op.content()
    return [content[at : at + 16] for at in range(64, len(content), 512)]


class Wire:
    """The meddler's process in the lab's network; it ends before the nodes do, so that they part once more."""

    def __init__(self, lab, ends):
        with contextlib.suppress(LabFailed):  # there already
            lab.network.add_address(ADDRESS)
        words = [ADDRESS, str(PORT), *ends, *(pattern.hex() for pattern in patterns(BLOCK))]
        self.said: list[str] = []
        self.process = subprocess.Popen(
            lab.network.inside([sys.executable, meddler.__file__, *words]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._listener = threading.Thread(target=lambda: self.said.extend(self.process.stdout), daemon=True)
        self._listener.start()

    def wait_said(self, word):
        wait_until(lambda: f"{word}\n" in self.said, f"the wire to say {word}", why_not=lambda: self.said)

    def restore(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self):
        self.process.kill()
        self.process.wait()
        self._listener.join()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def wire(pair, lab_nodes):
    wire = Wire(lab_nodes.lab, [node.address for node in pair])
    wire.wait_said("listens")
    yield wire
    wire.close()


def start_through(pair, net):
    """Each node is told that its peer is at the wire's address."""
    for node in pair:
        text = resource_text(list(pair), net=net)
        other = pair.second if node is pair.first else pair.first
        os.truncate(node.disk_path, 0)
        os.truncate(node.disk_path, DISK_BYTES)
        node.configure(text.replace(f"{other.address}:{PORT}", f"{ADDRESS}:{PORT}"))
        node.create_md()
    for node in pair:
        node.up()
    for node in pair:
        node.wait(conn="Connected", disk="Inconsistent", peer_disk="Inconsistent")
    pair.image = bytearray(pair.second.size_bytes())
    pair.sync()


def holds_changed(node):
    """Whether the node's disk has a sector as the wire has made it."""
    data = node.disk_path.read_bytes()
    return any(pattern.translate(meddler.COMPLEMENT) in data for pattern in patterns(BLOCK))


@pytest.mark.parametrize("alg", ["crc32c", variant("sha1"), variant("md5"), variant("sha256")])
def test_writes_and_resync_with_every_algorithm(pair, seed, alg):
    """First sync, writes of all sizes, a resync by bitmap, and the other way round."""
    pair.allow(NO_ZEROES)
    pair.start(net=f"protocol C; data-integrity-alg {alg};")
    pair.sync()
    pair.write(pair.first, seed, 40)
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.write(pair.first, seed + 1, 20)
    pair.second.connect()
    pair.assert_same()
    pair.switch()
    pair.write(pair.first, seed + 2, 20)
    pair.assert_same()


def test_discards_and_zeroes_with_an_algorithm(pair, seed):
    """As P_TRIM, both of them: P_ZEROES would break the link. (A pair of kernels breaks it: the control is skipped.)"""
    if "pydrbd" not in {node.name for node in pair}:
        pytest.skip("a pair of kernels can't do it")
    pair.allow(NO_ZEROES)
    pair.start(net="protocol C; data-integrity-alg crc32c;")
    pair.sync()
    pair.write(pair.first, seed, 80, discards=True)
    pair.assert_same()


@pytest.mark.parametrize("protocol", [variant("A"), variant("B"), "C"])
def test_a_block_that_was_changed_on_the_wire_reaches_no_disk(pair, wire, seed, protocol):
    """The receiver sees it and hangs up; the disk still is what it was; the resync brings what was written."""
    pair.allow(*CAUGHT)
    start_through(pair, f"protocol {protocol}; data-integrity-alg crc32c; connect-int 1;")
    pair.write(pair.first, seed, 10)
    before = pair.second.disk_path.read_bytes()[: len(pair.image)]
    pair.play(pair.first, [BLOCK])
    wire.wait_said("altered")
    for node in pair:
        node.wait(peer_disk="DUnknown")
    assert "digest integrity check failed" in pair.second.log().lower()
    assert pair.second.disk_path.read_bytes()[: len(pair.image)] == before
    wire.restore()
    pair.assert_same()
    assert not any(holds_changed(node) for node in pair)


def test_resync_data_that_was_changed_on_the_wire_reaches_no_disk(pair, wire):
    """The target sees it and hangs up; the resync goes on where it was."""
    pair.allow(*CAUGHT)
    start_through(pair, "protocol C; data-integrity-alg sha1; connect-int 1;")
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.play(pair.first, [BLOCK])
    pair.second.connect()
    wire.wait_said("altered")
    for node in pair:
        wait_until(lambda node=node: node.states().conn in ("WFConnection", "Unconnected"), f"{node.name} to hang up")
    assert "digest integrity check failed" in pair.second.log().lower()
    assert not any(holds_changed(node) for node in pair)
    wire.restore()
    pair.assert_same()
    assert not any(holds_changed(node) for node in pair)


@pytest.mark.parametrize("algs", [("crc32c", "sha1"), variant(("", "md5")), variant(("sha256", ""))], ids=repr)
def test_differing_algorithms_are_refused_by_both(pair, algs):
    """StandAlone on both sides, with a reason in both logs."""
    pair.allow(*REFUSED)
    start_with(pair, ["protocol C;" + (f" data-integrity-alg {alg};" if alg else "") for alg in algs])
    for node in pair:
        node.wait(conn="StandAlone")
        assert "incompatible data-integrity-alg" in node.log() or "the peer's data-integrity-alg" in node.log()
