"""One cluster for all cases, built when the first one wants it; what was measured is printed at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, why_not
from tests.lab.guest import GuestFailed
from tests.lab.lab import Lab

HERE = Path(__file__).parent
TIMEOUT_S = 1500
MEASURED = pytest.StashKey[list[str]]()


def pytest_configure(config):
    config.stash[MEASURED] = []


@pytest.fixture(scope="session")
def cluster(request):
    """The cluster, or the reason why there can be none here."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Lab() as lab:
        try:
            lab.add_guest("try").start()
        except GuestFailed as error:
            pytest.skip(f"a guest can't be started here: {error}")
        lab.guests.pop("try").power_off()
        built = Cluster(lab, request.config.stash[MEASURED].append)
        built.build()
        yield built


@pytest.fixture
def measured(request):
    """Takes a line for the end of the run."""
    return request.config.stash[MEASURED].append


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[MEASURED]:
        terminalreporter.section("cluster")
        for line in config.stash[MEASURED]:
            terminalreporter.line(line)


def pytest_collection_modifyitems(items):
    """Machines take their time when this one is busy."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
            if "cluster" in item.fixturenames:
                item.add_marker(pytest.mark.cluster)
