"""What the nodes and their witness say to each other: frames over TCP, little-endian, version 1.

    frame       4 "pdqw"   2 version   2 kind   4 length of what follows, at most WITNESS_PAYLOAD_BYTES_MAX
    CHALLENGE   witness    32 nonce
    REQUEST     node       1 verb   1 zero   2 length of the lease's name   2 length of the node's name
                           2 zero   8 generation   8 term   16 nonce   the two names (UTF-8)   32 MAC
    ANSWER      witness    1 verdict   1 zero   2 length of the holder's name   4 zero   8 term   8 generation
                           the name   32 MAC

The MAC is HMAC-SHA256 with the shared key. A request's covers the challenge, and how many requests came before it in
this session: none can be played again. An answer's covers the request's: none fits another question. Without a key
the same is done with an empty one, which keeps out noise and nobody else. A witness that does not know the key of a
request says WRONG_KEY in a frame that nothing signs; everything else that is not signed is refused.

    LOOK      tells who holds the lease           ACQUIRE   asks for it
    RELEASE   gives it back, if it is still of this term (core/lease.py has the rules)
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from pydrbd.errors import PeerProtocolError
from pydrbd.limits import WITNESS_NAME_BYTES_MAX, WITNESS_PAYLOAD_BYTES_MAX

__all__ = [
    "CHALLENGE_BYTES",
    "HEADER_BYTES",
    "NONCE_BYTES",
    "Kind",
    "Verb",
    "Verdict",
    "WitnessAnswer",
    "WitnessRequest",
    "decode_answer",
    "decode_header",
    "decode_request",
    "encode_answer",
    "encode_frame",
    "encode_request",
    "request_mac",
]

_MAGIC: Final = b"pdqw"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sHHI")
_REQUEST: Final = struct.Struct("<BBHHHQQ16s")
_ANSWER: Final = struct.Struct("<BBHIQQ")
assert _HEADER.size == 12 and _REQUEST.size == 40 and _ANSWER.size == 24

HEADER_BYTES: Final = _HEADER.size
CHALLENGE_BYTES: Final = 32
NONCE_BYTES: Final = 16
_MAC_BYTES: Final = 32
_Number = TypeVar("_Number", bound=IntEnum)


class Kind(IntEnum):
    CHALLENGE = 1
    REQUEST = 2
    ANSWER = 3


class Verb(IntEnum):
    LOOK = 1
    ACQUIRE = 2
    RELEASE = 3


class Verdict(IntEnum):
    GRANTED = 1
    HELD = 2
    """Another node has the lease: it may have written what this one does not have."""
    OTHER_TERM = 3
    """The lease is not of this term any more; nothing was changed."""
    WRONG_KEY = 4
    FULL = 5
    """The witness keeps as many leases as it may, or can't write this one down."""


@dataclass(frozen=True, slots=True)
class WitnessRequest:
    """What a node asks. `generation`: of its data, 64 bits; `term`: of the lease that it gives back."""

    verb: Verb
    lease: str
    node: str
    generation: int = 0
    term: int = 0


@dataclass(frozen=True, slots=True)
class WitnessAnswer:
    """What the witness says. `holder`: who has the lease now ("": nobody), with the generation that it asked with."""

    verdict: Verdict
    holder: str = ""
    term: int = 0
    generation: int = 0


def encode_frame(kind: Kind, payload: bytes) -> bytes:
    assert len(payload) <= WITNESS_PAYLOAD_BYTES_MAX
    return _HEADER.pack(_MAGIC, _VERSION, kind, len(payload)) + payload


def decode_header(header: bytes, expected: Kind) -> int:
    """The length of the payload. Raises PeerProtocolError if this is no frame of that kind."""
    magic, version, kind, length = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise PeerProtocolError("this is not the protocol of a witness")
    if version != _VERSION:
        raise PeerProtocolError(f"version {version} of the witness's protocol is not known here, {_VERSION} is")
    if kind != expected:
        raise PeerProtocolError(f"a frame of kind {kind} where {expected.name} was expected")
    if length > WITNESS_PAYLOAD_BYTES_MAX:
        raise PeerProtocolError(f"a frame of {length} bytes: at most {WITNESS_PAYLOAD_BYTES_MAX} are allowed")
    return int(length)


