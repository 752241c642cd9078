"""What a node says to pydrbd-sbd of its worth: the file follows role and disk state."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from pydrbd.core.states import DiskState, Role, State
from pydrbd.runtime.fence_priority import PRIMARY, UP_TO_DATE, directory_for, worth
from tests.runtime.test_service import ask, make_pair, running


def a_state(role: Role, disk: DiskState) -> State:
    return State(role=role, disk=disk)


@pytest.mark.parametrize(
    ("states", "value"),
    [
        ([(Role.Primary, DiskState.UpToDate)], PRIMARY),
        ([(Role.Secondary, DiskState.UpToDate)], UP_TO_DATE),
        ([(Role.Primary, DiskState.Diskless)], 0),
        ([(Role.Secondary, DiskState.Outdated)], 0),
        ([(Role.Primary, DiskState.UpToDate), (Role.Primary, DiskState.Inconsistent)], 0),
        ([], 0),
    ],
)
def test_the_primary_with_good_data_is_worth_most(states: list[tuple[Role, DiskState]], value: int) -> None:
    """Old data is worth nothing, whoever has it."""
    assert worth([a_state(*pair) for pair in states]) == value


def test_only_the_machines_own_nodes_are_heard() -> None:
    """A node with another run directory plays: it must not decide a split of this machine."""
    assert directory_for(Path("/run/pydrbd")) == Path("/run/pydrbd-sbd/priority")
    assert directory_for(Path("/tmp/alpha")) is None


async def test_the_file_follows_the_node(short_tmp: Path) -> None:
    """Nothing while Inconsistent; 100 as Primary, 10 as Secondary; gone with the process."""
    place = short_tmp / "priority"
    file = place / "r0"

    async def until(text: str) -> None:
        while (file.read_text() if file.exists() else "") != text:  # noqa: ASYNC110 - a file has no event
            await trio.sleep(0.01)

    async with running(make_pair(short_tmp), short_tmp, priority_directory=place) as service:
        assert not file.exists()
        await ask(service, b'{"verb": "primary", "arguments": {"force": true}}')
        await until("100\n")
        await ask(service, b'{"verb": "secondary"}')
        await until("10\n")
        assert [path.name for path in place.iterdir()] == ["r0"]
    assert not file.exists()
