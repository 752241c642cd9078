"""What the demo says: lines with the time, bars, the table at the end, and what to try with `--keep`."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydrbd.admin.demo_pair import RESOURCE, LocalNode, LocalPair
from pydrbd.admin.output import say
from pydrbd.admin.progress import Progress

__all__ = ["Report", "what_to_try"]


class Report:
    """Says what happens, as it happens."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def heading(self, text: str) -> None:
        """A new chapter."""
        say(f"\n{text}")

    def line(self, text: str) -> None:
        """Something has happened."""
        say(f"{time.monotonic() - self._started:6.1f} s  {text}")

    def bar(self, title: str, total_bytes: int) -> Progress:
        """A bar on a terminal; elsewhere a line every few seconds."""
        return Progress(f"{'':10}{title}", total_bytes, sys.stdout)

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Names on the left, values on the right."""
        width = max(len(name) for name, _ in rows)
        say("\n" + "\n".join(f"  {name:<{width}}   {value}" for name, value in rows))


def what_to_try(pair: LocalPair, primary: LocalNode) -> str:
    """With `--keep`: where both nodes are, commands to try, and how to end it."""
    program = _program()
    uri = shlex.quote(f"nbd+unix:///{RESOURCE}?socket={primary.nbd_socket}")
    copy = shlex.quote(str(pair.directory / "copy.img"))
    other = pair.other(primary)
    lines = [f"Both nodes go on running; {primary} is Primary, so the data is here:", f"  {uri}", "", "Look at it:"]
    lines += (f"  {_shell(program, node, 'status')}" for node in pair)
    lines += [
        f"  nbdinfo {uri}",
        f"  qemu-img convert -p -O raw {uri} {copy} && tar tvf {copy}",
        f"  fio --name=try --ioengine=nbd --uri={uri} --rw=randrw --bs=4k --iodepth=32 --size=100% "
        "--time_based --runtime=10 --verify=crc32c",
        "",
        "Change places (no client may be connected to the old Primary):",
        f"  {_shell(program, primary, 'secondary')}",
        f"  {_shell(program, other, 'primary')}",
        "",
        "Stop both and remove everything:",
    ]
    lines += (f"  {_shell(program, node, 'down', '--force')}" for node in pair)
    lines.append(f"  rm -r {shlex.quote(str(pair.directory))}")
    return "\n".join(lines)


def _program() -> list[str]:
    """How this program was started, so that the commands work in the same shell."""
    started = Path(sys.argv[0])
    return [str(started)] if started.name == "pydrbd" else [sys.executable, "-m", "pydrbd"]


def _shell(program: Sequence[str], node: LocalNode, verb: str, *words: str) -> str:
    return shlex.join([*program, *node.words(verb, *words)])
