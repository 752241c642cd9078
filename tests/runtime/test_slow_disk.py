"""Two whole nodes in this process: a Secondary with a slow disk makes its Primary wait, and answers pings meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from pydrbd.admin.nbd_client import NbdClient
from pydrbd.core import effects as fx
from pydrbd.core.events import Silence
from pydrbd.core.states import ConnState, DiskState
from pydrbd.metadata.create import plan_create
from pydrbd.metadata.layout import Layout
from pydrbd.runtime.service import Service
from pydrbd.units import KIB, MIB
from pydrbd.wire.nbd import Command
from tests.runtime.test_rendezvous import free_ports
from tests.runtime.test_service import running

SIZE_BYTES = 32 * MIB
WRITE_BYTES = 256 * KIB
WRITE_COUNT = 96
TOTAL_BYTES = WRITE_COUNT * WRITE_BYTES
BACKLOG_BYTES = MIB
ONE_READ_BYTES_MAX = 8 * MIB + WRITE_BYTES
"""What was in the receive buffer at the moment at which the limit was reached (runtime/buffers)."""


def write_config(directory: Path) -> Path:
    """Protocol B: only what the peer has received keeps the Primary's clients waiting, not what it has written."""
    for node in "ab":
        disk = directory / f"{node}.img"
        disk.write_bytes(bytes(SIZE_BYTES))
        with disk.open("r+b") as file:
            for offset, data in plan_create(Layout.internal(SIZE_BYTES // 512)):
                file.seek(offset)
                file.write(data)
    hosts = "".join(
        f"on {node} {{ device minor {minor}; disk {directory}/{node}.img; meta-disk internal;"
        f" address 127.0.0.1:{port}; }}\n"
        for minor, (node, port) in enumerate(zip("ab", free_ports(2), strict=True))
    )
    path = directory / "r0.res"
    path.write_text(f"resource r0 {{ net {{ protocol B; ping-int 1; connect-int 1; }}\n{hosts}}}\n")
    return path


class Watch:
    """Waits for what two nodes' events bring about."""

    def __init__(self, *services: Service) -> None:
        self._changed = trio.Event()
        for service in services:
            service.feed = self._around(service.feed)  # type: ignore[method-assign]

    def _around(self, feed: Callable[[Any], None]) -> Callable[[Any], None]:
        def fed(event: Any) -> None:
            feed(event)
            changed, self._changed = self._changed, trio.Event()
            changed.set()

        return fed

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()


def write_all(path: Path) -> None:
    """A client with everything in flight at once; each write has contents of its own."""
    with NbdClient.connect(path, "r0", depth=WRITE_COUNT) as client:
        for number in range(WRITE_COUNT):
            client.submit(Command.WRITE, number * WRITE_BYTES, payload=bytes([number + 1]) * WRITE_BYTES)
        client.flush()


def hold_back(service: Service) -> Callable[[], None]:
    """Let a node's disk begin no write and no flush, until what is returned is called."""
    disk, held = service.disks[0], list[Any]()
    start = disk.start

    def hold(effect: Any) -> None:
        if isinstance(effect, fx.DiskWrite | fx.DiskFlush):
            held.append(effect)
        else:
            start(effect)

    def release() -> None:
        disk.start = start  # type: ignore[method-assign]
        for effect in held:
            start(effect)

    disk.start = hold  # type: ignore[method-assign]
    return release


async def test_a_slow_disk_makes_the_primary_wait_and_memory_is_bounded(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading stops at the limit, plus what has been read by then; pings are answered; in the end all is there."""
    monkeypatch.setattr("pydrbd.core.peer_writes.PEER_BACKLOG_BYTES_MAX", BACKLOG_BYTES)
    config = write_config(short_tmp)
    for node in "ab":
        (short_tmp / f"run-{node}").mkdir()
    async with running(config, short_tmp / "run-a") as a, running(config, short_tmp / "run-b", node="b") as b:
        until = Watch(a, b).until
        await until(lambda: a.node.volumes[0].state.conn is ConnState.Connected)
        await a.control.command("primary", {"force": True})
        await until(lambda: b.node.volumes[0].state.disk is a.node.volumes[0].state.pdsk is DiskState.UpToDate)
        release = hold_back(b)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, write_all, short_tmp / "run-a" / "r0.nbd.sock")
            waiting = b.node.peer_writes
            try:
                await until(lambda: waiting.behind)
                for _ in range(3):
                    a.feed(Silence())
                    await until(lambda: a.node.pings_answered == a.node.pings_sent)
                assert b.link._hold_reading is not None
                assert a.node.volumes[0].state.conn is b.node.volumes[0].state.conn is ConnState.Connected
                assert BACKLOG_BYTES <= waiting.busy_bytes <= BACKLOG_BYTES + ONE_READ_BYTES_MAX < TOTAL_BYTES
            finally:
                release()
        assert not waiting.busy_bytes and not waiting.waiting_bytes
    images = [(short_tmp / f"{node}.img").read_bytes()[:TOTAL_BYTES] for node in "ab"]
    expected = b"".join(bytes([number + 1]) * WRITE_BYTES for number in range(WRITE_COUNT))
    assert images == [expected, expected]
