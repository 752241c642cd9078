"""Some of the long run's sessions in every run of the tests."""

from __future__ import annotations

import pytest

from tests.fuzz.live import Failed, Look, _judge, play_sessions

SESSIONS = 200


@pytest.mark.interop
def test_a_pair_outlives_such_sessions_and_fio_beside_them_finds_what_it_wrote(need, seed, rounds):
    """No crash, no hang, nothing left open, both copies the same."""
    need("fio")
    said: list[str] = []
    figures = play_sessions(SESSIONS * rounds, seed, said.append)
    assert figures.sessions == SESSIONS * rounds and figures.fio_rounds and said
    assert [name for name, *_ in figures.looks] == ["alpha", "beta"]


@pytest.mark.parametrize(
    ("rss", "descriptors", "good"),
    [
        ([50, 90, 60, 120, 52, 50, 90, 55], [18] * 8, True),
        ([50, 60, 90, 120, 140, 160, 180, 190], [18] * 8, False),
        ([50] * 8, [18, 19, 18, 20, 21, 22, 24, 30], False),
    ],
    ids=["buffers come and go", "it grows", "files stay open"],
)
def test_growth_is_what_stays(rss, descriptors, good):
    """A node that holds more and more is found, one that has had big requests is not."""
    looks = [(Look(mib << 20, files, 9),) for mib, files in zip(rss, descriptors, strict=True)]
    if good:
        assert _judge("a", looks, 0)[1:] == (looks[0][0], looks[-1][0])
    else:
        with pytest.raises(Failed, match="has grown"):
            _judge("a", looks, 0)
