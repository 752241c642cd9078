"""One short life of two nodes and a client, interrupted at one step after the other; and what must hold afterwards.

    python -m tests.shell.sweep --seed 3 --every 1        all interruptions at every step

Whatever was interrupted ends within END_S of virtual time. Both nodes started again come together; every write that was
answered is there, on both disks; no task, file, socket or thread is left.
"""

from __future__ import annotations

import argparse
import gc
import logging
import struct
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from pydrbd.admin.progress import Progress, format_duration
from pydrbd.core.states import ConnState, DiskState, Role
from pydrbd.runtime.service import Service
from pydrbd.wire.nbd import Command, CommandFlag
from tests.nbd.raw_client import RawClient
from tests.shell.virtual import Shell, Steps, run_virtually

__all__ = ["ACTIONS", "count_steps", "interrupt"]

END_S: Final = 60.0
BLOCK_BYTES: Final = 4096
BLOCKS: Final = 6


class Broken(AssertionError):
    """What must hold afterwards does not."""


@dataclass
class Written:
    """What the client knows of each block: what was answered last, and what may have come after it."""

    sure: dict[int, int] = field(default_factory=dict)
    perhaps: dict[int, set[int]] = field(default_factory=dict)

    def begin(self, block: int, value: int) -> None:
        self.perhaps.setdefault(block, set()).add(value)

    def end(self, block: int, value: int) -> None:
        self.sure[block] = value
        self.perhaps[block] = set()

    def check(self, data: bytes) -> None:
        """Raises Broken."""
        for block in range(BLOCKS):
            found = data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            allowed = {self.sure.get(block, 0), *self.perhaps.get(block, ())}
            if found[0] not in allowed or found != found[:1] * BLOCK_BYTES:
                raise Broken(f"block {block} holds {sorted(set(found))}, and not one of {sorted(allowed)}")


