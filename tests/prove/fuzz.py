"""Bytes from a stranger: what was really said, changed a little, to every parser. Each takes it or refuses it (D1).

Frames are split whole and cut in two, by C, by its Python twin's reader and byte by byte; both must find the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pydrbd import native, reference
from pydrbd.config.load import parse_config
from pydrbd.errors import PydrbdError
from pydrbd.limits import DRBD_PAYLOAD_BYTES_MAX, NBD_REQUEST_BYTES_MAX
from pydrbd.metadata.activity_log import replay
from pydrbd.metadata.apply_al import split_blocks
from pydrbd.metadata.layout import MetaKind
from pydrbd.metadata.opening import open_meta_data
from pydrbd.units import SECTOR_SIZE_BYTES
from pydrbd.wire.framing import PacketReader
from pydrbd.wire.nbd_option_data import OptionRefused, decode_context_request, decode_info_request
from pydrbd.wire.packet_numbers import FEATURES_KERNEL, SocketKind
from pydrbd.wire.packets import WireContext, decode_packet
from tests.harness.disk import MemoryDisk
from tests.harness.simulation import fresh_pair_superblock
from tests.prove.run import Broken, Rung
from tests.wire.pcap import SESSIONS
from tests.wire.sessions import session_of

__all__ = ["RUNGS", "TARGETS", "mutate"]

INPUTS_PER_SEED = 200
STREAM_BYTES_MAX = 3000
CONFIGS = Path(__file__).parents[1] / "data" / "config"
_DISK_BYTES = 1 << 20
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def mutate(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, a piece gone, doubled or cut off, a number made extreme."""
    out = bytearray(data)
    for _ in range(draw.choice((0, 1, 1, 2, 4, 16))):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(6):
            case 0 if out:
                out[at % len(out)] ^= 1 << draw.randrange(8)
            case 1 if out:
                out[at % len(out)] = draw.choice(_INTERESTING)
            case 2:
                out[at : at + draw.choice((2, 4, 8))] = bytes([draw.choice(_INTERESTING)]) * draw.choice((2, 4, 8))
            case 3:
                del out[at : at + draw.randrange(1, 9)]
            case 4:
                out[at:at] = out[at : at + draw.randrange(1, 33)]
            case 5 if draw.random() < 0.3:
                del out[at:]
            case _:
                out[at:at] = draw.randbytes(draw.randrange(1, 5))
    return bytes(out)


@cache
def _streams() -> list[bytes]:
    """Both directions of the recorded sessions, a piece from each packet boundary on."""
    pieces = []
    for path in sorted(SESSIONS.glob("*.pcap.xz")):
        packets = [one.encode() for one in session_of(path).packets()]
        for first in range(0, len(packets), 3):
            pieces.append(b"".join(packets[first : first + 6])[:STREAM_BYTES_MAX])
    return pieces


@cache
def _payloads() -> list[tuple[int, bytes]]:
    found = {}
    for path in sorted(SESSIONS.glob("*.pcap.xz")):
        for one in session_of(path).packets():
            found.setdefault((int(one.command), len(one.raw.payload)), bytes(one.raw.payload[:STREAM_BYTES_MAX]))
    return [(command, payload) for (command, _), payload in found.items()]


@cache
def _nbd_stream() -> bytes:
    requests = bytearray()
    for cookie, (command, length) in enumerate(((1, 16), (0, 4096), (3, 0), (4, 512), (6, 512), (7, 512), (2, 0))):
        requests += (0x25609513).to_bytes(4, "big") + bytes(2) + command.to_bytes(2, "big")
        requests += cookie.to_bytes(8, "big") + bytes(8) + length.to_bytes(4, "big")
        requests += bytes(length if command == 1 else 0)
    return bytes(requests)


@cache
def _disk() -> MemoryDisk:
    return MemoryDisk(_DISK_BYTES, fresh_pair_superblock(_DISK_BYTES))


def _refused_or(taken: Callable[[], object]) -> object:
    try:
        return taken()
    except (PydrbdError, OptionRefused) as error:
        return type(error)


def frames(draw: random.Random) -> None:
    """DRBD packets by the reader: whole, and in pieces, the same."""
    content = mutate(draw.choice(_streams()), draw)
    socket, apv = draw.choice(list(SocketKind)), draw.choice((80, 86, 95, 100, 101))

    def read(pieces: list[bytes]) -> tuple[list[object], str]:
        reader, found = PacketReader(socket, apv=apv), []
        try:
            for piece in pieces:
                reader.feed(piece)
                found += reader.packets()
        except PydrbdError as error:
            return found, str(error)
        return found, ""

    cut = draw.randrange(len(content) + 1)
    whole, pieces = read([content]), read([content[:cut], content[cut:]])
    assert whole == pieces, f"cut at {cut} it is another stream"


