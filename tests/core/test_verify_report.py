"""What a verify leaves for `check`: how much was compared, what differs, and a map of the device."""

from __future__ import annotations

from typing import Any

import pytest

from pydrbd import limits
from pydrbd.core import verify_report as report_module
from pydrbd.core.verify_report import verify_report
from pydrbd.units import BIT_SIZE_BYTES, MIB
from tests.core.test_scenarios_verify import damage, over, verify, verifying
from tests.harness.scene import order
from tests.harness.world import Machine, World


def report_of(machine: Machine, cells: int = 1) -> dict[str, Any]:
    assert machine.node is not None
    (volume,) = verify_report(machine.node, cells)["volumes"]
    assert volume["vnr"] == 0 and volume["size_bytes"] == machine.volume.size_bytes
    found: dict[str, Any] = volume["report"]
    return found


def test_both_sides_report_the_same() -> None:
    """Ranges in bytes, the last one up to the end of the device; a client's write since then changes nothing."""
    world, _ = verifying()
    last = (world.a.volume.size_bytes - 1) // BIT_SIZE_BYTES
    damage(world.b, 3, 700, 701, last)
    verify(world, world.a)
    tail = world.a.volume.size_bytes - last * BIT_SIZE_BYTES
    for machine in (world.a, world.b):
        report = report_of(machine, 4)
        assert report["complete"] and not report["running"] and report["ranges_complete"]
        assert report["ranges"] == [[12288, 4096], [700 * 4096, 8192], [last * 4096, tail]]
        assert (report["compared_blocks"], report["different_blocks"]) == (last + 1, 4)
        assert (report["skipped_blocks"], report["marked_blocks"]) == (0, 4)
        assert (report["start_bytes"], report["end_bytes"]) == (0, world.a.volume.size_bytes)
        assert report["map"] == "!!=!"


def test_there_is_none_before_the_first() -> None:
    world, _ = verifying()
    assert world.a.node is not None
    assert verify_report(world.a.node, 1)["volumes"] == [
        {"vnr": 0, "size_bytes": world.a.volume.size_bytes, "report": None}
    ]


def test_what_was_left_out_is_not_compared_on_the_map() -> None:
    """A part of which any block was left out is `?`, unless one that differs is in it; a block has no two letters."""
    world, _ = verifying()
    damage(world.b, 900)
    verify(world, world.a, start_sector=800, stop_sector=8 * 1024)
    for machine in (world.a, world.b):
        report = report_of(machine, 1 << 14)
        assert report["map"] == "?" * 100 + "=" * 800 + "!" + "=" * 123 + "?" * (len(report["map"]) - 1024)
        assert len(report["map"]) == -(-machine.volume.size_bytes // BIT_SIZE_BYTES)
        assert report["start_bytes"] == 100 * BIT_SIZE_BYTES
    assert report_of(world.a)["end_bytes"] == 4 * MIB and report_of(world.a)["complete"]


@pytest.mark.parametrize("name", ["a", "b"])
def test_one_that_was_cut_off_says_so(name: str) -> None:
    """The link broke: not complete, up to where it got, and what it had found by then."""
    world, _ = verifying(size_bytes=24 * MIB)
    world.link_latency_s = 0.05
    damage(world.b, 1, 5000)
    assert order(world, world.a, "verify") == 1
    assert report_of(world.a)["running"] and not report_of(world.a)["complete"]
    world.run_until(lambda: bool(report_of(getattr(world, name))["different_blocks"]))
    world.cut()
    world.run_until(world.is_in_sync)
    report = report_of(getattr(world, name), 3)
    assert not report["complete"] and not report["running"]
    assert report["ranges"] == [[4096, 4096]] and 0 < report["end_bytes"] < 5000 * 4096
    assert report["map"][0] == "!" and report["map"][-1] == "?"


def test_what_the_peer_can_not_read_is_skipped() -> None:
    """Nobody knows of it: on the map not compared, and the report is not complete. The others of its piece are."""
    world, _ = verifying()
    world.link_latency_s = 0.02
    assert order(world, world.a, "verify") == 1
    assert world.a.node is not None
    world.a.node.verify.on_negative(world.a.volume, 0)
    world.a.node.verify.on_negative(world.a.volume, 5 * BIT_SIZE_BYTES)
    report = report_of(world.a, 1 << 14)
    assert report["skipped_blocks"] == 1 and not report["complete"] and report["map"][5] == "?"


def test_the_list_of_ranges_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more it says that there are more; the count stays right."""
    assert limits.VERIFY_RANGES_MAX > 1000
    monkeypatch.setattr(report_module, "VERIFY_RANGES_MAX", 2)
    world, _ = verifying()
    damage(world.b, 1, 3, 5)
    verify(world, world.a)
    report = report_of(world.a)
    assert report["ranges"] == [[4096, 4096], [12288, 4096]] and not report["ranges_complete"]
    assert report["different_blocks"] == 3


def test_each_volume_has_its_own() -> None:
    """And the next verify replaces it."""
    world = World(1, volumes=2, net=verifying()[0].a.node.net)  # type: ignore[union-attr]
    world.start_in_sync()
    world.b.disks[1].write(5 * BIT_SIZE_BYTES, b"bad")
    for _ in range(2):
        assert order(world, world.b, "verify") == 1
        world.run_until(lambda: over(world))
        assert world.a.node is not None
        volumes = verify_report(world.a.node, 1)["volumes"]
        assert [volume["report"]["different_blocks"] for volume in volumes] == [0, 1]