class Life:
    """Two nodes and a client of `a`, under scopes that may be cancelled one by one."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.nodes: dict[str, Service] = {}
        self.scopes: dict[str, trio.CancelScope] = {}
        self.ended: dict[str, trio.Event] = {}
        self.client = trio.CancelScope()
        self.written = Written()
        self.interrupted = trio.Event()
        self.value = 0

    async def start(self, name: str, nursery: trio.Nursery) -> Service:
        """A node that is up, or has been ended before it was."""
        node, ready, over = self.shell.service(name), trio.Event(), trio.Event()
        self.nodes[name], self.ended[name] = node, over
        self.scopes[name] = trio.CancelScope()

        async def serve() -> None:
            with self.scopes[name]:
                await node.serve(ready.set)
            over.set()
            ready.set()

        nursery.start_soon(serve)
        await ready.wait()
        return node

    async def stop(self, name: str) -> None:
        """In good order. Raises TooSlowError if it takes too long."""
        self.nodes[name].stopping.set()
        with trio.fail_after(END_S):
            await self.ended[name].wait()

    def is_over(self, name: str) -> bool:
        """Whether nobody may call it any more."""
        return self.ended[name].is_set() or self.scopes[name].cancel_called

    def interrupt(self, action: str) -> None:
        """Called between two steps of the scheduler."""
        verb, _, who = action.partition(" ")
        if verb == "cancel" and who == "client":
            self.client.cancel()
        elif verb == "cancel" and who in self.scopes:
            self.scopes[who].cancel()
        elif verb == "stop" and who in self.nodes:
            self.nodes[who].stopping.set()
        elif verb == "cut" and (node := self.nodes.get("a")) is not None:
            node.link.lost(32)
        self.interrupted.set()

    # --- the story ---

    async def write(self, client: RawClient, *blocks: int, fua: bool = False) -> None:
        for block in blocks:
            self.value = value = self.value % 255 + 1
            self.written.begin(block, value)
            flags = int(CommandFlag.FUA) if fua else 0
            error, _ = await client.request(
                Command.WRITE, block * BLOCK_BYTES, data=bytes([value]) * BLOCK_BYTES, flags=flags
            )
            if error == 0:
                self.written.end(block, value)

    async def tell(self, nursery: trio.Nursery) -> None:
        """Connect, write, flush, lose the peer, write, resync, write meanwhile, demote, down."""
        a = await self.start("a", nursery)
        await self.start("b", nursery)
        assert not self.is_over("a"), "nobody is there to be told"
        await a.control.command("primary", {"force": True})
        with self.client:
            async with await trio.open_unix_socket(str(self.shell.directory / "a" / "r0.nbd.sock")) as stream:
                client = RawClient(stream)
                await client.go("r0")
                await self.write(client, 0, 1)
                await a.wait_for(lambda: _in_sync(a))
                await self.write(client, 0, 2, fua=True)
                await client.request(Command.FLUSH)
                await self.stop("b")
                await self.write(client, 1, 3)
                await self.start("b", nursery)
                await self.write(client, 4)
                await a.wait_for(lambda: _in_sync(a))
                await self.write(client, 5)
        assert not self.is_over("a")
        await a.control.command("secondary", {"force": False})
        await self.stop("a")
        await self.stop("b")

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(self._give_up, scope)
                with suppress(
                    trio.BrokenResourceError, trio.ClosedResourceError, AssertionError, OSError, struct.error
                ):
                    await self.tell(nursery)  # a client that is cut off says so in many ways
            await self.end_all()
            nursery.cancel_scope.cancel()

    async def meet_again(self) -> None:
        """Both are started again. Raises Broken."""
        async with trio.open_nursery() as nursery:
            await self.check(nursery)

    async def _give_up(self, scope: trio.CancelScope) -> None:
        """A story whose node is gone does not go on; one whose link was cut does."""
        await self.interrupted.wait()
        await trio.sleep(END_S)
        scope.cancel()

    async def end_all(self) -> None:
        for name in list(self.nodes):
            await self.stop(name)

    # --- afterwards ---

    async def check(self, nursery: trio.Nursery) -> None:
        a, b = await self.start("a", nursery), await self.start("b", nursery)
        with trio.move_on_after(END_S) as patience:
            await a.wait_for(lambda: _meets(a))
            if DiskState.UpToDate not in (a.node.volumes[0].state.disk, b.node.volumes[0].state.disk):
                await a.control.command("primary", {"force": True})  # the interruption came before there was good data
            await a.wait_for(lambda: _in_sync(a))
            await b.wait_for(lambda: _in_sync(b))
        if patience.cancelled_caught:
            raise Broken(f"they do not come together: {a.node.volumes[0].state} and {b.node.volumes[0].state}")
        if a.node.volumes[0].state.role is not Role.Primary:
            answer = await a.control.command("primary", {"force": False})
            if answer["code"] < 1:
                raise Broken(f"a can't be promoted: {answer}")
        async with await trio.open_unix_socket(str(self.shell.directory / "a" / "r0.nbd.sock")) as stream:
            client = RawClient(stream)
            await client.go("r0")
            _, read = await client.request(Command.READ, 0, BLOCKS * BLOCK_BYTES)
        self.written.check(read)
        await self.end_all()
        for name in "ab":
            self.written.check(self.shell.disk(name).read_bytes())


def _in_sync(node: Service) -> bool:
    state = node.node.volumes[0].state
    return state.conn is ConnState.Connected and state.disk is state.pdsk is DiskState.UpToDate


def _meets(node: Service) -> bool:
    return node.node.volumes[0].state.conn >= ConnState.Connected


ACTIONS = ("cancel a", "cancel b", "cancel client", "stop a", "stop b", "cut")


def count_steps(seed: int, **how: bool) -> int:
    """How many steps the story has when nothing interrupts it."""
    return _play(seed, -1, "", **how)


def interrupt(seed: int, at: int, action: str, **how: bool) -> None:
    """The same story, interrupted there. Raises what is wrong afterwards."""
    _play(seed, at, action, **how)


def _open() -> list[str]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(path.readlink()).split(":")[0])
    return sorted(found)


def _play(seed: int, at: int, action: str, **how: bool) -> int:
    steps = Steps(at)

    async def story(shell: Shell) -> None:
        life = Life(shell)
        steps.action, steps.counting = (lambda: life.interrupt(action)), True
        await life.run()
        steps.counting = False
        await life.meet_again()

    gc.collect()
    files, threads = _open(), set(threading.enumerate())
    with tempfile.TemporaryDirectory(prefix="pydrbd-", dir="/tmp") as directory:
        run_virtually(story, Path(directory), seed, steps, **how)
    gc.collect()
    left, begun = _open(), set(threading.enumerate()) - threads  # what an earlier test left may have ended meanwhile
    more = [name for name in left if left.count(name) > files.count(name)]
    if more or begun:
        raise Broken(f"left open: {more}, threads: {begun}")
    return steps.count


class Interruptions(Progress):
    """How many of them have been played: a bar on a terminal, else a line now and then."""

    def line(self) -> str:
        left_s = (self.total_bytes - self.done_bytes) / self.bytes_per_s if self.bytes_per_s else 0
        left = f"  {format_duration(left_s)} left" if left_s else ""
        return f"{self.percent:5.1f}%  {self.done_bytes} of {self.total_bytes} interruptions{left}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.shell.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="interrupt at one step in so many")
    parser.add_argument("--action", action="append", choices=ACTIONS)
    parser.add_argument("--inline", action="store_true", help="small writes by the task, not by a thread")
    parser.add_argument("--lanes", action="store_true", help="native lanes, which are not deterministic")
    options = parser.parse_args()
    how = {"inline": options.inline, "lanes": options.lanes}
    logging.lastResort = None  # nodes that are interrupted complain of each other
    count, began, failures, played = count_steps(options.seed, **how), time.monotonic(), 0, 0
    actions, steps = options.action or ACTIONS, range(0, count, options.every)
    with Interruptions(f"seed {options.seed}", len(actions) * len(steps)) as progress:
        for action in actions:
            for at in steps:
                progress.update(played)
                played += 1
                try:
                    interrupt(options.seed, at, action, **how)
                except Exception:
                    failures += 1
                    progress.clear()
                    print(f"{action} at {at}, seed {options.seed}:\n{traceback.format_exc(limit=-4)}", flush=True)
    print(f"{count} steps, {played} interruptions in {time.monotonic() - began:.0f} s: {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
