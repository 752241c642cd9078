"""The pace of a resync (`c-*`, `resync-rate`): the target keeps to it, whoever the source is, and all is copied."""

from __future__ import annotations

import time

import pytest

from tests.interop.pair import variant
from tests.interop.verbs import ask
from tests.lab.pydrbd_node import PydrbdNode

pytestmark = pytest.mark.interop

RATE_BYTES_S = 10 << 20


@pytest.mark.parametrize(
    "words",
    [
        "c-plan-ahead 20; c-delay-target 10; c-fill-target 1M; c-max-rate 10M; c-min-rate 4M; resync-rate 2M;",
        variant("c-plan-ahead 0; resync-rate 10M;"),
    ],
    ids=["controlled", "fixed"],
)
def test_a_resync_keeps_to_its_pace(pair, seed, words):
    """Ours is never faster than it may be, also while the Primary writes. A kernel is, on so small a disk."""
    pair.start(disk=words)
    pair.sync()
    pair.write(pair.first, seed, 20)
    begun = time.monotonic()
    ask(pair.second, "invalidate")
    pair.write(pair.first, seed + 1, 20)
    pair.assert_same(history=False)  # two kernels don't agree on it after this
    if isinstance(pair.second, PydrbdNode):
        assert time.monotonic() - begun >= 0.8 * len(pair.image) / RATE_BYTES_S
