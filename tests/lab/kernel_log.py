"""What a kernel's DRBD may write to its log: the referee's whistle.

A line is expected if a pair of kernels writes it too when nothing but what the scenario does happens to it. All others
are complaints, also those that nobody has thought of. Each pattern stands for the line after `drbd r0: ` and the like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_DRBD = re.compile(r"^\[[ .0-9]+\] (?:block )?drbd(?:0| r0)?: (.*?) *$")
_ALARM = re.compile(r"BUG|WARNING|Call Trace|Oops|panic|I/O error|blocked for more|ASSERT")

_CHANGE = r"(?:role|peer|conn|disk|pdsk|susp|aftr_isp|peer_isp|user_isp)\( [\w>< -]+ \)"
_QUIET_STATE = r"(?!.*(?:ProtocolError|NetworkFailure|BrokenPipe|Timeout))"
_UUIDS = r"(?:[0-9A-F]{16}:){3}[0-9A-F]{16}"

_EXPECTED = [
    # the module, a resource and its disk
    r"initialized\. Version: .*",
    r"srcversion: \w+",
    r"registered as block device major \d+",
    r"Starting (?:worker|receiver|ack_recv) thread \(from .*\)",
    r"Terminating drbd_[war]_r0",
    r"Method to ensure write ordering: (?:flush|drain)",
    r"max BIO size = \d+",
    r"drbd_bm_resize called with capacity == \d+",
    r"resync bitmap: bits=\d+ words=\d+ pages=\d+",
    r"detected capacity change from \d+ to \d+",
    r"size = \d+ [KMG]B \(\d+ KB\)",
    r"(?:bitmap )?recounting of set bits took additional \d+ jiffies",
    r"[\d.]+ [KMG]B \(\d+ bits\) marked out-of-sync by on disk bit-map\.",
    r"Writing the whole bitmap, size changed",
    r"bitmap (?:READ|WRITE) of \d+ pages took \d+ (?:ms|jiffies)",
    r"(?:Suspended|Resumed) AL updates",
    rf"attached to UUIDs {_UUIDS}",
    rf"{_QUIET_STATE}(?:{_CHANGE} ?)+",
    # connecting
    r"receiver \(re\)started",
    r"receiver terminated",
    r"Restarting receiver thread",
    r"ack_receiver terminated",
    r"Connection closed",
    r"Discarding network configuration\.",
    # the peer has said that it disconnects, and closes before this node has; a break shows in the state as well
    r"(?:meta connection|sock was) shut down by peer\.?",
    r"initial packet [SM] crossed",
    r"Peer authenticated using \d+ bytes HMAC",
    r"Handshake successful: Agreed network protocol version 101",
    r"Feature flags enabled on protocol level: 0xf TRIM THIN_RESYNC WRITE_SAME WRITE_ZEROES\.",
    r"drbd_sync_handshake:",
    rf"(?:self|peer) {_UUIDS} bits:\d+ flags:\d+",
    r"uuid_compare\(\)=-?\d+ by rule \d+",
    r"No resync, but \d+ bits in bitmap!",
    # resync and generations
    r"Retrying drbd_rs_del_all\(\) later\. refcnt=\d+",  # of a verify that has just ended
    r"Becoming sync (?:source|target) due to disk states\.",
    r"Writing the whole bitmap, full sync required after drbd_sync_handshake\.",
    r"(?:send|receive) bitmap stats \[Bytes\(packets\)\]: plain .*, RLE .*, total .*; compression: .*",
    r"helper command: /sbin/drbdadm (?:before|after)-resync-(?:source|target) minor-0(?: exit code 0 \(0x0\))?",
    r"Began resync as (?:Paused)?Sync(?:Source|Target|S|T) \(will sync \d+ KB \[\d+ bits set\]\)\.",
    r"Resync done \(total \d+ sec; paused \d+ sec; \d+ K/sec\)",
    r"Forced to consider local data as UpToDate!",
    r"new current UUID .*",
    rf"updated (?:sync UUID|sync uuid|UUIDs) {_UUIDS}",
    r"(?:Preparing|Accepted new current UUID, preparing) to skip initial sync",
    rf"cleared bitmap UUID {_UUIDS}",
    r"Resync suspended",
    r"Syncer continues\.",
    # disks that come and go while the nodes are connected
    r"real peer disk state = \w+",
    rf"receiver updated UUIDs to (?:effective data uuid: [0-9A-F]{{16}}|{_UUIDS})",
    r"Implicitly upgraded disk",
]
_EXPECTED_LINE = re.compile("|".join(f"(?:{pattern})" for pattern in _EXPECTED))


def complaints(log: str, allowed: Iterable[str] = ()) -> list[str]:
    """The lines that a healthy pair does not write, less those that match a pattern in `allowed` (somewhere)."""
    return [
        line
        for line in log.splitlines()
        if _is_complaint(line) and not any(re.search(pattern, line) for pattern in allowed)
    ]


def _is_complaint(line: str) -> bool:
    found = _DRBD.match(line)
    if found is not None:
        return _EXPECTED_LINE.fullmatch(found[1]) is None
    return _ALARM.search(line) is not None
