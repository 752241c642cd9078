"""Roles, disk states, connection states, and the 32-bit word in which a node tells its state (WIRE 5.1).

    bits    field                               bits    field
    0-1     role                                17      susp      I/O suspended by the operator
    2-3     peer      the peer's role           18      aftr_isp  resync paused: waits for another resync
    4-8     conn                                19      peer_isp  resync paused by the peer
    9-12    disk                                20      user_isp  resync paused by the operator
    13-16   pdsk      the peer's disk           21      susp_nod  I/O suspended: no UpToDate data
                                                22      susp_fen  I/O suspended: fencing not finished
    23-31   spare: sent as 0, ignored when read (later versions of DRBD use one of them)

Numbers and spelling are the kernel's. The order of the disk states counts: "better" is "greater".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, Final

from pydrbd.errors import PeerProtocolError

__all__ = [
    "Change",
    "ConnState",
    "DiskState",
    "Role",
    "State",
    "connection_text",
    "replication_text",
]


class Role(IntEnum):
    Unknown = 0
    Primary = 1
    Secondary = 2


class DiskState(IntEnum):
    """DUnknown is only ever the state of a peer's disk."""

    Diskless = 0
    Attaching = 1
    Failed = 2
    Negotiating = 3
    Inconsistent = 4
    Outdated = 5
    DUnknown = 6
    Consistent = 7
    UpToDate = 8


class ConnState(IntEnum):
    StandAlone = 0
    Disconnecting = 1
    Unconnected = 2
    Timeout = 3
    BrokenPipe = 4
    NetworkFailure = 5
    ProtocolError = 6
    TearDown = 7
    WFConnection = 8
    WFReportParams = 9
    Connected = 10
    StartingSyncS = 11
    StartingSyncT = 12
    WFBitMapS = 13
    WFBitMapT = 14
    WFSyncUUID = 15
    SyncSource = 16
    SyncTarget = 17
    VerifyS = 18
    VerifyT = 19
    PausedSyncS = 20
    PausedSyncT = 21
    Ahead = 22
    Behind = 23

    @property
    def is_sync(self) -> bool:
        """One of 16..21, in which writes carry may-set-in-sync; the verify states are among them."""
        return ConnState.SyncSource <= self <= ConnState.PausedSyncT


_LAYOUT: Final[Mapping[str, tuple[int, int, type[IntEnum] | type[bool]]]] = {
    "role": (0, 0x3, Role),
    "peer": (2, 0x3, Role),
    "conn": (4, 0x1F, ConnState),
    "disk": (9, 0xF, DiskState),
    "pdsk": (13, 0xF, DiskState),
    "susp": (17, 0x1, bool),
    "aftr_isp": (18, 0x1, bool),
    "peer_isp": (19, 0x1, bool),
    "user_isp": (20, 0x1, bool),
    "susp_nod": (21, 0x1, bool),
    "susp_fen": (22, 0x1, bool),
}
"""Field -> (first bit, mask, type): the table of the module's description."""


def _value_in(word: int, name: str) -> Any:
    """One field of a state word; PeerProtocolError if the peer uses a number that has no meaning."""
    shift, mask, kind = _LAYOUT[name]
    number = word >> shift & mask
    try:
        return kind(number)
    except ValueError:
        raise PeerProtocolError(
            f"state word {word:#010x} from the peer: {name} {number} is not a {kind.__name__}"
        ) from None


