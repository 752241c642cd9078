"""A few seconds of fuzzing in every run, and the loop finds what is planted."""

from __future__ import annotations

import pytest

from pydrbd.runtime.control_arguments import decode_request
from tests.fuzz.engine import Campaign, Target
from tests.fuzz.targets import TARGETS

INPUTS = 300


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_parser_takes_what_comes_of_real_sessions(target: Target, seed: int, rounds: int) -> None:
    """D1: refused or taken, whole or in pieces; nothing else, and not slowly."""
    campaign = Campaign(target, seed)
    campaign.go_on(INPUTS * rounds)
    assert not campaign.findings, campaign.findings[0].text


def planted(content: bytes) -> None:
    """Fails for any request but one."""
    request = decode_request(content)
    assert isinstance(request, str) or request[0] == "status", "planted"


def test_what_is_planted_is_found_and_the_same_seed_finds_it_again() -> None:
    """Two runs with one seed are the same; a failure is kept with its input."""
    target = Target("planted", lambda: (b'{"verb": "status"}',), planted)
    campaigns = [Campaign(target, 3) for _ in range(2)]
    for campaign in campaigns:
        campaign.go_on(3000)
    assert campaigns[0].corpus == campaigns[1].corpus and campaigns[0].places == campaigns[1].places
    found = [finding.content for finding in campaigns[0].findings]
    assert found and found == [finding.content for finding in campaigns[1].findings]
    with pytest.raises(AssertionError, match="planted"):
        planted(found[0])


def test_what_reaches_new_lines_is_kept() -> None:
    """And what does not is forgotten: coverage leads the way."""
    target = next(target for target in TARGETS if target.name == "nbd-handshake")
    campaign = Campaign(target, 1)
    kept, places = len(campaign.corpus), campaign.places
    campaign.go_on(1000)
    assert len(campaign.corpus) > kept and campaign.places > places
    assert len(campaign.corpus) < 300
