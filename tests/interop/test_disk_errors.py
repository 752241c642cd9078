"""A kernel whose disk fails (its own fault injection), with each policy of `on-io-error`."""

from __future__ import annotations

import pytest

from tests.interop.pair import PEER_IS_GONE, QUICK
from tests.lab.load import Op

pytestmark = pytest.mark.interop

FAILED = (
    "Local IO failed", "Simulating", "local-io-error", "(read|write): error=10", "but my Disk seems to have failed",
    "local (READ|WRITE) IO error", "pri-on-incon-degr", "Not fencing peer, I'm not even Consistent",
)  # fmt: skip
DATA_WRITES, DATA_READS = 1 << 4, 1 << 5


@pytest.fixture
def faults(pair):
    """`faults(kinds)`: the kernel's disk fails at those; whole again at the end."""
    guest = pair.kernel.guest

    def fail(kinds):
        for name, value in (("fault_rate", 100 if kinds else 0), ("fault_devs", 1), ("enable_faults", kinds)):
            guest.write_file(f"/sys/module/drbd/parameters/{name}", str(value))

    yield fail
    fail(0)


@pytest.mark.parametrize("policy", ["pass_on", "detach", "call-local-io-error"])
def test_a_kernels_failed_writes_are_mended_by_its_peer(pair, seed, faults, cut, policy):
    """No client hears of it; the disk is Inconsistent or gone, as the policy says, and catches up."""
    pair.allow(*FAILED, *PEER_IS_GONE)
    pair.handlers = 'local-io-error "/bin/true";'
    pair.start(net=QUICK, disk=f"on-io-error {policy};")
    pair.sync()
    pair.write(pair.first, seed, 10)
    faults(DATA_WRITES)
    pair.play(pair.first, [Op("write", n * 16384, 4096, seed + n) for n in range(8)])
    faults(0)
    ours = next(node for node in pair if node is not pair.kernel)
    ours.wait(conn="Connected", peer_disk="Inconsistent" if policy == "pass_on" else "Diskless")
    pair.kernel.wait(conn="Connected", disk="Inconsistent" if policy == "pass_on" else "Diskless")
    if policy == "pass_on":
        cut.cut()
        pair.first.wait(conn="WFConnection")
        cut.restore()
    else:
        pair.kernel.order("attach")
    pair.assert_same()


def test_a_kernels_failed_reads_are_answered_by_its_peer(pair, seed, faults):
    """pass_on, the kernel is Primary: it asks us for what it can't read."""
    pair.allow(*FAILED)
    pair.start(disk="on-io-error pass_on;")
    pair.sync()
    known = Op("write", 65536, 8192, seed)
    pair.play(pair.first, [known])
    if pair.first is not pair.kernel:
        pair.switch()
    faults(DATA_READS)
    pair.first.load([Op("read", known.offset_bytes, known.length_bytes, known.seed)])
    faults(0)
    pair.kernel.wait(conn="Connected", disk="Inconsistent")
