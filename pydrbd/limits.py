"""Every bound by name: lengths that a peer or a client may claim, queue depths, retries, times.

Reaching one is a defined event (an error, back-pressure, a wait), never an accident.
"""

from __future__ import annotations

from typing import Final

from pydrbd.units import KIB, MIB

__all__ = [
    "AHEAD_S",
    "AL_ROOM_EXTENTS_MAX",
    "AL_UPDATES_PER_TRANSACTION",
    "BAD_DISK_MARK_S",
    "BARRIER_IDLE_S",
    "BATCH_RECORDS_MAX",
    "BITMAP_PACKET_BYTES_MAX",
    "CONFIG_FILES_MAX",
    "CONFIG_FILE_BYTES_MAX",
    "CONFIG_NESTING_MAX",
    "CONFLICT_RETRY_S",
    "CONTROL_CONNECTIONS_MAX",
    "CONTROL_REQUEST_BYTES_MAX",
    "CONTROL_RESPONSE_BYTES_MAX",
    "CSUMS_REQUEST_BYTES_MAX",
    "DISCARD_BYTES_MAX",
    "DISCARD_CHUNK_BYTES",
    "DISK_INLINE_BYTES_MAX",
    "DISK_INLINE_PAUSE_MAX_S",
    "DISK_INLINE_PAUSE_S",
    "DISK_INLINE_SLOW_S",
    "DISK_QUEUE_OPS_MAX",
    "DISK_STOP_TIMEOUT_S",
    "DISK_THREADS",
    "DRBD_IO_BYTES_MAX",
    "DRBD_PAYLOAD_BYTES_MAX",
    "EVENTS_QUEUED_MAX",
    "EVENTS_WATCHERS_MAX",
    "EXTENTS_OF_BATCH_MAX",
    "HELPERS_AT_A_TIME_MAX",
    "HELPERS_WAITING_MAX",
    "HELPER_GRACE_S",
    "HELPER_LINES_MAX",
    "HELPER_LINE_BYTES_MAX",
    "HELPER_TIMEOUT_S",
    "LANE_BOUNCE_BYTES",
    "LANE_CLIENTS_MAX",
    "LANE_DIRECT_SLOW_S",
    "LANE_EPOCH_WRITES_MAX",
    "LANE_FLUSH_SLOW_S",
    "LANE_FOLD_S",
    "LANE_IDLE_US",
    "LANE_REPLY_BYTES",
    "LANE_SLICE_US",
    "LAZY_FLUSH_S",
    "LINK_LINGER_S",
    "LINK_RETRY_S",
    "LINK_SEND_BYTES",
    "LINK_TLS_HANDSHAKES_MAX",
    "LINK_UNREAD_ACKS_BYTES_MAX",
    "LINK_UNREAD_ANSWERS_BYTES_MAX",
    "LOG_FILE_BYTES_MAX",
    "METRICS_CLIENTS_MAX",
    "NBD_ALL_IN_FLIGHT_BYTES_MAX",
    "NBD_ATTACH_CONNECTIONS_MAX",
    "NBD_CONNECTIONS_MAX",
    "NBD_DISCONNECT_TIMEOUT_S",
    "NBD_EXTENDED_PIECE_BYTES",
    "NBD_GOODBYE_S",
    "NBD_HANDSHAKE_TIMEOUT_S",
    "NBD_IN_FLIGHT_BYTES_MAX",
    "NBD_OPTIONS_MAX",
    "NBD_OPTION_BYTES_MAX",
    "NBD_REQUEST_BYTES_MAX",
    "NBD_STATUS_CHOICE_BYTES_MAX",
    "NBD_STATUS_EXTENTS_MAX",
    "NBD_STRING_BYTES_MAX",
    "PEER_BACKLOG_BYTES_MAX",
    "PEER_READ_BYTES_MAX",
    "PEER_REQUESTS_MAX",
    "PROTOCOL_A_BYTES_MAX",
    "READ_BYTES_IN_FLIGHT_MAX",
    "READ_CONGESTED_REQUESTS",
    "RECEIVE_BUFFER_BYTES",
    "RESYNC_AFTER_LOOK_S",
    "RESYNC_AFTER_RETRY_S",
    "RESYNC_BUSY_BYTES_MAX",
    "RESYNC_HEAD_BYTES_MAX",
    "RESYNC_IN_FLIGHT_BYTES_MAX",
    "RESYNC_PERSIST_S",
    "RESYNC_PIECE_BYTES",
    "RESYNC_WRITE_OUT_BYTES",
    "SECRET_BYTES_MAX",
    "SEQUENCE_WAIT_S",
    "STOP_TIMEOUT_S",
    "SYSTEMD_SOCKETS_MAX",
    "TLS_CLOSE_TIMEOUT_S",
    "TLS_NAMES_MAX",
    "TLS_PIECE_BYTES",
    "TLS_SHOWN_NAMES_MAX",
    "VERIFY_IN_FLIGHT_BLOCKS_MAX",
    "VERIFY_MAP_CELLS_MAX",
    "VERIFY_PEER_BLOCKS_MAX",
    "VERIFY_PIECE_BYTES",
    "VERIFY_RANGES_MAX",
    "VERIFY_READS_MAX",
]

