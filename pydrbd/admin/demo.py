"""`pydrbd demo`: two nodes on this machine, a client that writes, two crashes, and the proof that nothing is lost."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from pydrbd.admin.demo_client import BLOCK_BYTES
from pydrbd.admin.demo_pair import RESOURCE, LocalPair
from pydrbd.admin.demo_report import what_to_try
from pydrbd.admin.demo_story import Story
from pydrbd.admin.output import say
from pydrbd.admin.progress import format_bytes
from pydrbd.errors import DiskError, PydrbdError, UsageError
from pydrbd.units import GIB, KIB, MIB

__all__ = ["main", "stopped_by_signals"]

_SIZE_DEFAULT: Final = "256M"
_SIZE_BYTES_MIN: Final = 32 * MIB
_SOCKET_PATH_BYTES_MAX: Final = 107
_UNITS: Final = {"K": KIB, "M": MIB, "G": GIB}


def main(argv: list[str]) -> int:
    """Run the demo; 0 if nothing was lost and the copies are the same, else 1. Raises PydrbdError."""
    arguments = _parser().parse_args(argv)
    size_bytes = _parse_size(arguments.size)
    where = Path(arguments.dir) if arguments.dir else Path(tempfile.gettempdir())
    directory = _make_directory(where, size_bytes)
    pair: LocalPair | None = None
    keep = False
    with stopped_by_signals():
        try:
            pair = LocalPair(directory, size_bytes=size_bytes)
            story = Story(pair, size_bytes)
            differences = story.tell()
            keep = bool(arguments.keep)
            if keep:
                say("\n" + what_to_try(pair, story.primary))
            return 1 if differences else 0
        except KeyboardInterrupt:
            print("\ninterrupted: both nodes are stopped, and their files removed", file=sys.stderr)
            raise
        except (PydrbdError, AssertionError):
            if pair is not None:
                print(pair.describe(), file=sys.stderr)
            raise
        finally:
            if not keep:
                _remove(pair, directory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pydrbd demo",
        description="Two nodes on this machine, in a temporary directory: write, kill one, kill the other, compare. "
        "Needs no root and no configuration, and leaves nothing behind.",
    )
    parser.add_argument("--keep", action="store_true", help="leave both nodes running, and say what to try with them")
    parser.add_argument(
        "--size", default=_SIZE_DEFAULT, metavar="SIZE", help="of each disk, as 512M or 2G (default: %(default)s)"
    )
    parser.add_argument("--dir", metavar="DIR", help="where the temporary directory is made (default: the system's)")
    return parser


def _parse_size(text: str) -> int:
    number, unit = (text[:-1], text[-1].upper()) if text and text[-1].isalpha() else (text, "")
    if not number.isascii() or not number.isdigit() or (unit and unit not in _UNITS):
        raise UsageError(f"--size {text}: not a size; write it as 512M or 2G")
    size_bytes = int(number) * _UNITS.get(unit, 1) // BLOCK_BYTES * BLOCK_BYTES
    if size_bytes < _SIZE_BYTES_MIN:
        raise UsageError(f"--size {text}: too small for the story; at least {_SIZE_BYTES_MIN // MIB}M")
    return size_bytes


def _make_directory(where: Path, size_bytes: int) -> Path:
    """A new directory that is large enough. Raises UsageError, DiskError."""
    try:
        free_bytes = shutil.disk_usage(where).free
        if free_bytes < 2 * size_bytes:
            raise DiskError(
                f"{where} has {format_bytes(free_bytes)} free, and two disks of {format_bytes(size_bytes)} are needed: "
                "give another --dir or a smaller --size"
            )
        directory = Path(tempfile.mkdtemp(prefix="pydrbd-demo-", dir=where)).resolve()
    except OSError as error:
        raise UsageError(f"can't make a directory in {where}: {error.strerror}; give another --dir") from error
    if len(str(directory / "alpha" / f"{RESOURCE}.nbd.sock").encode()) > _SOCKET_PATH_BYTES_MAX:
        directory.rmdir()
        raise UsageError(f"{where} is too long a path for Unix sockets: give another --dir")
    return directory


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: by an exception that tidies up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _remove(pair: LocalPair | None, directory: Path) -> None:
    """Stop what was started and remove what was made; not to be interrupted, because it is quick."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        if pair is not None:
            pair.stop_all()
        shutil.rmtree(directory)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
