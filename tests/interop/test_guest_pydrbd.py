"""pydrbd on a machine of its own: in a guest, which loses power as a whole."""

from __future__ import annotations

import pytest

from tests.interop.conftest import PASSED
from tests.interop.pair import AL_IS_APPLIED, DISK_BYTES, PEER_IS_GONE, QUICK, Pair
from tests.lab.guest_pydrbd import GuestPydrbdNode

pytestmark = pytest.mark.interop


@pytest.fixture(params=["kernel-to-pydrbd", "pydrbd-to-kernel"])
def guests(request, lab_nodes):
    """A pair of guests, not started yet."""
    kernel, lab = lab_nodes.get("kernel"), lab_nodes.lab
    if "indoors" not in lab.guests:
        lab.add_guest("indoors", disk_bytes=DISK_BYTES)
    indoors = GuestPydrbdNode(lab.guests["indoors"])
    if not indoors.guest.runs:
        indoors.boot()
    nodes = (kernel, indoors) if request.param.startswith("kernel") else (indoors, kernel)
    pair = Pair(*nodes)
    for node in pair:
        node.forget_log()
    try:
        yield pair
        if request.node.stash.get(PASSED, False):
            complaints = pair.finish()
            assert not complaints, "\n".join([*complaints, pair.describe()])
        else:
            print(pair.describe())
    finally:
        for node in pair:
            node.crash()


def test_a_guest_with_pydrbd_loses_power_and_returns(guests, seed):
    """Writes, the power failure of the pydrbd machine, more writes if it was the Secondary; in sync when it is back."""
    pair = guests
    pair.allow(*PEER_IS_GONE, *AL_IS_APPLIED)
    pair.start(net=QUICK)
    pair.sync()
    pair.write(pair.first, seed, 20)
    indoors = next(node for node in pair if isinstance(node, GuestPydrbdNode))
    survivor = pair.kernel
    indoors.crash()
    survivor.wait(peer_disk="DUnknown")
    if survivor is pair.second:
        survivor.primary()
    pair.write(survivor, seed + 1, 10)
    indoors.boot()
    indoors.up()
    pair.assert_same()
