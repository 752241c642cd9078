"""The prover itself: each rung takes its turn and finds nothing, and what is broken is found, told and replayable."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from pydrbd_fence import timeouts

from pydrbd.core.quorum import Quorum
from pydrbd.metadata import al_transaction
from pydrbd.wire.framing import PacketReader
from tests.harness import canaries
from tests.harness.checkers import Oracle, Violation, fill
from tests.harness.situations import SITUATIONS, SOMETIMES, Sightings
from tests.harness.world import World
from tests.prove import canary_hunt, clocks, fuzz, meetings, pieces, stories, torn
from tests.prove.__main__ import PROMISES, RUNGS, seconds_of, sightings, situations, table
from tests.prove.quote import REPORT, quoted, quoted_nothing, sentence
from tests.prove.run import Broken, Outcome, Rung, run


@pytest.mark.parametrize("rung", RUNGS, ids=[rung.name for rung in RUNGS])
def test_a_seed_of_each_rung_finds_nothing(rung: Rung, seed: int) -> None:
    """Every kind of proof is in every run of the tests, with a seed of its own."""
    figures: Counter[str] = Counter()
    rung.work(seed, figures)
    assert figures


def test_every_target_takes_strange_bytes() -> None:
    """D1: each parser, with as many inputs as a seed has."""
    figures: Counter[str] = Counter()
    for seed in range(len(fuzz.TARGETS)):
        fuzz.fuzz(seed, figures)
    assert figures["fuzz inputs"] == fuzz.INPUTS_PER_SEED * len(fuzz.TARGETS)


def test_a_flush_covers_what_the_peers_last_process_had_in_the_cache() -> None:
    """A1, A4: answered, then that process was killed; the next one had to flush it before it was Secondary again."""
    torn.tear(1598485911, Counter())


def test_the_judge_of_a_flush_that_fails_while_all_is_read() -> None:
    """A2 took it for a read: its peer, which had had the only good disk, was gone before it was answered."""
    torn.tear(1598486850, Counter())


def test_a_log_whose_checksum_nobody_looks_at_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """D10: half of a transaction is neither the old nor the new one."""
    monkeypatch.setattr(al_transaction, "_checksum", lambda _block: 0)
    with pytest.raises(Broken) as caught:
        for seed in range(40):
            torn.tear(seed, Counter())
    assert caught.value.promise == "D10"


def test_a_barrier_without_a_flush_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """B2, B4: a crash state in which a block differs and nobody knows."""
    canaries.confirm_a_barrier_without_a_flush(monkeypatch)
    with pytest.raises(Broken) as caught:
        for seed in range(40):
            torn.tear(seed, Counter())
    assert caught.value.promise in {"B2", "B4"}


def test_a_node_that_goes_on_without_its_witness_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """C1, C2: two nodes answer, or their copies part ways; the replay names the rung."""
    monkeypatch.setattr(Quorum, "needs_lease", property(lambda _self: False))
    monkeypatch.setattr(Quorum, "has", property(lambda _self: True))
    with pytest.raises(Broken) as caught:
        for seed in range(40):
            stories.ask_witness(seed, Counter())
    assert caught.value.promise in {"C1", "C2"} and "--only 'quorum' --seed" in caught.value.replay


def test_flushed_data_that_power_failure_could_take_is_found() -> None:
    """A4: what was there before a durable write must not come back; what nobody has flushed may."""
    oracle = Oracle(World(1, size_bytes=1 << 20))
    for op, durable in ((1, True), (2, False)):
        oracle.begin_write(op, 8, 8, op)
        oracle.end_write(op, 8, 8, durable=durable)
    for op in (1, 2):
        oracle.check_survives(oracle.world.a, 8, fill(op, 8, 1))
    with pytest.raises(Violation, match="A4"):
        oracle.check_survives(oracle.world.a, 8, bytes(512))


def test_a_parser_that_dies_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """D1: another exception than a refusal, with the seed that brings it back."""

    def dies(self, data):
        raise IndexError(len(data))

    monkeypatch.setattr(PacketReader, "feed", dies)
    outcome = run([*fuzz.RUNGS], 1e-9, first=sorted(fuzz.TARGETS).index("frames"), step=len(fuzz.TARGETS))
    assert outcome.failures and {failure.promise for failure in outcome.failures} == {"D1"}
    assert "--only 'fuzz' --seed" in outcome.failures[0].replay
    assert "IndexError" in table(outcome, 1.0)


def test_a_sender_that_does_not_wait_long_enough_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """C9: with clocks that may be wrong by a tenth, a margin of two seconds is not enough for a slow disk."""
    monkeypatch.setattr(timeouts, "CLOCKS", (9, 9))
    with pytest.raises(Broken) as caught:
        for seed in range(sorted(clocks.PLAYS).index("dead in time"), 1200, len(clocks.PLAYS)):
            clocks.play(seed, Counter())
    assert caught.value.promise == "C9"


def test_every_promise_has_words() -> None:
    """A1 to D11, in this order."""
    counts = {"A": 11, "B": 10, "C": 11, "D": 11}
    assert list(PROMISES) == [f"{part}{number}" for part, last in counts.items() for number in range(1, last + 1)]


def test_what_the_readme_claims_is_what_the_report_says() -> None:
    """It was put there by `python -m tests.prove.quote`, and not typed."""
    readme = REPORT.with_name("README.md").read_text()
    assert "<!-- reliability -->" in readme
    claimed = quoted(readme, json.loads(REPORT.read_text())) if REPORT.exists() else quoted_nothing(readme)
    assert claimed == readme


def test_the_readme_claims_what_was_counted() -> None:
    """Seeds of all rungs, promises that failed, situations that were never met."""
    outcome = Outcome(seeds=Counter({"a": 1200, "b": 34}), cpu_s=3600)
    outcome.figures.update({"replies": 56789, "checked B1": 3, canary_hunt.CAUGHT + "one": 1, SOMETIMES + "x": 1})
    about = {"date": "2026-11-26", "commit": "abc", "seconds": 3600, "situations": {"x": 1, "y": 0}}
    words = sentence(json.loads(outcome.as_json(**about)))
    for part in ("60 minutes", "1,234 seeds", "56,789 answered", "none failed", "1 of 2 situations", "purpose 1 were"):
        assert part in words


def test_the_report_counts_by_promise() -> None:
    """Checked and failed, for the table and for RELIABILITY.json."""

    def odd(seed: int, figures: Counter[str]) -> None:
        figures["checked B1"] += 1
        if seed == 3:
            raise Broken("B1", "they differ", "replay me")

    outcome = Outcome()
    for first in (2, 3):
        outcome.add(run([Rung("odd", 1, odd)], 1e-9, first))
    report = json.loads(outcome.as_json(first_seed=2))
    assert report["promises"] == {"B1": {"checked": 2, "failed": 1}}
    assert report["failures"][0] == {
        "rung": "odd", "seed": 3, "promise": "B1", "text": "they differ", "replay": "replay me",
    }  # fmt: skip


def test_canaries_are_hunted_in_turn() -> None:
    """What lived through its stories is said, and nothing of it is called a failure."""
    outcome = Outcome()
    outcome.figures[canary_hunt.LIVED + "never_freeze"] = 20
    outcome.figures[canary_hunt.CAUGHT + "never_freeze"] = 0
    assert "never_freeze has lived through 20 seeds" in canary_hunt.describe(outcome)[1]
    assert canary_hunt.describe(outcome)[0].startswith("canaries: 0 of 1 hunted")


def test_times_have_units() -> None:
    """As PROVE has them."""
    assert [seconds_of(text) for text in ("90s", "10m", "8h", "5")] == [90, 600, 28800, 5]
    with pytest.raises(ValueError, match="x"):
        seconds_of("x")


def test_every_promise_that_is_counted_is_in_the_table() -> None:
    """And the other way round: what the table names is checked by these rungs, seldom perhaps."""
    figures: Counter[str] = Counter()
    for rung in (*RUNGS[:2], *meetings.RUNGS, *pieces.RUNGS):
        rung.work(2, figures)
    counted = {name.removeprefix("checked ") for name in figures if name.startswith("checked ")}
    assert counted <= PROMISES.keys()


def test_what_no_story_has_met_is_said() -> None:
    """A situation that is never reached stands in the table, and in the report; one that has no name can't be seen."""
    outcome = Outcome()
    outcome.figures[SOMETIMES + "a full sync begins"] = 7
    lines = situations(outcome)
    assert f"(1 of {len(SITUATIONS)} seen)" in lines[1] and lines[2].split()[-1] == "7"
    assert {line.split()[-1] for line in lines[3:]} == {"never"}
    assert json.loads(outcome.as_json(situations=sightings(outcome)))["situations"]["a full sync begins"] == 7
    with pytest.raises(AssertionError, match="a comet"):
        Sightings(World(1, size_bytes=1 << 20)).saw("a comet")


def test_every_situation_has_one_name() -> None:
    """So that no two count as one."""
    assert len(set(SITUATIONS)) == len(SITUATIONS) >= 60
