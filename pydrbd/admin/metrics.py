"""Snapshots as metrics for Prometheus, under the names that drbd-reactor's exporter uses, so that dashboards fit.

What DRBD 8.4's protocol has no notion of is constant. Beside them, with the prefix pydrbd_, what only pydrbd knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from pydrbd import __version__
from pydrbd.admin.events import promotion
from pydrbd.core.states import ConnState, DiskState, Role, connection_text
from pydrbd.runtime.latency import BOUNDS_S
from pydrbd.units import BIT_SIZE_BYTES, SECTOR_SIZE_BYTES

__all__ = ["METRICS", "metrics_text"]

Values = dict[str, Any]
Labels = Mapping[str, object]

METRICS: Final[Mapping[str, tuple[str, str]]] = {
    "drbdreactor_up": ("gauge", "Whether the exporter runs: always 1"),
    "drbd_version": ("gauge", "What speaks for DRBD here: always 1"),
    "drbd_resource_resources": ("gauge", "Resources that run here"),
    "drbd_resource_role": ("gauge", "1 for the role that the resource has"),
    "drbd_resource_suspended": ("gauge", "Whether the resource's I/O is held back"),
    "drbd_resource_maypromote": ("gauge", "Whether the resource could become Primary here"),
    "drbd_resource_promotionscore": ("gauge", "How good a place this node is for it: higher is better"),
    "drbd_resource_forceiofailures": ("gauge", "Always 0"),
    "drbd_connection_state": ("gauge", "1 for the state that the connection is in"),
    "drbd_connection_congested": ("gauge", "Always 0"),
    "drbd_connection_apinflight_bytes": ("gauge", "Clients' writes on their way to the peer"),
    "drbd_connection_rsinflight_bytes": ("gauge", "Resync under way"),
    "drbd_peerdevice_outofsync_bytes": ("gauge", "What the copies are known to differ by, or may"),
    "drbd_peerdevice_sent_bytes": ("counter", "Sent to the peer"),
    "drbd_peerdevice_received_bytes": ("counter", "Received from the peer"),
    "drbd_device_state": ("gauge", "1 for the state that the disk is in"),
    "drbd_device_client": ("gauge", "Whether it has no disk by configuration"),
    "drbd_device_unintentionaldiskless": ("gauge", "Whether it has lost its disk"),
    "drbd_device_quorum": ("gauge", "Whether this node has quorum"),
    "drbd_device_open": ("gauge", "Whether clients have it open"),
    "drbd_device_size_bytes": ("gauge", "The size of the device"),
    "drbd_device_read_bytes_total": ("counter", "Read from the local disk"),
    "drbd_device_written_bytes_total": ("counter", "Written to the local disk"),
    "drbd_device_alwrites_total": ("counter", "Writes to the activity log"),
    "drbd_device_bmwrites_total": ("counter", "Writes to the bitmap"),
    "drbd_device_upperpending": ("gauge", "Clients' requests that are not answered yet"),
    "drbd_device_lowerpending": ("gauge", "Requests that the local disk has not finished"),
    "drbd_device_alsuspended": ("gauge", "Always 0"),
    "pydrbd_device_clients": ("gauge", "NBD clients that are connected"),
    "pydrbd_device_blocked": ("gauge", "Whether clients wait at the moment"),
    "pydrbd_activity_log_slots": ("gauge", "Extents of 4 MiB that the activity log holds"),
    "pydrbd_activity_log_hot": ("gauge", "Extents that are in it: if as many as slots, a new one pushes one out"),
    "pydrbd_activity_log_evictions_total": ("counter", "Extents that were pushed out for others"),
    "pydrbd_resync_done_ratio": ("gauge", "How much of the resync that runs is done, from 0 to 1"),
    "pydrbd_resync_bytes_per_second": ("gauge", "How fast it has been on the average"),
    "pydrbd_verify_done_ratio": ("gauge", "How much of the verify that runs is done, from 0 to 1"),
    "pydrbd_split_brain": ("gauge", "Whether both copies were written to apart, and the nodes stand alone for it"),
    "pydrbd_request_seconds": ("histogram", "How long NBD clients waited for answers, those of native lanes left out"),
    "pydrbd_nbd_requests_total": ("counter", "NBD requests, those of native lanes left out"),
}
"""Every metric: its type and what it says."""

_CONNECTIONS: Final = tuple(dict.fromkeys(connection_text(conn) for conn in ConnState if conn <= ConnState.Connected))


@dataclass(slots=True)
class _Samples:
    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, labels: Labels, value: float) -> None:
        shown = _shown(labels)
        number = int(value) if isinstance(value, bool) or value == int(value) else value
        self.lines.setdefault(name, []).append(f"{name}{{{shown}}} {number}" if shown else f"{name} {number}")

    def add_histogram(
        self, name: str, labels: Labels, bounds: Sequence[float], counts: list[int], total: float
    ) -> None:
        """`counts` has one more than there are bounds; in Prometheus's form each bucket has those below it, too."""
        below = list(accumulate(counts))
        family = self.lines.setdefault(name, [])
        for bound, count in zip((*map(str, bounds), "+Inf"), below, strict=True):
            family.append(f"{name}_bucket{{{_shown({**labels, 'le': bound})}}} {count}")
        family += [f"{name}_sum{{{_shown(labels)}}} {total}", f"{name}_count{{{_shown(labels)}}} {below[-1]}"]

    def add_state(self, name: str, labels: Labels, states: Iterable[str], now: str) -> None:
        """One sample for each state that there can be, as drbd-reactor with `enums`."""
        for state in states:
            self.add(name, {**labels, name: state}, state == now)


