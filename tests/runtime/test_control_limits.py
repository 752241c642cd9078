"""The control socket: whose it is, and what somebody can do with it who wants to be in the way."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from pydrbd.errors import UsageError
from pydrbd.limits import CONTROL_CONNECTIONS_MAX, CONTROL_REQUEST_BYTES_MAX
from pydrbd.runtime.run_directory import make_run_directory
from tests.runtime.test_service import make_pair, running

MORE = 8


def sockets(directory: Path) -> dict[str, int]:
    """Those in it, with their modes."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.glob("*.sock")}


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_the_sockets_of_a_node_are_for_its_user_only(short_tmp: Path) -> None:
    """Mode 0600, whatever the umask is."""
    old = os.umask(0)
    try:
        async with running(make_pair(short_tmp), short_tmp):
            modes = sockets(short_tmp)
    finally:
        os.umask(old)
    assert modes == {"r0.ctl.sock": 0o600, "r0.nbd.sock": 0o600}


async def test_who_takes_all_control_connections_takes_no_descriptor_more(short_tmp: Path) -> None:
    """One too many waits outside until there is room, and is answered then."""
    async with running(make_pair(short_tmp), short_tmp) as service:
        path = str(short_tmp / "r0.ctl.sock")
        before = descriptors()
        idle = [await trio.open_unix_socket(path) for _ in range(CONTROL_CONNECTIONS_MAX + MORE)]
        await trio.testing.wait_all_tasks_blocked()
        assert descriptors() - before <= len(idle) + CONTROL_CONNECTIONS_MAX
        for stream in idle[: MORE + 1]:
            await stream.aclose()
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b'{"verb": "status"}\n')
            answer = b""
            while not answer.endswith(b"\n"):
                answer += await stream.receive_some()
        assert json.loads(answer)["data"]["name"] == service.plan.resource.name
        for stream in idle:
            await stream.aclose()


async def test_a_request_without_an_end_is_cut_off(short_tmp: Path) -> None:
    """No more is kept of it than the longest request may have."""
    async with running(make_pair(short_tmp), short_tmp):
        stream = await trio.open_unix_socket(str(short_tmp / "r0.ctl.sock"))
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(100):
                await stream.send_all(b"x" * CONTROL_REQUEST_BYTES_MAX)
        await stream.aclose()


def test_a_run_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    """They could put sockets of their own in the place of ours."""
    place = tmp_path / "run"
    make_run_directory(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    for mode in (0o755, 0o750):
        place.chmod(mode)
        make_run_directory(place)
    for mode in (0o770, 0o777, 0o1777):
        place.chmod(mode)
        with pytest.raises(UsageError, match="other users can write to the run directory"):
            make_run_directory(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_run_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Nor a link that somebody else has laid, though it leads to a directory of ours."""
    theirs, ours, link = tmp_path / "theirs", tmp_path / "ours", tmp_path / "link"
    for place in (theirs, ours):
        place.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534)
    link.symlink_to(ours)
    make_run_directory(link)
    os.lchown(link, 65534, 65534)
    for place in (theirs, link):
        with pytest.raises(UsageError, match="belongs to another user"):
            make_run_directory(place)
