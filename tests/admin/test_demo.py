"""`pydrbd demo` tells its story, leaves nothing behind, and would see a difference."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from pydrbd.admin import demo
from pydrbd.admin.demo_client import BLOCK_BYTES, Blocks, TreeImage, find_files
from pydrbd.admin.demo_pair import LocalPair
from pydrbd.admin.nbd_handshake import ConnectionLost
from pydrbd.errors import DiskError, UsageError
from pydrbd.units import MIB
from pydrbd.wire.nbd import Command

DEMO = (sys.executable, "-m", "pydrbd", "demo", "--size", "64M")
PATIENCE_S = 100


class MemoryClient:
    """An export in memory with NbdClient's face; `dies_at` counts the requests until the server is gone."""

    depth = 4

    def __init__(self, dies_at=None):
        self.content = bytearray(4 * MIB)
        self.queue = []
        self.left = dies_at

    def submit(self, command, offset=0, length=0, *, payload=b"", on_reply=None):
        if self.left is not None:
            if not self.left:
                raise ConnectionLost("it is gone")
            self.left -= 1
        if command is Command.WRITE:
            self.content[offset : offset + len(payload)] = payload
        read = bytes(self.content[offset : offset + length]) if command is Command.READ else b""
        self.queue.append((on_reply, read))
        if len(self.queue) >= self.depth:
            self.wait_reply()

    def wait_reply(self):
        on_reply, read = self.queue.pop(0)
        if on_reply is not None:
            on_reply(0, read)

    def drain(self):
        while self.queue:
            self.wait_reply()

    flush = drain

    def abandon(self):
        self.queue.clear()


@pytest.fixture
def start(processes, short_tmp):
    """`start(...)` runs the demo in a directory of its own."""

    def start(*words):
        (short_tmp / "demo").mkdir()
        argv = [*DEMO, "--dir", str(short_tmp / "demo"), *words]
        return processes.start(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def leftovers(processes, short_tmp):
    """Files and processes that are still there."""
    return [*(short_tmp / "demo").iterdir(), *processes.left().values()]


def test_the_demo_ends_with_0_differences_and_leaves_nothing_behind(start, processes, short_tmp):
    """In a pipe: plain lines, both crashes, the table, exit code 0."""
    process = start()
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert said.count("kill -9") == 2
    assert re.search(r"primary: beta has taken over", said)
    assert re.search(r"resynced to beta after its crash +\S+ MiB of 64\.0 MiB", said)
    assert re.search(r"files unpacked and compared on beta +\d{2,}, differences: 0", said)
    assert re.search(r"blocks compared, disk with disk +163\d\d, differences: 0", said)
    assert re.search(r"^  differences +0$", said, re.MULTILINE)
    assert "\r" not in said
    assert not leftovers(processes, short_tmp)


def test_an_interrupted_demo_stops_its_nodes_and_removes_its_files(start, processes, short_tmp):
    """In the middle of writing: exit code 130, and nothing is left."""
    process = start()
    for line in process.stdout:
        if "it packs" in line:
            break
    assert len(processes.left()) >= 3
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert "both nodes are stopped" in said
    assert not leftovers(processes, short_tmp)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_that_end_a_program_end_the_demo_as_ctrl_c_does(number):
    """They are turned into an interrupt while the demo runs, and are what they were before afterwards."""
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), demo.stopped_by_signals():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_node_that_does_not_come_up_ends_the_demo_with_its_last_words(start, processes, short_tmp):
    """Its disk goes missing: not 0, the node's own words, and nothing is left."""
    process = start()
    for line in process.stdout:
        if "create-md: both" in line:
            break
    (directory,) = (short_tmp / "demo").iterdir()
    (directory / "beta.img").unlink()
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode not in (0, 130), said
    assert re.search(r"beta has no disk.*beta\.img", said, re.DOTALL)
    assert not leftovers(processes, short_tmp)


