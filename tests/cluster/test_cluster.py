"""What a two-node cluster is for: whatever fails, the service goes on with all that was acknowledged.

Each case begins with a whole cluster under load, and ends with one: the service on one node, everything acknowledged
there, never two Primaries, and identical copies. The times from the fault to the service are printed at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.cluster import document
from tests.cluster.cases import ANSWERS, LONG, SHORT, Case
from tests.cluster.cluster import Cluster

Say = Callable[[str], object]


def words(case: Case) -> str:
    """A case's name as one reads it."""
    return case.__name__.replace("_", " ")


def play(cluster: Cluster, case: Case, measured: Say) -> None:
    """Load, fault, service, repair, verdict."""
    began = time.monotonic()
    cluster.mend()
    cluster.wait_whole()
    primary = cluster.primary()
    with cluster.judge() as judge:
        judge.wait_answers(ANSWERS)
        moment = time.monotonic()
        served_s = case(cluster, judge, primary)
        pause_s = judge.client.longest_pause_s(moment)
        cluster.mend()
        cluster.wait_whole()
        judge.wait_answers(ANSWERS)
    judge.verdict()
    cluster.assert_identical()
    count, all_s = len(judge.client.acknowledged), time.monotonic() - began
    measured(
        f"{words(case)}: service after {served_s:.1f} s, longest pause {pause_s:.1f} s, "
        f"{count} acknowledged and all there, copies identical; the case took {all_s:.0f} s"
    )


@pytest.mark.parametrize("case", SHORT, ids=words)
def test_the_service_survives(cluster: Cluster, measured: Say, case: Case) -> None:
    """The short one: fail over, return, compare."""
    play(cluster, case, measured)


@pytest.mark.slow
@pytest.mark.parametrize("case", LONG, ids=words)
def test_the_service_survives_also(cluster: Cluster, measured: Say, case: Case) -> None:
    """The others, in the same cluster one after the other."""
    play(cluster, case, measured)


def test_the_document_is_followed() -> None:
    """Its commands are found, for each of the three machines."""
    found = document.steps(document.DOCUMENT.read_text())
    assert {name for step in found for name in step.machines} == {"alpha", "beta", "witness"}
    assert len({step.heading for step in found}) >= 6
