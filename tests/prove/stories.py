"""The simulator's stories as rungs: every kind of pair, split brains made on purpose, and quorum."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from pydrbd.core.transitions import Fencing
from pydrbd.wire.packet_numbers import WireProtocol
from tests.harness.checkers import Violation
from tests.harness.plots import PlottedSimulation
from tests.harness.quorum_story import QuorumStory
from tests.harness.simulation import Simulation, SimulationFailed
from tests.harness.situations import SOMETIMES
from tests.harness.split_brain_story import SplitBrainStory
from tests.prove.run import Broken, Rung

__all__ = ["RUNGS"]

RETOLD = 64
"""Every so many seeds a story is told a second time (D9)."""
KINDS: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("stories", 3, {}),
    ("stories with lanes", 3, {"lanes": True}),
    ("busy stories", 2, {"busy": True, "hasty": True}),
    ("busy stories with lanes", 2, {"busy": True, "lanes": True}),
    ("wide stories", 6, {"wide": True, "hasty": True}),
    ("wide stories with lanes", 6, {"wide": True, "lanes": True}),
    ("stories with a plot", 1, {"ending": 0.7, "hasty": True}),
    ("stories with a plot, resource-and-stonith", 1, {"ending": 0.7, "fencing": Fencing.RESOURCE_AND_STONITH}),
    ("stories, protocol A", 0.5, {"protocol": WireProtocol.A}),
    ("stories, protocol B", 0.5, {"protocol": WireProtocol.B}),
    ("stories, resource-only", 1, {"fencing": Fencing.RESOURCE_ONLY}),
    ("stories, resource-and-stonith", 1, {"fencing": Fencing.RESOURCE_AND_STONITH}),
    ("stories with lanes, resource-only", 1, {"fencing": Fencing.RESOURCE_ONLY, "lanes": True}),
    ("stories with lanes, resource-and-stonith", 1, {"fencing": Fencing.RESOURCE_AND_STONITH, "lanes": True}),
    ("stories that end without power", 1, {"ending": 0.9}),
    ("stories with thin resyncs", 1, {"thin": True}),
    ("stories with hasty bitmaps", 1, {"hasty": True}),
)


def tell(name: str, options: dict[str, Any], seed: int, figures: Counter[str]) -> None:
    """One story of a kind. Raises Broken."""
    kind = PlottedSimulation if "with a plot" in name else Simulation
    story = kind(seed, **options)
    try:
        story.run()
    except SimulationFailed as failure:
        raise _broken(name, seed, failure) from failure
    finally:
        figures.update(story.stats)
    figures["checked A5"] += story.stats["checked A1"]  # each read is looked at sector by sector
    figures["checked A8"] += story.stats["error replies"]
    figures["checked D2"] += 1
    if seed % RETOLD == 0:
        again = kind(seed, **options)
        again.run()
        figures["checked D9"] += 1
        if again.world.report() != story.world.report():
            raise Broken("D9", "told twice it is another story", _replay(name, seed))


def split(seed: int, figures: Counter[str]) -> None:
    """One split brain (C3). Raises Broken."""
    story = SplitBrainStory(seed)
    try:
        story.run()
    except SimulationFailed as failure:
        raise _broken("split brains", seed, failure) from failure
    for situation in story.sightings.seen:
        figures[SOMETIMES + situation] += 1
    figures["checked C3"] += 1


def ask_witness(seed: int, figures: Counter[str]) -> None:
    """Two nodes and a witness: never two that answer writes (C2), nor copies that part ways (C1). Raises Broken."""
    story = QuorumStory(seed)
    try:
        story.run()
    except AssertionError as error:
        promise = error.promise if isinstance(error, Violation) else "D1"
        raise Broken(promise, f"{type(error).__name__} {error}", _replay("quorum", seed)) from error
    figures["checked C1"] += 1
    figures["checked C2"] += story.stats["checked C2"]
    if story.stats["grants"]:
        figures[SOMETIMES + "a witness lets a node go on alone"] += 1


def _broken(name: str, seed: int, failure: SimulationFailed) -> Broken:
    error = failure.error
    promise = error.promise if isinstance(error, Violation) else "D1"
    return Broken(promise, f"{type(error).__name__} {error}", _replay(name, seed))


def _replay(name: str, seed: int) -> str:
    return f"python -m tests.prove --only {name!r} --seed {seed} --once"


RUNGS = (
    *(Rung(name, weight, partial(tell, name, options)) for name, weight, options in KINDS),
    Rung("split brains", 0.5, split),
    Rung("quorum", 0.5, ask_witness),
)