def test_with_keep_both_nodes_stay_and_the_commands_that_it_prints_work(start, processes, short_tmp, need):
    """nbdinfo sees the export; the printed lines stop both and remove everything."""
    process = start("--keep")
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert len(processes.left()) == 2
    lines = [line.strip() for line in said.partition("Look at it:")[2].splitlines()]

    def run(line):
        done = subprocess.run(
            shlex.split(line), capture_output=True, text=True, timeout=60, check=False, env=processes.env
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    status = [run(line) for line in lines if " status " in line]
    assert ["role:Primary" in status[1].splitlines()[0], "role:Secondary" in status[0].splitlines()[0]] == [True, True]
    need("nbdinfo")
    assert "export-size" in run(next(line for line in lines if line.startswith("nbdinfo ")))
    for line in lines[lines.index("Stop both and remove everything:") + 1 :]:
        run(line)
    assert not leftovers(processes, short_tmp)


@pytest.mark.parametrize("size", ["", "M", "12", "1M", "2X", "-5G", "1.5G", "٣G"])
def test_a_size_that_is_none_or_too_small_is_refused_in_words(size):
    """Before anything is made."""
    with pytest.raises(UsageError, match="--size"):
        demo.main([f"--size={size}"])


def test_a_size_that_does_not_fit_and_a_place_that_is_not_there_are_refused(short_tmp):
    """With what to do about it."""
    with pytest.raises(DiskError, match="smaller --size"):
        demo.main(["--dir", str(short_tmp), "--size", "100000G"])
    with pytest.raises(UsageError, match="another --dir"):
        demo.main(["--dir", str(short_tmp / "nowhere")])
    deep = short_tmp / ("d" * 90)
    deep.mkdir()
    with pytest.raises(UsageError, match="too long"):
        demo.main(["--dir", str(deep), "--size", "32M"])
    assert not list(deep.iterdir())


def test_every_wrong_byte_of_the_image_is_found(tmp_path):
    """A file's content, a lost file, a damaged archive."""
    client = MemoryClient()
    image = TreeImage(client, 2 * MIB)
    for name in ("one", "two", "three"):
        (tmp_path / name).write_bytes(hashlib.shake_128(name.encode()).digest(150_000))
        image.add(tmp_path / name)
    image.add(tmp_path / "never was")
    image.finish()
    assert image.file_count == 3
    good = image.compare(client)
    assert (good.compared, good.different) == (3, [])
    client.content[200_000] ^= 1
    assert len(image.compare(client).different) == 1
    client.content[150_512 + 512 :] = bytes(len(client.content) - 150_512 - 512)
    assert len(image.compare(client).different) >= 2


def test_a_file_below_two_of_the_roots_is_taken_once(tmp_path):
    """All fits on a small system, /usr/share/doc and then /usr/share: a file that is packed twice would differ."""
    doc = tmp_path / "share/doc"
    doc.mkdir(parents=True)
    for path in (doc / "first", doc / "second", tmp_path / "share/other"):
        path.write_bytes(b"text")
    (doc / "a link").symlink_to(doc / "first")
    files = find_files(MIB, (str(doc), str(tmp_path / "share")))
    assert files == [doc / "first", doc / "second", tmp_path / "share/other"]
    assert find_files(6000, (str(doc), str(tmp_path / "share"))) == files[:2]


def test_a_lost_block_is_found_and_one_without_an_answer_may_be_old_or_new():
    """The judge of the single blocks is judged."""
    client = MemoryClient(dies_at=60)
    blocks = Blocks(0, 64 * BLOCK_BYTES, seed=1)
    lost = blocks.submit_until_lost(client)
    assert 0 < lost <= MemoryClient.depth
    assert blocks.acknowledged_count + lost == 61  # the one that could not be sent counts too
    client.left = None
    assert blocks.compare(client).different == []
    with_old = MemoryClient()
    found = blocks.compare(with_old)
    assert found.compared > 20
    assert found.compared - lost <= len(found.different) <= found.compared


def test_a_difference_between_the_disks_is_found(tmp_path):
    """The number of blocks, and where."""
    pair = LocalPair(tmp_path, size_bytes=4 * MIB)
    assert pair.compare(4 * MIB).difference_count == 0
    for offset in (5000, 8191, 3 * MIB):
        with pair.nodes[1].disk_path.open("r+b") as disk:
            disk.seek(offset)
            disk.write(b"x")
    compared = pair.compare(4 * MIB - 100)
    assert (compared.block_count, compared.difference_count) == (1024, 2)
    assert compared.first_offsets == (4096, 3 * MIB)
