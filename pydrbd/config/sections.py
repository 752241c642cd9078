"""The options of each section as a frozen value; fields, units and defaults as in options.py (a test compares them)."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["DiskOptions", "GlobalOptions", "Handlers", "NetOptions", "ResourceOptions", "StartupOptions"]


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """`global { }`: what the commands go by. The time limits of 0 are none."""

    disable_ip_verification: bool = False
    minor_count: int = 32
    dialog_refresh_s: int = 1
    cmd_timeout_short_s: int = 5
    cmd_timeout_medium_s: int = 121
    cmd_timeout_long_s: int = 600
    usage_count: str = "ask"
    udev_always_use_vnr: bool = False


@dataclass(frozen=True, slots=True)
class ResourceOptions:
    """`options { }`."""

    cpu_mask: str = ""
    on_no_data_accessible: str = "io-error"
    auto_promote: bool = False
    auto_promote_timeout_ds: int = 20
    quorum: str = "off"
    on_no_quorum: str = "suspend-io"
    on_suspended_primary_outdated: str = "disconnect"


@dataclass(frozen=True, slots=True)
class NetOptions:
    """`net { }`: the connection. An algorithm or a secret that is "" is not used."""

    protocol: str = "C"
    timeout_ds: int = 60
    max_epoch_size: int = 2048
    max_buffers: int = 2048
    unplug_watermark: int = 128
    connect_int_s: int = 10
    ping_int_s: int = 10
    sndbuf_size_bytes: int = 0
    rcvbuf_size_bytes: int = 0
    ko_count: int = 7
    allow_two_primaries: bool = False
    cram_hmac_alg: str = ""
    shared_secret: str = field(default="", repr=False)
    after_sb_0pri: str = "disconnect"
    after_sb_1pri: str = "disconnect"
    after_sb_2pri: str = "disconnect"
    always_asbp: bool = False
    rr_conflict: str = "disconnect"
    ping_timeout_ds: int = 5
    data_integrity_alg: str = ""
    tcp_cork: bool = True
    on_congestion: str = "block"
    congestion_fill_sectors: int = 0
    congestion_extents: int = 1237
    csums_alg: str = ""
    csums_after_crash_only: bool = False
    verify_alg: str = ""
    use_rle: bool = True
    socket_check_timeout_ds: int = 0


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """`disk { }`: a volume's disk and its resync. `size_sectors` 0 means all of the disk."""

    size_sectors: int = 0
    max_bio_bvecs: int = 0
    on_io_error: str = "detach"
    fencing: str = "dont-care"
    disk_barrier: bool = False
    disk_flushes: bool = True
    disk_drain: bool = True
    md_flushes: bool = True
    resync_rate_kib_s: int = 250
    resync_after: str = ""
    al_extents: int = 1237
    al_updates: bool = True
    discard_zeroes_if_aligned: bool = True
    disable_write_same: bool = False
    c_plan_ahead_ds: int = 20
    c_delay_target_ds: int = 10
    c_fill_target_sectors: int = 100
    c_max_rate_kib_s: int = 102400
    c_min_rate_kib_s: int = 250
    disk_timeout_ds: int = 0
    read_balancing: str = "prefer-local"
    rs_discard_granularity_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StartupOptions:
    """`startup { }`: what to wait for when a node comes up; a timeout of 0 means for ever."""

    wfc_timeout_s: int = 0
    degr_wfc_timeout_s: int = 0
    outdated_wfc_timeout_s: int = 0
    wait_after_sb: bool = False
    stacked_timeouts: bool = False
    become_primary_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Handlers:
    """`handlers { }`: the shell command of each event, "" if there is none."""

    pri_on_incon_degr: str = ""
    pri_lost_after_sb: str = ""
    pri_lost: str = ""
    initial_split_brain: str = ""
    split_brain: str = ""
    fence_peer: str = ""
    unfence_peer: str = ""
    local_io_error: str = ""
    before_resync_target: str = ""
    after_resync_target: str = ""
    before_resync_source: str = ""
    out_of_sync: str = ""
    quorum_lost: str = ""