BATCH_RECORDS_MAX: Final = 64
"""Requests in one batch: the members of a batch are the bits of one 64-bit mask."""

RECEIVE_BUFFER_BYTES: Final = MIB
"""What one socket's receive buffer holds before a new one is taken (longer for a longer request)."""

DRBD_IO_BYTES_MAX: Final = MIB
"""The longest P_DATA payload (protocol 100 and later)."""

DRBD_PAYLOAD_BYTES_MAX: Final = MIB + KIB
"""The longest payload that any packet from a peer may claim: p_data, a digest and 1 MiB of data."""

DISCARD_BYTES_MAX: Final = 128 * MIB
"""The longest P_TRIM or P_ZEROES."""

BITMAP_PACKET_BYTES_MAX: Final = 4096
"""A bitmap packet with its header."""

NBD_REQUEST_BYTES_MAX: Final = 32 * MIB
"""The longest NBD READ or WRITE; announced as the maximum block size."""

NBD_IN_FLIGHT_BYTES_MAX: Final = 128 * MIB
"""Payload of one client's requests in flight and of replies it has not read; beyond it the client is not read from."""

NBD_ALL_IN_FLIGHT_BYTES_MAX: Final = 1024 * MIB
"""The same for all clients of one node together: each has an equal share of it, and always room for one request."""

NBD_DISCONNECT_TIMEOUT_S: Final = 30.0
"""How long a client that said DISC is given the replies it still has coming."""

NBD_GOODBYE_S: Final = 0.5
"""How long a demotion waits for the last clients: who has gone already may not have been read from yet."""

NBD_OPTION_BYTES_MAX: Final = 64 * KIB
NBD_OPTIONS_MAX: Final = 64
NBD_STRING_BYTES_MAX: Final = 4096
NBD_STATUS_EXTENTS_MAX: Final = 8192
"""Extents in an answer to BLOCK_STATUS, for each context; the client asks again for what is left."""

NBD_STATUS_CHOICE_BYTES_MAX: Final = 8 + 4 * 64
"""The payload of a BLOCK_STATUS that names contexts: a length, and at most 64 of them."""

NBD_EXTENDED_PIECE_BYTES: Final = 256 * KIB
"""What of a connection with extended headers is translated at once, in each direction."""

NBD_HANDSHAKE_TIMEOUT_S: Final = 30.0
NBD_CONNECTIONS_MAX: Final = 256

NBD_ATTACH_CONNECTIONS_MAX: Final = 16
"""How many connections a device of the kernel may have; it uses not more than the machine has processors."""

TLS_PIECE_BYTES: Final = 256 * KIB
"""What is encrypted or decrypted at once, for each direction of a connection."""

TLS_CLOSE_TIMEOUT_S: Final = 10.0
"""How long a TLS connection that was closed here may take to send what is left, and a goodbye."""

TLS_NAMES_MAX: Final = 256
SYSTEMD_SOCKETS_MAX: Final = 16
LINK_TLS_HANDSHAKES_MAX: Final = 8
"""TLS handshakes of those who say that they are the peer, at once; others wait in the kernel's backlog."""

TLS_SHOWN_NAMES_MAX: Final = 8
"""Names of a certificate that are logged."""

AL_UPDATES_PER_TRANSACTION: Final = 64
AL_ROOM_EXTENTS_MAX: Final = 256
"""So many extents, or half of the log, are kept free to leave it: enough for some transactions while disks flush."""

SECRET_BYTES_MAX: Final = 64

CONFIG_FILE_BYTES_MAX: Final = 4 * MIB
"""The longest configuration file."""

CONFIG_FILES_MAX: Final = 4096
"""Configuration files that one configuration may include."""

CONFIG_NESTING_MAX: Final = 8
"""How deep sections may stand in sections (DRBD's language needs 4)."""

DISK_THREADS: Final = 4
"""Threads of one disk: how many requests it is given at a time."""

DISK_QUEUE_OPS_MAX: Final = 1024
"""Operations that one disk has not finished; beyond it the service takes no more requests that need the disk."""

DISK_INLINE_BYTES_MAX: Final = 512 * KIB
"""The largest batch that is copied to or from the page cache at once, with no thread in between."""

