"""`resync-after`: what another resource's process says, and what the node is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from pydrbd.config.load import load_config
from pydrbd.errors import ConfigError
from pydrbd.runtime.resync_after import Dependency, ResyncAfter, dependencies, is_busy


def volume(vnr: int, cstate: str, suspended: str = "no") -> dict[str, Any]:
    return {"vnr": vnr, "cstate": cstate, "resync_suspended": suspended}


def test_a_volume_that_syncs_or_is_held_is_busy() -> None:
    """As with the kernel, one that is paused keeps its place."""
    status = {"volumes": [volume(0, "Connected"), volume(1, "SyncTarget"), volume(2, "Connected", "user")]}
    assert [is_busy(status, vnr) for vnr in (0, 1, 2, 3)] == [False, True, True, False]


async def test_the_node_is_told_what_has_changed(tmp_path: Path) -> None:
    """Not running, syncing, no sense in the answer, in sync, not named any more."""
    wanted: Mapping[int, Dependency] = {0: ("other", 1)}
    told: list[dict[int, bool]] = []
    after = ResyncAfter(tmp_path, lambda: wanted, told.append)
    await after.look()
    assert not told
    answers = [volume(1, "SyncSource"), None, volume(1, "Connected"), volume(1, "SyncSource")]
    seen = []
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(tmp_path / "other.ctl.sock"))
        listener.listen()

        async def answer() -> None:
            for each in answers:
                sock, _address = await listener.accept()
                await sock.recv(1 << 16)
                data = None if each is None else {"volumes": [each]}
                await sock.send(json.dumps({"code": 1, "text": "", "data": data}).encode() + b"\n")
                sock.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            for _ in answers:
                await after.look()
                seen.append(list(told))
                told.clear()
    assert seen == [[{0: True}], [], [{0: False}], [{0: True}]]
    wanted = {}
    await after.look()
    assert told == [{0: False}]


def configuration(directory: Path, *after: str) -> Path:
    """Resources r0, r1 ... of one volume each, that wait for the ones that are given."""
    text = ""
    for number, other in enumerate(after):
        hosts = "".join(
            f"on {name} {{ device minor {number}; disk /srv/{name}{number}; meta-disk internal; "
            f"address 127.0.0.1:{port + number}; }}\n"
            for name, port in (("a", 7700), ("b", 7800))
        )
        disk = f"disk {{ resync-after {other}; }}" if other else ""
        text += f"resource r{number} {{ {disk}\n{hosts}}}\n"
    path = directory / "all.res"
    path.write_text(text)
    return path


def test_who_waits_for_whom_is_read_from_the_configuration(tmp_path: Path) -> None:
    """A name alone means volume 0."""
    config = load_config(configuration(tmp_path, "", "r0", "r1/0"))
    found = [dependencies(resource.hosts[0]) for resource in config.resources]
    assert found == [{}, {0: ("r0", 0)}, {0: ("r1", 0)}]


@pytest.mark.parametrize("after", [("r0",), ("r1", "r0/0"), ("r2", "r0", "r1")])
def test_a_circle_is_a_mistake(tmp_path: Path, after: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"'resync-after': 'r0/0' waits for itself"):
        load_config(configuration(tmp_path, *after))
