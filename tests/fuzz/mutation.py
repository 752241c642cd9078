"""How an input is changed: a few places, in the ways that parsers trip over."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["mutate"]

_INTERESTING: Final = (0, 1, 0x7F, 0x80, 0xFF)


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
