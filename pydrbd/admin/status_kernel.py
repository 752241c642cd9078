"""A resource as the kernel and drbdsetup show theirs, for scripts that read that: /proc/drbd, `events2 --now`.

     0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
        ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0

    exists resource name:r0 role:Primary suspended:no
    exists connection name:r0 peer-node-id:1 conn-name:beta connection:Connected role:Secondary
    exists device name:r0 volume:0 minor:0 disk:UpToDate
    exists peer-device name:r0 peer-node-id:1 conn-name:beta volume:0 replication:Established peer-disk:UpToDate ...
    exists -

Both as DRBD 8.4.11 with drbd-utils 9.22 prints them (seen). Amounts are in KiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydrbd.admin.status_text import in_kib, out_of_sync_kib

__all__ = ["events2_text", "proc_text"]

Values = dict[str, Any]

_VERSION: Final = "version: 8.4.11 (api:1/proto:86-101)"
_PAUSES: Final = (("dependency", "a"), ("peer", "p"), ("user", "u"))


def proc_text(found: Iterable[Values]) -> str:
    """/proc/drbd with the volumes of these snapshots."""
    volumes = [(data, volume) for data in found for volume in data["volumes"]]
    volumes.sort(key=lambda entry: entry[1]["minor"])
    lines = [line for data, volume in volumes for line in _volume_lines(data, volume)]
    return "".join(f"{line}\n" for line in (_VERSION, *lines))


def _volume_lines(data: Values, volume: Values) -> Iterator[str]:
    counters, pending = volume["counters"], volume["pending"]
    paused = volume["resync_suspended"].split(",")
    flags = ("s" if data["suspended"] else "r") + "".join(flag if word in paused else "-" for word, flag in _PAUSES)
    protocol = " " if volume["cstate"] == "StandAlone" else data["replication_protocol"]
    yield (
        f"{volume['minor']:>2}: cs:{volume['cstate']} ro:{volume['role']}/{volume['peer_role']} "
        f"ds:{volume['disk']}/{volume['peer_disk']} {protocol} {flags}--"
    )
    yield (
        f"    ns:{in_kib(counters['sent'])} nr:{in_kib(counters['received'])} dw:{in_kib(counters['written'])} "
        f"dr:{in_kib(counters['read'])} al:{counters['al_writes']} bm:{counters['bm_writes']} lo:{pending['lower']} "
        f"pe:{pending['peer']} ua:{pending['unacked']} ap:{pending['upper']} ep:1 wo:f oos:{out_of_sync_kib(volume)}"
    )


def events2_text(found: Iterable[Values]) -> str:
    """What `drbdsetup events2 --now` says of these snapshots."""
    lines = [line for data in found for line in _event_lines(data)]
    return "".join(f"exists {line}\n" for line in (*lines, "-"))


def _event_lines(data: Values) -> Iterator[str]:
    name = data["name"]
    yield f"resource name:{name} role:{data['role']} suspended:{','.join(data['suspended_reasons']) or 'no'}"
    peer = f"name:{name} peer-node-id:{data['peer_node_id']} conn-name:{data['peer']}"
    yield f"connection {peer} connection:{data['connection']} role:{data['peer_role']}"
    for volume in data["volumes"]:
        yield f"device name:{name} volume:{volume['vnr']} minor:{volume['minor']} disk:{volume['disk']}"
    for volume in data["volumes"]:
        yield (
            f"peer-device {peer} volume:{volume['vnr']} replication:{volume['replication']} "
            f"peer-disk:{volume['peer_disk']} resync-suspended:{volume['resync_suspended']}"
        )
