"""The machine of pydrbd loses power under load, its disk behind dm-log-writes: whatever that leaves, nothing is lost.

Moments of a load are caught: what had reached the disk by then, in order and with its flushes, the peer's disk, and
what had been answered. Of each, many states are drawn that power failure could have left. Every one is opened by the
code that attaches a disk (D10); what then differs from the peer's disk is known to an activity log or a bitmap on one
of the disks (B2, B4, B5); what was answered is on the peer's disk (A2), what a flush had covered in every state (A4).
One is put back, and the machine started on it.

The activity log is smaller than the disk, so that extents are forgotten all the time. That this can fail is part of the
test: an opening without the activity log, and a disk that says that it has flushed and has not, are found out. What was
tried, too: with `disk-flushes no; md-flushes no;` in the disk section, in sync, blocks that nobody knows of are found
in either direction.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from pydrbd.metadata import opening
from pydrbd.metadata.apply_al import AppliedLog
from tests.interop.conftest import judged
from tests.interop.pair import AL_IS_APPLIED, PEER_IS_GONE, Pair, variant
from tests.lab import answered_load, load, logged
from tests.lab.answered_load import WINDOW, Register
from tests.lab.guest import GuestFailed, Running
from tests.lab.guest_pydrbd import GuestPydrbdNode
from tests.lab.kernel_node import KernelNode
from tests.lab.load import SECTOR
from tests.lab.logged import Entry, LoggedDisk
from tests.lab.nodes import Node
from tests.lab.power_failure import DiskFile, Judge, LoggedContents, Sectors, write_sparse
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.interop

DISK_BYTES = 384 << 20
AL = "al-extents 67;"
"""The smallest that DRBD takes; the disk has 96 extents."""

MOMENTS = 6
BETWEEN_BYTES = 512 << 10
"""How much of the disk is written for the first time from one moment to the next."""

STATES = 100
"""Of each moment."""

LYING_STATES = 10

MINOR = 600_000 + os.getpid() % 100_000
"""drbdmeta locks devices by minor: one that nobody uses."""

AFTERWARDS_BYTES = 8 << 20
"""The beginning of the device, where is written while the machine is away."""

PIECE_BYTES = 1 << 20
ANSWERS = "/run/answers"
PLAN_LENGTH = 8000
NET = "protocol C; ping-int 2; ping-timeout 40; timeout 60; connect-int 1;"
FIO = (
    "fio", "--name=load", "--filename=/dev/drbd0", "--direct=1", "--rw=randwrite", "--iodepth=8", "--ioengine=libaio",
    "--bssplit=512/20:4k/60:16k/20", "--blockalign=512", "--norandommap", "--fsync=50", "--time_based",
    "--runtime=200", "--thread",
)  # fmt: skip


@dataclass
class Moment:
    """What had reached the disk since the last one; the disks; what had been answered, and when both were in sync."""

    entries: list[Entry]
    mine: DiskFile
    peer: DiskFile
    answered: set[int]
    answered_in_sync: set[int]


class Scene:
    """A pair whose pydrbd is in a guest with a logged disk, and a load."""

    def __init__(self, pair: Pair, directory: Path, seed: int) -> None:
        self.pair = pair
        self.seed = seed
        self.pydrbd = next(node for node in pair if isinstance(node, GuestPydrbdNode))
        self.disk = LoggedDisk(self.pydrbd.guest, DISK_BYTES)
        self.register = Register([])
        self.moments: list[Moment] = []
        self._directory = directory
        self._load: Running | None = None

    def begin_load(self) -> None:
        if self.pair.first is self.pydrbd:
            size = self.pydrbd.size_bytes()
            self.register = Register(answered_load.draw_plan(random.Random(self.seed), size, PLAN_LENGTH))
            self._load = self.pydrbd.begin_answered(self.register.plan, ANSWERS)
        else:
            self._load = self.pair.kernel.guest.begin(*FIO, f"--randseed={self.seed}", timeout_s=250)

    def signal_load(self, name: str) -> None:
        """STOP, or CONT: a connection takes seconds, in which it would write most of the disk."""
        self.pair.first.guest.run("pkill", f"-{name}", "-f", "[f]io --name|[a]nswered_load")

    def answered(self) -> set[int]:
        return Register.answered(self.pydrbd.guest.read_file(ANSWERS)) if self.register.plan else set()

    def catch(self, writer: Node, in_sync: set[int] | None = None, *, last: bool = False) -> None:
        """A moment, when `writer` has written some more. Not `in_sync`: all that was answered is on both disks.

        The disk of pydrbd stops first: what comes later has not reached it. The last one is the power failure.
        """
        guest, kernel = self.pydrbd.guest, self.pair.kernel
        enough = allocated_bytes(writer.disk_path) + BETWEEN_BYTES
        going_on = "the load to go on"
        wait_until(lambda: allocated_bytes(writer.disk_path) >= enough, going_on, 60, self.pair.describe)
        self.disk.stop()
        kernel.freeze()
        mine, peer = self._copy(self.pydrbd), self._copy(kernel)
        answered = self.answered()
        if last:
            guest.cut()
        else:
            kernel.unfreeze()
        entries = self.disk.cut()
        if last:
            self.pydrbd.crash()
            guest.restore()
            kernel.unfreeze()
            if self.pair.first is kernel:
                kernel.guest.shell("pkill -KILL fio")
        self.moments.append(Moment(entries, mine, peer, answered, answered if in_sync is None else in_sync))

    def _copy(self, node: Node) -> DiskFile:
        place = self._directory / node.name
        subprocess.run(["cp", "--sparse=always", node.disk_path, place], check=True, timeout=60)
        disk = DiskFile(place)
        place.unlink()
        return disk

    def close(self) -> None:
        for moment in self.moments:
            moment.mine.close()
            moment.peer.close()

    def return_from(self, state: Sectors, contents: LoggedContents) -> None:
        """The machine is started on a disk that power failure has left so; the kernel goes on, or has taken over."""
        kernel = self.pair.kernel
        kernel.wait(peer_disk="DUnknown")
        if self.pair.first is kernel:
            assert self._load is not None
            self._load.wait(check=False)
        else:
            kernel.primary()
            kernel.load(load.draw(self.seed, AFTERWARDS_BYTES, 5))
        write_sparse(self.pydrbd.disk_path, DISK_BYTES, contents.durable | state)
        self.pydrbd.guest.start()
        self.disk.create_plain()
        self.pydrbd.prepare()
        self.pydrbd.up()
        self.pair.wait_in_sync()


@pytest.fixture(scope="module")
def guests(lab_nodes):
    """The two machines, for both directions."""
    if shutil.which("dmsetup", path="/usr/sbin:/sbin") is None:
        pytest.skip("not installed: dmsetup (make test installs it as root)")
    lab = lab_nodes.lab
    wet, dry = (lab.add_guest(name, disk_bytes=DISK_BYTES) for name in ("wet", "dry"))
    wet.disks += [lab.new_disk(f"wet.log{number}", logged.LOG_BYTES) for number in range(MOMENTS + 1)]
    yield GuestPydrbdNode(wet, disk_name=logged.PATH), KernelNode(dry)
    wet.power_off()
    dry.power_off()


@pytest.fixture(params=["pydrbd-to-kernel", variant("kernel-to-pydrbd")])
def scene(request, guests, tmp_path, seed):
    for node in guests:
        if not node.guest.runs:
            try:
                node.boot()
            except GuestFailed as error:
                pytest.skip(f"a guest can't be started here: {error}")
    nodes = guests if request.param == "pydrbd-to-kernel" else guests[::-1]
    with judged(request, Pair(*nodes, disk_bytes=DISK_BYTES)) as pair:
        scene = Scene(pair, tmp_path, seed)
        scene.disk.create()
        try:
            yield scene
        finally:
            scene.close()
    if scene.pydrbd.guest.runs:
        scene.disk.remove()


def test_whatever_power_failure_leaves_nothing_is_lost(scene, need, tmp_path, seed, monkeypatch):
    """D10, B2, B4, B5, A2, A4: of many states at several moments; and one of them goes on."""
    pair = scene.pair
    pair.allow(*PEER_IS_GONE, *AL_IS_APPLIED)
    pair.start(net=NET, disk=AL)
    pair.sync()
    catch_moments(scene)
    draw = random.Random(seed)
    contents, lying = LoggedContents(), LoggedContents()
    found = Counter()
    for moment in scene.moments:
        contents.take(moment.entries)
        lying.take(moment.entries)
        lying.honest = False  # from then on: without any meta-data there would be little to look at
        assert_is_the_disk(contents, moment.mine)
        judge = Judge(contents, moment.peer)
        states = list(contents.states(draw, STATES))
        complaints = [text for state in states if (text := judge.complaint(state))]
        assert not complaints, complaints[:5]
        found["differing"] += len(judge.differing(states[-1]))
        found["volatile"] += len(contents.volatile)
        check_answers(scene.register, moment, contents, states)
        with monkeypatch.context() as patch:
            patch.setattr(opening, "apply_al", without_log)
            found["without the log"] += any(map(Judge(contents, moment.peer).complaint, states))
        found["lying"] += any(map(Judge(lying, moment.peer).complaint, lying.states(draw, LYING_STATES)))
        assert_as_drbdmeta(need("drbdmeta"), judge, states[-1], tmp_path / "state")
    print(f"{MOMENTS * STATES} states: {dict(found)}")
    assert found["differing"] and found["without the log"] and found["lying"], found
    scene.return_from(states[-1], contents)
    with DiskFile(scene.pydrbd.disk_path) as mine, DiskFile(pair.kernel.disk_path) as theirs:
        size = pair.kernel.size_bytes()
        for offset in range(0, size, PIECE_BYTES):
            length = min(PIECE_BYTES, size - offset)
            assert mine.read(offset, length) == theirs.read(offset, length), f"the disks differ near {offset}"
        answered = scene.moments[-1].answered
        check_disk(scene.register, answered, answered, mine, AFTERWARDS_BYTES // SECTOR)


def catch_moments(scene: Scene) -> None:
    """In sync, apart, in the resync or soon after it, and in sync when power fails."""
    pair = scene.pair
    scene.begin_load()
    scene.catch(pair.second)
    scene.catch(pair.second)
    in_sync = scene.answered()
    pair.part(pair.second)
    scene.catch(pair.first, in_sync)
    scene.signal_load("STOP")
    pair.second.connect()
    pair.wait_for(lambda: pair.first.states().peer_disk != "DUnknown", "the connection")
    scene.signal_load("CONT")
    scene.catch(pair.second, in_sync)
    pair.wait_in_sync()
    scene.catch(pair.second)
    scene.catch(pair.second, last=True)


def assert_as_drbdmeta(program: str, judge: Judge, state: Sectors, path: Path) -> None:
    """The second judge: drbdmeta applies the activity log, and the bitmap that it leaves is ours."""
    write_sparse(path, DISK_BYTES, judge.contents.durable | state)
    words = ["--force", str(MINOR), "v08", path, "internal", "apply-al"]
    subprocess.run([program, *words], check=True, capture_output=True, timeout=60)
    with DiskFile(path) as disk:
        assert judge.open(disk.read).bitmap.bits == judge.opened(state).bitmap.bits


def allocated_bytes(path: Path) -> int:
    """How much of a sparse file is not holes."""
    return path.stat().st_blocks * SECTOR


def assert_is_the_disk(contents: LoggedContents, disk: DiskFile) -> None:
    """The log tells all, in the right order."""
    for sector, content in contents.everything().items():
        assert disk.read(sector * SECTOR, SECTOR) == content, f"sector {sector}: the log says something else"


def check_answers(register: Register, moment: Moment, contents: LoggedContents, states: list[Sectors]) -> None:
    """A2: what was answered is on the peer's disk. A4: what was flushed then is in every state of this one."""
    check_disk(register, moment.answered, moment.answered_in_sync, moment.peer)
    begun = max(moment.answered, default=-1) + WINDOW + 1
    durable = register.durable(moment.answered)
    for sector in register.sectors(durable) - contents.volatile.keys():
        assert register.allows(sector, contents.sector({}, sector), durable, begun), f"sector {sector} is lost (A4)"
    for state in states:
        for sector in contents.volatile.keys() & register.sectors(durable):
            found = contents.sector(state, sector)
            assert register.allows(sector, found, durable, begun), f"sector {sector} could be lost (A4)"


def check_disk(register: Register, answered: set[int], sure: set[int], disk: DiskFile, first_sector: int = 0) -> None:
    """It holds those that are `sure`, or later ones."""
    begun = max(answered, default=-1) + WINDOW + 1
    for sector in register.sectors(sure):
        if sector >= first_sector:
            found = disk.read(sector * SECTOR, SECTOR)
            assert register.allows(sector, found, sure, begun), f"sector {sector} is not what was answered (A2)"


def without_log(superblock, layout, _blocks, _bitmap):
    """An opening that does not look at the activity log."""
    return AppliedLog(superblock, (), None, (), 0, ())
