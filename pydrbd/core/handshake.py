"""From two fresh sockets to a peer that is known: features, authentication, parameters (WIRE 4).

    FEATURES    both send P_CONNECTION_FEATURES (h80), and read the other's
    CHALLENGE   with cram-hmac-alg: both send P_AUTH_CHALLENGE and answer the other's
    RESPONSE    the other's answer is checked
    PROTOCOL    both send P_PROTOCOL and the parameters of every volume; the first packet must be P_PROTOCOL
    DONE        the rest is in peer_state.py

Each node writes its whole block without waiting for the other's. What does not fit ends in StandAlone, as in DRBD:
trying again would not mend a configuration.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from pydrbd.core.effects import Level, Send, Socket
from pydrbd.core.quorum_options import QUORUM_MARK_BYTES
from pydrbd.errors import PeerProtocolError
from pydrbd.limits import PROTOCOL_A_BYTES_MAX
from pydrbd.wire.digests import digest_alg
from pydrbd.wire.framing import encode_packet
from pydrbd.wire.packet_numbers import FEATURES_KERNEL, AfterSb, ConnFlag, Feature, WireProtocol
from pydrbd.wire.packets import AuthChallenge, AuthResponse, Features, Packet, Protocol

if TYPE_CHECKING:
    from pydrbd.core.node import Node

__all__ = ["APV_MAX", "APV_MIN", "Handshake", "NetOptions", "Phase"]

APV_MIN = 100
APV_MAX = 101
"""The protocol versions that we speak; every 8.4 module speaks both."""

_PYDRBD_MARK = b"pydrbd\x00\x01"
"""Stands in the reserved bytes of our P_CONNECTION_FEATURES, which a kernel ignores: the peer's barriers then say
whether somebody waits for them (peer_writes.py). A byte of abilities follows, and what both must
have alike of quorum (core/quorum_options)."""

_VERIFIES_PIECES = 1
"""It may be asked for the digest of more than a block (verify.py)."""

_FEATURES_RESERVED_BYTES = 60


@dataclass(frozen=True, slots=True)
class NetOptions:
    """The connection's options that both sides must agree on, and its limits."""

    protocol: WireProtocol = WireProtocol.C
    after_sb_0pri: AfterSb = AfterSb.DISCONNECT
    after_sb_1pri: AfterSb = AfterSb.DISCONNECT
    after_sb_2pri: AfterSb = AfterSb.DISCONNECT
    always_asbp: bool = False
    rr_conflict: str = "disconnect"
    allow_two_primaries: bool = False
    cram_hmac_alg: str = ""
    shared_secret: str = field(default="", repr=False)
    use_rle: bool = True
    csums_alg: str = ""
    csums_after_crash_only: bool = False
    verify_alg: str = ""
    max_epoch_size: int = 2048
    timeout_s: float = 6.0
    ko_count: int = 7
    data_integrity_alg: str = ""
    in_flight_bytes_max: int = PROTOCOL_A_BYTES_MAX
    on_congestion: str = "block"
    congestion_fill_bytes: int = 0
    congestion_extents: int = 1237
    max_buffers: int = 2048
    """Pages of 4 KiB for what the peer may have under way here."""

    @property
    def throttle_bytes(self) -> int:
        """Protocol A: what may be on its way before clients are slowed down; congestion comes first, if it counts."""
        fill_bytes = self.congestion_fill_bytes if self.on_congestion != "block" else 0
        return max(self.in_flight_bytes_max, fill_bytes)


class Phase(Enum):
    """How far the handshake is."""

    FEATURES = auto()
    CHALLENGE = auto()
    RESPONSE = auto()
    PROTOCOL = auto()
    DONE = auto()


