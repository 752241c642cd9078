"""Stories of two nodes and their witness: with quorum there are never two Primaries, without any fencing."""

from __future__ import annotations

from collections import Counter

import pytest

from pydrbd.core.quorum import Quorum
from tests.harness.checkers import Violation
from tests.harness.quorum_story import QuorumStory

STORIES_PER_ROUND = 40


@pytest.mark.first_seed(1)
def test_never_two_nodes_that_answer_writes(seed: int, rounds: int) -> None:
    """C1 and C2 with links cut in any way, also to the witness, which dies and returns with what it has on disk."""
    totals: Counter[str] = Counter()
    count = max(1, rounds * STORIES_PER_ROUND)
    for story in range(seed, seed + count):
        totals += QuorumStory(story).run()
    print(f"{count} stories of quorum from seed {seed}: {dict(sorted(totals.items()))}")
    assert totals["checked C2"] and totals["stories"] == count


@pytest.mark.first_seed(1)
def test_the_stories_find_a_node_that_goes_on_without_the_witness(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary: without the freeze two nodes answer, or their copies part ways, and the stories say so."""
    monkeypatch.setattr(Quorum, "needs_lease", property(lambda _self: False))
    monkeypatch.setattr(Quorum, "has", property(lambda _self: True))
    with pytest.raises(Violation, match=r"C[12]: "):
        for story in range(seed, seed + STORIES_PER_ROUND):
            QuorumStory(story).run()
