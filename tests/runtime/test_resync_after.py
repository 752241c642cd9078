"""`resync-after`: what another resource's process says, and what the node is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from pydrbd.config.load import load_config
from pydrbd.errors import ConfigError
from pydrbd.limits import RESYNC_AFTER_LOOK_S, RESYNC_AFTER_RETRY_S
from pydrbd.runtime.build import blueprint
from pydrbd.runtime.resync_after import Dependency, ResyncAfter, dependencies, is_busy
from pydrbd.runtime.service import Service
from tests.runtime.test_service import make_pair

LIMIT_S = 60.0


def volume(vnr: int, cstate: str, suspended: str = "no") -> dict[str, Any]:
    return {"vnr": vnr, "cstate": cstate, "resync_suspended": suspended}


def answer(*volumes: dict[str, Any]) -> bytes:
    return json.dumps({"code": 1, "text": "", "data": {"volumes": list(volumes)}}).encode() + b"\n"


BUSY, IDLE = answer(volume(1, "SyncSource")), answer(volume(1, "Connected"))
REFUSED = b'{"code": 0, "text": "32 look on already", "data": null}\n'
OTHER = "other.ctl.sock"


def test_a_volume_that_syncs_or_is_held_is_busy() -> None:
    """As with the kernel, one that is paused keeps its place; one that is about to begin has its place already."""
    status = {"volumes": [volume(0, "Connected"), volume(1, "SyncTarget"), volume(2, "Connected", "user")]}
    assert [is_busy(status, vnr) for vnr in (0, 1, 2, 3)] == [False, True, True, False]
    assert all(is_busy({"volumes": [volume(0, word)]}, 0) for word in ("StartingSyncT", "WFSyncUUID", "VerifyT"))


class Other:
    """Another resource's process: takes connections, and says what it is told to."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / OTHER
        self.asked: list[str] = []
        self.connections: list[trio.SocketStream] = []
        self.says: list[bytes] = []
        """What each connection hears first; the last for all that come later."""
        self._scope = trio.CancelScope()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with trio.socket.socket(trio.socket.AF_UNIX) as listener, self._scope:
                await listener.bind(str(self.path))
                listener.listen()
                task_status.started()
                while True:
                    stream = trio.SocketStream((await listener.accept())[0])
                    self.connections.append(stream)
                    request = await stream.receive_some()
                    if request:  # or it was given up before it was heard
                        self.asked.append(json.loads(request)["verb"])
                        await self.send(self.says.pop(0) if len(self.says) > 1 else self.says[0])
        finally:
            self.path.unlink()
            for stream in self.connections:
                stream.socket.close()

    async def send(self, data: bytes) -> None:
        with suppress(trio.BrokenResourceError):
            await self.connections[-1].send_all(data)

    def end(self) -> None:
        """Its process is gone."""
        self._scope.cancel()


class Node:
    """Whoever waits: what it was told, and a way to wait until it is told something."""

    def __init__(self, directory: Path) -> None:
        self.wanted: Mapping[int, Dependency] = {0: ("other", 1)}
        self.told: list[dict[int, bool]] = []
        self.after = ResyncAfter(directory, lambda: self.wanted, self._tell)
        self._news = trio.Event()

    def _tell(self, waits: dict[int, bool]) -> None:
        self.told.append(waits)
        self._news.set()

    async def hears(self, waits: dict[int, bool]) -> None:
        """The next thing that it is told."""
        with trio.fail_after(LIMIT_S):
            while not self.told:
                self._news = trio.Event()
                await self._news.wait()
        assert self.told.pop(0) == waits and not self.told


