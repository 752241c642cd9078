"""`import pydrbd`: nodes in one's own program, and control of others; the examples of docs/examples as they stand."""

from __future__ import annotations

import subprocess
import sys
from contextlib import aclosing
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import trio

import pydrbd
from tests.runtime.test_rendezvous import free_ports

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs/examples"
LIMIT_S = 60.0


class Pair:
    """Two formatted nodes, a and b."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "r0.res"
        hosts = ""
        for minor, (node, port) in enumerate(zip("ab", free_ports(2), strict=True)):
            with (directory / f"{node}.img").open("wb") as disk:
                disk.truncate(16 << 20)
            hosts += f"on {node} {{ device minor {minor}; disk {directory}/{node}.img; meta-disk internal;"
            hosts += f" address 127.0.0.1:{port}; }}\n"
        self.config.write_text(f"resource r0 {{ net {{ ping-int 1; connect-int 1; timeout 20; }}\n{hosts}}}\n")
        for node in "ab":
            self.run(*self.command("create-md", node))

    def command(self, verb: str, node: str) -> list[str]:
        where = ["-c", str(self.config), "--node", node, "--run-dir", str(self.run_dir(node))]
        return [sys.executable, "-m", "pydrbd", verb, "r0", *where]

    def run(self, *argv: str, code: int = 0) -> str:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT)
        assert done.returncode == code, done
        return done.stdout + done.stderr

    def run_dir(self, node: str) -> Path:
        return self.directory / node

    def open(self, node: str):
        return pydrbd.open_node(self.config, "r0", node=node, run_dir=self.run_dir(node))


@pytest.fixture
def pair(short_tmp):
    return Pair(short_tmp)


async def test_two_nodes_in_one_program(pair):
    """Connect, choose, promote, look: typed values that don't change; at the end both have ended."""
    with trio.fail_after(LIMIT_S):
        async with pair.open("a") as a, pair.open("b") as b:
            await a.wait_connected()
            assert (await a.status()).volumes[0].disk == "Inconsistent"
            await a.skip_first_sync()
            await a.primary()
            status = await b.wait_in_sync()
            assert (status.role, status.peer_role, status.connection) == ("Secondary", "Primary", "Connected")
            assert status.volumes[0].out_of_sync_bytes == 0 and 0 < status.volumes[0].size_bytes < 16 << 20
            assert status.nbd_uris == (f"nbd+unix:///r0?socket={pair.run_dir('b')}/r0.nbd.sock",)
            with pytest.raises(FrozenInstanceError):
                status.role = "Primary"
            with pytest.raises(pydrbd.StateRefused, match=r"r0: .*[Pp]rimar") as refused:
                await b.primary()
            assert refused.value.code < 0
    assert not list(pair.run_dir("a").glob("*.sock"))


async def test_another_programs_node_is_controlled(pair):
    """By its control socket: verbs, changes, and the truth when it has gone."""
    with trio.fail_after(LIMIT_S):
        remote = pydrbd.Remote("r0", pair.run_dir("a"))
        with pytest.raises(pydrbd.NotRunningError, match="r0 does not run here"):
            await remote.status()
        seen = []
        async with pair.open("b"):
            async with pair.open("a"):
                await remote.wait_connected()
                await remote.skip_first_sync()
                async with aclosing(remote.changes()) as changes:
                    async for status in changes:
                        seen.append(status.role)
                        if status.role == "Primary":
                            break
                        await remote.primary()
                assert seen[0] == "Secondary" and seen[-1] == "Primary"
                await remote.secondary()
                await remote.disconnect()
                assert (await remote.status()).connection == "StandAlone"
            with pytest.raises(pydrbd.NotRunningError):
                await remote.wait_in_sync()


async def test_what_goes_wrong_comes_out_as_it_is(pair):
    """Not in groups: a configuration, a second start, an error of the block, the program's own time limit."""
    with trio.fail_after(LIMIT_S):
        with pytest.raises(pydrbd.ConfigError):
            async with pydrbd.open_node(pair.config, "r9", node="a", run_dir=pair.run_dir("a")):
                pass
        async with pair.open("a"):
            with pytest.raises(pydrbd.BusyError):
                async with pair.open("a"):
                    pass
        with pytest.raises(ValueError, match="mine"):
            async with pair.open("a"):
                raise ValueError("mine")
        with trio.move_on_after(0.5) as scope:
            async with pair.open("a") as a:
                await a.wait_in_sync()
        assert scope.cancelled_caught
    assert not list(pair.run_dir("a").glob("*.sock"))
    assert "nothing new is out of sync" in pair.run(*pair.command("apply-al", "a"))


def test_the_names_are_the_promised_ones():
    """`__all__` and nothing else; the command line does not pay for it."""
    assert sorted(pydrbd.__all__) == dir(pydrbd)
    assert all(getattr(pydrbd, name) is not None for name in pydrbd.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'frobnicate'"):
        _ = pydrbd.frobnicate
    script = "import sys, pydrbd; sys.exit('trio' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=LIMIT_S, cwd=ROOT)


def test_the_examples_do_what_they_say(pair, processes):
    """As a reader runs them: the node of one program, and two that look at and promote what `pydrbd up` runs."""
    pair.run(*pair.command("up", "b"))
    try:
        said = pair.run(
            sys.executable, str(EXAMPLES / "run_node.py"), str(pair.config), "r0", "a", str(pair.run_dir("a"))
        )
        assert said.startswith("r0 is Primary, ") and "r0.nbd.sock" in said
        pair.run(*pair.command("up", "a"))
        said = pair.run(sys.executable, str(EXAMPLES / "watch.py"), "r0", str(pair.run_dir("a")))
        assert said.splitlines()[-1] == "Secondary Connected UpToDate/UpToDate"
        said = pair.run(sys.executable, str(EXAMPLES / "take_over.py"), "r0", str(pair.run_dir("a")))
        assert said == "r0 is Primary\n"
        said = pair.run(sys.executable, str(EXAMPLES / "take_over.py"), "r9", str(pair.run_dir("a")), code=1)
        assert said.startswith("NotRunningError: r9 does not run here")
    finally:
        for node in "ab":
            pair.run(*pair.command("down", node))
