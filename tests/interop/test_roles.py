"""Who may be Primary."""

from __future__ import annotations

import pytest

from tests.interop.pair import refused

pytestmark = pytest.mark.interop


def test_roles_change_places_and_back(pair, seed):
    """Each writes in its turn; the other has it all."""
    pair.start()
    pair.sync()
    for turn in range(3):
        pair.write(pair.first, seed + turn, 10)
        pair.switch()
    pair.assert_same()


def test_a_second_primary_is_refused(pair):
    """The Secondary may not be promoted while its peer is Primary, not even by force; nothing changes by it."""
    pair.start()
    pair.sync()
    assert "(-1)" in refused(pair.second.primary) or "Multiple primaries" in refused(pair.second.primary)
    refused(pair.second.primary, force=True)
    pair.assert_same()
    assert pair.second.states().role == "Secondary"
    pair.allow("State change failed: Multiple primaries not allowed by config", r"^\S* *\S* .*(state|wanted) = ")
