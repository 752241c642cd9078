"""What is wrong with a resource, in plain words, and the commands that mend it: judged from what was found.

Pure: verbs_doctor.py looks at the configuration, the disks, the sockets and the processes, and asks `diagnose`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from pydrbd.admin.progress import format_bytes, format_duration
from pydrbd.units import BIT_SIZE_BYTES

__all__ = ["Finding", "Level", "diagnose"]

Values = dict[str, Any]

_PRIMARY_TARGET: Final = "I should become SyncTarget, but I am Primary"
"""DRBD's words for a connection that would have overwritten a Primary's data (core/split_brain)."""

_LOST: Final = ("Diskless", "Failed")
"""A peer's disk that is not there; what is not known of it (DUnknown) is the connection's matter."""


class Level(Enum):
    """How bad it is."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "BAD"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was seen; `commands` mend it, each with the place where it is to be given."""

    level: Level
    text: str
    commands: tuple[str, ...] = ()


def diagnose(
    data: Values,
    *,
    handlers: frozenset[str],
    fencing: frozenset[str],
    since: str,
    peer_diskless: frozenset[int] = frozenset(),
    log: str = "the log",
    errors: Mapping[int, str] | None = None,
) -> list[Finding]:
    """Of a process that runs, from its snapshot.

    handlers, fencing: what the configuration has of them. since: when the nodes were connected last, in words.
    peer_diskless: the volumes of which the peer is to have no copy. log: where it is; errors: its last for each volume.
    """
    found = [*_connection(data, since)]
    for volume in data["volumes"]:
        found += _lost_disk(data, volume, (errors or {}).get(volume["vnr"], ""), log)
        found += _volume(data, volume, of_one=volume["vnr"] in peer_diskless)
    guards = _fencing(handlers, fencing) if data["quorum"] == "off" else _quorum(data)
    return [*found, *_suspended(data), *guards]


def _connection(data: Values, since: str) -> Iterator[Finding]:
    name, peer, reason = data["name"], data["peer"], data["connection_reason"]
    if data["split_brain"] is not None:
        yield _split_brain(data, since)
    elif data["connection"] == "Connected":
        yield Finding(Level.GOOD, f"connected to {peer}")
    elif data["connection"] == "StandAlone" and _PRIMARY_TARGET in reason:
        here = data["node"]
        words = f"{here}'s data is to be replaced by {peer}'s, but {here} is Primary: nobody looks for {peer}"
        give_up = f"pydrbd secondary {name} && pydrbd connect {name} --discard-my-data"
        yield Finding(Level.BAD, words, (f"{give_up}; if {peer} is StandAlone, there: pydrbd connect {name}",))
    elif data["connection"] == "StandAlone":
        why = f": {reason}" if reason else ""
        yield Finding(Level.BAD, f"nobody looks for {peer}{why}", (f"pydrbd connect {name}",))
    else:
        why = f" (last: {reason})" if reason else ""
        yield Finding(Level.BAD, f"{peer} at {data['peer_address']} is not there{why}; not connected since {since}")


def _split_brain(data: Values, since: str) -> Finding:
    """Which side has what, and the commands for either choice."""
    name, here, there, split = data["name"], data["node"], data["peer"], data["split_brain"]
    sizes = [_size(split[key]) for key in ("my_bits", "peer_bits")]
    volume = f"volume {split['volume']}: " if len(data["volumes"]) > 1 else ""
    text = (
        f"split brain: {volume}both copies were written to while the nodes were apart (since {since}). "
        f"{here}, {split['my_role']} when they met, has {sizes[0]} of changes; "
        f"{there}, {split['peer_role']}, has {sizes[1]}. One side's changes must go: choose whose"
    )
    give_up = f"pydrbd secondary {name} && pydrbd connect {name} --discard-my-data"
    return Finding(
        Level.BAD,
        text,
        (
            f"to keep {here}'s data:  on {there}: {give_up}   on {here}: pydrbd connect {name}",
            f"to keep {there}'s data:  on {here}: {give_up}   on {there}: pydrbd connect {name}",
        ),
    )


