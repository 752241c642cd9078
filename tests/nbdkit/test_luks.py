"""nbdkit's filter luks in front of a replicated disk: what clients write in clear is ciphertext on both disks.

The header is made here: `qemu-img create -f luks` measures how fast it hashes, and fails by chance when its clock is
too coarse for that.
"""

from __future__ import annotations

import hashlib
from struct import pack

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

pytestmark = pytest.mark.interop
PASSPHRASE = "open sesame"
MASTER_KEY = hashlib.shake_128(b"a key for AES-256 in XTS").digest(64)
SALT = b"salt".ljust(32, b".")
ITERATIONS = 1000
STRIPES = 8
SECTOR = 512
KEY_SECTOR, DATA_SECTOR = 8, 32
LUKS = ("--filter=luks",)


def encrypt(key, data):
    """AES in XTS mode, sector by sector; the number of each is its tweak."""
    sectors = []
    for number in range(len(data) // SECTOR):
        tweak = number.to_bytes(16, "little")
        sectors.append(Cipher(AES(key), XTS(tweak)).encryptor().update(data[number * SECTOR : (number + 1) * SECTOR]))
    return b"".join(sectors)


def derive(secret, length):
    return hashlib.pbkdf2_hmac("sha256", secret, SALT, ITERATIONS, length)


def split(key):
    """LUKS' anti-forensic splitter: all stripes are needed to have the key again."""
    stripes, mixed = [], bytes(len(key))
    for number in range(STRIPES - 1):
        stripe = bytes([number]) * len(key)
        stripes.append(stripe)
        mixed = exclusive_or(mixed, stripe)
        parts = (mixed[at : at + 32] for at in range(0, len(key), 32))
        mixed = b"".join(hashlib.sha256(pack(">I", index) + part).digest() for index, part in enumerate(parts))
    return b"".join([*stripes, exclusive_or(mixed, key)])


def exclusive_or(first, second):
    return bytes(one ^ other for one, other in zip(first, second, strict=True))


def luks_header():
    """LUKS 1, with the passphrase in the first of eight slots; up to where the data begins."""
    head = pack(
        ">6sH32s32s32sII20s32sI40s", b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256", DATA_SECTOR,
        len(MASTER_KEY), derive(MASTER_KEY, 20), SALT, ITERATIONS, b"6f3c4d1e-0000-4000-8000-000000000000",
    )  # fmt: skip
    slot = pack(">II32sII", 0x00AC71F3, ITERATIONS, SALT, KEY_SECTOR, STRIPES)
    unused = pack(">II32sII", 0xDEAD, 0, b"", KEY_SECTOR, STRIPES)
    header = (head + slot + 7 * unused).ljust(KEY_SECTOR * SECTOR, b"\0")
    header += encrypt(derive(PASSPHRASE.encode(), len(MASTER_KEY)), split(MASTER_KEY))
    return header.ljust(DATA_SECTOR * SECTOR, b"\0")


def test_the_luks_filter_encrypts_what_both_disks_get(pair):
    """The first client makes the node Primary, and only then the filter can read its header, of 592 bytes."""
    header, clear = luks_header(), hashlib.shake_128(b"clear").digest(65536)
    for node in "ab":
        with pair.image(node).open("r+b") as disk:
            disk.write(header)
    process = pair.start(f"passphrase={PASSPHRASE}", "primary=true", options=LUKS)
    pair.call("a", "wait-connect")
    pair.call("a", "new-current-uuid", "--clear-bitmap")
    with pair.client() as client:
        client.write(0, clear)
        client.flush()
        assert client.read(0, len(clear)) == clear
        assert client.read(1000, 3000) == clear[1000:4000]
    pair.end(process)
    disk = pair.image("b").read_bytes()[: len(header) + len(clear)]
    assert disk == header + encrypt(MASTER_KEY, clear) and pair.same(len(disk))