DISK_INLINE_SLOW_S: Final = 0.005
DISK_INLINE_PAUSE_MAX_S: Final = 1.0
DISK_INLINE_PAUSE_S: Final = 0.02
"""After a copy that took longer than the first, threads do the copying for the second."""

BARRIER_IDLE_S: Final = 0.05
"""An idle sender closes its epoch with a barrier after this long."""

LANE_SLICE_US: Final = 5000
"""A lane runs for so long before everybody else on the node gets a turn."""

LANE_IDLE_US: Final = 1000
"""A lane that nobody wants anything of for so long ends."""

LANE_FOLD_S: Final = 0.05
"""What a lane has done is worked in by the core at least this often, and its epoch closed."""

LANE_EPOCH_WRITES_MAX: Final = 8192
"""Writes of lanes in one epoch, if `max-epoch-size` does not ask for fewer: a node of ours only counts them."""

LANE_BOUNCE_BYTES: Final = 2 * MIB
"""What a lane reads or writes with direct I/O at a time."""

LANE_DIRECT_SLOW_S: Final = 0.02
"""A disk with direct I/O that takes longer for one group of requests leaves the lanes for a while."""

LANE_FLUSH_SLOW_S: Final = 0.01
"""A flush that takes longer leaves the lanes: whoever waits for it in one does nothing else."""

LANE_CLIENTS_MAX: Final = 64
"""Clients that one lane serves; the others are served without it."""

LANE_REPLY_BYTES: Final = MIB + 64 * KIB
"""Replies of a lane that one client has not read; beyond it the client is not served."""

AHEAD_S: Final = 1.0
"""How long a node stays Ahead after its peer has confirmed all that it was sent."""

BAD_DISK_MARK_S: Final = 5.0
"""A disk that had an error is marked as bad before it is closed, unless that takes it longer than this."""

CONFLICT_RETRY_S: Final = 42.0
"""With two Primaries: so long may the peer ask for one write again and again; as `timeout` times `ko-count`, unset."""

SEQUENCE_WAIT_S: Final = 6.0
"""With two Primaries: so long may a write wait for what the peer has sent before it on the other socket."""

LAZY_FLUSH_S: Final = 1.0
"""A node of ours that waits for nothing may have its epochs flushed this late, many at once."""

PEER_REQUESTS_MAX: Final = 4096
"""Epochs of the peer that may wait here; more are flushed at once."""

PEER_READ_BYTES_MAX: Final = 256 * MIB
"""Memory for the answers to reads, and to resync requests, of the peer that are under way; more are refused."""

PROTOCOL_A_BYTES_MAX: Final = 16 * MIB
"""Protocol A: what may be on its way to the peer without its confirmation, if `sndbuf-size` does not say."""

READ_BYTES_IN_FLIGHT_MAX: Final = 64 * MIB
"""Memory for the answers of client reads under way on one node; more reads wait."""

READ_CONGESTED_REQUESTS: Final = 112
"""Requests under way on a disk that `when-congested-remote` spares: as many as a queue of 128 calls congested."""

RESYNC_AFTER_LOOK_S: Final = 1.0
"""How long a command that may begin a resync waits for the word of the resources that `resync-after` names."""

RESYNC_AFTER_RETRY_S: Final = 1.0
"""How soon such a resource is looked for again that does not run, or whose answer is not understood."""

RESYNC_IN_FLIGHT_BYTES_MAX: Final = 8 * MIB
"""What a sync target has asked for and not yet written."""

RESYNC_BUSY_BYTES_MAX: Final = MIB
"""The same while an application writes: each of its writes waits behind what is under way."""

CSUMS_REQUEST_BYTES_MAX: Final = 64 * KIB
"""The longest resync request with a checksum: if one byte of it differs, all of it is sent."""

VERIFY_IN_FLIGHT_BLOCKS_MAX: Final = 512
"""Blocks that an online verify looks at at a time. On the Primary, writes to them wait."""

VERIFY_PEER_BLOCKS_MAX: Final = 1 << 18
"""Blocks that the peer may be verifying at a time; a kernel has up to max-buffers of them, at most 131072."""

VERIFY_PIECE_BYTES: Final = 256 * KIB
"""Two nodes of ours compare so much by one digest; one that differs is looked at again block by block, as one batch."""

VERIFY_RANGES_MAX: Final = 10_000
VERIFY_MAP_CELLS_MAX: Final = 1 << 14
"""Ranges that differ in the report of a verify, which says if there are more; letters in its map of one device."""

VERIFY_READS_MAX: Final = 1024
"""Such blocks that are read for the peer at a time; the others wait."""

