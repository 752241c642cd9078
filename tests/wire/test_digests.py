"""The digests of data on the wire."""

from __future__ import annotations

import pytest

from pydrbd.wire.digests import DIGEST_NAMES, digest_alg
from pydrbd.wire.packet_numbers import DIGEST_BYTES_MAX

VECTORS = {
    "crc32c": (bytes(4096), "8941f998"),
    "md5": (b"abc", "900150983cd24fb0d6963f7d28e17f72"),
    "sha1": (b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
    "sha256": (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_digest_is_what_everybody_computes(name: str) -> None:
    """Vectors of the standards; crc32c's bytes are those that a kernel sends."""
    data, expected = VECTORS[name]
    algorithm = digest_alg(name)
    assert algorithm is not None
    assert algorithm.compute(data) == algorithm.compute(memoryview(bytearray(data))) == bytes.fromhex(expected)


@pytest.mark.parametrize("name", DIGEST_NAMES)
def test_its_length_is_known_and_fits_the_wire(name: str) -> None:
    algorithm = digest_alg(name)
    assert algorithm is not None
    assert algorithm.name == name and len(algorithm.compute(b"")) == algorithm.size <= DIGEST_BYTES_MAX


@pytest.mark.parametrize("name", ["", "CRC32C", "crc32", "sha3_256", "shake_128", "blake2b"])
def test_other_names_are_not_known(name: str) -> None:
    """Not what hashlib has beside the kernel's names either: its peer could not know it by that name."""
    assert digest_alg(name) is None
