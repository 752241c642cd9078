"""`status --json` in drbdsetup 9's schema.

The words are of `man drbdsetup` and of what drbdsetup prints. What DRBD 8.4's protocol has no notion of is constant:
node-ids (0 is this node, 1 its peer), clients that have no disk.
Sizes and amounts are in KiB; rs-total, the amounts of a resync and what is in flight are in sectors.
"""

from __future__ import annotations

from typing import Any

from pydrbd.admin.status_text import in_kib, out_of_sync_kib
from pydrbd.units import MIB, SECTORS_PER_BIT

__all__ = ["status_json"]

_OWN_NODE_ID = 0
_PEER_NODE_ID = 1

Values = dict[str, Any]


def status_json(data: Values) -> Values:
    """One resource as drbdsetup's JSON has it, from the process's snapshot."""
    reasons = data["suspended_reasons"]
    return {
        "name": data["name"],
        "node-id": _OWN_NODE_ID,
        "role": data["role"],
        "suspended": data["suspended"],
        "suspended-user": "user" in reasons,
        "suspended-no-data": "no-data" in reasons,
        "suspended-fencing": "fencing" in reasons,
        "suspended-quorum": "quorum" in reasons,
        "force-io-failures": False,
        "write-ordering": "flush",
        "devices": [_device(volume) for volume in data["volumes"]],
        "connections": [_connection(data)],
    }


def _device(volume: Values) -> Values:
    counters, pending = volume["counters"], volume["pending"]
    return {
        "volume": volume["vnr"],
        "minor": volume["minor"],
        "disk-state": volume["disk"],
        "client": False,
        "quorum": volume["quorum"],
        "size": in_kib(volume["size_sectors"]),
        "read": in_kib(counters["read"]),
        "written": in_kib(counters["written"]),
        "al-writes": counters["al_writes"],
        "bm-writes": counters["bm_writes"],
        "upper-pending": pending["upper"],
        "lower-pending": pending["lower"],
    }


def _connection(data: Values) -> Values:
    return {
        "peer-node-id": _PEER_NODE_ID,
        "name": data.get("peer") or "peer",
        "connection-state": data["connection"],
        "congested": False,
        "peer-role": data["peer_role"],
        "ap-in-flight": data["ap_in_flight_sectors"],
        "rs-in-flight": data["rs_in_flight_sectors"],
        "peer_devices": [_peer_device(volume) for volume in data["volumes"]],
    }


def _peer_device(volume: Values) -> Values:
    counters, pending = volume["counters"], volume["pending"]
    total_sectors = volume["size_sectors"]
    stale_sectors = min(total_sectors, volume["out_of_sync_bits"] * SECTORS_PER_BIT)
    values = {
        "volume": volume["vnr"],
        "replication-state": volume["replication"],
        "peer-disk-state": volume["peer_disk"],
        "peer-client": False,
        "resync-suspended": volume["resync_suspended"],
        "received": in_kib(counters["received"]),
        "sent": in_kib(counters["sent"]),
        "out-of-sync": out_of_sync_kib(volume),
        "pending": pending["peer"],
        "unacked": pending["unacked"],
        "has-sync-details": bool(volume["resync"] or volume.get("verify")),
        "has-online-verify-details": bool(volume.get("verify")),
        "percent-in-sync": round(100.0 * (1 - stale_sectors / total_sectors), 2) if total_sectors else 100.0,
    }
    if volume["resync"] is not None:
        values |= _sync_details(volume["resync"])
    elif volume.get("verify"):
        values |= _sync_details(volume["verify"]) | _verify_details(volume["verify"])
    return values


def _verify_details(verify: Values) -> Values:
    return {
        "ov-start-sector": verify["start_sector"],
        "ov-stop-sector": verify["stop_sector"],
        "ov-position": verify["position_sector"],
        "ov-left": verify["left_bits"] * SECTORS_PER_BIT,
        "ov-skipped": verify["skipped_bits"] * SECTORS_PER_BIT,
    }


def _sync_details(resync: Values) -> Values:
    """drbdsetup looks at two windows of time; ours is one, from the start of the resync."""
    elapsed_ms = int(resync["elapsed_s"] * 1000)
    done_sectors = (resync["total_bits"] - resync["left_bits"]) * SECTORS_PER_BIT
    rate_mib = round(resync["bytes_per_s"] / MIB, 2)
    details: Values = {
        "rs-total": resync["total_bits"] * SECTORS_PER_BIT,
        "rs-dt-start-ms": elapsed_ms,
        "rs-paused-ms": 0,
        "rs-dt0-ms": elapsed_ms,
        "rs-db0-sectors": done_sectors,
        "rs-dt1-ms": elapsed_ms,
        "rs-db1-sectors": done_sectors,
        "rs-failed": resync.get("failed_bits", 0) * SECTORS_PER_BIT,
        "rs-same-csum": resync.get("same_bits", 0) * SECTORS_PER_BIT,
        "db0/dt0 [MiB/s]": rate_mib,
        "db1/dt1 [MiB/s]": rate_mib,
        "db/dt [MiB/s]": rate_mib,
    }
    if resync["seconds_left"] is not None:
        details["estimated-seconds-to-finish"] = round(resync["seconds_left"])
    details["percent-resync-done"] = round(resync["percent_done"], 2)
    return details
