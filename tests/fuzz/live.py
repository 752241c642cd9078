"""Whole sessions of clients that mean it no good, on a real pair; and fio beside them, which must not notice.

The sessions go to volume 0 of the Primary, many at once; fio writes to volume 1 and reads all back, again and again.
Afterwards both nodes are the size that they were, nothing is open that was not, both copies are the same.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from pydrbd.admin.demo_pair import LocalNode, LocalPair
from pydrbd.units import MIB
from tests.fuzz.engine import rss_bytes
from tests.nbd.hostile import corpus, mutate_session, talk

__all__ = ["Failed", "Figures", "play_sessions"]

AT_ONCE: Final = 16
SESSIONS_PER_LOOK: Final = 1000
"""Between two looks at the nodes: all sessions have ended then."""
GROWTH_BYTES_MAX: Final = 64 << 20
"""What a node's process may grow: in 100,000 sessions less than 700 bytes of each could be left."""
QUIET_S: Final = 60.0
"""How long the last sessions may take to be gone after their clients."""
BESIDE_DESCRIPTORS: Final = 4
"""What fio, and the lane that carries what it says, may have open."""
VOLUME_BYTES: Final = 16 * MIB
FORBIDDEN: Final = ("Traceback", "AssertionError", "Fatal Python error", "broke the protocol", "error in pydrbd")
FIO: Final = (
    "fio", "--name=beside", "--ioengine=nbd", "--rw=randwrite", "--bs=4k", "--iodepth=4", "--size=2M", "--io_size=2M",
    "--rate_iops=200", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1",
    "--verify_state_save=0",
)  # fmt: skip


class Failed(Exception):
    """Something that no session may bring about."""


@dataclass(frozen=True)
class Look:
    """A node's process, when nobody but fio is connected."""

    rss_bytes: int
    descriptors: int
    threads: int

    @classmethod
    def at(cls, node: LocalNode) -> Look:
        process = Path(f"/proc/{node.pid}")
        return cls(rss_bytes(node.pid), len(list((process / "fd").iterdir())), len(list((process / "task").iterdir())))

    def __str__(self) -> str:
        return f"{self.rss_bytes >> 10} KiB, {self.descriptors} open files, {self.threads} threads"


@dataclass(frozen=True)
class Figures:
    """What was done."""

    sessions: int
    spent_s: float
    fio_rounds: int
    looks: tuple[tuple[str, Look, Look], ...]
    """Name, after the first sessions, after the last ones."""


def play_sessions(count: int, seed: int, say: Callable[[str], None]) -> Figures:
    """So many sessions. Raises Failed, and whatever a pair that does not work raises."""
    with tempfile.TemporaryDirectory(prefix="pydrbd-fuzz-", dir="/tmp") as directory:  # a short path
        pair = _two_volumes(Path(directory))
        try:
            pair.create_meta_data()
            for node in pair:
                node.start()
            pair.nodes[0].grant("primary", force=True)
            pair.wait_until(lambda: _in_sync(pair), "the first sync")
            figures = trio.run(_play, pair, count, seed, say)
            pair.wait_until(lambda: _in_sync(pair), "both copies to be the same")
            _compare(pair)
            return figures
        finally:
            pair.stop_all(orderly=True)


def _two_volumes(directory: Path) -> LocalPair:
    """A pair with a volume for the sessions and one for fio, which offers extended headers."""
    pair = LocalPair(directory, size_bytes=VOLUME_BYTES)
    text = pair.config_path.read_text()
    for node in pair:
        for volume in range(2):
            with _disk(node, volume).open("wb") as disk:
                disk.truncate(VOLUME_BYTES)
    minors = iter(range(10, 14))

    def volumes(found: re.Match[str]) -> str:
        name, (address,) = found[1], re.findall(r"address .*", found[2])
        blocks = "".join(
            f'volume {volume} {{ device minor {next(minors)}; disk "{directory}/{name}.img{volume or ""}"; '
            "meta-disk internal; }\n"
            for volume in range(2)
        )
        return f"on {name} {{\n{blocks}{address}\n}}"

    pair.config_path.write_text(re.sub(r"on (\w+) \{(.*?)\n    \}", volumes, text, flags=re.DOTALL))
    (directory / "pydrbd.toml").write_text("[resource.r0]\nnbd-extended-headers = true\n")
    return pair