def metrics_text(found: list[Values]) -> str:
    """Prometheus's text of these snapshots."""
    samples = _Samples()
    samples.add("drbdreactor_up", {}, 1)
    samples.add("drbd_version", {"kmod": f"pydrbd {__version__}", "utils": f"pydrbd {__version__}"}, 1)
    samples.add("drbd_resource_resources", {}, len(found))
    for data in found:
        _resource(samples, data)
    return "".join(_families(samples))


def _families(samples: _Samples) -> Iterator[str]:
    for name, (kind, words) in METRICS.items():
        if name in samples.lines:
            yield f"# HELP {name} {words}\n# TYPE {name} {kind}\n" + "\n".join(samples.lines[name]) + "\n"


def _resource(samples: _Samples, data: Values) -> None:
    labels = {"name": data["name"]}
    may_promote, score = promotion(data)
    samples.add_state("drbd_resource_role", labels, (role.name for role in Role), data["role"])
    for name, value in (
        ("drbd_resource_suspended", data["suspended"]),
        ("drbd_resource_maypromote", may_promote),
        ("drbd_resource_promotionscore", score),
        ("drbd_resource_forceiofailures", 0),
        ("pydrbd_split_brain", data["split_brain"] is not None),
        ("pydrbd_nbd_requests_total", data.get("nbd_statistics", {}).get("requests", 0)),
    ):
        samples.add(name, labels, value)
    peer = {**labels, "conn_name": data["peer"], "peer_node_id": data["peer_node_id"]}
    samples.add_state("drbd_connection_state", peer, _CONNECTIONS, data["connection"])
    samples.add("drbd_connection_congested", peer, 0)
    samples.add("drbd_connection_apinflight_bytes", peer, data["ap_in_flight_sectors"] * SECTOR_SIZE_BYTES)
    samples.add("drbd_connection_rsinflight_bytes", peer, data["rs_in_flight_sectors"] * SECTOR_SIZE_BYTES)
    for volume in data["volumes"]:
        _peer_device(samples, {**peer, "volume": volume["vnr"]}, volume)
        _device(samples, {**labels, "volume": volume["vnr"], "minor": volume["minor"]}, volume, data)


def _peer_device(samples: _Samples, labels: Labels, volume: Values) -> None:
    counters = volume["counters"]
    samples.add("drbd_peerdevice_outofsync_bytes", labels, volume["out_of_sync_bits"] * BIT_SIZE_BYTES)
    samples.add("drbd_peerdevice_sent_bytes", labels, counters["sent"] * SECTOR_SIZE_BYTES)
    samples.add("drbd_peerdevice_received_bytes", labels, counters["received"] * SECTOR_SIZE_BYTES)
    if volume["resync"] is not None:
        samples.add("pydrbd_resync_done_ratio", labels, volume["resync"]["percent_done"] / 100)
        samples.add("pydrbd_resync_bytes_per_second", labels, volume["resync"]["bytes_per_s"])
    if volume.get("verify"):
        samples.add("pydrbd_verify_done_ratio", labels, volume["verify"]["percent_done"] / 100)


def _device(samples: _Samples, labels: Labels, volume: Values, data: Values) -> None:
    counters, pending = volume["counters"], volume["pending"]
    has_place = str(volume["vnr"]) in data["backing_devices"]
    states = (state.name for state in DiskState)
    samples.add_state("drbd_device_state", labels, states, volume["disk"])
    for name, value in (
        ("drbd_device_client", not has_place),
        ("drbd_device_unintentionaldiskless", has_place and volume["disk"] == "Diskless"),
        ("drbd_device_quorum", volume["quorum"]),
        ("drbd_device_open", volume["clients"] > 0),
        ("drbd_device_size_bytes", volume["size_sectors"] * SECTOR_SIZE_BYTES),
        ("drbd_device_read_bytes_total", counters["read"] * SECTOR_SIZE_BYTES),
        ("drbd_device_written_bytes_total", counters["written"] * SECTOR_SIZE_BYTES),
        ("drbd_device_alwrites_total", counters["al_writes"]),
        ("drbd_device_bmwrites_total", counters["bm_writes"]),
        ("drbd_device_upperpending", pending["upper"]),
        ("drbd_device_lowerpending", pending["lower"]),
        ("drbd_device_alsuspended", 0),
        ("pydrbd_device_clients", volume["clients"]),
        ("pydrbd_device_blocked", volume["blocked"]),
    ):
        samples.add(name, labels, value)
    for kind, one in data.get("latencies", {}).get(str(volume["vnr"]), {}).items():
        of_kind = {**labels, "operation": kind}
        samples.add_histogram("pydrbd_request_seconds", of_kind, BOUNDS_S, one["counts"], one["sum_s"])
    if (log := volume["activity_log"]) is not None:
        samples.add("pydrbd_activity_log_slots", labels, log["slot_count"])
        samples.add("pydrbd_activity_log_hot", labels, log["hot_count"])
        samples.add("pydrbd_activity_log_evictions_total", labels, log["eviction_count"])


def _shown(labels: Labels) -> str:
    return ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