def _size(bits: int) -> str:
    return format_bytes(bits * BIT_SIZE_BYTES)


def _what(data: Values, volume: Values) -> str:
    return f"volume {volume['vnr']}" if len(data["volumes"]) > 1 else "the disk"


def _lost_disk(data: Values, volume: Values, error: str, log: str) -> Iterator[Finding]:
    """A disk that is not attached here, or that there is none by configuration."""
    what, where = _what(data, volume), data["backing_devices"].get(str(volume["vnr"]))
    if volume["disk"] != "Diskless":
        return
    if where is None:
        yield Finding(Level.NOTE, f"{what}: none here, as configured: all data is {data['peer']}'s")
    else:
        why = f": {error} ({log})" if error else f" (why, says {log})"
        yield Finding(Level.BAD, f"{what}: {where} is not attached{why}", (f"pydrbd attach {data['name']}",))


def _volume(data: Values, volume: Values, *, of_one: bool) -> Iterator[Finding]:
    """`of_one`: the peer is to have no copy of it."""
    name, peer = data["name"], data["peer"]
    what, disk, peer_disk = _what(data, volume), volume["disk"], volume["peer_disk"]
    if disk == peer_disk == "Inconsistent":
        yield _two_new_disks(data, what)
    elif volume["resync"] is not None:
        yield from _resync(data, volume, what)
    elif disk == "UpToDate" and of_one:
        yield Finding(Level.NOTE, f"{what} is UpToDate here; none on {peer}, as configured: this is the only copy")
    elif disk == "UpToDate" and peer_disk in _LOST:
        yield from _only_good_disk(data, volume, what)
    elif disk == "UpToDate":
        yield from _good_disk(data, volume, what)
    elif disk == "Inconsistent":
        yield Finding(
            Level.BAD,
            f"{what} is Inconsistent: not all of it was copied. It needs {peer}, with good data",
            (f"pydrbd wait-sync {name}, when it is connected",),
        )
    elif disk in ("Outdated", "Consistent"):
        words = "is known to be older" if disk == "Outdated" else "may be older"
        yield Finding(
            Level.BAD,
            f"{what} is {disk}: it is whole, but {words} than {peer}'s",
            (
                f"get {peer} back: then it syncs by itself",
                f"only if {peer} is lost for good, and with it what only it has: pydrbd primary --force {name}",
            ),
        )
    if volume["blocked"]:
        yield Finding(Level.NOTE, f"{what}: clients wait at the moment")


def _only_good_disk(data: Values, volume: Values, what: str) -> Iterator[Finding]:
    """The peer has lost its disk, or has not attached it."""
    name, peer, stale = data["name"], data["peer"], volume["out_of_sync_bits"]
    yield Finding(
        Level.BAD,
        f"{what} is UpToDate here, but {volume['peer_disk']} on {peer}: there is only one good copy",
        (f"on {peer}: look in its log for why, then pydrbd attach {name}",),
    )
    if stale:
        yield Finding(Level.NOTE, f"{what}: {_size(stale)} will be copied to {peer} when it has a disk again")


def _two_new_disks(data: Values, what: str) -> Finding:
    name = data["name"]
    return Finding(
        Level.BAD,
        f"{what} is Inconsistent on both nodes, as new ones are: nobody has said yet whose data is the good one",
        (
            f"on the node whose data counts: pydrbd primary --force {name}",
            f"or, if both disks are known to be equal: pydrbd new-current-uuid --clear-bitmap {name}",
        ),
    )