def batches(draw: random.Random) -> None:
    """The same by the native code: never more than there is."""
    content = bytearray(mutate(draw.choice(_streams()), draw))
    split = draw.choice((80, 95, 100))
    found = _refused_or(lambda: native.drbd_split(content, 0, len(content), split, draw.choice((0, 4)), 1 << 20))
    if isinstance(found, tuple):
        batch, consumed, _ = found
        assert consumed <= len(content)
        for record in batch.records[0 : batch.count]:
            assert record.data <= consumed
    requests = bytearray(mutate(_nbd_stream(), draw))
    found = _refused_or(lambda: native.nbd_split(requests, 0, len(requests), NBD_REQUEST_BYTES_MAX))
    if isinstance(found, tuple):
        assert found[1] <= len(requests)


def payloads(draw: random.Random) -> None:
    """Every packet's payload."""
    command, payload = draw.choice(_payloads())
    if draw.random() < 0.2:
        command = draw.randrange(0x50)
    context = WireContext(draw.choice((86, 95, 100, 101)), draw.choice((0, FEATURES_KERNEL)), draw.choice((0, 4, 20)))
    content = mutate(payload, draw)
    assert len(content) <= DRBD_PAYLOAD_BYTES_MAX
    _refused_or(lambda: decode_packet(command, content, context))


def options(draw: random.Random) -> None:
    """What an NBD client asks for before it begins."""
    info = (4).to_bytes(4, "big") + b"disk" + bytes((0, 2, 0, 0, 0, 3))
    context = (4).to_bytes(4, "big") + b"disk" + (1).to_bytes(4, "big") + (4).to_bytes(4, "big") + b"base"
    _refused_or(lambda: decode_info_request(mutate(info, draw)))
    _refused_or(lambda: decode_context_request(mutate(context, draw)))


def meta_data(draw: random.Random) -> None:
    """A superblock, a log and a bitmap that somebody has been at."""
    disk = _disk()
    start = disk.data_bytes
    area = bytes(disk.image[start:])
    place = draw.choice((disk.layout.superblock_offset_bytes, disk.layout.al_offset_bytes)) - start
    changed = (area[:place] + mutate(area[place : place + 256], draw) + area[place + 256 :] + bytes(4096))[: len(area)]

    def read(offset: int, length: int) -> bytes:
        return changed[offset - start : offset - start + length]

    _refused_or(lambda: open_meta_data(read, MetaKind.INTERNAL, 0, disk.sectors, disk.sectors))
    _refused_or(lambda: replay(split_blocks(changed[: 8 * SECTOR_SIZE_BYTES]), True, 1))


def configuration(draw: random.Random) -> None:
    """A .res file with mistakes."""
    files = sorted(CONFIGS.glob("*.res"))
    text = mutate(draw.choice(files).read_bytes(), draw).decode("utf-8", "replace")
    _refused_or(lambda: parse_config(text))


def twins(draw: random.Random) -> None:
    """D4: the C code for bits, and its Python twin."""
    bits = b"".join(
        draw.choice((bytes(count), b"\xff" * count, draw.randbytes(count))) for count in draw.choices(range(12), k=6)
    )
    end = draw.randint(0, 8 * len(bits))
    first = draw.randint(0, end)
    assert native.crc32c_raw(bits, first) == reference.crc32c_raw(bits, first)
    assert native.bitmap_count(bits, first, end - first) == reference.bitmap_count(bits, first, end - first)
    assert native.bitmap_find_set(bits, first, end) == reference.bitmap_find_set(bits, first, end)
    assert native.bitmap_find_clear(bits, first, end) == reference.bitmap_find_clear(bits, first, end)
    for change, twin in ((native.bitmap_set, reference.bitmap_set), (native.bitmap_clear, reference.bitmap_clear)):
        mine, its = bytearray(bits), bytearray(bits)
        assert change(mine, first, end - first) == twin(its, first, end - first)
        assert mine == its
    room = draw.randint(8, 40)  # a run may need as much as 8
    code, its_code = native.vli_encode(bits, end, first, room), reference.vli_encode(bits, end, first, room)
    assert tuple(code) == tuple(its_code)


TARGETS: dict[str, Callable[[random.Random], None]] = {
    "frames": frames, "batches": batches, "payloads": payloads, "options": options, "meta-data": meta_data,
    "configuration": configuration, "twins": twins,
}  # fmt: skip


def fuzz(seed: int, figures: Counter[str]) -> None:
    """One target, a number of inputs. Raises Broken."""
    names = sorted(TARGETS)
    name = names[seed % len(names)]
    promise = "D4" if name == "twins" else "D1"
    draw = random.Random(f"fuzz/{seed}")
    for _ in range(INPUTS_PER_SEED):
        figures["fuzz inputs"] += 1
        figures[f"checked {promise}"] += 1
        try:
            TARGETS[name](draw)
        except Exception as error:
            replay_line = f"python -m tests.prove --only 'fuzz' --seed {seed} --once"
            raise Broken(promise, f"{name}: {type(error).__name__}: {error}", replay_line) from error


RUNGS = (Rung("fuzz", 2, fuzz),)
