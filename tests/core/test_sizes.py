"""The size of the device: both nodes come to the same number, and good data never shrinks unasked."""

from __future__ import annotations

import itertools

import pytest

from pydrbd.core.sizes import (
    SizeRefused,
    agreed_size,
    agreed_user_size,
    diskless_size,
    grow_needs_resync,
    i_am_source_of_grow,
    must_reply_with_sizes,
    refuse_size,
    request_bytes_max,
)
from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.wire.packet_numbers import DdsFlag
from pydrbd.wire.packets import Sizes

PRI, SEC = Role.Primary, Role.Secondary
NONE = DdsFlag(0)


def told(d_size, u_size=0, c_size=0):
    return Sizes(d_size, u_size, c_size, max_bio_size=1 << 20)


@pytest.mark.parametrize(
    ("mine", "peers", "connecting", "agreed"),
    [(0, 0, True, 0), (9, 0, True, 9), (0, 7, True, 7), (9, 7, True, 7), (9, 0, False, 0), (0, 7, False, 7)],
)
def test_user_size_is_the_smaller_one_when_connecting_and_the_peers_later(mine, peers, connecting, agreed):
    """A resize is told by the peer; at connect both configurations count."""
    assert agreed_user_size(mine, peers, connecting=connecting) == agreed


@pytest.mark.parametrize(
    ("mine", "peers", "last_agreed", "user", "size"),
    [
        (100, 90, 80, 0, 90),
        (90, 100, 0, 0, 90),
        (100, 0, 80, 0, 80),
        (100, 0, 120, 0, 100),
        (0, 70, 80, 0, 70),
        (0, 0, 80, 0, 80),
        (100, 0, 0, 0, 100),
        (0, 90, 0, 0, 90),
        (0, 0, 0, 0, 0),
        (100, 90, 80, 50, 50),
        (100, 90, 80, 90, 90),
        (100, 90, 80, 95, 90),
        (100, 0, 80, 90, 80),
        (0, 0, 0, 50, 0),
    ],
)
def test_agreed_size_follows_the_disks_that_are_there(mine, peers, last_agreed, user, size):
    """One case per branch of WIRE 4.6; a user size that is too large is ignored."""
    assert agreed_size(mine, peers, last_agreed=last_agreed, user=user) == size


def test_both_nodes_agree_without_asking():
    """Every combination of a few sizes: the two disks, the two configurations, one last agreed size."""
    sizes = [0, 1, 7, 8, 100]
    for mine, peers, last, my_user, peer_user in itertools.product(sizes, repeat=5):
        user = agreed_user_size(my_user, peer_user, connecting=True)
        assert user == agreed_user_size(peer_user, my_user, connecting=True)
        here = agreed_size(mine, peers, last_agreed=last, user=user)
        assert here == agreed_size(peers, mine, last_agreed=last, user=user)
        assert all(here <= size for size in (mine, peers) if size)


@pytest.mark.parametrize("disk", DiskState)
@pytest.mark.parametrize(
    ("conn", "pdsk", "meets"),
    [
        (ConnState.WFReportParams, DiskState.UpToDate, True),
        (ConnState.Connected, DiskState.Diskless, True),
        (ConnState.Connected, DiskState.UpToDate, False),
    ],
)
def test_good_data_refuses_to_shrink_when_a_disk_is_met(disk, conn, pdsk, meets):
    """From Outdated up; an online shrink of a connected pair is somebody's wish, and growing is always fine."""
    state = State(SEC, SEC, conn, disk, pdsk)
    refused = refuse_size(90, 100, state)
    assert (refused is not None) is (meets and disk >= DiskState.Outdated)
    assert refuse_size(100, 100, state) is refuse_size(110, 100, state) is None
    if refused:
        assert "90 sectors" in refused.reason and "100" in refused.reason


@pytest.mark.parametrize(
    ("peer", "current", "role", "expected"),
    [
        (told(100, 50, 70), 0, SEC, 70),
        (told(100, 50, 0), 0, SEC, 50),
        (told(100, 0, 0), 0, SEC, 100),
        (told(0, 0, 0), 0, SEC, 0),
        (told(0, 0, 0), 80, SEC, 80),
        (told(0, 0, 70), 80, PRI, 80),
        (told(0, 0, 70), 0, SEC, 70),
        (told(100, 0, 70), 80, SEC, 70),
        (told(100, 0, 90), 80, PRI, 90),
        (told(100, 0, 80), 80, PRI, 80),
    ],
)
def test_diskless_node_takes_what_its_peer_exports(peer, current, role, expected):
    """c_size, else u_size, else d_size; a diskless peer knows nothing better than I do."""
    assert diskless_size(peer, current, role) == expected


def test_diskless_primary_does_not_shrink():
    """Its users hold a device of that size."""
    refused = diskless_size(told(100, 0, 70), 80, PRI)
    assert isinstance(refused, SizeRefused) and "demote" in refused.reason


@pytest.mark.parametrize("conn", ConnState)
def test_sizes_are_answered_only_after_the_handshake(conn):
    """If the peer asked (c_size 0), has another size, or my backing device changed."""
    late = conn > ConnState.WFReportParams
    assert must_reply_with_sizes(told(100, 0, 0), 100, conn, backing_changed=False) is late
    assert must_reply_with_sizes(told(100, 0, 90), 100, conn, backing_changed=False) is late
    assert must_reply_with_sizes(told(100, 0, 100), 100, conn, backing_changed=True) is late
    assert not must_reply_with_sizes(told(100, 0, 100), 100, conn, backing_changed=False)


def test_new_end_is_synced_unless_told_that_it_is_equal():
    """Needs a link, two disks, and no --assume-clean."""
    state = State(PRI, SEC, ConnState.Connected, DiskState.UpToDate, DiskState.UpToDate)
    assert grow_needs_resync(state, NONE)
    assert grow_needs_resync(state, DdsFlag.FORCED)
    assert not grow_needs_resync(state, DdsFlag.NO_RESYNC | DdsFlag.FORCED)
    assert not grow_needs_resync(State(PRI, SEC, ConnState.Connected, DiskState.UpToDate, DiskState.Diskless), NONE)
    assert not grow_needs_resync(State(disk=DiskState.UpToDate), NONE)


@pytest.mark.parametrize(
    ("mine", "peers", "holder", "source"),
    [(PRI, SEC, False, True), (SEC, PRI, True, False), (SEC, SEC, True, True), (PRI, PRI, False, False)],
)
def test_one_node_is_source_of_the_new_end(mine, peers, holder, source):
    """The Primary, or else the holder of resolve-conflicts; the other node comes to the opposite."""
    assert i_am_source_of_grow(State(role=mine, peer=peers), resolve_conflicts=holder) is source
    assert i_am_source_of_grow(State(role=peers, peer=mine), resolve_conflicts=not holder) is not source


@pytest.mark.parametrize(
    ("said", "used"), [(0, 4096), (512, 4096), (130_560, 126_976), (1 << 20, 1 << 20), (1 << 30, 1 << 20)]
)
def test_requests_are_whole_blocks_that_the_peer_can_take(said, used):
    """Never nothing, and never more than a P_DATA may carry, whatever it says."""
    assert request_bytes_max(Sizes(0, 0, 0, max_bio_size=said)) == used
