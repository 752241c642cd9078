"""One lab for all scenarios; a fresh pair for each, in both directions."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.interop.pair import DISK_BYTES, Pair
from tests.lab.guest import GuestFailed
from tests.lab.guest_pydrbd import GuestPydrbdNode
from tests.lab.kernel_node import KernelNode
from tests.lab.lab import Lab, why_not
from tests.lab.pydrbd_node import PydrbdNode

HERE = Path(__file__).parent
TIMEOUT_S = 300
PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


class Nodes:
    """The nodes of the lab, started when the first scenario wants them."""

    def __init__(self, lab):
        self.lab = lab
        self.known = {}

    def get(self, name):
        if name not in self.known:
            if name == "pydrbd":
                disk = self.lab.new_disk("pydrbd.disk", DISK_BYTES)
                node = PydrbdNode(self.lab.network, self.lab.directory, name, self.lab.host_address(2), disk)
            else:
                guest = self.lab.add_guest(name, disk_bytes=DISK_BYTES)
                node = GuestPydrbdNode(guest) if name == "indoors" else KernelNode(guest)
            self.known[name] = node
        node = self.known[name]
        if isinstance(node, KernelNode | GuestPydrbdNode) and not node.guest.runs:
            try:
                node.boot()
            except GuestFailed as error:
                pytest.skip(f"a guest can't be started here: {error}")
        return node


@pytest.fixture(scope="session")
def lab_nodes():
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Lab() as lab:
        yield Nodes(lab)


DIRECTIONS = [
    pytest.param(("kernel", "pydrbd"), id="kernel-to-pydrbd"),
    pytest.param(("pydrbd", "kernel"), id="pydrbd-to-kernel"),
    pytest.param(("kernel", "kernel2"), id="control", marks=pytest.mark.slow),
]
"""Who is Primary first, and who is its peer. The control is a pair of kernels: it proves the scenario itself."""


@pytest.fixture(params=DIRECTIONS)
def pair(request, lab_nodes):
    """A pair that is not started yet. At the end both logs must be free of complaints."""
    with judged(request, Pair(*(lab_nodes.get(name) for name in request.param))) as pair:
        yield pair


@contextlib.contextmanager
def judged(request, pair):
    """Gives the pair to a test; brings it down and reads its logs, or leaves nothing of it."""
    for node in pair:
        node.forget_log()
    try:
        yield pair
        if request.node.stash.get(PASSED, False):
            complaints = pair.finish()
            assert not complaints, "\n".join([*complaints, pair.describe()])
        else:
            print(pair.describe())
    except BaseException:
        request.node.stash[PASSED] = False
        raise
    finally:
        if not request.node.stash.get(PASSED, False):
            for node in pair:
                node.crash()  # who knows what hangs: the next scenario begins anew


@pytest.fixture
def cut(pair):
    """The wire of the pair's kernel: `cut()`, `restore()`, `slow(rate)`, `full_speed()`; whole again at the end."""
    guest = pair.kernel.guest
    yield guest
    guest.restore()
    guest.full_speed()


def pytest_collection_modifyitems(items):
    """Guests take their time when the machine is busy."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
