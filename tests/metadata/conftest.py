"""Images of disks in sparse files, and drbd-utils' drbdmeta to compare with."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from pydrbd.metadata.layout import Layout, MetaKind
from pydrbd.metadata.superblock import Superblock
from pydrbd.units import MD_BLOCK_SIZE_BYTES

DRBDMETA_TIMEOUT_S = 30
MINOR_BASE = 500_000
"""Minors that nobody uses: drbdmeta locks and remembers devices by minor. The rest is this process's."""


class Image:
    """A disk in a sparse file."""

    def __init__(self, path: Path, size_bytes: int, fill: bytes = b""):
        self.path = path
        self.size_bytes = size_bytes
        with path.open("wb") as file:
            file.truncate(size_bytes)
            for offset in range(0, size_bytes if fill else 0, 65536):
                file.seek(offset)
                file.write((fill * (65536 // len(fill)))[: size_bytes - offset])

    @property
    def sectors(self) -> int:
        return self.size_bytes // 512

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """What is there; short at the end, as `signatures.Reader` wants it."""
        with self.path.open("rb") as file:
            file.seek(offset_bytes)
            return file.read(length_bytes)

    def write(self, *writes: tuple[int, bytes]) -> None:
        with self.path.open("r+b") as file:
            for offset, data in writes:
                assert 0 <= offset <= offset + len(data) <= self.size_bytes
                file.seek(offset)
                file.write(data)

    def superblock(self, layout: Layout) -> Superblock:
        return Superblock.decode(self.read(layout.superblock_offset_bytes, MD_BLOCK_SIZE_BYTES))

    def area(self, layout: Layout) -> bytes:
        """The whole set of meta-data, from its first byte to its last."""
        start = min(layout.superblock_offset_bytes, layout.bitmap_offset_bytes)
        return self.read(start, layout.md_size_sectors * 512)


class DrbdMeta:
    """The installed drbdmeta, with a minor number of its own."""

    def __init__(self, program: str, minor: int):
        self.program = program
        self.minor = minor

    def run(self, image: Image, kind: MetaKind, *words: str, index: int = 0, version: str = "v08"):
        """Run one command with --force; its exit code, output and complaints."""
        where = str(index) if kind is MetaKind.INDEXED else kind.value
        argv = [self.program, "--force", str(self.minor), version, str(image.path), where, *words]
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DRBDMETA_TIMEOUT_S
        )

    def check(self, image: Image, kind: MetaKind, *words: str, index: int = 0, version: str = "v08") -> str:
        """The output of a command that must succeed."""
        done = self.run(image, kind, *words, index=index, version=version)
        assert done.returncode == 0, f"drbdmeta {' '.join(words)}: exit {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def drbdmeta(need):
    """A `DrbdMeta`, or a skip if it is not installed; what it remembers of our minor is removed at the end."""
    minor = MINOR_BASE + os.getpid() % 500_000
    yield DrbdMeta(need("drbdmeta"), minor)
    for path in (f"/var/lib/drbd/drbd-minor-{minor}.lkbd", f"/run/lock/drbd-147-{minor}"):
        with contextlib.suppress(OSError):
            Path(path).unlink()


@pytest.fixture
def make_image(tmp_path):
    """`make_image(size_bytes)` gives a new sparse image; with `fill` it is filled."""
    made = []

    def make(size_bytes: int, fill: bytes = b"") -> Image:
        made.append(Image(tmp_path / f"disk{len(made)}.img", size_bytes, fill))
        return made[-1]

    return make