RESYNC_PERSIST_S: Final = 2.0
"""How often a sync target writes what is clean to disk."""

RESYNC_PIECE_BYTES: Final = 512 * KIB
"""A resync reads, sends and writes so much at a time: it fits a processor's cache, and takes no thread in between."""

RESYNC_HEAD_BYTES_MAX: Final = 64
"""What may stand before each block of such a piece, so that it leaves in one part with its header."""

RESYNC_WRITE_OUT_BYTES: Final = 32 * MIB
"""A sync target flushes after so much, while it goes on: else the flush at the end would have all of it to do."""

DISCARD_CHUNK_BYTES: Final = 32 * MIB
"""A TRIM or WRITE_ZEROES is carried out in pieces of this size, on such borders: 8 extents."""

EXTENTS_OF_BATCH_MAX: Final = 64 * (32 // 4 + 1)
"""Activity-log extents that one batch can touch: 64 requests of 32 MiB, none of them aligned."""

LINK_LINGER_S: Final = 1.0
"""How long a link that is closed on purpose may take to send its last packets."""

LINK_SEND_BYTES: Final = 256 * KIB
"""So much for the peer is sent at once, though the event that it comes from may bring more."""

LINK_RETRY_S: Final = 1.0
"""A link that ended sooner than this is tried again only after as long."""

LINK_UNREAD_ANSWERS_BYTES_MAX: Final = 128 * MIB
"""Data that the peer asked for and does not read, more than a node asks for; beyond it the data socket is not read."""

LINK_UNREAD_ACKS_BYTES_MAX: Final = 64 * MIB
"""Acknowledgements that the peer does not read; one that leaves more is left."""

PEER_BACKLOG_BYTES_MAX: Final = 64 * MIB
"""The peer's writes that wait for our disk; beyond it the data socket is not read."""

CONTROL_REQUEST_BYTES_MAX: Final = 64 * KIB
"""One request line on the control socket."""

CONTROL_RESPONSE_BYTES_MAX: Final = 4 * MIB
"""One answer on the control socket."""

CONTROL_CONNECTIONS_MAX: Final = 64
METRICS_CLIENTS_MAX: Final = 16
"""Control connections, and clients of `metrics`, at a time; more wait in the backlog."""

EVENTS_WATCHERS_MAX: Final = 32
"""Who may look on at the changes of one resource's state at a time."""

EVENTS_QUEUED_MAX: Final = 64
"""Changes of state that one who looks on has not read; of more, the oldest are forgotten."""

HELPER_TIMEOUT_S: Final = 600.0
"""How long a handler may run; fence-peer may have to wait until a node has been shot."""

HELPER_GRACE_S: Final = 2.0
"""How long a handler that must end is given to do so by itself, and its output after its end."""

HELPERS_AT_A_TIME_MAX: Final = 8
HELPERS_WAITING_MAX: Final = 64
"""Handlers of one resource that run at a time, and that wait for their turn; more are not run."""

HELPER_LINES_MAX: Final = 1000
HELPER_LINE_BYTES_MAX: Final = 1000
"""What of a handler's output goes to the log."""

STOP_TIMEOUT_S: Final = 20.0
"""How long an orderly stop of the process may take."""

DISK_STOP_TIMEOUT_S: Final = 10.0
"""How long a disk that is closed may take to finish what is under way."""

LOG_FILE_BYTES_MAX: Final = 4 * MIB
"""How large the log of a process that `up` started may grow; there is one older one at most."""

WITNESS_PAYLOAD_BYTES_MAX: Final = 4 * KIB
WITNESS_NAME_BYTES_MAX: Final = 512
"""One frame between a node and its witness, and one name in it: of a lease, of a node."""

WITNESS_TIMEOUT_S: Final = 5.0
"""How long a node waits for its witness; a Primary that has lost its peer is frozen meanwhile."""

WITNESS_RETRY_S: Final = 3.0
"""How soon a witness that did not give what it was asked for is asked again."""

WITNESS_LOOK_S: Final = 60.0
"""How often a node that is in sync with its peer looks whether the witness has a lease of it to be given back."""

WITNESS_SESSION_S: Final = 10.0
"""How long a witness bears with one connection."""

WITNESS_SESSIONS_MAX: Final = 256
"""Connections of a witness at a time; more wait in the backlog."""

WITNESS_REQUESTS_MAX: Final = 16
"""What one connection may ask."""

WITNESS_LEASES_MAX: Final = 10_000
"""Resources that one witness keeps leases of."""

WITNESS_KEY_BYTES_MAX: Final = 4 * KIB
"""The file with the key that a witness shares with its nodes."""

WITNESS_LEASE_FILE_BYTES_MAX: Final = 8 * KIB
"""The file of one lease."""
