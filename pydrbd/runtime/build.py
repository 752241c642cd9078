"""From the configuration to what a node is made of: options for the core, addresses and times for the link."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass, fields, replace
from pathlib import Path

from pydrbd.config.load import load_config
from pydrbd.config.model import Config, Host, Resource, VolumeConfig
from pydrbd.config.sections import Handlers
from pydrbd.config.settings import ResourceSettings, load_settings
from pydrbd.config.values import did_you_mean
from pydrbd.core.handshake import NetOptions
from pydrbd.core.node import NodeOptions
from pydrbd.core.quorum_options import QuorumOptions
from pydrbd.core.resync_pace import PaceOptions
from pydrbd.core.transitions import Fencing
from pydrbd.core.volume import VolumeOptions
from pydrbd.errors import ConfigError
from pydrbd.limits import PROTOCOL_A_BYTES_MAX
from pydrbd.metadata.layout import INDEXED_SLOT_SECTORS, MetaKind
from pydrbd.runtime.link_tls import LinkTls
from pydrbd.runtime.nbd_handshake import Admission
from pydrbd.runtime.rendezvous import Endpoints, LinkTimes
from pydrbd.runtime.tls import Identity, TlsFiles, TlsIdentity
from pydrbd.runtime.tls_keys import KeyIdentity
from pydrbd.units import SECTOR_SIZE_BYTES, sectors_to_bytes
from pydrbd.wire.digests import DIGEST_NAMES, digest_alg
from pydrbd.wire.nbd_negotiation import Policy, TlsMode
from pydrbd.wire.packet_numbers import AfterSb, WireProtocol
from pydrbd.wire.packets import ResyncController

__all__ = ["Blueprint", "DiskPlace", "admission", "blueprint", "disk_place", "handler_commands", "lease_name", "settle"]


@dataclass(frozen=True, slots=True)
class DiskPlace:
    """Where one volume's data and meta-data are. `md_path` equals `path` for internal meta-data."""

    vnr: int
    path: str
    md_path: str
    kind: MetaKind
    index: int
    discard_zeroes_if_aligned: bool = True
    minor: int = 0
    md_flushes: bool = True

    @property
    def md_bytes(self) -> range | None:
        """The part of the meta-data device that is this volume's; None: all of it."""
        if self.kind is not MetaKind.INDEXED:
            return None
        size_bytes = sectors_to_bytes(INDEXED_SLOT_SECTORS)
        return range(self.index * size_bytes, (self.index + 1) * size_bytes)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One resource on one node, ready to be run."""

    config: Config
    resource: Resource
    me: Host
    peer: Host
    node: NodeOptions
    endpoints: Endpoints
    times: LinkTimes
    disks: dict[int, DiskPlace]
    settings: ResourceSettings
    chosen_peer: str = ""
    """Which of several hosts was wanted as the peer."""


def disk_place(volume: VolumeConfig) -> DiskPlace | None:
    """Where a volume's disk is, or None for `disk none`."""
    if volume.is_diskless or volume.meta_disk is None:
        return None
    meta = volume.meta_disk
    options = volume.disk_options
    how = options.discard_zeroes_if_aligned, volume.minor, options.md_flushes
    if meta.is_internal:
        return DiskPlace(volume.vnr, volume.disk, volume.disk, MetaKind.INTERNAL, 0, *how)
    kind = MetaKind.FLEXIBLE if meta.index is None else MetaKind.INDEXED
    return DiskPlace(volume.vnr, volume.disk, meta.path, kind, meta.index or 0, *how)


def blueprint(config_path: str | Path, resource_name: str, node_name: str, peer_name: str = "") -> Blueprint:
    """Read the configuration and settle everything that `serve` needs; `peer_name` chooses one of several hosts.

    Raises ConfigError.
    """
    config = load_config(config_path)
    resource = config.resource(resource_name)
    if peer_name:
        resource = resource.with_peer(node_name, peer_name)
    me, peer = resource.pair(node_name)
    plan = settle(config, resource, me, peer, load_settings(config_path).resource(resource_name))
    return replace(plan, chosen_peer=peer_name)