class Handshake:
    """One connection's handshake; made anew for each pair of sockets."""

    def __init__(self, node: Node, challenge: bytes, *, discard_my_data: bool, dry_run: bool = False) -> None:
        self._node = node
        self._challenge = challenge
        self.discard_my_data = discard_my_data
        self.dry_run = dry_run
        """One of us only wants to know what a connection would do."""
        self.peer_discards = False
        self.phase = Phase.FEATURES
        self.apv = 0
        self.features = 0
        self.verifies_pieces = False

    def start(self) -> None:
        """Say what we can."""
        mark = _PYDRBD_MARK + bytes([_VERIFIES_PIECES]) + self._node.options.quorum.agreement
        reserved = mark.ljust(_FEATURES_RESERVED_BYTES, b"\0")
        features = Features(APV_MIN, int(self._offered()), APV_MAX, reserved)
        packet = encode_packet(Packet.P_CONNECTION_FEATURES, features.encode(), apv=80)
        self._node.out.put(Send(Socket.DATA, [packet]))

    def _offered(self) -> Feature:
        """A kernel that sums data looks for a digest in P_ZEROES, too, and sends none in it itself (WIRE 18)."""
        return FEATURES_KERNEL & ~Feature.WZEROES if self._node.net.data_integrity_alg else FEATURES_KERNEL

    def on_packet(self, command: int, payload: bytes) -> None:
        """The next packet of the handshake; raises PeerProtocolError, or ends the connection in StandAlone."""
        steps = {
            Phase.FEATURES: (Packet.P_CONNECTION_FEATURES, self._on_features),
            Phase.CHALLENGE: (Packet.P_AUTH_CHALLENGE, self._on_challenge),
            Phase.RESPONSE: (Packet.P_AUTH_RESPONSE, self._on_response),
            Phase.PROTOCOL: (Packet.P_PROTOCOL, self._on_protocol),
        }
        expected, step = steps[self.phase]
        if command != expected:
            if self.phase == Phase.CHALLENGE:
                self._refuse("cram-hmac-alg is configured here, but the peer does not authenticate")
                return
            raise PeerProtocolError(f"expected {expected.name} in the handshake, got packet {command:#x}")
        step(payload)

    def _refuse(self, reason: str) -> None:
        self.phase = Phase.DONE
        self._node.give_up_connection(reason)

    def _on_features(self, payload: bytes) -> None:
        peer = Features.decode(payload)
        self.apv = min(APV_MAX, peer.protocol_max or peer.protocol_min)
        if self.apv < APV_MIN or peer.protocol_min > APV_MAX:
            self._refuse(
                f"the peer speaks DRBD protocol {peer.protocol_min} to {peer.protocol_max}, "
                f"we speak {APV_MIN} to {APV_MAX}"
            )
            return
        self.features = peer.feature_flags & int(self._offered())
        self._node.zeroes_agreed = bool(self.features & Feature.WZEROES)
        self._node.peer_is_pydrbd = peer.reserved.startswith(_PYDRBD_MARK)
        self.verifies_pieces = self._node.peer_is_pydrbd and bool(peer.reserved[len(_PYDRBD_MARK)] & _VERIFIES_PIECES)
        start = len(_PYDRBD_MARK) + 1
        theirs = peer.reserved[start : start + QUORUM_MARK_BYTES]
        if refused := self._node.options.quorum.why_not(theirs, is_pydrbd=self._node.peer_is_pydrbd):
            self._refuse(refused)
            return
        self._node.set_protocol(self.apv, bool(self.features & Feature.WSAME))
        if self._node.net.cram_hmac_alg:
            self.phase = Phase.CHALLENGE
            self._send(Packet.P_AUTH_CHALLENGE, AuthChallenge(self._challenge).encode())
        else:
            self._send_parameters()

    def _on_challenge(self, payload: bytes) -> None:
        try:
            peer = AuthChallenge.decode(payload)
        except PeerProtocolError as error:
            self._refuse(str(error))
            return
        if peer.challenge == self._challenge:
            self._refuse("the peer sent our own challenge back: a reflection attack, or a node talking to itself")
            return
        self.phase = Phase.RESPONSE
        self._send(Packet.P_AUTH_RESPONSE, AuthResponse(self._hmac(peer.challenge)).encode())

    def _on_response(self, payload: bytes) -> None:
        expected = self._hmac(self._challenge)
        response = AuthResponse.decode(payload)  # one of another length is of another algorithm
        if not hmac.compare_digest(response.response, expected):
            self._refuse("the peer's authentication failed: cram-hmac-alg or shared-secret differ")
            return
        self._node.log_line(Level.INFO, f"peer authenticated using {len(expected)} bytes HMAC")
        self._send_parameters()

    def _hmac(self, message: bytes) -> bytes:
        net = self._node.net
        return hmac.new(net.shared_secret.encode(), message, net.cram_hmac_alg).digest()

    def _send_parameters(self) -> None:
        node, net = self._node, self._node.net
        self.phase = Phase.PROTOCOL
        protocol = Protocol(
            int(net.protocol),
            int(net.after_sb_0pri),
            int(net.after_sb_1pri),
            int(net.after_sb_2pri),
            (ConnFlag.DISCARD_MY_DATA if self.discard_my_data else 0) | (ConnFlag.DRY_RUN if self.dry_run else 0),
            int(net.allow_two_primaries),
            net.data_integrity_alg,
        )
        self._send(Packet.P_PROTOCOL, protocol.encode())
        for volume in node.volumes.values():
            node.peers.send_sync_param(volume)
            node.peers.send_sizes(volume)
            node.send_uuids(volume)
            node.send_state(volume)
        node.enter_report_params()

    def _on_protocol(self, payload: bytes) -> None:
        peer, net = Protocol.decode(payload, self.apv), self._node.net
        mirrored = {AfterSb.DISCARD_LOCAL: AfterSb.DISCARD_REMOTE, AfterSb.DISCARD_REMOTE: AfterSb.DISCARD_LOCAL}
        expected_0pri = mirrored.get(net.after_sb_0pri, net.after_sb_0pri)
        self.peer_discards = bool(peer.conn_flags & ConnFlag.DISCARD_MY_DATA)
        checks = (
            ("protocol", WireProtocol(net.protocol).name, _protocol_name(peer.protocol)),
            ("after-sb-0pri", int(expected_0pri), peer.after_sb_0pri),
            ("after-sb-1pri", int(net.after_sb_1pri), peer.after_sb_1pri),
            ("after-sb-2pri", int(net.after_sb_2pri), peer.after_sb_2pri),
            ("allow-two-primaries", int(net.allow_two_primaries), peer.two_primaries),
            ("data-integrity-alg", net.data_integrity_alg, peer.integrity_alg or ""),
        )
        for name, ours, theirs in checks:
            if ours != theirs:
                self._refuse(f"the peer's {name} ({theirs!r}) differs from ours ({ours!r})")
                return
        if self.discard_my_data and self.peer_discards:
            self._refuse("both sides want to discard their data")
            return
        if peer.conn_flags & ConnFlag.DRY_RUN:
            self._node.log_line(Level.INFO, "the peer only asks what a connection would do (dry-run)")
            self.dry_run = True
        self._node.integrity = digest_alg(net.data_integrity_alg)
        self.phase = Phase.DONE

    def on_update(self, payload: bytes) -> None:
        """P_PROTOCOL_UPDATE: the peer's options have been changed while we are connected (WIRE 4.3).

        What acknowledgements it wants, each of its writes says. Another data-integrity-alg needs ours to be changed.
        """
        peer, ours = Protocol.decode(payload, self.apv, Packet.P_PROTOCOL_UPDATE), self._node.net
        theirs = peer.integrity_alg or ""
        if theirs != ours.data_integrity_alg:
            self._refuse(f"the peer's data-integrity-alg is {theirs!r} now, ours is {ours.data_integrity_alg!r}")
        elif peer.protocol != ours.protocol:
            name = _protocol_name(peer.protocol)
            self._node.log_line(Level.WARNING, f"the peer's protocol is {name} now, ours is {ours.protocol.name}")

    def _send(self, packet: Packet, payload: bytes) -> None:
        self._node.out.put(Send(Socket.DATA, [self._node.packet(packet, payload, 0)]))


def _protocol_name(number: int) -> str:
    return WireProtocol(number).name if number in (1, 2, 3) else str(number)
