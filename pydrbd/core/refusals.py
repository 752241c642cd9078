"""The answers to a state change: DRBD's SS_ codes, their numbers on the wire, and the words that users know (WIRE 5.4).

Scripts match both the number and the words, so they are those that drbdsetup prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from pydrbd.errors import StateRefused

__all__ = [
    "ERR_CONNECTED",
    "ERR_DISCARD_IMPOSSIBLE",
    "ERR_IMPLICIT_SHRINK",
    "ERR_MD_LAYOUT_CONNECTED",
    "ERR_MD_LAYOUT_NO_FIT",
    "ERR_MD_LAYOUT_TOO_BIG",
    "ERR_MD_LAYOUT_TOO_SMALL",
    "ERR_NET_CONFIGURED",
    "ERR_NO_DISK",
    "ERR_NO_PRIMARY",
    "ERR_RESIZE_RESYNC",
    "StateCode",
    "chosen_volumes",
    "decode_reply",
    "failure",
    "refusal",
]

ERR_DISCARD_IMPOSSIBLE: Final = 123
ERR_NET_CONFIGURED: Final = 125
ERR_RESIZE_RESYNC: Final = 130
ERR_NO_PRIMARY: Final = 131
ERR_NO_DISK: Final = 138
ERR_CONNECTED: Final = 151
ERR_MD_LAYOUT_CONNECTED: Final = 166
ERR_MD_LAYOUT_TOO_BIG: Final = 167
ERR_MD_LAYOUT_TOO_SMALL: Final = 168
ERR_MD_LAYOUT_NO_FIT: Final = 169
ERR_IMPLICIT_SHRINK: Final = 170


class StateCode(IntEnum):
    """A result of a state change: granted from 1 up, refused below 0 (0: no reason known)."""

    SS_NOTHING_TO_DO = 2
    SS_SUCCESS = 1
    SS_UNKNOWN_ERROR = 0
    SS_TWO_PRIMARIES = -1
    SS_NO_UP_TO_DATE_DISK = -2
    SS_NO_LOCAL_DISK = -4
    SS_NO_REMOTE_DISK = -5
    SS_CONNECTED_OUTDATES = -6
    SS_PRIMARY_NOP = -7
    SS_RESYNC_RUNNING = -8
    SS_ALREADY_STANDALONE = -9
    SS_CW_FAILED_BY_PEER = -10
    SS_IS_DISKLESS = -11
    SS_DEVICE_IN_USE = -12
    SS_NO_NET_CONFIG = -13
    SS_NO_VERIFY_ALG = -14
    SS_NEED_CONNECTION = -15
    SS_LOWER_THAN_OUTDATED = -16
    SS_NOT_SUPPORTED = -17
    SS_IN_TRANSIENT_STATE = -18
    SS_CONCURRENT_ST_CHG = -19
    SS_O_VOL_PEER_PRI = -20
    SS_OUTDATE_WO_CONN = -21
    SS_NO_QUORUM = -25

    @property
    def granted(self) -> bool:
        return self >= StateCode.SS_SUCCESS

    @property
    def message(self) -> str:
        """The words after the number in `State change failed: (-2) ...`."""
        return _MESSAGES[self]


_MESSAGES: Final[Mapping[StateCode, str]] = {
    StateCode.SS_NOTHING_TO_DO: "Nothing to do",
    StateCode.SS_SUCCESS: "Success",
    StateCode.SS_UNKNOWN_ERROR: "unknown error.",
    StateCode.SS_TWO_PRIMARIES: "Multiple primaries not allowed by config",
    StateCode.SS_NO_UP_TO_DATE_DISK: "Need access to UpToDate data",
    StateCode.SS_NO_LOCAL_DISK: "Can not resync without local disk",
    StateCode.SS_NO_REMOTE_DISK: "Can not resync without remote disk",
    StateCode.SS_CONNECTED_OUTDATES: "Refusing to be Outdated while Connected",
    StateCode.SS_PRIMARY_NOP: "Refusing to be Primary while peer is not outdated",
    StateCode.SS_RESYNC_RUNNING: "Can not start OV/resync since it is already active",
    StateCode.SS_ALREADY_STANDALONE: "Can not disconnect a StandAlone device",
    StateCode.SS_CW_FAILED_BY_PEER: "State change was refused by peer node",
    StateCode.SS_IS_DISKLESS: "Device is diskless, the requested operation requires a disk",
    StateCode.SS_DEVICE_IN_USE: "Device is held open by someone",
    StateCode.SS_NO_NET_CONFIG: "Have no net/connection configuration",
    StateCode.SS_NO_VERIFY_ALG: "Need a verify algorithm to start online verify",
    StateCode.SS_NEED_CONNECTION: "Need a connection to start verify or resync",
    StateCode.SS_LOWER_THAN_OUTDATED: "Disk state is lower than outdated",
    StateCode.SS_NOT_SUPPORTED: "Peer does not support protocol",
    StateCode.SS_IN_TRANSIENT_STATE: "In transient state, retry after next state change",
    StateCode.SS_CONCURRENT_ST_CHG: "Concurrent state changes detected and aborted",
    StateCode.SS_O_VOL_PEER_PRI: "Other vol primary on peer not allowed by config",
    StateCode.SS_OUTDATE_WO_CONN: "Need a connection to outdate the peer",
    StateCode.SS_NO_QUORUM: "No quorum",
}


def decode_reply(retcode: int) -> StateCode:
    """The signed retcode of P_STATE_CHG_REPLY or P_CONN_ST_CHG_REPLY.

    A number that we have no name for still tells whether the peer granted the request, so it is no protocol error.
    """
    try:
        return StateCode(retcode)
    except ValueError:
        return StateCode.SS_SUCCESS if retcode >= StateCode.SS_SUCCESS else StateCode.SS_CW_FAILED_BY_PEER


def refusal(code: StateCode) -> StateRefused:
    """The error to raise towards the operator for a code that is not granted."""
    assert not code.granted, f"{code.name} is no refusal"
    return StateRefused(int(code), f"State change failed: ({int(code)}) {code.message}")


_FAILURES: Final[Mapping[int, str]] = {
    ERR_DISCARD_IMPOSSIBLE: "--discard-my-data not allowed when primary.",
    ERR_NET_CONFIGURED: "Device has a net-config (use disconnect first)",
    ERR_RESIZE_RESYNC: "Resize not allowed during resync.",
    ERR_NO_PRIMARY: "Need one Primary node to resize.",
    ERR_NO_DISK: "Device does not have a disk-config",
    ERR_CONNECTED: "Need to be StandAlone",
    ERR_MD_LAYOUT_CONNECTED: "DRBD need to be connected for online MD layout change",
    ERR_MD_LAYOUT_TOO_BIG: "Resulting AL area too big",
    ERR_MD_LAYOUT_TOO_SMALL: "Resulting AL are too small",
    ERR_MD_LAYOUT_NO_FIT: "Resulting layout does not fit into the device:",
    ERR_IMPLICIT_SHRINK: "Implicit device shrinking not allowed.",
}


def failure(number: int, more: str = "") -> str:
    """The words of a command that fails for a reason which is no state change: DRBD's ERR_ numbers."""
    return f"Failure: ({number}) {_FAILURES[number]}{' ' + more if more else ''}"


def chosen_volumes(volumes: Mapping[int, Any], arguments: Mapping[str, Any]) -> list[Any]:
    """The volumes that a command is for: the one that it names, or all."""
    vnr = arguments.get("volume")
    return [volume for number, volume in volumes.items() if vnr in (None, number)]