def settle(config: Config, resource: Resource, me: Host, peer: Host, settings: ResourceSettings) -> Blueprint:
    """The same from what was read already. Raises ConfigError."""
    if me.address.family != peer.address.family:
        raise me.place.error(f"resource '{resource.name}': one address is {me.address.family}, the other is not")
    net = resource.net
    family = socket.AF_INET6 if me.address.family == "ipv6" else socket.AF_INET
    volumes = tuple(_volume_options(volume) for volume in me.volumes.values())
    return Blueprint(
        config,
        resource,
        me,
        peer,
        NodeOptions(
            resource.name,
            _net_options(resource, me),
            volumes,
            frozenset(handler_commands(resource)),
            on_no_data_suspend=me.options.on_no_data_accessible == "suspend-io",
            quorum=_quorum(resource, me, peer, settings),
        ),
        Endpoints(
            family,
            (me.address.host, me.address.port),
            (peer.address.host, peer.address.port),
            net.sndbuf_size_bytes,
            net.rcvbuf_size_bytes,
            _link_tls(settings, peer.name),
        ),
        LinkTimes(
            connect_int_s=float(net.connect_int_s),
            ping_int_s=float(net.ping_int_s),
            ping_timeout_s=net.ping_timeout_ds / 10,
            timeout_s=net.timeout_ds / 10,
            socket_check_timeout_s=(net.socket_check_timeout_ds or net.ping_timeout_ds) / 10,
        ),
        {volume.vnr: place for volume in me.volumes.values() if (place := disk_place(volume)) is not None},
        settings,
    )


def lease_name(resource: Resource, me: Host, peer: Host) -> str:
    """What a witness keeps the lease of this resource under: two pairs may each have a resource `r0`."""
    return f"{resource.name}:{','.join(sorted((me.name, peer.name)))}"


def _quorum(resource: Resource, me: Host, peer: Host, settings: ResourceSettings) -> QuorumOptions:
    """Two nodes, and the witness if there is one: `1` is a node alone, `2` and `majority` one more than that."""
    word = me.options.quorum
    return QuorumOptions(
        enabled=word not in ("off", "1"),
        by_witness=word in ("majority", "2") and settings.witness is not None,
        io_error=me.options.on_no_quorum == "io-error",
        force_secondary=me.options.on_suspended_primary_outdated == "force-secondary",
        node=me.name,
        witness=f"{settings.witness} {lease_name(resource, me, peer)}",
    )


def admission(settings: ResourceSettings) -> Admission:
    """How NBD clients get in. Raises ConfigError if a certificate or a file of keys can't be used."""
    tls, mode = settings.tls, TlsMode(settings.tls.mode)
    identity: Identity | None = None
    if mode is not TlsMode.OFF and tls.psk:
        identity = KeyIdentity(tls.psk, tls.clients)
    elif mode is not TlsMode.OFF:
        identity = TlsIdentity(TlsFiles(tls.certificate, tls.key, tls.authority), tls.clients)
    return Admission(Policy(mode, settings.nbd_list, settings.nbd_extended_headers), identity)


def _link_tls(settings: ResourceSettings, peer_name: str) -> LinkTls | None:
    tls = settings.tls
    if not tls.link:
        return None
    return LinkTls(TlsFiles(tls.certificate, tls.key, tls.authority), tls.link_peer or peer_name)


def handler_commands(resource: Resource) -> dict[str, str]:
    """The shell command of each event that has a handler, by DRBD's name of the event."""
    commands = {field.name.replace("_", "-"): getattr(resource.handlers, field.name) for field in fields(Handlers)}
    return {name: command for name, command in commands.items() if command}


