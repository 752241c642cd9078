"""Whole nodes in one process and in virtual time: Trio's clock jumps, its scheduler follows a seed, no thread runs.

What is real: services, the link's readers and senders, the NBD server, meta-data and data in files, the native code.
What is not: how the nodes find each other (two socket pairs instead), the threads that work for disks (their jobs are
done by the task that waits for them, some virtual time later), other threads (the same), chance.
"""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from pydrbd.metadata.create import plan_create
from pydrbd.metadata.layout import Layout
from pydrbd.runtime import disk, link, service, volume_disk
from pydrbd.runtime.build import blueprint
from pydrbd.runtime.lane import Lane
from pydrbd.runtime.rendezvous import Endpoints, LinkTimes, SocketPair
from pydrbd.runtime.service import Service

__all__ = ["DISK_BYTES", "Shell", "Steps", "run_virtually"]

DISK_BYTES = 1 << 20
LATENCY_S = 0.02
"""What a thread's job takes at most."""


class _Workers:
    """As runtime.workers: jobs that have begun are done, whoever waits for them."""

    def __init__(self, work: Callable[[Any], Any], thread_count: int, _name: str) -> None:
        self._work, self._thread_count = work, thread_count
        self._jobs: deque[Any] = deque()
        self._begun: list[Any] = []
        self._changed = trio.Event()
        self._is_ending = False
        self.wakeups = 0

    def submit(self, job: Any) -> None:
        assert not self._is_ending
        self._jobs.append(job)
        self._changed.set()

    async def wait(self) -> list[Any]:
        if not self._jobs and not self._begun and not self._is_ending:
            self._changed = trio.Event()
            await self._changed.wait()
        while self._jobs and len(self._begun) < self._thread_count:
            self._begun.append(self._jobs.popleft())
        await trio.sleep(Shell.draw.random() * LATENCY_S)
        begun, self._begun = self._begun, []
        self.wakeups += 1
        return [done for done in map(self._work, begun) if done is not None]

    def take_queued(self) -> list[Any]:
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs

    def end(self) -> None:
        self._is_ending = True
        self.take_queued()
        self._changed.set()

    @property
    def have_ended(self) -> bool:
        return self._is_ending and not self._begun

    def close(self) -> None:
        assert self.have_ended


async def _in_a_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    """As trio.to_thread.run_sync: once begun it is not cancelled."""
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio.CancelScope(shield=True):
        await trio.sleep(Shell.draw.random() * LATENCY_S)
    return work(*arguments)


class _Meeting:
    """Where nodes look for each other."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], tuple[trio.Event, list[SocketPair]]] = {}

    async def meet(self, ends: Endpoints, _times: LinkTimes, _rng: random.Random, _pumps: trio.Nursery) -> SocketPair:
        await trio.sleep(Shell.draw.random() * LATENCY_S)
        if ends.peer in self._waiting:
            arrived, given = self._waiting.pop(ends.peer)
            mine, its = zip(socket.socketpair(), socket.socketpair(), strict=True)
            for sock in (*mine, *its):
                sock.setblocking(False)
            given.append(SocketPair(*map(trio.socket.from_stdlib_socket, its), resolve_conflicts=True))
            arrived.set()
            return SocketPair(*map(trio.socket.from_stdlib_socket, mine), resolve_conflicts=False)
        arrived, given = waits = self._waiting[ends.local] = trio.Event(), []
        try:
            await arrived.wait()
        except trio.Cancelled:
            if self._waiting.get(ends.local) is waits:
                del self._waiting[ends.local]
            for pair in given:
                pair.close()
            raise
        return given[0]


class _Chance:
    """In place of `secrets`."""

    @staticmethod
    def randbits(count: int) -> int:
        return Shell.draw.getrandbits(count)

    @staticmethod
    def token_bytes(count: int) -> bytes:
        return Shell.draw.randbytes(count)


class Shell:
    """A resource on two nodes, each with its disk in a file; nodes are started, cancelled, stopped, started again."""

    draw = random.Random(0)

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        hosts = ""
        for minor, name in enumerate("ab"):
            self._format(self.disk(name))
            (directory / name).mkdir()
            hosts += f"on {name} {{ device minor {minor}; disk {self.disk(name)}; meta-disk internal;"
            hosts += f" address 127.0.0.1:{7001 + minor}; }}\n"
        self.config = directory / "r0.res"
        self.config.write_text(f"resource r0 {{ net {{ ping-int 1; connect-int 1; timeout 10; }}\n{hosts}}}\n")

    def disk(self, name: str) -> Path:
        return self.directory / f"{name}.img"

    @staticmethod
    def _format(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(DISK_BYTES)
            for offset, data in plan_create(Layout.internal(DISK_BYTES // 512)):
                file.seek(offset)
                file.write(data)

    def service(self, name: str) -> Service:
        found = Service(blueprint(self.config, "r0", name), self.directory / name, owns_process=False)
        found.fence_priority.directory = None
        return found

    @asynccontextmanager
    async def running(self, name: str) -> AsyncIterator[Service]:
        """A node from its start to its orderly end."""
        node, ready = self.service(name), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.serve, ready.set)
            await ready.wait()
            yield node
            node.stopping.set()


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks (from one checkpoint to the next); at one of them something happens."""

    def __init__(self, at: int = -1) -> None:
        self.at = at
        self.count = 0
        self.counting = False
        self.action: Callable[[], None] = lambda: None

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        if self.counting:
            if self.count == self.at:
                self.action()
            self.count += 1


@contextmanager
def _virtual(seed: int, *, inline: bool, lanes: bool) -> Iterator[None]:
    Shell.draw = random.Random(f"shell/{seed}")
    meeting = _Meeting()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr(disk, "Workers", _Workers)
        if not inline:
            patch.setattr(disk, "DISK_INLINE_BYTES_MAX", -1)
        patch.setattr(volume_disk, "Disk", lambda device: disk.Disk(device, clock=lambda: 0.0))
        patch.setattr(trio.to_thread, "run_sync", _in_a_thread)
        patch.setattr(link, "meet", meeting.meet)
        patch.setattr(service, "secrets", _Chance)
        patch.setattr(service, "try_address", lambda _endpoints, must_be_ours: None)
        if not lanes:
            patch.setattr(Lane, "_begin_for_peer", lambda self: False)
            patch.setattr(Lane, "_begin_for_clients", lambda self: False)
        trio._core._run._r.seed(seed)
        yield


def run_virtually(
    story: Callable[[Shell], Any], directory: Path, seed: int, steps: Steps, *, inline: bool = True, lanes: bool = False
) -> Any:
    """A story of a Shell from its beginning to its end; what it returns. The same seed has the same steps."""
    with _virtual(seed, inline=inline, lanes=lanes):
        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(story, Shell(directory), clock=clock, instruments=[steps])
