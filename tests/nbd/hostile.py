"""Sessions of clients that mean it no good: recorded ones, changed in a few places, said to a live node.

No client that could be recorded speaks extended headers: what the others said is translated into them.
"""

from __future__ import annotations

import random
import struct
from functools import cache

import trio

from pydrbd.wire.nbd import Command, CommandFlag, Option
from tests.nbd.raw_client import option
from tests.nbd.record import CORPUS

__all__ = ["as_extended", "corpus", "mutate_session", "talk"]

SESSION_LIMIT_S = 60.0
MAGIC = (
    b"IHAVEOPT", b"\x25\x60\x95\x13", b"\x67\x44\x66\x98", b"\x21\xe4\x1c\x71", b"\xff" * 8, b"\0" * 8,
    b"\x7f\xff\xff\xff",
)  # fmt: skip
_COMPACT = struct.Struct(">IHHQQI")
_EXTENDED = struct.Struct(">IHHQQQ")
_COMPACT_MAGIC, _EXTENDED_MAGIC = 0x25609513, 0x21E41C71


@cache
def corpus() -> list[bytes]:
    """What was recorded (tests/nbd/record.py), and the same with extended headers."""
    recorded = [path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))]
    assert len(recorded) >= 7, "record them: python -m tests.nbd.record"
    return recorded + [as_extended(session) for session in recorded]


def as_extended(session: bytes) -> bytes:
    """The session of a client that asks for extended headers where this one asked for structured replies.

    A request that was recorded in part is left out.
    """
    at = session.find(_COMPACT_MAGIC.to_bytes(4, "big"))
    said = session if at < 0 else session[:at]
    said = said.replace(option(Option.STRUCTURED_REPLY), option(Option.EXTENDED_HEADERS))
    while 0 <= at <= len(session) - _COMPACT.size:
        magic, flags, command, cookie, offset, length = _COMPACT.unpack_from(session, at)
        assert magic == _COMPACT_MAGIC
        at += _COMPACT.size
        payload = b""
        if command == Command.WRITE:
            payload, at = session[at : at + length], at + length
            flags |= CommandFlag.PAYLOAD_LEN
            if len(payload) < length:
                break
        said += _EXTENDED.pack(_EXTENDED_MAGIC, flags, command, cookie, offset, length) + payload
    return said


def mutate_session(rng: random.Random, sessions: list[bytes]) -> bytes:
    """One of them, changed in one to four places; the first bytes less often, or none would get far."""
    data = bytearray(rng.choice(sessions))
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        at = rng.randrange(len(data)) if rng.random() < 0.3 else rng.randrange(min(len(data), 4), len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at : at + 4] = rng.randrange(1 << 32).to_bytes(4, "big")
        elif kind == 2:
            magic = rng.choice(MAGIC)
            data[at : at + len(magic)] = magic
        elif kind == 3:
            del data[at : at + rng.randint(1, 64)]
        elif kind == 4:
            other = rng.choice(sessions)
            start = rng.randrange(len(other))
            data[at:at] = other[start : start + rng.randint(1, 200)]
        elif kind == 5:
            data[at:at] = data[max(0, at - rng.randint(1, 100)) : at] * rng.randint(1, 8)
        else:
            del data[at:]
    return bytes(data)


async def talk(path: str, rng: random.Random, data: bytes) -> None:
    """One session: said in pieces, the answers read or not, ended in one way or another."""
    with trio.fail_after(SESSION_LIMIT_S):
        async with await trio.open_unix_socket(path) as stream:
            deaf, abrupt = rng.random() < 0.2, rng.random() < 0.3
            async with trio.open_nursery() as nursery:

                async def hear() -> None:
                    try:
                        while await stream.receive_some(1 << 16):
                            pass
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass

                if not deaf:
                    nursery.start_soon(hear)
                try:
                    while data:
                        size = rng.choice((1, 7, 28, 500, 1 << 16))
                        await stream.send_all(data[:size])
                        data = data[size:]
                    if not abrupt:
                        await stream.send_eof()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                if deaf or abrupt:
                    nursery.cancel_scope.cancel()
