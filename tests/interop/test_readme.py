"""The commands of README's "With a kernel node", as they are written there."""

from __future__ import annotations

import os

import pytest

from tests.documents.pages import indented
from tests.interop.pair import DISK_BYTES, Pair
from tests.interop.test_moving import swap_disks

pytestmark = pytest.mark.interop

LIMIT_S = 120


def commands() -> list[str]:
    """What the section tells its reader to type, in order."""
    lines = [line.partition("#")[0].strip() for line in "".join(indented("With a kernel node")).splitlines()]
    return [line for line in lines if line]


def run(pair: Pair, line: str) -> str:
    """Carry out a line on the machine that has the command; its output."""
    words = line.split()
    if words[0] == "drbdadm":
        return pair.kernel.guest.run(*words, timeout_s=LIMIT_S).output
    done = pair.second.call(*words[1:], timeout_s=LIMIT_S)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_section_is_true(lab_nodes, seed):
    """A kernel and pydrbd meet, sync, and then the kernel's node moves to pydrbd; each command does what it says."""
    lines = commands()
    place = lines.index("drbdadm down r0")
    together, moving = lines[:place], lines[place:]
    assert {"drbdadm primary --force r0", "pydrbd status r0"} <= set(together) and "pydrbd up r0" in moving
    pair = Pair(lab_nodes.get("kernel"), lab_nodes.get("pydrbd"))
    try:
        for node in pair:
            os.truncate(node.disk_path, 0)
            os.truncate(node.disk_path, DISK_BYTES)
            pair.configure(node, "protocol C;")
        shown = ""
        for line in together:
            shown = run(pair, line)
        assert "disk:UpToDate" in shown and "kernel role:Primary" in shown
        pair.image = bytearray(pair.second.size_bytes())
        pair.write(pair.first, seed, 10)
        pair.assert_same()
        pair.first.secondary()
        run(pair, "pydrbd down r0")
        for line in moving:
            run(pair, line)
            if line == "drbdadm down r0":
                # The machine that moves: from here on ours has what was the kernel's disk. The peer comes up as well.
                swap_disks(pair)
                pair.kernel.up()
        pair.wait_in_sync()
        pair.assert_same()
    finally:
        pair.second.call("down", "--force", timeout_s=LIMIT_S)
        pair.first.down()
