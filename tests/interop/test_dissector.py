"""A second opinion on every packet: Wireshark's dissector reads a session of a kernel and pydrbd."""

from __future__ import annotations

import subprocess

import pytest

from tests.lab.load import Op
from tests.lab.network import BRIDGE, system
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

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

            def matches(display_filter):
                if process.poll() is None:
                    process.terminate()
                    process.wait(20)
                return system(tshark, *READ, str(path), "-Y", display_filter).splitlines()

            yield matches
        finally:
            process.kill()


def test_wireshark_finds_no_malformed_packet(pair, seed, capture):
    """Connect, write, resync, read through the peer, switch, disconnect: all that is said is well formed."""
    pair.start()
    pair.sync()
    pair.write(pair.first, seed, 20, discards=True)
    pair.part(pair.second)
    pair.write(pair.first, seed + 1, 5)
    pair.second.connect()
    pair.wait_in_sync()
    pair.switch()
    pair.play(pair.first, [Op("fua", 4096, 4096, 1)])
    pair.assert_same()
    assert len(capture("drbd")) > 100
    malformed = [line for line in capture("drbd and _ws.malformed") if "Running as user" not in line]
    assert not malformed, "\n".join(malformed)
