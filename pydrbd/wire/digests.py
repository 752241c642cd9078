"""Digests over blocks as DRBD puts them on the wire: a plain hash of the data alone, by the kernel's name for it.

    crc32c    CRC-32C (Castagnoli), 4 bytes, little-endian (WIRE 9.2)
    others    the hash as it is
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from pydrbd import native
from pydrbd.wire.payload import Buffer

__all__ = ["DIGEST_NAMES", "DigestAlg", "digest_alg"]

_CRC32C: Final = "crc32c"
_HASHES: Final = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
DIGEST_NAMES: Final = (_CRC32C, *_HASHES)
"""What `data-integrity-alg`, `verify-alg` and `csums-alg` may name here."""


@dataclass(frozen=True, slots=True)
class DigestAlg:
    """One algorithm: `compute(data)` gives `size` bytes."""

    name: str
    size: int
    compute: Callable[[Buffer], bytes]


def digest_alg(name: str) -> DigestAlg | None:
    """The algorithm with the kernel's name; None if there is none here."""
    if name == _CRC32C:
        return DigestAlg(name, 4, _crc32c)
    if name not in _HASHES:
        return None
    try:
        size = hashlib.new(name, usedforsecurity=False).digest_size
    except ValueError:  # this machine's crypto policy forbids it
        return None
    return DigestAlg(name, size, partial(_hash, name))


def _crc32c(data: Buffer) -> bytes:
    return native.crc32c(data).to_bytes(4, "little")


def _hash(name: str, data: Buffer) -> bytes:
    return hashlib.new(name, data, usedforsecurity=False).digest()
