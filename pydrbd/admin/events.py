"""Snapshots as drbdsetup's events: which objects there are, and what a later snapshot changes about them.

    exists resource name:r0 role:Primary suspended:no
    exists connection name:r0 peer-node-id:1 conn-name:beta connection:Connected role:Secondary
    exists device name:r0 volume:0 minor:0 disk:UpToDate
    exists peer-device name:r0 peer-node-id:1 conn-name:beta volume:0 replication:Established peer-disk:UpToDate ...
    exists -
    change peer-device name:r0 peer-node-id:1 conn-name:beta volume:0 replication:SyncSource

A `change` names what has changed; in full, all of the object. The words are those of drbdsetup 9.22, which reads the
kernel's 8.4, too. What 8.4's protocol has no notion of is constant. Amounts are in KiB, what is in flight in sectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydrbd.admin.colours import coloured
from pydrbd.admin.status_text import in_kib, out_of_sync_kib, yes_no

__all__ = ["Detail", "Event", "changes", "objects", "promotion"]

Values = dict[str, Any]
Words = dict[str, str]


class Detail(Enum):
    """How much is said of an object: its state, its figures too, or all that there is."""

    STATE = "state"
    STATISTICS = "statistics"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class _Object:
    """One resource, connection, device, ...: what identifies it, what it is, and figures that change all the time."""

    kind: str
    identity: Words
    state: Words
    more: Words = field(default_factory=dict)
    """State that is only told in full."""
    figures: Words = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `words` are in order; `old`: what those that have changed were before."""

    verb: str
    kind: str
    words: Words
    old: Words = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text()

    def text(self, *, colours: bool = False) -> str:
        """As drbdsetup prints it; with colours, as a terminal shows it."""

        def shown(key: str, value: str) -> str:
            return coloured(key, value, of_peer=self.kind == "connection") if colours else value

        words = [self.verb, self.kind]
        for key, value in self.words.items():
            before = f"{shown(key, self.old[key])}->" if key in self.old else ""
            words.append(f"{key}:{before}{shown(key, value)}")
        return " ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """As an object of JSON; `old` is in one of its own."""
        return {"event": self.verb, "object": self.kind, **self.words} | ({"old": self.old} if self.old else {})


_FIGURES_IN_FULL = ("write-ordering",)
"""What is told in full and is no state to drbdsetup."""

Objects = Mapping[tuple[str, ...], _Object]


def objects(found: Iterable[Values]) -> Objects:
    """What these snapshots tell of."""
    return {(one.kind, *one.identity.values()): one for data in found for one in _objects(data)}


def changes(
    old: Objects, new: Objects, detail: Detail, *, first: bool = False, figures: bool = False, diff: bool = False
) -> list[Event]:
    """What leads from one to the other.

    `first`: all that there is; `figures`: also if only figures have changed; `diff`: with what it was before.
    """
    gone = [one for key, one in old.items() if key not in new and _is_told(one, detail)]
    events = [Event("destroy", one.kind, one.identity) for one in reversed(gone)]
    for key, one in new.items():
        if not _is_told(one, detail):
            continue
        before = old.get(key)
        if before is None:
            words = one.identity | one.state | _extra(one, detail)
            was = _before(None, one, words) if diff else {}
            events.append(Event("exists" if first else "create", one.kind, words, was))
            continue
        state = {name: value for name, value in one.state.items() if before.state[name] != value}
        more = one.more != before.more and detail is Detail.FULL
        moved = figures and one.figures != before.figures and detail is not Detail.STATE
        if state or more or moved:
            told = one.state if detail is Detail.FULL else state
            words = one.identity | told | _extra(one, detail)
            events.append(Event("change", one.kind, words, _before(before, one, words) if diff else {}))
    return events


def _before(old: _Object | None, new: _Object, words: Words) -> Words:
    """What the states among these words were, where they were something else; figures have no such thing."""
    was = old.state | old.more if old is not None else {"promotion_score": "0"}
    states = [key for key in new.state | new.more if key in words and key not in _FIGURES_IN_FULL]
    return {key: was.get(key, "UNKNOWN") for key in states if was.get(key) != words[key]}


def _is_told(one: _Object, detail: Detail) -> bool:
    """8.4 has no paths: they are for those who want all there is."""
    return one.kind != "path" or detail is Detail.FULL


def _extra(one: _Object, detail: Detail) -> Words:
    more = one.more if detail is Detail.FULL else {}
    return more | (one.figures if detail is not Detail.STATE else {})


def _objects(data: Values) -> Iterator[_Object]:
    resource = {"name": data["name"]}
    peer = {**resource, "peer-node-id": str(data["peer_node_id"]), "conn-name": data["peer"]}
    may_promote, score = promotion(data)
    yield _Object(
        "resource",
        resource,
        {"role": data["role"], "suspended": ",".join(data["suspended_reasons"]) or "no"},
        {
            "force-io-failures": "no",
            "write-ordering": "flush",
            "may_promote": yes_no(may_promote),
            "promotion_score": str(score),
        },
        {"write-ordering": "flush"},
    )
    in_flight = {key: str(data[key.replace("-", "_") + "_sectors"]) for key in ("ap-in-flight", "rs-in-flight")}
    yield _Object(
        "connection",
        peer,
        {"connection": data["connection"], "role": data["peer_role"]},
        figures={"congested": "no", **in_flight},
    )
    for volume in data["volumes"]:
        yield _device(resource, volume, data)
    for volume in data["volumes"]:
        yield _peer_device(peer, volume)
    if data.get("local_address"):
        ends = {"local": data["local_address"], "peer": data["peer_address"]}
        established = yes_no(data["connection"] == "Connected")
        yield _Object("path", peer | ends, {"established": established})


def _device(resource: Words, volume: Values, data: Values) -> _Object:
    counters, pending = volume["counters"], volume["pending"]
    return _Object(
        "device",
        {**resource, "volume": str(volume["vnr"]), "minor": str(volume["minor"])},
        {"disk": volume["disk"]},
        {
            "backing_dev": data.get("backing_devices", {}).get(str(volume["vnr"]), "none"),
            "client": "no",
            "quorum": yes_no(volume["quorum"]),
            "open": yes_no(volume["clients"]),
        },
        {
            "size": str(in_kib(volume["size_sectors"])),
            "read": str(in_kib(counters["read"])),
            "written": str(in_kib(counters["written"])),
            "al-writes": str(counters["al_writes"]),
            "bm-writes": str(counters["bm_writes"]),
            "upper-pending": str(pending["upper"]),
            "lower-pending": str(pending["lower"]),
            "al-suspended": "no",
            "blocked": "upper" if volume["blocked"] else "no",
        },
    )


def _peer_device(peer: Words, volume: Values) -> _Object:
    counters, pending = volume["counters"], volume["pending"]
    running = volume["resync"] or volume.get("verify")
    done = {"done": f"{running['percent_done']:.2f}"} if running else {}
    return _Object(
        "peer-device",
        {**peer, "volume": str(volume["vnr"])},
        {
            "replication": volume["replication"],
            "peer-disk": volume["peer_disk"],
            "resync-suspended": volume["resync_suspended"],
        },
        {"peer-client": "no"},
        {
            **done,
            "received": str(in_kib(counters["received"])),
            "sent": str(in_kib(counters["sent"])),
            "out-of-sync": str(out_of_sync_kib(volume)),
            "pending": str(pending["peer"]),
            "unacked": str(pending["unacked"]),
        },
    )


def promotion(data: Values) -> tuple[bool, int]:
    """Whether `primary` is expected to succeed, and how good a place this node is for it."""
    volumes = data["volumes"]
    good_here = all(volume["disk"] == "UpToDate" for volume in volumes)
    good_there = all(volume["peer_disk"] == "UpToDate" for volume in volumes)
    score = 10000 * good_here + 100 * good_there + bool(good_here or good_there)
    is_free = data["role"] == "Secondary" and data["peer_role"] != "Primary"
    return is_free and score > 0 and not data["suspended"], score
