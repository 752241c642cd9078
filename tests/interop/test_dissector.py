"""A second opinion on every packet: Wireshark's dissector reads what a kernel and pydrbd say just now.

The recorded sessions are read by tests/wire/test_sessions.py.
"""

from __future__ import annotations

import subprocess

import pytest

from tests.interop.pair import AL_IS_APPLIED, variant
from tests.interop.test_integrity import NO_ZEROES
from tests.interop.test_verify import WORDS, verify
from tests.lab.load import Op
from tests.lab.network import BRIDGE, system
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

NET = "protocol C; data-integrity-alg crc32c; csums-alg crc32c; verify-alg sha1; use-rle {};"
READ = ("--enable-heuristic", "drbd_tcp", "-r")


@pytest.fixture
def capture(need, lab_nodes, tmp_path):
    """Records the lab's traffic; called, it ends that, and says which packets match a filter."""
    tshark, path = need("tshark"), tmp_path / "session.pcap"
    words = lab_nodes.lab.network.inside([tshark, "-q", "-i", BRIDGE, "-w", str(path)])
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, **quiet) as process:
        try:
            wait_until(lambda: path.exists() and path.stat().st_size, "the capture to begin")

            def matches(display_filter, field="frame.number"):
                if process.poll() is None:
                    process.terminate()
                    process.wait(20)
                found = system(tshark, *READ, str(path), "-Y", display_filter, "-T", "fields", "-e", field)
                return [line for line in found.splitlines() if "Running as user" not in line]

            yield matches
        finally:
            process.kill()


@pytest.mark.parametrize(
    "net", ["protocol C;", NET.format("no"), variant(NET.format("yes"))], ids=["usual", "digests", "digests-rle"]
)
def test_wireshark_finds_no_malformed_packet(pair, seed, capture, net):
    """Connect, write, resync, verify, read through the peer, switch, disconnect: all that is said is well formed."""
    pair.allow(*WORDS, *AL_IS_APPLIED, NO_ZEROES, "had equal checksums")
    pair.start(net=net)
    pair.sync()
    pair.write(pair.first, seed, 20, discards=True)
    pair.part(pair.second)
    pair.write(pair.first, seed + 1, 5)
    pair.second.connect()
    pair.wait_in_sync()
    if "verify-alg" in net:
        verify(pair, pair.second)
    pair.first.order("detach")
    pair.play(pair.first, [Op("fua", 4096, 4096, 1)])
    pair.first.load([Op("read", 4096, 4096, 1)])
    pair.first.order("attach")
    pair.wait_in_sync()
    pair.switch()
    pair.play(pair.first, [Op("fua", 4096, 4096, 2)])
    pair.assert_same()
    kinds = {int(word, 16) for line in capture("drbd", "drbd.command") for word in line.split(",")}
    assert len(kinds) >= 25, sorted(kinds)
    malformed = capture("drbd and _ws.malformed")
    assert not malformed, "\n".join(malformed)
