"""A Primary without good data waits for it (`on-no-data-accessible suspend-io`), and goes on without an error."""

from __future__ import annotations

import threading

import pytest

from tests.interop.pair import AL_IS_APPLIED, PEER_IS_GONE, QUICK
from tests.lab.load import Op
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

WAITING = (
    "pri-on-incon-degr", "Not fencing peer, I'm not even Consistent", "had the only good disk", *AL_IS_APPLIED,
    "IO ERROR: neither local nor remote data", "I/O error",
    "net_ee not empty",  # the cut: nobody has confirmed the last data that was read
)  # fmt: skip


def let_go_of_the_disk(pair):
    """The peer's new generation must have come before the link is cut: without it a kernel refuses the peer later."""
    pair.first.order("detach")
    pair.second.wait(peer_disk="Diskless")
    pair.first.load([Op("write", 0, 4096, 1), Op("read", 0, 4096, 1)])


def test_a_primary_without_a_disk_waits_for_its_peer(pair, cut, seed):
    """It is cut off in the middle of its writes: they are done when the wire is whole again."""
    pair.options = "on-no-data-accessible suspend-io;"
    pair.allow(*PEER_IS_GONE, *WAITING)
    pair.start(net=QUICK)
    pair.sync()
    pair.write(pair.first, seed, 10)
    let_go_of_the_disk(pair)
    cut.cut()
    pair.first.wait(peer_disk="DUnknown", disk="Diskless")
    ops = [Op("write", n * 65536, 8192, seed + n) for n in range(4)]
    writing = threading.Thread(target=pair.play, args=(pair.first, ops))
    writing.start()
    writing.join(3)
    assert writing.is_alive()
    cut.restore()
    pair.first.wait(conn="Connected", disk="Diskless", peer_disk="UpToDate")
    writing.join(60)
    assert not writing.is_alive()
    pair.first.load([Op("read", op.offset_bytes, op.length_bytes, op.seed) for op in ops])
    pair.first.order("attach")
    pair.assert_same()


def test_resume_io_ends_the_waiting_with_errors(pair, cut):
    """The operator gives up on the data: what waits fails, and so does what comes."""
    pair.options = "on-no-data-accessible suspend-io;"
    pair.allow(*PEER_IS_GONE, *WAITING)
    pair.start(net=QUICK)
    pair.sync()
    let_go_of_the_disk(pair)
    cut.cut()
    pair.first.wait(peer_disk="DUnknown", disk="Diskless")
    failures: list[BaseException] = []

    def write() -> None:
        try:
            pair.first.load([Op("write", 0, 4096, 1)])
        except Exception as error:  # whatever kind of client it is
            failures.append(error)

    writing = threading.Thread(target=write)
    writing.start()
    writing.join(3)
    assert writing.is_alive()
    pair.first.order("resume-io")
    wait_until(lambda: failures, "the write to fail")
    writing.join(60)
    cut.restore()
    pair.first.wait(conn="Connected", peer_disk="UpToDate")
    pair.first.order("attach")
    pair.wait_in_sync()
