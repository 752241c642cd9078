"""The parsers, each with what real sessions and files have said to it.

Streams are read whole, in two pieces cut at a byte that the input names itself, and byte by byte (a long one so far as
its first bytes go, but for one in SLOWLY_ONE_IN): the same must come out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

from pydrbd import native
from pydrbd.config.load import parse_config
from pydrbd.errors import ClientProtocolError, PydrbdError
from pydrbd.limits import DRBD_PAYLOAD_BYTES_MAX, NBD_REQUEST_BYTES_MAX
from pydrbd.metadata.al_replay import replay
from pydrbd.metadata.apply_al import split_blocks
from pydrbd.metadata.bitmap import Bitmap
from pydrbd.metadata.layout import MetaKind
from pydrbd.metadata.opening import open_meta_data
from pydrbd.metadata.superblock import Superblock
from pydrbd.runtime import control_arguments
from pydrbd.units import GIB
from pydrbd.wire.bitmap_code import BitmapReceiver, encode_bitmap
from pydrbd.wire.framing import PacketReader
from pydrbd.wire.nbd_extended import ExtendedTranslator
from pydrbd.wire.nbd_negotiation import Policy
from pydrbd.wire.nbd_option_data import OptionRefused, decode_context_request, decode_info_request
from pydrbd.wire.packet_numbers import FEATURES_KERNEL, Packet, SocketKind
from pydrbd.wire.packets import WireContext, decode_packet
from pydrbd.wire.witness import (
    HEADER_BYTES,
    Kind,
    Verb,
    Verdict,
    WitnessAnswer,
    WitnessRequest,
    _answer_mac,
    decode_answer,
    decode_header,
    decode_request,
    encode_answer,
    encode_frame,
    encode_request,
    request_mac,
)
from tests.fuzz.engine import Target
from tests.harness.disk import MemoryDisk
from tests.harness.simulation import fresh_pair_superblock
from tests.nbd.hostile import corpus
from tests.nbd.test_negotiation import run as negotiate
from tests.wire.pcap import SESSIONS
from tests.wire.sessions import session_of

__all__ = ["TARGETS"]

SLOWLY_ONE_IN = 16
SLOWLY_BYTES = 64
_DISK_BYTES = 1 << 20
_PIECE_BYTES_MAX = 3000
_APVS = (80, 86, 95, 100, 101)
_BITS = 5000
_CONFIGS = Path(__file__).parents[1] / "data" / "config"
_REQUESTS = (
    b'{"verb": "status"}',
    b'{"verb": "primary", "arguments": {"force": true}}',
    b'{"verb": "resize", "arguments": {"size_sectors": 4096, "assume_clean": false, "volume": 0}}',
    b'{"verb": "options", "arguments": {"section": "net", "options": {"timeout": "30"}}}',
    b'{"verb": "wait-sync", "arguments": {"timeout_s": 1.5}}',
    b'{"verb": "adjust", "arguments": {"config": "/etc/drbd.conf", "dry_run": true}}',
)


def _refused_or(taken: Callable[[], object]) -> object:
    try:
        return taken()
    except (PydrbdError, OptionRefused) as error:
        return type(error), str(error)


def _pieces(content: bytes, cut: int) -> tuple[Sequence[bytes], ...]:
    """Whole, in two, byte by byte."""
    at = cut % (len(content) + 1)
    slowly = len(content) if zlib.crc32(content) % SLOWLY_ONE_IN == 0 else min(len(content), SLOWLY_BYTES)
    single = [content[i : i + 1] for i in range(slowly)]
    return (content,), (content[:at], content[at:]), [*single, content[slowly:]]


@cache
def _streams() -> list[tuple[SocketKind, int, bytes]]:
    found = []
    for path in sorted(SESSIONS.glob("*.pcap.xz")):
        packets = [one.encode() for one in session_of(path).packets()]
        found += [b"".join(packets[at : at + 6])[:_PIECE_BYTES_MAX] for at in range(0, len(packets), 60)]
    return [(kind, apv, content) for content in found for kind, apv in ((SocketKind.DATA, 101), (SocketKind.META, 101))]


def _frame_seeds() -> list[bytes]:
    kinds = list(SocketKind)
    return [bytes((kinds.index(kind), _APVS.index(apv), 7)) + content for kind, apv, content in _streams()]


def frames(content: bytes) -> None:
    """DRBD's packets out of a stream: by the reader, and by the native code."""
    kind, apv, cut = (*content[:3], 0, 0, 0)[:3]
    stream = content[3:]
    socket, version = list(SocketKind)[kind % len(SocketKind)], _APVS[apv % len(_APVS)]

    def read(pieces: Sequence[bytes]) -> tuple[list[object], str]:
        reader, found = PacketReader(socket, apv=version), []
        try:
            for piece in pieces:
                reader.feed(piece)
                found += reader.packets()
        except PydrbdError as error:
            return found, str(error)
        return found, ""

    results = [read(pieces) for pieces in _pieces(stream, cut)]
    assert all(one == other for one, other in pairwise(results)), "cut in another way it is another stream"
    memory = bytearray(stream)
    split = _refused_or(
        lambda: native.drbd_split(memory, 0, len(memory), (80, 95, 100)[apv % 3], cut % 2 * 4, DRBD_PAYLOAD_BYTES_MAX)
    )
    if isinstance(split[0], native.Batch):
        batch, consumed, _ = split
        assert consumed <= len(memory)
        assert all(record.data <= consumed for record in batch.records[0 : batch.count])