def encode_request(request: WitnessRequest, key: bytes, challenge: bytes, count: int, nonce: bytes) -> bytes:
    """The payload. `count`: of the requests before it in this session; `nonce`: NONCE_BYTES that were never used."""
    lease, node = _name_bytes(request.lease), _name_bytes(request.node)
    head = _REQUEST.pack(
        request.verb, 0, len(lease), len(node), 0, request.generation, request.term, nonce
    )  # fmt: skip
    body = head + lease + node
    return body + request_mac(body, key, challenge, count)


def request_mac(body: bytes, key: bytes, challenge: bytes, count: int) -> bytes:
    return hmac.digest(key, b"request" + challenge + count.to_bytes(4, "little") + body, hashlib.sha256)


def decode_request(payload: bytes, key: bytes, challenge: bytes, count: int) -> WitnessRequest | None:
    """The request; None if it is signed with another key. Raises PeerProtocolError."""
    body, mac = _signed(payload, _REQUEST.size)
    if not hmac.compare_digest(mac, request_mac(body, key, challenge, count)):
        return None
    verb, zero1, lease_bytes, node_bytes, zero2, generation, term, _nonce = _REQUEST.unpack_from(body)
    if zero1 or zero2 or len(body) != _REQUEST.size + lease_bytes + node_bytes:
        raise PeerProtocolError("a request that does not fit its own lengths")
    names = body[_REQUEST.size :]
    lease, node = _name(names[:lease_bytes]), _name(names[lease_bytes:])
    if not lease or not node:
        raise PeerProtocolError("a request without a name")
    return WitnessRequest(_known(Verb, verb), lease, node, generation, term)


def encode_answer(answer: WitnessAnswer, key: bytes, request: bytes) -> bytes:
    """The payload of the answer to a request's payload."""
    holder = _name_bytes(answer.holder)
    body = _ANSWER.pack(answer.verdict, 0, len(holder), 0, answer.term, answer.generation) + holder
    if answer.verdict is Verdict.WRONG_KEY:
        return body + bytes(_MAC_BYTES)
    return body + _answer_mac(body, key, request)


def decode_answer(payload: bytes, key: bytes, request: bytes) -> WitnessAnswer:
    """Raises PeerProtocolError, also for an answer that is not signed with our key."""
    body, mac = _signed(payload, _ANSWER.size)
    verdict, zero1, holder_bytes, zero2, term, generation = _ANSWER.unpack_from(body)
    if zero1 or zero2 or len(body) != _ANSWER.size + holder_bytes:
        raise PeerProtocolError("an answer that does not fit its own lengths")
    known = _known(Verdict, verdict)
    if known is Verdict.WRONG_KEY:
        return WitnessAnswer(known)
    if not hmac.compare_digest(mac, _answer_mac(body, key, request)):
        raise PeerProtocolError("an answer that is not signed with our key")
    return WitnessAnswer(known, _name(body[_ANSWER.size :]), term, generation)


def _answer_mac(body: bytes, key: bytes, request: bytes) -> bytes:
    return hmac.digest(key, b"answer" + request[-_MAC_BYTES:] + body, hashlib.sha256)


def _signed(payload: bytes, least: int) -> tuple[bytes, bytes]:
    if len(payload) < least + _MAC_BYTES:
        raise PeerProtocolError(f"a frame of {len(payload)} bytes is too short")
    return payload[:-_MAC_BYTES], payload[-_MAC_BYTES:]


def _name_bytes(name: str) -> bytes:
    data = name.encode()
    assert len(data) <= WITNESS_NAME_BYTES_MAX, f"the name {name!r} is too long"
    return data


def _name(data: bytes) -> str:
    if len(data) > WITNESS_NAME_BYTES_MAX:
        raise PeerProtocolError(f"a name of {len(data)} bytes: at most {WITNESS_NAME_BYTES_MAX} are allowed")
    try:
        name = data.decode()
    except UnicodeDecodeError:
        raise PeerProtocolError("a name that is not UTF-8") from None
    if not name.isprintable():
        raise PeerProtocolError("a name that can't be printed")
    return name


def _known(kind: type[_Number], number: int) -> _Number:
    try:
        return kind(number)
    except ValueError:
        raise PeerProtocolError(f"{number} is no {kind.__name__}") from None