def _disk(node: LocalNode, volume: int) -> Path:
    return node.disk_path.with_name(f"{node.name}.img{volume or ''}")


def _in_sync(pair: LocalPair) -> bool:
    return all(
        (one["cstate"], one["disk"], one["peer_disk"]) == ("Connected", "UpToDate", "UpToDate")
        and not any(one["pending"].values())
        for node in pair
        for one in node.status()["volumes"]
    )


async def _play(pair: LocalPair, count: int, seed: int, say: Callable[[str], None]) -> Figures:
    primary, draw, sessions = pair.nodes[0], random.Random(f"sessions/{seed}"), corpus()
    path, idle = str(primary.nbd_socket), Look.at(primary).descriptors
    began, done, looks = time.monotonic(), 0, []
    beside = _Beside(path, seed, pair.directory)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beside.run)
        while done < count:
            some = min(SESSIONS_PER_LOOK, count - done)
            said = iter([(random.Random(draw.random()), mutate_session(draw, sessions)) for _ in range(some)])
            async with trio.open_nursery() as clients:
                for _ in range(AT_ONCE):
                    clients.start_soon(_client, path, said)
            done += some
            await _gone(primary, idle + BESIDE_DESCRIPTORS)
            looks.append(tuple(Look.at(node) for node in pair))
            say(f"{done} sessions in {time.monotonic() - began:.0f} s; {primary}: {looks[-1][0]}")
        spent_s = time.monotonic() - began
        beside.stopping = True
    await _gone(primary, idle)
    looks.append(tuple(Look.at(node) for node in pair))
    return Figures(done, spent_s, beside.rounds, tuple(_judge(node.name, looks, at) for at, node in enumerate(pair)))


def _judge(name: str, looks: list[tuple[Look, ...]], at: int) -> tuple[str, Look, Look]:
    """The first and the last look; raises Failed if the node has grown between them.

    Buffers of big requests come and go, so that the least of some looks counts.
    """
    own = [look[at] for look in looks]
    some = max(1, len(own) // 4)
    grown_bytes = min(look.rss_bytes for look in own[-some:]) - min(look.rss_bytes for look in own[:some])
    if grown_bytes > GROWTH_BYTES_MAX or own[-1].descriptors > own[0].descriptors + BESIDE_DESCRIPTORS:
        raise Failed(f"{name} has grown: {'; '.join(map(str, own))}")
    return name, own[0], own[-1]


class _Beside:
    """fio, which writes and reads back what it has written, and must always find it."""

    def __init__(self, path: str, seed: int, directory: Path) -> None:
        self._words = [*FIO, f"--randseed={seed % (1 << 31)}", f"--uri=nbd+unix:///r0/1?socket={path}"]
        self._directory = directory
        self.rounds = 0
        self.stopping = False

    async def run(self) -> None:
        """Until it is told to stop, once at least. Raises Failed."""
        while not self.rounds or not self.stopping:
            ended = await trio.run_process(
                self._words, capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=self._directory
            )
            if ended.returncode:
                raise Failed(f"fio beside the sessions:\n{ended.stdout.decode(errors='replace')}")
            self.rounds += 1


async def _client(path: str, said: Iterator[tuple[random.Random, bytes]]) -> None:
    for how, data in said:
        await talk(path, how, data)


async def _gone(node: LocalNode, descriptors: int) -> None:
    """Until a node has no more open than that; after QUIET_S it has what it has, for the looks to tell."""
    with trio.move_on_after(QUIET_S):
        while Look.at(node).descriptors > descriptors:  # noqa: ASYNC110 - another process can't set an event
            await trio.sleep(0.05)


def _compare(pair: LocalPair) -> None:
    for volume in range(2):
        one, other = (_disk(node, volume).read_bytes()[: VOLUME_BYTES - MIB] for node in pair)
        if one != other:
            raise Failed(f"volume {volume}: the copies differ")
    for node in pair:
        bad = [line for line in node.log_path.read_text(errors="replace").splitlines() if _is_bad(line)]
        if bad:
            raise Failed(f"the log of {node} says: {os.linesep.join(bad[:5])}")


def _is_bad(line: str) -> bool:
    return any(word in line for word in FORBIDDEN)
