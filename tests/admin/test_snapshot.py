"""The snapshot of a node: what it says in the states of its life, of nodes that live in the simulated world."""

from __future__ import annotations

import json

from pydrbd.admin.status_json import status_json
from pydrbd.admin.status_text import status_text
from pydrbd.core.snapshot import snapshot
from tests.admin.snapshots import a_resync, a_snapshot, a_volume
from tests.harness.world import Client, World


def a_pair(seed: int, **options) -> World:
    """Two nodes that found each other when their disks were attached, as `serve` does it; both Inconsistent."""
    world = World(seed, **options)
    world.link_allowed = False
    world.a.start()
    world.b.start()
    world.run(1.0)
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_linked)
    return world


def a_pair_in_sync(seed: int, **options) -> World:
    """The same, `a` Primary and the first sync over."""
    world = a_pair(seed, **options)
    world.a.command("primary", force=True)
    world.run_until(world.is_in_sync)
    return world


def shown(machine) -> dict:
    """A machine's snapshot, as it comes out of JSON."""
    return json.loads(json.dumps(snapshot(machine.node)))


def test_it_has_the_keys_that_the_tests_of_the_command_line_use():
    """What the tests of `status` make up has the keys of the real thing, no more and no fewer."""
    world = a_pair_in_sync(1, volumes=2)
    data = shown(world.a)
    # by the control socket
    added = {"node", "peer", "peer_node_id", "pid", "nbd", "local_address", "peer_address", "backing_devices"}
    assert set(a_snapshot()) == set(data) | added
    for volume in data["volumes"]:
        assert set(a_volume()) == set(volume)
        assert set(a_volume()["counters"]) == set(volume["counters"])
        assert set(a_volume()["pending"]) == set(volume["pending"])


def test_a_pair_in_sync():
    """Both sides of a connected pair say the same of each other."""
    world = a_pair_in_sync(2)
    a, b = shown(world.a), shown(world.b)
    assert (a["role"], a["peer_role"], b["role"], b["peer_role"]) == ("Primary", "Secondary", "Secondary", "Primary")
    assert a["connection"] == b["connection"] == "Connected"
    assert a["volumes"][0]["disk"] == a["volumes"][0]["peer_disk"] == "UpToDate"
    assert a["volumes"][0]["size_sectors"] == world.a.disks[0].layout.usable_sectors
    assert a["volumes"][0]["gi"].split(":")[0][:-1] == b["volumes"][0]["gi"].split(":")[0][:-1]
    assert a["volumes"][0]["gi"].split(":")[4:] == list("1111000")
    assert "replication:Established peer-disk:UpToDate" in status_text(a)


def test_a_resync_and_what_is_left_of_it():
    """In the middle of a resync both sides tell the same total; what is left becomes less, and then it is gone."""
    world = a_pair(3, size_bytes=32 << 20)
    world.a.command("primary", force=True)
    left = []
    world.run_until(lambda: shown(world.b)["volumes"][0]["resync"] is not None)
    while not world.is_in_sync():
        assert world.step()
        resync = shown(world.b)["volumes"][0]["resync"]
        if resync is not None:
            assert set(resync) == set(a_resync())
            assert 0.0 <= resync["percent_done"] <= 100.0
            left.append(resync["left_bits"])
    assert left == sorted(left, reverse=True) and left[0] > left[-1]
    assert shown(world.a)["volumes"][0]["resync"] is None
    counters = shown(world.b)["volumes"][0]["counters"]
    assert counters["resynced"] == shown(world.b)["volumes"][0]["size_sectors"]


def test_writes_under_way_are_counted():
    """A write that nobody has answered yet is pending above, below and at the peer; then it is not."""
    world = a_pair_in_sync(6)
    client = Client(world, world.a)
    client.write(0, bytes(8192))
    world.run_until(lambda: shown(world.a)["volumes"][0]["pending"]["upper"] == 1)
    data = shown(world.a)
    assert data["volumes"][0]["pending"] == {"upper": 1, "lower": 1, "peer": 1, "unacked": 0}
    assert (data["ap_in_flight_sectors"], data["volumes"][0]["clients"]) == (16, 1)
    assert status_json(data)["connections"][0]["ap-in-flight"] == 16
    world.run_until(lambda: bool(client.replies))
    assert world.a.node.log.last_unacked() == 1  # answered, but not released: the peer has not flushed yet
    assert shown(world.a)["volumes"][0]["pending"]["upper"] == 0
    world.settle()
    assert set(shown(world.a)["volumes"][0]["pending"].values()) == {0}


def test_a_node_alone_and_a_node_without_its_disk():
    """Without a peer: Connecting, role Unknown. Without a disk: no identifiers."""
    world = a_pair_in_sync(7)
    world.b.stop()
    world.run(1.0)
    data = shown(world.a)
    assert (data["connection"], data["peer_role"], data["protocol"]) == ("Connecting", "Unknown", None)
    assert data["volumes"][0]["cstate"] == "WFConnection"
    world.a.command("secondary")
    world.run(1.0)
    world.a.command("detach")
    world.run(1.0)
    volume = shown(world.a)["volumes"][0]
    assert (volume["disk"], volume["gi"], volume["has_disk"]) == ("Diskless", None, False)
