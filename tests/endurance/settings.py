"""What both nodes are told of their connection: drawn, too."""

from __future__ import annotations

import random

_USUAL = "protocol C; ping-int 2; ping-timeout 50; connect-int 2; socket-check-timeout 5;"
"""Patient enough for a machine that has something else to do, too."""

_CHOICES = (
    ("verify-alg crc32c;", "verify-alg sha1;", "verify-alg md5;"),
    ("", "", "csums-alg crc32c;", "csums-alg sha1;"),
    ("use-rle yes;", "use-rle no;"),
    ("", "", "data-integrity-alg crc32c;"),
    ("", 'cram-hmac-alg sha256; shared-secret "as it was in the beginning";'),
    ("", "max-epoch-size 64;"),
)


def draw_settings(rng: random.Random) -> str:
    """The words of a `net` section."""
    return " ".join(filter(None, [_USUAL, *(rng.choice(words) for words in _CHOICES)]))
