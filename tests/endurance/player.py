"""Carries out the operations on a real pair: one method for each, by its name."""

from __future__ import annotations

import contextlib
import os
import random
import re
import zlib
from collections import Counter
from pathlib import Path

from tests.endurance.expected import Expected
from tests.endurance.judge import Judge
from tests.endurance.model import NODES, Model, peer_of
from tests.endurance.nodes import GROWTH_BYTES, GROWTHS_MOST, enlarge
from tests.endurance.operations import Step
from tests.endurance.settings import draw_settings
from tests.endurance.writer import LONGEST_BYTES, Writer, play
from tests.interop.verbs import ask
from tests.lab import load
from tests.lab.kernel_node import KernelNode
from tests.lab.load import Op
from tests.lab.nodes import Node, Refused, resource_text
from tests.lab.waiting import wait_until

WAIT_S = 150.0
RATE = "24mbit"

_MET = ("Connected", "SyncSource", "SyncTarget", "PausedSyncS", "PausedSyncT")
_ALONE = ("WFConnection", "StandAlone")
_FOUND = re.compile(r"Out of sync: start=(\d+), size=(\d+) \(sectors\)")
_VERIFIED = re.compile(r"Online verify +done")
_BLOCK = 4096
_PLACES = 24


class Player:
    """A pair, and what is known of it."""

    def __init__(self, nodes: dict[str, Node], archive: Path) -> None:
        self.nodes = nodes
        self.kernel = next(node for node in nodes.values() if isinstance(node, KernelNode))
        self.model = Model(growths_left=GROWTHS_MOST)
        self.expected = Expected(0)
        self.judge = Judge(nodes, archive)
        self.counts: Counter[str] = Counter()
        self.written = 0

    def start(self, seed: int) -> None:
        """Fresh disks; in sync without a first sync; nobody is Primary."""
        for node in self.nodes.values():
            file_bytes = node.disk_path.stat().st_size
            os.truncate(node.disk_path, 0)
            os.truncate(node.disk_path, file_bytes)
        self._configure(random.Random(seed))
        for node in self.nodes.values():
            node.create_md()
            node.up()
        for node in self.nodes.values():
            node.wait(WAIT_S, conn="Connected", disk="Inconsistent", peer_disk="Inconsistent")
        self.kernel.skip_first_sync()
        self._wait_in_sync()
        self.expected = Expected(self.nodes["pydrbd"].size_bytes())

    def carry_out(self, step: Step) -> None:
        """One step of a run. Raises whatever is wrong."""
        rng = random.Random(step.seed)
        self.judge.allow(step.operation.says)
        primary = self.model.primary
        writer = None
        if step.busy:
            writer = Writer(self.nodes[primary], rng.getrandbits(32), len(self.expected.image))
            writer.start()
        before, self.model = self.model, step.operation.after(self.model, step.who)
        try:
            getattr(self, step.operation.name)(step.who, rng)
        finally:
            if writer is not None:
                may_fail = step.operation.name == "kill" and step.who == before.primary
                self.written += writer.stop(self.expected, may_fail)
        self.counts[step.operation.name] += 1

    def close(self) -> None:
        """Both down, whatever their state."""
        for node in self.nodes.values():
            node.unfreeze()
            node.crash()

    # --- the data ---

    def write(self, who: str, rng: random.Random) -> None:
        count, long = rng.choice([(40, LONGEST_BYTES), (10, 1 << 20), (80, 16384)])
        self._write(self.nodes[who], rng, count, long)

    def _write(self, node: Node, rng: random.Random, count: int, longest_bytes: int = LONGEST_BYTES) -> None:
        seed = rng.getrandbits(32)
        plan = load.draw(seed, len(self.expected.image), count, longest_bytes=longest_bytes, discards=True)
        play(node, plan, self.expected.done)
        self.written += count

    def check(self, who: str, rng: random.Random) -> None:
        """What the Primary reads is what was written."""
        image, plan = self.expected.image, []
        for _ in range(_PLACES):
            length = 512 << rng.randrange(12)
            at = rng.randrange(0, len(image) - length, 512)
            if self.expected.is_certain(at, length):
                plan.append(Op("check", at, length, zlib.crc32(image[at : at + length])))
        self.nodes[who].load(plan)

    def stress(self, who: str, rng: random.Random) -> None:
        node = self.nodes[who]
        self._settle(node)
        node.stress(2)
        self.expected.adopt(self._disk(node))

    def wait_in_sync(self, who: str, rng: random.Random) -> None:
        """A quiet point."""
        self._wait_in_sync()
        for node in self.nodes.values():
            self._settle(node)
        self.judge.generations()
        self.judge.logs()

    def _disk(self, node: Node) -> bytes:
        with node.disk_path.open("rb") as disk:
            return disk.read(len(self.expected.image))

    def _settle(self, node: Node) -> None:
        wrong = self.expected.settle(self._disk(node))
        if wrong:
            raise AssertionError(f"{node.name}: {len(wrong)} sectors differ, the first is number {wrong[0]}")

    # --- roles ---

    def promote(self, who: str, rng: random.Random) -> None:
        self.nodes[who].primary()

    def demote(self, who: str, rng: random.Random) -> None:
        self.nodes[who].secondary()

    def switch(self, who: str, rng: random.Random) -> None:
        self.nodes[who].secondary()
        self.nodes[peer_of(who)].primary()

    # --- the link ---

    def disconnect(self, who: str, rng: random.Random) -> None:
        self.nodes[who].disconnect()
        self._wait_parted()

    def connect(self, who: str, rng: random.Random) -> None:
        self.nodes[who].connect()
        self._wait_met()

    def cut(self, who: str, rng: random.Random) -> None:
        self.kernel.guest.cut()
        self._wait_parted()

    def restore(self, who: str, rng: random.Random) -> None:
        self.kernel.guest.restore()
        self._wait_met()

    def slow_down(self, who: str, rng: random.Random) -> None:
        self.kernel.guest.slow(RATE)

    def speed_up(self, who: str, rng: random.Random) -> None:
        self.kernel.guest.full_speed()

    def hang(self, who: str, rng: random.Random) -> None:
        """It hangs until its peer has seen that; a Primary goes on without it; then it is there again."""
        node, peer = self.nodes[who], self.nodes[peer_of(who)]
        node.freeze()
        try:
            self._wait_alone(peer)
            if self.model.primary == peer.name:
                self._write(peer, rng, 20)
        finally:
            node.unfreeze()
        self._wait_met()

    def _wait_parted(self) -> None:
        """Whoever is up sees that it is alone (what it thinks of a peer's disk that it was syncing to, it may keep)."""
        for name in self.model.up:
            self._wait_alone(self.nodes[name])

    def _wait_alone(self, node: Node) -> None:
        wait_until(lambda: node.states().conn in _ALONE, f"{node.name} to be alone", WAIT_S, self.judge.describe)

    def _wait_met(self) -> None:
        if self.model.connected:
            wait_until(self._have_met, "both to see each other", WAIT_S, self.judge.describe)

    def _have_met(self) -> bool:
        found = [node.states() for node in self.nodes.values()]
        return all(states.conn in _MET and states.peer_disk != "DUnknown" for states in found)

    def _wait_in_sync(self) -> None:
        wait_until(
            lambda: all(node.states().in_sync for node in self.nodes.values()),
            "both to be in sync", WAIT_S, self.judge.describe,
        )  # fmt: skip

    # --- machines ---

    def kill(self, who: str, rng: random.Random) -> None:
        self.nodes[who].crash()
        self._wait_parted()

    def take_down(self, who: str, rng: random.Random) -> None:
        self.nodes[who].down()
        self._wait_parted()

    def bring_back(self, who: str, rng: random.Random) -> None:
        node = self.nodes[who]
        if not (isinstance(node, KernelNode) and node.guest.runs):
            node.boot()
        node.up()
        self._wait_met()

    # --- disks ---

    def detach(self, who: str, rng: random.Random) -> None:
        self.nodes[who].order("detach")
        self.nodes[peer_of(who)].wait(WAIT_S, peer_disk="Diskless")

    def attach(self, who: str, rng: random.Random) -> None:
        self.nodes[who].order("attach")
        self._wait_met()

    def resize(self, who: str, rng: random.Random) -> None:
        primary = self.nodes[self.model.primary]
        for node in self.nodes.values():
            enlarge(node)
        ask(self.nodes[who], "resize") if who == "pydrbd" else self.kernel._adm("resize")
        wanted = len(self.expected.image) + GROWTH_BYTES
        wait_until(lambda: primary.size_bytes() == wanted, "it to grow", WAIT_S, self.judge.describe)
        self._wait_in_sync()
        self._settle(primary)
        self.expected.image.extend(bytes(GROWTH_BYTES))
        self.expected.adopt(self._disk(primary))

    # --- resync by order ---

    def invalidate(self, who: str, rng: random.Random) -> None:
        ask(self.nodes[who], "invalidate")

    def invalidate_remote(self, who: str, rng: random.Random) -> None:
        ask(self.nodes[who], "invalidate-remote")

    def pause(self, who: str, rng: random.Random) -> None:
        ask(self.nodes[who], "pause-sync")

    def resume(self, who: str, rng: random.Random) -> None:
        ask(self.nodes[who], "resume-sync")

    def outdate(self, who: str, rng: random.Random) -> None:
        """What is Inconsistent is less than that already."""
        node = self.nodes[who]
        inconsistent = node.states().disk == "Inconsistent"
        with contextlib.suppress(*([Refused] if inconsistent else [])):
            ask(node, "outdate")
        node.wait(WAIT_S, disk="Inconsistent" if inconsistent else "Outdated")

    # --- more than one step ---

    def verify(self, who: str, rng: random.Random) -> None:
        assert self._verify(who) == [[], []], "a verify found something"

    def _verify(self, who: str) -> list[list[int]]:
        """The blocks that each log calls out of sync."""
        marks = {node: len(node.log()) for node in self.nodes.values()}
        ask(self.nodes[who], "verify")
        for node, mark in marks.items():
            wait_until(
                lambda node=node, mark=mark: _VERIFIED.search(node.log()[mark:]),
                f"the verify to end on {node.name}", WAIT_S, self.judge.describe,
            )  # fmt: skip
            node.wait(WAIT_S, conn="Connected")
        return [
            sorted(
                block
                for start, size in _FOUND.findall(node.log()[mark:])
                for block in range(int(start) // 8, (int(start) + int(size) + 7) // 8)
            )
            for node, mark in marks.items()
        ]

    def find_planted(self, who: str, rng: random.Random) -> None:
        """Blocks of the Secondary's disk change behind its back: found by both, repaired by a reconnect."""
        secondary = self.nodes[peer_of(self.model.primary)]
        planted = sorted(rng.sample(range(len(self.expected.image) // _BLOCK), rng.randint(1, 12)))
        with secondary.disk_path.open("r+b") as disk:
            for block in planted:
                disk.seek(block * _BLOCK + 512)
                disk.write(b"planted!")
        found = self._verify(who)
        assert found == [planted, planted], f"planted {planted}, found {found}"
        secondary.disconnect()
        for node in self.nodes.values():
            self._wait_alone(node)
        secondary.connect()
        self._wait_met()
        self._wait_in_sync()

    def split_brain(self, who: str, rng: random.Random) -> None:
        """Both are Primary and write; both refuse to connect; `who` gives up what it has written."""
        victim, survivor = self.nodes[who], self.nodes[peer_of(who)]
        self.kernel.guest.cut()
        for node in self.nodes.values():
            self._wait_alone(node)
        for node in self.nodes.values():
            with contextlib.suppress(*([Refused] if node.states().role == "Primary" else [])):
                node.primary()
        lost = load.draw(rng.getrandbits(32), len(self.expected.image), 20, longest_bytes=LONGEST_BYTES)
        victim.load(lost)
        self._write(survivor, rng, 20)
        self.kernel.guest.restore()
        for node in self.nodes.values():
            node.wait(WAIT_S, conn="StandAlone")
            assert "Split-Brain detected" in node.log()
        victim.secondary()
        victim.connect(discard_my_data=True)
        survivor.connect()
        self._wait_met()

    def reconfigure(self, who: str, rng: random.Random) -> None:
        """Both go down in good order, and come back with other settings."""
        primary = self.model.primary
        if primary is not None:
            self.nodes[primary].secondary()
        for name in rng.sample(NODES, 2):
            self.nodes[name].down()
        self._configure(rng)
        for name in rng.sample(NODES, 2):
            self.nodes[name].up()
        self._wait_met()
        self._wait_in_sync()
        if primary is not None:
            self.nodes[primary].primary()

    def _configure(self, rng: random.Random) -> None:
        text = resource_text(list(self.nodes.values()), net=draw_settings(rng))
        for node in self.nodes.values():
            node.configure(text)