def _payload_seeds() -> list[bytes]:
    found = {}
    for path in sorted(SESSIONS.glob("*.pcap.xz")):
        for one in session_of(path).packets():
            payload = bytes(one.raw.payload[:_PIECE_BYTES_MAX])
            found.setdefault((int(one.command), len(payload)), bytes((int(one.command) & 0xFF, 4)) + payload)
    return list(found.values())


def payloads(content: bytes) -> None:
    """Every packet's payload, under every agreement: what is taken is said again in the same bytes."""
    command, agreed = (*content[:2], 0, 0)[:2]
    context = WireContext(_APVS[agreed % len(_APVS)], FEATURES_KERNEL if agreed & 8 else 0, (0, 4, 20)[agreed >> 4 & 1])
    _refused_or(lambda: decode_packet(command, content[2:], context))


def _nbd_sessions() -> list[bytes]:
    return [session[:_PIECE_BYTES_MAX] for session in corpus()]


def handshake(content: bytes) -> None:
    """NBD's negotiation: whole, cut, and byte by byte."""
    policy = Policy(extended=len(content) % 2 == 0)
    results = [negotiate(*pieces, policy=policy) for pieces in _pieces(content, sum(content[:16]))]
    assert all(one == other for one, other in pairwise(results)), "cut in another way it is another handshake"


def _extended_seeds() -> list[bytes]:
    found = []
    for session in _nbd_sessions():
        at = session.find(b"\x21\xe4\x1c\x71")
        found += [session[at:]] if at >= 0 else []
    return found


def extended(content: bytes) -> None:
    """NBD's requests with extended headers: what becomes of them is one that can be split, however they arrive."""

    def translated(pieces: Sequence[bytes]) -> tuple[bytes, bytes, str]:
        one, heard = ExtendedTranslator(20 * GIB, 512, [1, 2]), bytearray()
        try:
            for piece in pieces:
                data = piece
                while some := one.requests(data):
                    heard += some
                    data = b""
        except ClientProtocolError as error:  # what had been translated of the same piece is lost with it
            return b"", one.refusals(), str(error)
        return bytes(heard), one.refusals(), ""

    results = [translated(pieces) for pieces in _pieces(content, sum(content[:16]))]
    assert all(one == other for one, other in pairwise(results)), "cut in another way they are other requests"
    requests(results[0][0])