@dataclass(frozen=True, slots=True)
class State:
    """The whole state of one volume, seen from one node."""

    role: Role = Role.Secondary
    peer: Role = Role.Unknown
    conn: ConnState = ConnState.StandAlone
    disk: DiskState = DiskState.Diskless
    pdsk: DiskState = DiskState.DUnknown
    susp: bool = False
    aftr_isp: bool = False
    peer_isp: bool = False
    user_isp: bool = False
    susp_nod: bool = False
    susp_fen: bool = False

    def encode(self) -> int:
        """The 32-bit state word."""
        return sum(int(getattr(self, name)) << shift for name, (shift, _, _) in _LAYOUT.items())

    @classmethod
    def decode(cls, word: int) -> State:
        """A state word as its sender sees it; PeerProtocolError for an undefined role, conn or disk."""
        return cls(**{name: _value_in(word, name) for name in _LAYOUT})

    @property
    def connected(self) -> bool:
        """The link is up and the handshake is over."""
        return self.conn >= ConnState.Connected

    @property
    def suspended(self) -> bool:
        """Application I/O is frozen, for whatever reason."""
        return self.susp or self.susp_nod or self.susp_fen

    @property
    def resync_paused(self) -> bool:
        return self.aftr_isp or self.peer_isp or self.user_isp

    @property
    def roles_text(self) -> str:
        """As `drbdadm role` prints: mine/peer's."""
        return f"{self.role.name}/{self.peer.name}"

    @property
    def disks_text(self) -> str:
        """As `drbdadm dstate` prints: mine/peer's."""
        return f"{self.disk.name}/{self.pdsk.name}"

    @property
    def suspended_text(self) -> str:
        """As drbdsetup prints after `suspended:`."""
        reasons = (("user", self.susp), ("no-data", self.susp_nod), ("fencing", self.susp_fen))
        return ",".join(word for word, on in reasons if on) or "no"

    @property
    def resync_suspended_text(self) -> str:
        """As drbdsetup prints after `resync-suspended:`."""
        reasons = (("user", self.user_isp), ("peer", self.peer_isp), ("dependency", self.aftr_isp))
        return ",".join(word for word, on in reasons if on) or "no"

    def __str__(self) -> str:
        """As in /proc/drbd, without the I/O flags."""
        return f"cs:{self.conn.name} ro:{self.roles_text} ds:{self.disks_text}"


_CONN_SEEN_BY_PEER: Final[Mapping[ConnState, ConnState]] = {
    ConnState.WFReportParams: ConnState.WFReportParams,
    ConnState.Connected: ConnState.Connected,
    ConnState.StartingSyncS: ConnState.StartingSyncT,
    ConnState.StartingSyncT: ConnState.StartingSyncS,
    ConnState.Disconnecting: ConnState.TearDown,
    ConnState.VerifyS: ConnState.VerifyT,
}
"""What the peer becomes when I become the key; anything else means nothing to it and maps to number 0 (WIRE 6)."""


@dataclass(frozen=True, slots=True)
class Change:
    """A wish to change some fields of a State; None leaves a field alone.

    On the wire it is two words, a mask and the values under it (P_STATE_CHG_REQ, P_CONN_ST_CHG_REQ), in the
    perspective of its sender.
    """

    role: Role | None = None
    peer: Role | None = None
    conn: ConnState | None = None
    disk: DiskState | None = None
    pdsk: DiskState | None = None
    susp: bool | None = None
    aftr_isp: bool | None = None
    peer_isp: bool | None = None
    user_isp: bool | None = None
    susp_nod: bool | None = None
    susp_fen: bool | None = None

    def encode(self) -> tuple[int, int]:
        """(mask, value) words, in my own perspective."""
        mask = value = 0
        for name, (shift, field_mask, _) in _LAYOUT.items():
            wanted = getattr(self, name)
            if wanted is not None:
                mask |= field_mask << shift
                value |= int(wanted) << shift
        return mask, value

    @classmethod
    def decode(cls, mask: int, value: int) -> Change:
        """The request as its sender sees it; PeerProtocolError for half a field or an undefined number."""
        wanted: dict[str, Any] = {}
        for name, (shift, field_mask, _) in _LAYOUT.items():
            selected = mask >> shift & field_mask
            if selected == field_mask:
                wanted[name] = _value_in(value, name)
            elif selected:
                raise PeerProtocolError(f"state change request from the peer: mask {mask:#010x} cuts {name} in two")
        return cls(**wanted)

    def from_peer(self) -> Change:
        """This request of the peer as a change of my own state (WIRE 6): the two sides of everything swapped.

        The reasons why the peer suspends its I/O are its own affair and drop out.
        """
        pauses = [pause for pause in (self.aftr_isp, self.user_isp) if pause is not None]
        return Change(
            role=self.peer,
            peer=self.role,
            conn=None if self.conn is None else _CONN_SEEN_BY_PEER.get(self.conn, ConnState.StandAlone),
            disk=self.pdsk,
            pdsk=self.disk,
            peer_isp=any(pauses) if pauses else None,
        )

    def apply(self, state: State) -> State:
        """`state` with the wanted fields set; not sanitised, not checked."""
        wanted = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(state, **{name: value for name, value in wanted.items() if value is not None})


def connection_text(conn: ConnState) -> str:
    """As drbdsetup prints after `connection:`, which knows nothing of resync and verify."""
    if conn >= ConnState.Connected:
        return ConnState.Connected.name
    return "Connecting" if conn is ConnState.WFConnection else conn.name


def replication_text(conn: ConnState) -> str:
    """As drbdsetup prints after `replication:`, per volume."""
    if conn < ConnState.Connected:
        return "Off"
    return "Established" if conn is ConnState.Connected else conn.name