async def test_each_change_is_told_on_one_connection(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Nothing is asked again, so nothing is late; the end of the process ends the waiting."""
    other, node = Other(tmp_path), Node(tmp_path)
    other.says = [IDLE]
    await nursery.start(other.serve)
    await nursery.start(node.after.follow)
    await node.after.look()
    assert not node.told
    for _ in range(3):
        await other.send(BUSY + IDLE + BUSY)
        await node.hears({0: True})
        await other.send(IDLE)
        await node.hears({0: False})
    assert set(other.asked) == {"events"} and len(other.asked) <= 2  # one was replaced by look()
    await other.send(BUSY)
    await node.hears({0: True})
    other.end()
    await node.hears({0: False})


async def test_one_that_does_not_run_is_looked_for_again(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Every RESYNC_AFTER_RETRY_S; it holds nobody up, also none that asks for its word."""
    other, node = Other(tmp_path), Node(tmp_path)
    await nursery.start(node.after.follow)
    await trio.sleep(10.5 * RESYNC_AFTER_RETRY_S)
    begin = trio.current_time()
    await node.after.look()
    assert not node.told and trio.current_time() == begin
    other.says = [BUSY]
    await nursery.start(other.serve)
    begin = trio.current_time()
    await node.hears({0: True})
    assert trio.current_time() - begin <= RESYNC_AFTER_RETRY_S


async def test_one_whose_answer_makes_no_sense_is_as_it_was(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked again, twice in RESYNC_AFTER_RETRY_S, and complained of once."""
    other, node = Other(tmp_path), Node(tmp_path)
    other.says = [BUSY, b"nonsense\n", b'{"data": {"volumes": [{}]}}\n', b"[" * 10_000 + b"\n", b"[]\n"]
    await nursery.start(other.serve)
    await nursery.start(node.after.follow)
    await node.hears({0: True})
    asked = len(other.asked)
    await node.after.look()
    await trio.sleep(10.5 * RESYNC_AFTER_RETRY_S)
    assert not node.told and len(other.asked) - asked == 2 * 11
    assert [record.message for record in caplog.records if "can be understood" in record.message] == [
        f"resync-after: no answer that can be understood on {other.path}"
    ]
    other.says = [IDLE]
    await node.hears({0: False})


async def test_one_that_has_enough_who_look_on_is_asked_how_it_is(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """By `status`, as often as one that does not run is looked for."""
    other, node = Other(tmp_path), Node(tmp_path)
    other.says = [REFUSED, BUSY, REFUSED, IDLE, REFUSED, BUSY]
    await nursery.start(other.serve)
    await nursery.start(node.after.follow)
    for waits in (True, False, True):
        await node.hears({0: waits})
    assert other.asked == ["events", "status"] * 3


async def test_a_silent_one_is_as_it_was_and_costs_a_command_only_so_much(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """RESYNC_AFTER_LOOK_S; when it speaks again it is heard."""
    other, node = Other(tmp_path), Node(tmp_path)
    other.says = [BUSY, b""]
    await nursery.start(other.serve)
    await nursery.start(node.after.follow)
    await node.hears({0: True})
    begin = trio.current_time()
    await node.after.look()
    assert not node.told and trio.current_time() == begin + RESYNC_AFTER_LOOK_S
    await other.send(IDLE)
    await node.hears({0: False})


async def test_what_it_said_before_it_was_asked_does_not_count(tmp_path: Path, nursery: trio.Nursery) -> None:
    """What is still under way on the old connection never comes after the answer."""
    other, node = Other(tmp_path), Node(tmp_path)
    other.says = [IDLE, BUSY]
    await nursery.start(other.serve)
    await nursery.start(node.after.follow)
    with trio.fail_after(LIMIT_S):
        await trio.testing.wait_all_tasks_blocked()
        await other.send(IDLE)
        async with trio.open_nursery() as both:
            both.start_soon(node.after.look)
            both.start_soon(node.after.look)
    assert node.told == [{0: True}]


async def test_another_configuration_is_followed(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Who is not named any more is not listened to, and holds nobody up; and back."""
    other, node = Other(tmp_path), Node(tmp_path)
    other.says = [BUSY]
    await nursery.start(other.serve)
    await nursery.start(node.after.follow)
    await node.hears({0: True})
    node.wanted = {}
    node.after.renew()
    await node.hears({0: False})
    with trio.fail_after(LIMIT_S):
        assert await other.connections[-1].receive_some() == b""
    node.wanted = {0: ("other", 0), 1: ("other", 1)}
    node.after.renew()
    await node.hears({1: True})


@asynccontextmanager
async def two_resources(directory: Path, run_dir: Path) -> AsyncIterator[tuple[Service, Service]]:
    """r0, and r1 whose volume waits for that of r0; a node of each."""
    services = []
    for name, words in (("r0", ""), ("r1", "disk { resync-after r0; }")):
        (directory / name).mkdir()
        path = make_pair(directory / name, name)
        path.write_text(path.read_text().replace("net {", f"{words} net {{"))
        service = Service(blueprint(path, name, "a"), run_dir, owns_process=False)
        service.fence_priority.directory = None
        services.append(service)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for service in services:
                ready = trio.Event()
                nursery.start_soon(service.serve, ready.set)
                await ready.wait()
            yield services[0], services[1]
            for service in services:
                service.stopping.set()


async def test_each_change_is_heard_of(tmp_path: Path, short_tmp: Path) -> None:
    """With no command in between; and an adjust ends it."""
    async with two_resources(tmp_path, short_tmp) as (r0, r1):
        for verb, held in (("pause-sync", True), ("resume-sync", False), ("pause-sync", True)):
            assert (await r0.control.command(verb, {}))["code"] == 1
            await r1.wait_for(lambda held=held: r1.node.volumes[0].state.aftr_isp == held)
        path = tmp_path / "r1" / "r0.res"
        path.write_text(path.read_text().replace("resync-after r0;", ""))
        assert (await r1.control.command("adjust", {"config": str(path)}))["code"] == 1
        assert not r1.node.volumes[0].state.aftr_isp
        assert r0.watchers.count <= 1


async def test_a_command_that_may_begin_a_resync_asks_first(
    tmp_path: Path, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nothing were told of a change: how the other one is by now counts, before the command is carried out."""
    async with two_resources(tmp_path, short_tmp) as (r0, r1):
        monkeypatch.setattr(r0.watchers, "tell", lambda: None)
        for verb in ("invalidate", "attach", "connect", "invalidate-remote", "resume-sync"):
            for other in ("pause-sync", "resume-sync"):
                assert (await r0.control.command(other, {}))["code"] == 1
                await r1.control.command(verb, {})
                assert r1.node.volumes[0].state.aftr_isp == (other == "pause-sync"), verb


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
