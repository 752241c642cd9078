"""How large the device is: what two nodes with P_SIZES agree on, each by itself, and what it refuses (WIRE 4.6).

All sizes are in sectors; 0 means that there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydrbd.core.states import ConnState, DiskState, Role, State
from pydrbd.limits import DRBD_IO_BYTES_MAX
from pydrbd.units import BIT_SIZE_BYTES
from pydrbd.wire.packet_numbers import DdsFlag
from pydrbd.wire.packets import Sizes

__all__ = [
    "SizeRefused",
    "agreed_size",
    "agreed_user_size",
    "diskless_size",
    "grow_needs_resync",
    "i_am_source_of_grow",
    "must_reply_with_sizes",
    "peer_will_refuse",
    "refuse_size",
    "request_bytes_max",
]


@dataclass(frozen=True, slots=True)
class SizeRefused:
    """The nodes can't be one device: the connection ends, StandAlone."""

    reason: str


def agreed_user_size(mine: int, peers: int, *, connecting: bool) -> int:
    """The size that users asked for: both configurations when connecting, the peer's word later (a resize)."""
    if not connecting:
        return peers
    return min((size for size in (mine, peers) if size), default=0)


def agreed_size(mine: int, peers: int, *, last_agreed: int, user: int) -> int:
    """The size of the device, from what both backing devices offer (0: no disk), 0 if nobody knows.

    last_agreed: from the meta-data; without one of the two disks it can only shrink. user: agreed_user_size; one that
    is too large is ignored. A forced resize while alone counts the missing peer as large enough: peers = mine.
    """
    offered = [size for size in (mine, peers) if size]
    if last_agreed and len(offered) < 2:
        offered.append(last_agreed)
    size = min(offered, default=0)
    return user if 0 < user <= size else size


def request_bytes_max(peers: Sizes) -> int:
    """The longest request that the peer wants (max_bio_size), in whole blocks: at least one, and never over 1 MiB."""
    return min(max(peers.max_bio_size // BIT_SIZE_BYTES, 1) * BIT_SIZE_BYTES, DRBD_IO_BYTES_MAX)


def refuse_size(new: int, current: int, state: State) -> SizeRefused | None:
    """Whether a node with a disk rejects the agreed size: data that is good never shrinks by connecting."""
    meets_peer = not state.connected or state.pdsk is DiskState.Diskless
    if new < current and state.disk >= DiskState.Outdated and meets_peer:
        return SizeRefused(
            f"the peer's disk is too small: {new} sectors, this device has {current}; "
            "use a larger disk there, or shrink this device first"
        )
    return None


def peer_will_refuse(new: int, peers: Sizes) -> str:
    """Words about an agreed size that a peer with good data does not take: it hangs up, so this node must say why."""
    if new >= peers.c_size:
        return ""
    return (
        f"the peer's device has {peers.c_size} sectors, and with our disk it could have {new} only: "
        "a peer with good data refuses that; use a larger disk here, or shrink the peer's device first"
    )


def diskless_size(peers: Sizes, current: int, role: Role) -> int | SizeRefused:
    """The size of a device whose node has no disk, by the peer's P_SIZES."""
    new = peers.c_size or peers.u_size or peers.d_size
    peer_is_diskless = peers.d_size == 0
    if new == 0 or (current and peer_is_diskless):
        return current
    if new < current and role is Role.Primary:
        return SizeRefused(
            f"the peer's device is too small: {new} sectors, this Primary has {current}; demote it first"
        )
    return new


def must_reply_with_sizes(peers: Sizes, current: int, conn: ConnState, *, backing_changed: bool) -> bool:
    """Whether P_SIZES, just worked in, must be answered with my own (with the same dds_flags).

    current: my size after it. backing_changed: my backing device is not as large as it was.
    """
    return conn > ConnState.WFReportParams and (peers.c_size != current or backing_changed)


def grow_needs_resync(state: State, dds_flags: DdsFlag) -> bool:
    """Whether the new end of a device that just grew has to be made equal on both disks."""
    both_have_data = min(state.disk, state.pdsk) >= DiskState.Inconsistent
    return state.conn is ConnState.Connected and both_have_data and DdsFlag.NO_RESYNC not in dds_flags


def i_am_source_of_grow(state: State, *, resolve_conflicts: bool) -> bool:
    """Which node fills the new end of the device of the other one: the Primary, or else whom the link made it."""
    if state.role is state.peer:
        return resolve_conflicts
    return state.role is Role.Primary