def _resync(data: Values, volume: Values, what: str) -> Iterator[Finding]:
    resync, name = volume["resync"], data["name"]
    if volume["resync_suspended"] != "no":
        who = volume["resync_suspended"]
        yield Finding(Level.BAD, f"{what}: its resync is held back by: {who}", (f"pydrbd resume-sync {name}",))
        return
    left = resync["seconds_left"]
    rest = f", about {format_duration(left)} left" if left is not None else ""
    yield Finding(
        Level.NOTE,
        f"{what}: a resync runs as {volume['replication']}: {resync['percent_done']:.0f} %{rest}; "
        "until it is over, only one copy is good",
        (f"pydrbd wait-sync {name}",),
    )


def _good_disk(data: Values, volume: Values, what: str) -> Iterator[Finding]:
    name, stale = data["name"], volume["out_of_sync_bits"]
    yield Finding(Level.GOOD, f"{what} is UpToDate here, {volume['peer_disk']} on {data['peer']}")
    if stale and data["connection"] == "Connected" and not volume.get("verify"):
        yield Finding(
            Level.BAD,
            f"{what}: {_size(stale)} differ from {data['peer']}'s copy, as a verify has found",
            (f"copy them from the Primary: pydrbd disconnect {name} && pydrbd connect {name}",),
        )
    elif stale:
        yield Finding(Level.NOTE, f"{what}: {_size(stale)} will be copied to {data['peer']} when it is back")


_TO_QUORUM: Final = (
    "get the peer or the witness back; or pydrbd secondary --force {0}, which fails what waits; for a peer that is "
    "lost for ever see docs/quorum.md"
)

_WHY_SUSPENDED = {
    "user": ("somebody has said suspend-io", "pydrbd resume-io {0}"),
    "fencing": (
        "it is not certain that the peer is stopped, and the handler fence-peer has given no verdict (its words are in "
        "the log)",
        "get the peer back; or, when you know that it is off or not Primary: pydrbd resume-io {0}",
    ),
    "quorum": ("there is no quorum: this node can't know whether its peer goes on", _TO_QUORUM),
    "no-data": ("no good data is in reach", "get a good disk back; or let clients have errors: pydrbd resume-io {0}"),
}


def _suspended(data: Values) -> Iterator[Finding]:
    for reason in data["suspended_reasons"]:
        why, command = _WHY_SUSPENDED[reason]
        yield Finding(Level.BAD, f"all I/O is held back (suspended:{reason}): {why}", (command.format(data["name"]),))
    if any(volume.get("fails") for volume in data["volumes"]):
        words = f"all requests fail: there is no quorum ({data['quorum_refusal']}), and on-no-quorum is io-error"
        yield Finding(Level.BAD, words, (_TO_QUORUM.format(data["name"]),))


_QUORUM: Final = {
    "peer": "quorum: both nodes are connected",
    "lease": "quorum: this node has the witness' lease; its peer can't be promoted before it is synced",
    "asking": "quorum: the witness is being asked",
}


def _quorum(data: Values) -> Iterator[Finding]:
    words = _QUORUM.get(data["quorum"])
    if words is not None:
        yield Finding(Level.GOOD, words)
    else:
        why = data["quorum_refusal"] or "the peer or its disk is not there; the witness is asked for a promotion"
        yield Finding(Level.NOTE, f"no quorum: {why}")


def _fencing(handlers: frozenset[str], fencing: frozenset[str]) -> Iterator[Finding]:
    policies = fencing - {"dont-care"}
    if policies and "fence-peer" not in handlers:
        yield Finding(
            Level.BAD,
            f"fencing is {', '.join(sorted(policies))}, but there is no handler fence-peer: nobody can give a verdict "
            "on a lost peer, and I/O would stay frozen",
            ('in the configuration: handlers { fence-peer "/usr/local/lib/pydrbd/pydrbd-fence-peer"; }, then adjust',),
        )
    elif not policies:
        yield Finding(
            Level.NOTE,
            "no fencing: if only the link between the nodes fails, both can be promoted, which is a split brain "
            "(docs/cluster.md shows how to rule that out)",
        )
