"""What `status` shows, as plain values: a node's state as dictionaries, lists, strings and numbers (JSON-able).

    name, role, peer_role, connection, connection_reason (in words, while there is none),
    split_brain {volume, my_bits, peer_bits, my_role, peer_role} | null, protocol,
    replication_protocol, peer_is_pydrbd, suspended, suspended_reasons
    quorum (what it rests on: off, peer, lease, asking, none), quorum_refusal (why there is none, in words)
    ap_in_flight_sectors, rs_in_flight_sectors
    volumes [ vnr, minor, quorum (whether there is), role, peer_role, cstate, disk, peer_disk, connection, replication,
              resync_suspended,
              has_disk, degraded (last used by a Primary that was alone), blocked, fails (for want of quorum),
              size_sectors, clients,
              out_of_sync_bits, counters {sectors}, pending {requests},
              activity_log {} | null, gi | null, device_uuid | null, resync {} | null, verify {} | null ]

Names of states are DRBD's. `cstate` is the kernel's word (Connected, SyncTarget, WFConnection); `connection` and
`replication` are the two words that drbdsetup 9 makes of it. Requests are counted when they are under way: those that
the peer has asked of us count while they belong to a resync.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydrbd import native
from pydrbd.core.node import Node
from pydrbd.core.resync_progress import ResyncProgress
from pydrbd.core.states import ConnState, DiskState, Role, connection_text, replication_text
from pydrbd.core.volume import Volume
from pydrbd.metadata.superblock import Superblock
from pydrbd.units import BIT_SIZE_BYTES, SECTOR_SIZE_BYTES

__all__ = ["snapshot"]

_SYNCS = (ConnState.SyncSource, ConnState.SyncTarget, ConnState.PausedSyncS, ConnState.PausedSyncT)
_SUSPENSIONS = (("user", "susp"), ("no-data", "susp_nod"), ("fencing", "susp_fen"))


def snapshot(node: Node) -> dict[str, Any]:
    """The node as it is now. It shares nothing with the node; sizes and counters are in sectors where the name says."""
    pending = {vnr: {"upper": 0, "lower": 0, "peer": 0} for vnr in node.volumes}
    ap_in_flight_bytes = 0
    for write in node.writes.in_flight():
        counts = pending[write.volume.vnr]
        counts["upper"] += (write.mask & ~write.replied).bit_count()
        counts["lower"] += write.local_busy.bit_count()
        counts["peer"] += write.peer_busy.bit_count()
        ap_in_flight_bytes += native.records_length_sum(write.batch, write.peer_busy)
    resyncs = [progress for volume in node.volumes.values() if (progress := node.resync.progress(volume))]
    rs_in_flight_bytes = sum(progress.in_flight_bytes + progress.served_bytes for progress in resyncs)
    states = [volume.state for volume in node.volumes.values()]
    reasons = [word for word, name in _SUSPENSIONS if any(getattr(state, name) for state in states)]
    if not node.quorum.has:
        waits = not any(volume.fails for volume in node.volumes.values())  # DRBD 9: what fails is not suspended
        reasons = ["quorum" if word == "fencing" else word for word in reasons if waits or word != "fencing"]
    peer_roles = {state.peer for state in states}
    return {
        "name": node.options.resource,
        "role": _any_primary({state.role for state in states}).name,
        "peer_role": _any_primary(peer_roles).name,
        "connection": connection_text(max([node.cstate, *(state.conn for state in states)])),
        "connection_reason": "" if node.established else node.links.reason,
        "split_brain": asdict(found) if (found := node.links.split_brain) is not None else None,
        "protocol": node.apv if node.established else None,
        "replication_protocol": node.net.protocol.name,
        "peer_is_pydrbd": node.peer_is_pydrbd and node.established,
        "suspended": bool(reasons),
        "suspended_reasons": reasons,
        "quorum": node.quorum.standing.value,
        "quorum_refusal": "" if node.quorum.has else node.quorum.refusal,
        "ap_in_flight_sectors": ap_in_flight_bytes // SECTOR_SIZE_BYTES,
        "rs_in_flight_sectors": rs_in_flight_bytes // SECTOR_SIZE_BYTES,
        "volumes": [_volume(node, volume, pending[volume.vnr]) for volume in node.volumes.values()],
    }


def _any_primary(roles: set[Role]) -> Role:
    for role in (Role.Primary, Role.Secondary):
        if role in roles:
            return role
    return Role.Unknown


def _volume(node: Node, volume: Volume, pending: dict[str, int]) -> dict[str, Any]:
    state, progress = volume.state, node.resync.progress(volume)
    superblock = volume.disk.superblock if volume.disk is not None else None
    return {
        "vnr": volume.vnr,
        "minor": volume.options.minor,
        "quorum": node.quorum.has,
        "role": state.role.name,
        "peer_role": state.peer.name,
        "cstate": state.conn.name,
        "disk": state.disk.name,
        "peer_disk": state.pdsk.name,
        "connection": connection_text(state.conn),
        "replication": replication_text(state.conn),
        "resync_suspended": state.resync_suspended_text,
        "has_disk": volume.has_disk,
        "degraded": volume.disk is not None and volume.disk.degraded,
        "blocked": volume.frozen and state.disk != DiskState.Diskless,
        "fails": volume.fails,
        "size_sectors": volume.size_sectors,
        "clients": len(volume.sessions) + len(volume.readers),
        "out_of_sync_bits": volume.out_of_sync_bits,
        "counters": asdict(volume.counters),
        "pending": {**pending, "unacked": progress.served if progress is not None else 0},
        "activity_log": asdict(volume.disk.log.statistics()) if volume.disk is not None else None,
        "gi": _gi_text(volume, superblock) if superblock is not None else None,
        "device_uuid": f"{superblock.device_uuid:016X}" if superblock is not None else None,
        "resync": _resync(node, volume, progress) if progress is not None and state.conn in _SYNCS else None,
        "verify": verify.as_dict(node.now) if (verify := node.verify.progress(volume)) is not None else None,
    }


def _gi_text(volume: Volume, superblock: Superblock) -> str:
    """get-gi's line: the identifiers as they are in memory, the flags as they stand on disk."""
    return ":".join([str(volume.uuids), *superblock.gi_text().split(":")[4:]])


def _resync(node: Node, volume: Volume, progress: ResyncProgress) -> dict[str, Any]:
    """How far a resync is. `left_bits` is what is still out of sync; its average rate counts from the start."""
    left_bits = volume.out_of_sync_bits
    done_bits = max(0, progress.total_bits - left_bits)
    elapsed_s = max(0.0, node.now - progress.started)
    rate = done_bits * BIT_SIZE_BYTES / elapsed_s if elapsed_s > 0 else 0.0
    return {
        "total_bits": progress.total_bits,
        "left_bits": left_bits,
        "failed_bits": progress.failed_bits,
        "same_bits": progress.same_bits,
        "percent_done": 100.0 * done_bits / progress.total_bits if progress.total_bits else 100.0,
        "elapsed_s": elapsed_s,
        "bytes_per_s": rate,
        "seconds_left": left_bits * BIT_SIZE_BYTES / rate if rate > 0 else None,
    }