def requests(content: bytes) -> None:
    """NBD's requests: each is whole, or waits for what it needs; half of a stream holds no other ones."""

    def split(memory: bytearray) -> list[tuple[int, ...]]:
        found, start = [], 0
        while start < len(memory):
            result = _refused_or(lambda at=start: native.nbd_split(memory, at, len(memory), NBD_REQUEST_BYTES_MAX))
            if not isinstance(result[0], native.Batch):
                break
            batch, consumed, need = result
            if not batch.count:
                assert need > len(memory) - start, "a whole request was not seen"
                break
            assert 0 < consumed <= len(memory) - start
            found += [
                (one.command, one.flags, one.offset, one.length, one.data) for one in batch.records[0 : batch.count]
            ]
            start += consumed
        return found

    whole, half = split(bytearray(content)), split(bytearray(content[: len(content) // 2]))
    assert whole[: len(half)] == half


def _request_seeds() -> list[bytes]:
    found = []
    for session in _nbd_sessions():
        at = session.find(b"\x25\x60\x95\x13")
        found += [session[at:]] if at >= 0 else []
    return found


def option_data(content: bytes) -> None:
    """What is in INFO, GO and the options about contexts."""
    _refused_or(lambda: decode_info_request(content))
    _refused_or(lambda: decode_context_request(content))


def _option_seeds() -> list[bytes]:
    name = struct.pack(">I", 4) + b"disk"
    return [name + struct.pack(">HHH", 2, 0, 3), name + struct.pack(">II", 1, 4) + b"base", struct.pack(">IH", 0, 0)]


@cache
def _disk() -> MemoryDisk:
    return MemoryDisk(_DISK_BYTES, fresh_pair_superblock(_DISK_BYTES))


def _meta_data_seeds() -> list[bytes]:
    disk = _disk()
    block = bytes(disk.image[disk.layout.superblock_offset_bytes :][:4096])
    log = bytes(disk.image[disk.layout.al_offset_bytes :][:8192])
    return [block[:256] + log, block + log[:4096]]


def meta_data(content: bytes) -> None:
    """A superblock, then a log: opened as a disk's; the log, and the bitmap, by themselves."""
    disk = _disk()
    start = disk.data_bytes
    area = bytearray(disk.image[start:])
    for offset, piece in (
        (disk.layout.superblock_offset_bytes, content[:256]),
        (disk.layout.al_offset_bytes, content[256:]),
    ):
        area[offset - start : offset - start + len(piece)] = piece
    area = area[: len(disk.image) - start]

    def read(offset: int, length: int) -> bytes:
        return bytes(area[offset - start : offset - start + length])

    _refused_or(lambda: open_meta_data(read, MetaKind.INTERNAL, 0, disk.sectors, disk.sectors))
    log = content[256:].ljust(8192, b"\0")[:8192]
    _refused_or(lambda: replay(split_blocks(log), bool(content[:1] > b"\x80"), 1))
    _refused_or(lambda: Superblock.decode(content[:4096].ljust(4096, b"\0")).encode())
    bitmap = Bitmap(_BITS)
    bitmap.load(content.ljust(1024, b"\xff")[: len(bitmap.to_bytes())])
    assert 0 <= bitmap.count <= _BITS


def _bitmap_seeds() -> list[bytes]:
    found = []
    for bits in (bytes(_BITS // 8), b"\xff" * (_BITS // 8), b"\x0f\x00\x00\xff\x01" * (_BITS // 40)):
        for rle in (True, False):
            for packet, payload in encode_bitmap(bits, _BITS, 16, rle):
                found.append(bytes((packet == Packet.P_COMPRESSED_BITMAP,)) + payload)
    return found


def bitmaps(content: bytes) -> None:
    """A peer's bitmap, in packets: never a bit beyond the end."""
    packet = Packet.P_COMPRESSED_BITMAP if content[:1] > b"\0" else Packet.P_BITMAP
    bits = bytearray(-(-_BITS // 64) * 8)
    receiver = BitmapReceiver(bits, _BITS, 16)
    half = 1 + len(content) // 2
    for piece in (content[1:half], content[half:], content[1:]):
        if not isinstance(_refused_or(lambda piece=piece: receiver.receive(packet, piece)), bool):
            break
    assert not int.from_bytes(bits, "little") >> _BITS


def configuration(content: bytes) -> None:
    """A .res file."""
    _refused_or(lambda: parse_config(content.decode("utf-8", "replace")))


def control(content: bytes) -> None:
    """A line on the control socket."""
    request = control_arguments.decode_request(content)
    if not isinstance(request, str):
        verb, arguments = request
        control_arguments.wrong_arguments(verb, arguments, (0, 1))


def generations(content: bytes) -> None:
    """The identifiers of a generation as text, as create-md and get-gi have them."""
    superblock = fresh_pair_superblock(_DISK_BYTES)
    _refused_or(lambda: superblock.with_gi_text(content.decode("utf-8", "replace")).gi_text())


_KEY, _CHALLENGE, _NONCE = b"a key", bytes(range(32)), bytes(range(16))
_ASKED = encode_request(WitnessRequest(Verb.ACQUIRE, "r0:a,b", "a", 7), _KEY, _CHALLENGE, 0, _NONCE)
_MAC_BYTES = 32


def _witness_seeds() -> list[bytes]:
    requests = (WitnessRequest(verb, "r0:a,b", "b", 9, 3) for verb in Verb)
    answers = (WitnessAnswer(verdict, "a", 3, 9) for verdict in Verdict)
    payloads = [_ASKED, *(encode_request(request, _KEY, _CHALLENGE, 0, _NONCE) for request in requests)]
    frames_of = [(Kind.REQUEST, payload) for payload in payloads]
    frames_of += [(Kind.ANSWER, encode_answer(answer, _KEY, _ASKED)) for answer in answers]
    return [encode_frame(kind, payload) for kind, payload in frames_of]


def witness(content: bytes) -> None:
    """A frame between a node and its witness: as it is, and signed by somebody who knows the key.

    What is taken is what was said: it has the same bytes again.
    """
    for kind in Kind:
        _refused_or(lambda kind=kind: decode_header(content[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0"), kind))
    payload = content[HEADER_BYTES:]
    body = payload[:-_MAC_BYTES]
    for signed in (payload, body + request_mac(body, _KEY, _CHALLENGE, 0)):
        request = _refused_or(lambda signed=signed: decode_request(signed, _KEY, _CHALLENGE, 0))
        if isinstance(request, WitnessRequest):
            assert encode_request(request, _KEY, _CHALLENGE, 0, signed[24:40]) == signed
    for signed in (payload, body + _answer_mac(body, _KEY, _ASKED)):
        answer = _refused_or(lambda signed=signed: decode_answer(signed, _KEY, _ASKED))
        if isinstance(answer, WitnessAnswer) and answer.verdict is not Verdict.WRONG_KEY:
            assert encode_answer(answer, _KEY, _ASKED) == signed


TARGETS = (
    Target("frames", _frame_seeds, frames),
    Target("payloads", _payload_seeds, payloads),
    Target("nbd-handshake", _nbd_sessions, handshake),
    Target("nbd-requests", _request_seeds, requests),
    Target("nbd-extended", _extended_seeds, extended),
    Target("nbd-options", _option_seeds, option_data),
    Target("meta-data", _meta_data_seeds, meta_data),
    Target("bitmaps", _bitmap_seeds, bitmaps),
    Target("configuration", lambda: [path.read_bytes() for path in sorted(_CONFIGS.glob("*.res"))], configuration),
    Target("control", lambda: _REQUESTS, control),
    Target("witness", _witness_seeds, witness),
    Target("generations", lambda: [fresh_pair_superblock(_DISK_BYTES).gi_text().encode()], generations),
)
