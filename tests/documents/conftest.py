"""Two machines for a page."""

from __future__ import annotations

import os

import pytest

from tests.conftest import MARK
from tests.documents.machines import PAIR, Machines


@pytest.fixture
def machines(need, short_tmp, processes, monkeypatch, request):
    """Two bare ones; what a test is parametrized with indirectly, are others."""
    need("unshare", "nsenter", "ip", "nbdcopy", "nbdinfo")
    if os.geteuid() != 0:
        pytest.skip("only root can make machines of namespaces")
    monkeypatch.setenv(MARK, processes.mark)
    made = Machines(short_tmp, processes, getattr(request, "param", PAIR))
    yield made
    made.stop()
