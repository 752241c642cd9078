"""pydrbd on a machine of its own: in a guest, which loses power as a whole, and whose disk may hang."""

from __future__ import annotations

import pytest

from tests.interop.conftest import judged
from tests.interop.pair import AL_IS_APPLIED, DISK_BYTES, PEER_IS_GONE, QUICK, Pair, refused
from tests.lab import mapped
from tests.lab.guest_pydrbd import GuestPydrbdNode
from tests.lab.mapped import MappedDisk
from tests.lab.nodes import Refused

pytestmark = pytest.mark.interop

PATIENT_WITH_PINGS = (
    "protocol C; ping-int 1; ping-timeout 100; socket-check-timeout 5; connect-int 1; timeout 20; ko-count 2;"
)
LEFT = ("Remote failed to finish a request within", r"conn\( Connected -> Timeout", "ko-count", "Timeout")


@pytest.fixture(params=[("kernel", "indoors"), ("indoors", "kernel")], ids=["kernel-to-pydrbd", "pydrbd-to-kernel"])
def guests(request, lab_nodes):
    """A pair of guests, not started yet."""
    with judged(request, Pair(*(lab_nodes.get(name) for name in request.param))) as pair:
        yield pair


def test_a_guest_with_pydrbd_loses_power_and_returns(guests, seed):
    """Writes, the power failure of the pydrbd machine; the kernel goes on or takes over; in sync when it is back."""
    pair = guests
    pair.allow(*PEER_IS_GONE, *AL_IS_APPLIED)
    pair.start(net=QUICK)
    pair.sync()
    pair.write(pair.first, seed, 20)
    if isinstance(pair.first, GuestPydrbdNode):
        with pair.first.held_open():
            assert "Device is held open by someone" in refused(pair.first.secondary)
    lost, survivor = next(node for node in pair if isinstance(node, GuestPydrbdNode)), pair.kernel
    lost.crash()
    survivor.wait(peer_disk="DUnknown")
    if survivor is pair.second:
        survivor.primary()
    pair.write(survivor, seed + 1, 10)
    lost.boot()
    lost.up()
    pair.assert_same()


@pytest.fixture
def hanging(guests):
    """The disk of the second node, which can be made to hang."""
    node = guests.second
    below, node.disk_name = node.disk_name, mapped.PATH
    disk = MappedDisk(node.guest, below)
    disk.create(DISK_BYTES)
    yield disk
    node.disk_name = below
    if node.guest.runs:
        disk.resume()
        node.down()
        disk.remove()


def test_a_peer_whose_disk_hangs_is_left_by_ko_count(guests, hanging, seed):
    """It answers pings, but no write: after ko-count times timeout the Primary goes on alone, until it is back."""
    pair = guests
    pair.allow(*PEER_IS_GONE, *LEFT)
    pair.start(net=PATIENT_WITH_PINGS)
    pair.sync()
    pair.write(pair.first, seed, 10)
    hanging.suspend()
    pair.write(pair.first, seed + 1, 10)
    pair.first.wait(peer_disk="DUnknown")
    assert "ko-count" in pair.first.log()
    assert "PingAck did not arrive" not in pair.first.log()
    pair.write(pair.first, seed + 2, 10)
    hanging.resume()
    pair.assert_same()


def test_a_disk_that_hangs_is_given_up_by_disk_timeout(guests, hanging, seed):
    """The Primary's own: its writes are done by the peer's copy after that time, and the disk catches up later."""
    pair = guests
    pair.allow("disk-timeout", "Local IO failed", "I/O error", "local (READ|WRITE) IO error", *AL_IS_APPLIED)
    pair.allow("but my Disk seems to have failed")
    pair.start(net=PATIENT_WITH_PINGS, disk="disk-timeout 30;")
    pair.sync()
    pair.switch()
    pair.write(pair.first, seed, 10)
    hanging.suspend()
    pair.write(pair.first, seed + 1, 5)
    given_up = ("Failed", "Diskless")  # a kernel's is Failed while the system has not let go of it
    pair.wait_for(lambda: pair.second.states().peer_disk in given_up, "the disk to be given up")
    assert pair.second.states().conn == "Connected"
    hanging.resume()
    pair.wait_for(lambda: attached(pair.first), "the disk to be let go of, and attached")
    pair.assert_same()


def attached(node) -> bool:
    try:
        node.order("attach")
    except Refused:
        return False
    return True
