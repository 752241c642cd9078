"""Scenarios: each handler is run where the kernel runs it. fence-peer and before-resync-* have files of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pydrbd.config.options import SECTIONS
from pydrbd.core.events import SessionClosed
from pydrbd.core.handshake import NetOptions
from pydrbd.core.states import ConnState
from pydrbd.wire.packet_numbers import AfterSb
from tests.harness.scene import BLOCK, order, pair, state, wait, write
from tests.harness.world import Client, World

WORDS = frozenset(SECTIONS["handlers"])


def names(world: World) -> tuple[list[tuple[str, int | None]], list[tuple[str, int | None]]]:
    """What was run, on both nodes."""
    return world.a.helpers, world.b.helpers


def test_a_primary_that_is_left_without_good_data_runs_pri_on_incon_degr() -> None:
    """Its own disk is gone, then its peer: once, and only on that node."""
    world, _ = pair(handlers=WORDS)
    assert order(world, world.a, "detach") == 1
    world.run(1)
    assert names(world) == ([], [])
    world.link_allowed = False
    world.cut()
    world.run(3)
    assert state(world.a).endswith("Diskless/DUnknown") and names(world) == ([("pri-on-incon-degr", 0)], [])


@pytest.mark.parametrize(("policy", "runs"), [("call-local-io-error", True), ("detach", False)])
def test_a_disk_that_fails_runs_local_io_error_if_that_is_the_policy(policy: str, runs: bool) -> None:
    """The client's write is answered by the peer's copy all the same, and waits for no handler."""
    world, client = pair(handlers=WORDS)
    world.a.volume.options = replace(world.a.volume.options, on_io_error=policy)
    world.a.handler = lambda _name: (0, 60.0)
    world.a.disks[0].fail_once.add("write")
    assert write(client, 0, b"x" * BLOCK) == 0
    assert names(world) == ([("local-io-error", 0)] if runs else [], [])
    assert state(world.a).endswith("Diskless/UpToDate")


def test_a_verify_that_finds_differences_runs_out_of_sync_on_both_nodes() -> None:
    """And none that finds nothing does."""
    world, client = pair(handlers=WORDS, net=NetOptions(verify_alg="crc32c"))
    assert write(client, 0, b"1" * BLOCK) == 0 and wait(client, client.flush()) == [0]
    for expected in ([], [("out-of-sync", 0)]):
        assert order(world, world.a, "verify") == 1
        world.run_until(lambda: {m.volume.state.conn for m in (world.a, world.b)} == {ConnState.Connected})
        world.run(1)
        assert names(world) == (expected, expected)
        world.b.disks[0].write(0, b"2" * BLOCK)


def test_a_resync_runs_its_handlers_in_their_order() -> None:
    """before-*, then after-resync-target, where each belongs; unfence-peer only with a policy that fences."""
    world, client = pair(handlers=WORDS)
    world.link_allowed = False
    world.cut()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_in_sync)
    world.run(1)
    assert names(world) == (
        [("before-resync-source", 0)], [("before-resync-target", 0), ("after-resync-target", 0)]
    )  # fmt: skip


def test_two_that_wrote_apart_run_the_handlers_of_a_split_brain() -> None:
    """Both hear of it at first, and again as no policy resolves it."""
    world, client = pair(handlers=WORDS)
    world.link_allowed = False
    world.cut()
    assert write(client, 0, b"x" * BLOCK) == 0
    assert order(world, world.b, "primary", force=True) == 1
    world.link_allowed = True
    world.try_link()
    world.run(5)
    assert names(world) == ([("initial-split-brain", 0), ("split-brain", 0)],) * 2


@pytest.mark.parametrize(
    ("after_sb_1pri", "runs"),
    [
        (AfterSb.VIOLENTLY_AS0P, ["initial-split-brain", "pri-lost"]),
        (AfterSb.CALL_PRI_LOST_AFTER_SB, ["initial-split-brain", "pri-lost-after-sb", "split-brain"]),
    ],
)
def test_a_primary_whose_data_a_policy_discards_runs_the_handler_that_is_to_reboot_it(
    after_sb_1pri: AfterSb, runs: list[str]
) -> None:
    """The peer wrote more, and is Secondary now; a client still has the loser's device open. They part."""
    net = NetOptions(
        after_sb_0pri=AfterSb.DISCARD_LEAST_CHANGES, after_sb_1pri=after_sb_1pri, rr_conflict="call-pri-lost"
    )
    world, client = pair(handlers=WORDS, net=net)
    world.link_allowed = False
    world.cut()
    assert write(client, 0, b"x" * BLOCK) == 0
    assert order(world, world.b, "primary", force=True) == 1
    assert write(Client(world, world.b), 0, b"y" * 2 * BLOCK) == 0
    assert order(world, world.b, "secondary", force=True) == 1
    world.link_allowed = True
    world.try_link()
    world.run(5)
    assert [name for name, _volume in world.a.helpers] == runs
    assert state(world.a).startswith("StandAlone Primary")


def test_a_primary_that_nobody_uses_gives_up_its_role_instead() -> None:
    """call-pri-lost-after-sb: no client has the loser's device open, so it becomes Secondary, and target."""
    net = NetOptions(
        after_sb_0pri=AfterSb.DISCARD_LEAST_CHANGES, after_sb_1pri=AfterSb.CALL_PRI_LOST_AFTER_SB
    )  # fmt: skip
    world, client = pair(handlers=WORDS, net=net)
    world.link_allowed = False
    world.cut()
    assert write(client, 0, b"x" * BLOCK) == 0
    world.a.feed(SessionClosed(client, 0))
    assert order(world, world.b, "primary", force=True) == 1
    assert write(Client(world, world.b), 0, b"y" * 2 * BLOCK) == 0
    assert order(world, world.b, "secondary", force=True) == 1
    winner = bytes(world.b.disks[0].data)
    world.link_allowed = True
    world.try_link()
    world.run_until(world.is_in_sync)
    world.run(1)
    assert state(world.a) == state(world.b) == "Connected Secondary/Secondary UpToDate/UpToDate"
    assert bytes(world.a.disks[0].data) == winner
    assert [name for name, _volume in world.a.helpers] == [
        "initial-split-brain", "before-resync-target", "after-resync-target"
    ]  # fmt: skip
    assert any("gave up the Primary role" in line for line in world.a.log)


def test_every_word_of_the_configuration_is_a_handler_that_something_runs() -> None:
    """A new word in the table needs a place at which it is run, and its scenario."""
    elsewhere = {"fence-peer", "unfence-peer"}
    here = {
        "pri-on-incon-degr", "local-io-error", "out-of-sync", "initial-split-brain", "split-brain",
        "before-resync-source", "before-resync-target", "after-resync-target", "pri-lost", "pri-lost-after-sb",
        "quorum-lost",
    }  # fmt: skip
    assert here | elsewhere == WORDS
