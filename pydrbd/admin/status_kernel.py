"""A resource as /proc/drbd shows the kernel's, for scripts that read that.

     0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
        ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0

As DRBD 8.4.11 prints it (seen). Amounts are in KiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from pydrbd.admin.status_text import in_kib, out_of_sync_kib

__all__ = ["proc_text"]

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
