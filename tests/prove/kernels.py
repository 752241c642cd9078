"""What a kernel and pydrbd once said to each other, cut anywhere: read as it was sent, and said again (D2, D3)."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

from pydrbd.wire.framing import PacketReader
from pydrbd.wire.packet_numbers import APV_BEFORE_FEATURES
from pydrbd.wire.packets import decode_packet
from tests.prove.run import Broken, Rung
from tests.wire.pcap import SESSIONS
from tests.wire.sessions import Seen, session_of

__all__ = ["RUNGS"]

_PACKETS_MAX = 400


@cache
def _streams() -> list[list[Seen]]:
    """What each side has said on each socket after the handshake."""
    found: dict[tuple[str, int, str], list[Seen]] = {}
    for path in sorted(SESSIONS.glob("*.pcap.xz")):
        for one in session_of(path).packets():
            if one.apv > APV_BEFORE_FEATURES:
                found.setdefault((path.name, one.connection, one.sender), []).append(one)
    return list(found.values())


def read_again(seed: int, figures: Counter[str]) -> None:
    """A part of a session, in pieces of any length. Raises Broken."""
    draw = random.Random(f"kernels/{seed}")
    said = draw.choice(_streams())
    first = draw.randrange(len(said))
    said = said[first : first + draw.randint(1, _PACKETS_MAX)]
    said = [one for one in said if (one.apv, one.socket) == (said[0].apv, said[0].socket)]
    reader, position, count = PacketReader(said[0].socket, apv=said[0].apv), 0, 0
    stream = b"".join(one.encode() for one in said)
    longest = draw.choice((1, 7, 40, 1000, 100_000))
    try:
        while position < len(stream):
            piece = draw.randint(1, longest)
            reader.feed(stream[position : position + piece])
            position += piece
            while (raw := reader.next_packet()) is not None:
                one, count = said[count], count + 1
                assert (raw.command, raw.volume, raw.payload) == (one.command, one.raw.volume, one.raw.payload)
                assert decode_packet(raw.command, raw.payload, one.context).encode() == raw.payload, raw.command.name
        assert count == len(said) and reader.is_between_packets, f"{count} of {len(said)} packets were found"
    except Exception as error:
        replay = f"python -m tests.prove --only 'kernels' --seed {seed} --once"
        raise Broken("D3", f"{type(error).__name__}: {error}", replay) from error
    figures["checked D3"] += count
    figures["checked D2"] += count


RUNGS = (Rung("kernels", 0.2, read_again),)
