"""Online verify: started from either side, on either kind of node, it finds what was planted, and nothing else."""

from __future__ import annotations

import re
import threading

import pytest

from tests.interop.pair import refused, variant
from tests.interop.verbs import ask
from tests.lab.kernel_node import KernelNode
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

NET = "protocol C; verify-alg {};"
FOUND = re.compile(r"Out of sync: start=(\d+), size=(\d+) \(sectors\)")
WORDS = (
    "Online [Vv]erify", r"Out of sync: start=\d+", "helper command: /sbin/drbdadm out-of-sync", "block out of sync!"
)  # fmt: skip
BLOCK = 4096


def plant(node, *blocks):
    """Change these blocks of a node's disk behind its back."""
    with node.disk_path.open("r+b") as disk:
        for block in blocks:
            disk.seek(block * BLOCK + 512)
            disk.write(b"planted!")


def found(node):
    """The blocks that its log calls out of sync, sorted: answers come in any order."""
    blocks = []
    for start, size in FOUND.findall(node.log()):
        blocks += range(int(start) // 8, (int(start) + int(size) + 7) // 8)
    return sorted(blocks)


def verify(pair, starter, *words, times=1, **where):
    """Have it done, and wait until both say so. `times`: how many they have said so by then."""
    if words and isinstance(starter, KernelNode):
        starter.guest.run("drbdsetup", "verify", "0", *words)  # drbdadm has no such words
    else:
        ask(starter, "verify", **where)
    for node in pair:
        wait_until(
            lambda node=node: len(re.findall(r"Online verify +done", node.log())) >= times,
            f"the verify to end on {node.name}",
            60,
            pair.describe,
        )
        node.wait(conn="Connected", disk="UpToDate", peer_disk="UpToDate")


@pytest.mark.parametrize(
    ("who", "algorithm"), [("primary", "sha1"), ("secondary", "crc32c"), variant("secondary", "md5")]
)
def test_what_was_planted_is_found_on_both_and_repaired(pair, seed, who, algorithm):
    """Single blocks, neighbours, the first and the last one: the same list on both; reconnecting copies them."""
    pair.allow(*WORDS)
    pair.start(net=NET.format(algorithm))
    pair.sync()
    pair.write(pair.first, seed, 20)
    last = len(pair.image) // BLOCK - 1
    planted = [0, 100, 101, 102, 4000, last]
    plant(pair.second, *planted)
    verify(pair, pair.first if who == "primary" else pair.second)
    assert sorted(found(pair.first)) == sorted(found(pair.second)) == planted  # in the order of the answers
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.second.connect()
    pair.assert_same()
    verify(pair, pair.first, times=2)
    assert sorted(found(pair.first)) == planted


@pytest.mark.parametrize("who", [variant("primary"), "secondary"])
def test_a_part_is_verified(pair, who):
    """From a start to a stop sector: what is outside is not looked at, and both come to the end."""
    pair.allow(*WORDS)
    pair.start(net=NET.format("sha1"))
    pair.sync()
    plant(pair.second, 99, 100, 1999, 2000)
    starter = pair.first if who == "primary" else pair.second
    verify(pair, starter, "--start=800s", "--stop=16000s", start_sector=800, stop_sector=16000)
    assert found(pair.first) == found(pair.second) == [100, 1999]
    pair.second.disconnect()
    pair.first.wait(peer_disk="DUnknown")
    pair.second.connect()
    pair.wait_in_sync()
    with pair.first.disk_path.open("rb") as good, pair.second.disk_path.open("r+b") as bad:
        for block in (99, 2000):
            good.seek(block * BLOCK)
            bad.seek(block * BLOCK)
            bad.write(good.read(BLOCK))
    pair.assert_same()


@pytest.mark.parametrize("who", [variant("primary"), "secondary"])
def test_writes_during_a_verify_are_never_taken_for_differences(pair, who):
    """fio writes all over the device while one verify follows the other: nothing is found."""
    pair.allow(*WORDS)
    pair.start(net=NET.format("crc32c"))
    pair.sync()
    load = threading.Thread(target=pair.first.stress, args=(6,))
    load.start()
    try:
        times = 0
        while load.is_alive():
            times += 1
            verify(pair, pair.first if who == "primary" else pair.second, times=times)
    finally:
        load.join()
    assert times > 1 and found(pair.first) == found(pair.second) == []
    pair.adopt(pair.first)
    pair.assert_same()


def test_a_verify_without_an_algorithm_is_refused(pair):
    """DRBD's words, on both kinds of node."""
    pair.allow("State change failed: Need a verify algorithm", "state = ", "wanted = ")
    pair.start()
    pair.sync()
    for node in pair:
        assert "Need a verify algorithm" in refused(ask, node, "verify")
    pair.assert_same()
