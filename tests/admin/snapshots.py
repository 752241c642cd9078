"""Snapshots as a process sends them, for the tests of what is made of them."""

from __future__ import annotations

from typing import Any

COUNTERS = ("sent", "received", "written", "read", "al_writes", "bm_writes", "resynced")


def a_volume(vnr: int = 0, **changes: Any) -> dict[str, Any]:
    """A volume that is connected and in sync, with `changes`."""
    return {
        "vnr": vnr,
        "minor": vnr,
        "quorum": True,
        "role": "Primary",
        "peer_role": "Secondary",
        "cstate": "Connected",
        "disk": "UpToDate",
        "peer_disk": "UpToDate",
        "connection": "Connected",
        "replication": "Established",
        "resync_suspended": "no",
        "has_disk": True,
        "degraded": False,
        "blocked": False,
        "fails": False,
        "size_sectors": 2048,
        "clients": 0,
        "out_of_sync_bits": 0,
        "counters": dict.fromkeys(COUNTERS, 0),
        "pending": {"upper": 0, "lower": 0, "peer": 0, "unacked": 0},
        "activity_log": None,
        "gi": "00000000000000A1:0000000000000000:00000000000000B1:00000000000000C1:1:1:1:1:0:0:0",
        "device_uuid": "0123456789ABCDEF",
        "resync": None,
        "verify": None,
    } | changes


def a_snapshot(*volumes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A process that is Primary and connected, with `changes`."""
    return {
        "name": "r0",
        "role": "Primary",
        "peer_role": "Secondary",
        "connection": "Connected",
        "connection_reason": "",
        "split_brain": None,
        "protocol": 101,
        "replication_protocol": "C",
        "peer_is_pydrbd": True,
        "suspended": False,
        "suspended_reasons": [],
        "quorum": "off",
        "quorum_refusal": "",
        "ap_in_flight_sectors": 0,
        "rs_in_flight_sectors": 0,
        "volumes": list(volumes) or [a_volume()],
        "local_address": "ipv4:10.0.0.1:7788",
        "peer_address": "ipv4:10.0.0.2:7788",
        "backing_devices": {"0": "/dev/sdx", "1": "/dev/sdy"},
        "node": "alpha",
        "peer": "beta",
        "peer_node_id": 1,
        "pid": 0,
        "nbd": ["nbd+unix:///r0?socket=/run/pydrbd/r0.nbd.sock"],
    } | changes


def a_resync(done: int = 25, of: int = 100, **changes: Any) -> dict[str, Any]:
    """A resync of `of` bits."""
    return {
        "total_bits": of,
        "left_bits": of - done,
        "failed_bits": 0,
        "same_bits": 0,
        "percent_done": 100.0 * done / of,
        "elapsed_s": 2.0,
        "bytes_per_s": done * 4096 / 2.0,
        "seconds_left": 6.0,
    } | changes


def syncing(role: str = "Primary", done: int = 25) -> dict[str, Any]:
    """A process in the middle of a resync; a Primary is its source."""
    source = role == "Primary"
    volume = a_volume(
        role=role,
        cstate="SyncSource" if source else "SyncTarget",
        replication="SyncSource" if source else "SyncTarget",
        disk="UpToDate" if source else "Inconsistent",
        peer_disk="Inconsistent" if source else "UpToDate",
        out_of_sync_bits=100 - done,
        resync=a_resync(done),
    )
    return a_snapshot(volume, role=role, peer_role="Secondary" if source else "Primary")


def alone(connection: str = "Connecting", **changes: Any) -> dict[str, Any]:
    """A Primary whose peer is not there."""
    cstate = "WFConnection" if connection == "Connecting" else connection
    volume = (
        a_volume(cstate=cstate, connection=connection, replication="Off", peer_disk="DUnknown", peer_role="Unknown")
        | changes
    )
    return a_snapshot(volume, connection=connection, peer_role="Unknown", protocol=None)
