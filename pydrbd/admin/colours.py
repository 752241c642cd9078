"""The colours of drbdsetup's `--color`: states of this node in bold, those of the peer in plain ones.

red     what needs somebody: no good data, no connection        green   good data
cyan    Primary                                                 bold    what will not stay so
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from typing import Final

__all__ = ["CHOICES", "coloured", "is_wanted"]

CHOICES: Final = ("always", "auto", "never")

_STOP: Final = "\033[0m"


class _Tone(Enum):
    NORMAL = ("", "")
    TRANSITIONAL = ("1", "")
    PRIMARY = ("1;36", "36")
    GOOD = ("1;32", "32")
    BAD = ("1;31", "31")


_ROLES: Final = {"Primary": _Tone.PRIMARY, "Secondary": _Tone.NORMAL}
_CONNECTIONS: Final = {"StandAlone": _Tone.BAD, "Connecting": _Tone.BAD, "Connected": _Tone.NORMAL}
_DISKS: Final = {
    **dict.fromkeys(("Diskless", "Inconsistent", "Outdated"), _Tone.BAD), "UpToDate": _Tone.GOOD
}  # fmt: skip
_REPLICATIONS: Final = {
    **dict.fromkeys(("Established", "VerifyS", "VerifyT", "PausedSyncS", "Ahead"), _Tone.NORMAL),
    **dict.fromkeys(("SyncSource", "SyncTarget", "PausedSyncT"), _Tone.BAD),
}
_TABLES: Final[Mapping[str, Mapping[str, _Tone]]] = {
    "role": _ROLES,
    "connection": _CONNECTIONS,
    "disk": _DISKS,
    "peer-disk": _DISKS,
    "replication": _REPLICATIONS,
    "quorum": {"yes": _Tone.GOOD, "no": _Tone.BAD},
    "open": {"yes": _Tone.PRIMARY, "no": _Tone.NORMAL},
}
"""Key to value to tone; a value that is not there will not stay so."""

_OWN_REPLICATIONS: Final = ("SyncTarget", "PausedSyncT", "Behind")


def is_wanted(choice: str) -> bool:
    """Whether to colour the standard output; `auto`: if it is a terminal."""
    return choice == "always" or (choice == "auto" and sys.stdout.isatty())


def coloured(key: str, value: str, *, of_peer: bool) -> str:
    """The value as a terminal shows it. `of_peer`: the role is the peer's."""
    table = _TABLES.get(key)
    if table is None or value == "UNKNOWN":
        return value
    is_peers = key == "peer-disk" or (key == "role" and of_peer)
    if key == "replication":
        is_peers = value not in _OWN_REPLICATIONS
    code = table.get(value, _Tone.TRANSITIONAL).value[is_peers]
    return f"\033[{code}m{value}{_STOP}" if code else value