def _volume_options(volume: VolumeConfig) -> VolumeOptions:
    disk = volume.disk_options
    return VolumeOptions(
        volume.vnr,
        volume.minor,
        size_sectors=disk.size_sectors,
        al_extents=disk.al_extents,
        al_updates=disk.al_updates,
        on_io_error=disk.on_io_error,
        disk_flushes=disk.disk_flushes,
        read_balancing=disk.read_balancing,
        disk_timeout_s=disk.disk_timeout_ds / 10,
        fencing=Fencing[disk.fencing.upper().replace("-", "_")],
        resync_rate_kib_s=disk.resync_rate_kib_s,
        controller=ResyncController(
            disk.c_plan_ahead_ds, disk.c_delay_target_ds, disk.c_fill_target_sectors, disk.c_max_rate_kib_s
        ),
        pace=_pace(volume),
        rs_discard_granularity_bytes=disk.rs_discard_granularity_bytes,
    )


def _pace(volume: VolumeConfig) -> PaceOptions:
    """Only what the configuration names: DRBD's defaults would hold a resync back for nobody's sake."""
    disk, named = volume.disk_options, volume.named
    controlled = named & {"c-plan-ahead", "c-fill-target", "c-delay-target"}
    # a c-delay-target alone is meant, though c-fill-target has a default that would go before it
    by_delay = "c-delay-target" in named and "c-fill-target" not in named
    return PaceOptions(
        fixed_kib_s=0 if disk.c_plan_ahead_ds else disk.resync_rate_kib_s,
        plan_steps=disk.c_plan_ahead_ds if controlled else 0,
        start_kib_s=disk.resync_rate_kib_s,
        fill_target_bytes=0 if by_delay else disk.c_fill_target_sectors * SECTOR_SIZE_BYTES,
        delay_target_steps=disk.c_delay_target_ds,
        max_kib_s=disk.c_max_rate_kib_s if "c-max-rate" in named else 0,
        min_kib_s=disk.c_min_rate_kib_s if "c-min-rate" in named else 0,
    )


def _net_options(resource: Resource, me: Host) -> NetOptions:
    net = resource.net
    _refuse_unsafe(resource)
    return NetOptions(
        protocol=WireProtocol[net.protocol],
        after_sb_0pri=_policy(resource.after_sb_0pri(me)),
        after_sb_1pri=_policy(net.after_sb_1pri),
        after_sb_2pri=_policy(net.after_sb_2pri),
        always_asbp=net.always_asbp,
        rr_conflict=net.rr_conflict,
        allow_two_primaries=net.allow_two_primaries,
        cram_hmac_alg=net.cram_hmac_alg,
        shared_secret=net.shared_secret,
        use_rle=net.use_rle,
        csums_alg=net.csums_alg,
        csums_after_crash_only=net.csums_after_crash_only,
        verify_alg=net.verify_alg,
        max_epoch_size=net.max_epoch_size,
        timeout_s=net.timeout_ds / 10,
        ko_count=net.ko_count,
        data_integrity_alg=net.data_integrity_alg,
        in_flight_bytes_max=net.sndbuf_size_bytes or PROTOCOL_A_BYTES_MAX,
        max_buffers=net.max_buffers,
        on_congestion=net.on_congestion,
        congestion_fill_bytes=sectors_to_bytes(net.congestion_fill_sectors),
        congestion_extents=net.congestion_extents,
    )


def _policy(word: str) -> AfterSb:
    return AfterSb[word.upper().replace("-", "_")]


def _refuse_unsafe(resource: Resource) -> None:
    """Options whose absence would be less safe than the user asked for are refused, not ignored."""
    net, name = resource.net, resource.name
    if net.cram_hmac_alg and net.cram_hmac_alg not in hashlib.algorithms_available:
        known = "sha1, sha256 and sha512 are"
        raise ConfigError(f"resource '{name}': cram-hmac-alg '{net.cram_hmac_alg}' is not known here; {known}")
    digests = {
        "csums-alg": net.csums_alg, "verify-alg": net.verify_alg, "data-integrity-alg": net.data_integrity_alg
    }  # fmt: skip
    for option, algorithm in digests.items():
        if algorithm and digest_alg(algorithm) is None:
            known = f"{', '.join(DIGEST_NAMES)} are{did_you_mean(algorithm, DIGEST_NAMES)}"
            raise ConfigError(f"resource '{name}': {option} '{algorithm}' is not known here; {known}")
