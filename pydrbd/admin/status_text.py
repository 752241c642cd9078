"""`status` as drbdsetup prints it.

    r0 role:Primary
      disk:UpToDate
      beta role:Secondary
        replication:SyncSource peer-disk:Inconsistent done:42.07

Several volumes are `volume:N disk:...`. Sizes and amounts are in KiB, as in drbdsetup.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydrbd.admin.colours import coloured
from pydrbd.units import BIT_SIZE_BYTES, KIB

__all__ = ["in_kib", "out_of_sync_kib", "status_text", "yes_no"]

Values = dict[str, Any]


def status_text(data: Values, *, verbose: bool = False, statistics: bool = False, colours: bool = False) -> str:
    """One resource's paragraph, from the process's snapshot; with colours, as a terminal shows it."""
    lines = _lines(data, verbose, statistics)
    return "".join(f"{_in_colours(line) if colours else line}\n" for line in lines)


def _in_colours(line: str) -> str:
    """The first line tells of this node's role, those that are set off of the peer's."""
    words = []
    for word in line.split(" "):
        key, colon, value = word.partition(":")
        words.append(f"{key}{colon}{coloured(key, value, of_peer=line.startswith(' '))}" if colon else word)
    return " ".join(words)


def in_kib(sector_count: int) -> int:
    return sector_count // 2


def out_of_sync_kib(volume: Values) -> int:
    return int(volume["out_of_sync_bits"]) * (BIT_SIZE_BYTES // KIB)


def yes_no(flag: object) -> str:
    return "yes" if flag else "no"


def _lines(data: Values, verbose: bool, statistics: bool) -> Iterator[str]:
    reasons = ",".join(data["suspended_reasons"]) or "no"
    words = [f"{data['name']} role:{data['role']}"]
    if verbose or data["suspended"]:
        words.append(f"suspended:{reasons}")
    yield " ".join(words)
    if statistics:
        yield "    write-ordering:flush"
    is_single = [volume["vnr"] for volume in data["volumes"]] == [0]
    for volume in data["volumes"]:
        yield from _device(volume, is_single and not verbose, verbose, statistics, data["quorum"] != "off")
    yield from _connection(data, is_single, verbose, statistics)
    if verbose:
        for uri in data.get("nbd", ()):
            yield f"  nbd:{uri}"


def _device(volume: Values, is_single: bool, verbose: bool, statistics: bool, asked: bool) -> Iterator[str]:
    """`asked`: the configuration asks for quorum."""
    words = [] if is_single else [f"volume:{volume['vnr']}"]
    if verbose:
        words.append(f"minor:{volume['minor']}")
    words.append(f"disk:{volume['disk']}")
    if not volume["quorum"] or (verbose and asked):
        words.append(f"quorum:{yes_no(volume['quorum'])}")
    if verbose:
        words += [f"open:{yes_no(volume['clients'])}", f"blocked:{yes_no(volume['blocked'])}"]
    yield "  " + " ".join(words)
    if statistics:
        counters, pending = volume["counters"], volume["pending"]
        yield (
            f"      size:{in_kib(volume['size_sectors'])} read:{in_kib(counters['read'])} "
            f"written:{in_kib(counters['written'])} al-writes:{counters['al_writes']} "
            f"bm-writes:{counters['bm_writes']}"
        )
        yield (
            f"      upper-pending:{pending['upper']} lower-pending:{pending['lower']} "
            f"al-suspended:no blocked:{yes_no(volume['blocked'])}"
        )


def _connection(data: Values, is_single: bool, verbose: bool, statistics: bool) -> Iterator[str]:
    words = [str(data.get("peer") or "peer")]
    if verbose or data["connection"] != "Connected":
        words.append(f"connection:{data['connection']}")
    if verbose or data["peer_role"] != "Unknown":
        words.append(f"role:{data['peer_role']}")
    yield "  " + " ".join(words)
    if statistics:
        yield (
            f"      congested:no ap-in-flight:{data['ap_in_flight_sectors']} "
            f"rs-in-flight:{data['rs_in_flight_sectors']}"
        )
    for volume in data["volumes"]:
        is_known = volume["replication"] != "Off" or volume["peer_disk"] != "DUnknown"
        if verbose or statistics or is_known:
            yield from _peer_device(volume, is_single and not verbose, verbose, statistics)


def _peer_device(volume: Values, is_single: bool, verbose: bool, statistics: bool) -> Iterator[str]:
    words = [] if is_single else [f"volume:{volume['vnr']}"]
    if verbose or volume["replication"] != "Off":
        words.append(f"replication:{volume['replication']}")
    words.append(f"peer-disk:{volume['peer_disk']}")
    running = volume["resync"] or volume.get("verify")
    if running:
        words.append(f"done:{running['percent_done']:.2f}")
    if verbose or volume["resync_suspended"] != "no":
        words.append(f"resync-suspended:{volume['resync_suspended']}")
    yield "    " + " ".join(words)
    if statistics:
        counters, pending = volume["counters"], volume["pending"]
        yield (
            f"        received:{in_kib(counters['received'])} sent:{in_kib(counters['sent'])} "
            f"out-of-sync:{out_of_sync_kib(volume)} pending:{pending['peer']} unacked:{pending['unacked']}"
        )
