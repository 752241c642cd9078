"""FileDevice on what only root can make: loop devices, a mounted disk, a file system that is full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from errno import ENOSPC
from pathlib import Path

import pytest

from pydrbd.errors import BusyError
from pydrbd.runtime.block_device import DiskIOError, FileDevice
from tests.runtime.disk_tools import assert_same, read_batch, write_batch

SIZE_BYTES = 4 * 1024 * 1024

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: loop devices and mounts")


@pytest.fixture
def loop(tmp_path: Path, need: Callable[..., str]) -> Iterator[Callable[..., str]]:
    """`loop(sector_bytes)` makes a loop device of 4 MiB and gives its path; all are detached at the end."""
    losetup = need("losetup")
    made: list[str] = []

    def make(sector_bytes: int = 512) -> str:
        backing = tmp_path / f"backing{len(made)}"
        backing.write_bytes(b"\xa5" * SIZE_BYTES)
        command = [losetup, "--find", "--show", "--sector-size", str(sector_bytes), str(backing)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"no loop devices here: {result.stderr.strip()}")
        made.append(result.stdout.strip())
        return made[-1]

    yield make
    for path in made:
        subprocess.run([losetup, "--detach", path], check=True)


@pytest.fixture
def mount(tmp_path: Path, need: Callable[..., str]) -> Iterator[Callable[..., Path]]:
    """`mount(what, *options)` gives the mount point; all are unmounted at the end."""
    mount_command, umount = need("mount", "umount")
    made: list[Path] = []

    def make(*arguments: str) -> Path:
        place = tmp_path / f"mnt{len(made)}"
        place.mkdir()
        result = subprocess.run([mount_command, *arguments, str(place)], capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"no mounts here: {result.stderr.strip()}")
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run([umount, str(place)], check=True)


@pytest.mark.parametrize("sector_bytes", [512, 4096])
@pytest.mark.parametrize("io", ["direct", "buffered"])
def test_a_block_device_keeps_the_neighbours_of_what_is_written(
    loop: Callable[..., str], sector_bytes: int, io: str
) -> None:
    """Real blocks of both sizes: whole ones, parts, runs across blocks, zeroes, and holes; all read back."""
    device = FileDevice(loop(sector_bytes), io)  # type: ignore[arg-type]
    assert (device.size_bytes, device.logical_block_bytes) == (SIZE_BYTES, sector_bytes)
    assert device.is_direct == (io == "direct") and device.is_block_device
    assert (not device.held_back_reason) == device.is_direct
    model = bytearray(device.read_at(0, SIZE_BYTES))
    assert model == b"\xa5" * SIZE_BYTES
    writes = [(512, b"a" * 512), (4096, b"b" * 8192), (12288, b"c" * 512), (100_001, b"d" * 9999)]
    assert device.write_records(write_batch(writes), 0b1111, 4096) == (0, 0)
    for offset, data in writes:
        model[4096 + offset : 4096 + offset + len(data)] = data
    device.write_at(SIZE_BYTES - 1, b"z")
    model[-1:] = b"z"
    device.write_zeroes(200_001, 50_000, may_unmap=False)
    model[200_001:250_001] = bytes(50_000)
    device.write_zeroes(300_000, 70_000, may_unmap=True)
    model[300_000:370_000] = bytes(70_000)
    if device.discard(1_000_100, 500_000):
        model[1_000_100:1_500_100] = bytes(500_000)
    device.flush()
    assert_same(device.read_at(0, SIZE_BYTES), model)
    batch, views = read_batch([(offset, len(data)) for offset, data in writes])
    assert device.read_records(batch, 0b1111, 4096, batch.buffer) == (0, 0)
    assert [bytes(view) for view in views] == [data for _, data in writes]
    path = device.path
    device.close()
    assert_same(Path(path).read_bytes(), model)


def test_a_block_device_has_one_user(loop: Callable[..., str]) -> None:
    """The kernel's exclusive claim: the second one, and a reader, are told that it is taken."""
    path = loop()
    device = FileDevice(path)
    for read_only in (False, True):
        with pytest.raises(BusyError, match=f"{path}: is already in use by another process"):
            FileDevice(path, read_only=read_only)
    device.close()
    FileDevice(path).close()


def test_a_mounted_disk_is_refused_with_its_mount_point(
    loop: Callable[..., str], mount: Callable[..., Path], need: Callable[..., str]
) -> None:
    """The commonest way to lose a file system: the message says where it is mounted."""
    path = loop()
    subprocess.run([need("mkfs.ext4"), "-q", "-F", path], check=True, capture_output=True)
    place = mount(path)
    with pytest.raises(BusyError, match=f"in use by the file system mounted on {place}"):
        FileDevice(path)


def test_a_trusted_discard_is_used_where_holes_are_refused(
    loop: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BLKDISCARD for whole units of the granularity, written zeroes at the edges; never when it is not trusted."""
    for is_trusted in (True, False):
        device = FileDevice(loop(), discard_zeroes_if_aligned=is_trusted)
        if is_trusted and device._zeroer._granularity_bytes == 0:
            device.close()
            pytest.skip("this loop device does not discard")

        def refuse(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        with monkeypatch.context() as patch:
            patch.setattr(type(device._zeroer), "_fallocate", refuse)
            model = bytearray(device.read_at(0, SIZE_BYTES))
            assert device.discard(100, 1_000_000) == is_trusted
            if is_trusted:
                model[100:1_000_100] = bytes(1_000_000)
        assert_same(device.read_at(0, SIZE_BYTES), model)
        device.close()


@pytest.mark.parametrize("io", ["auto", "buffered"])
def test_a_full_file_system_is_an_error_of_the_members_it_hit(mount: Callable[..., Path], io: str) -> None:
    """A sparse file larger than its file system: ENOSPC for what did not fit, the rest is written."""
    place = mount("-t", "tmpfs", "-o", "size=1m", "pydrbd-test")
    path = place / "disk"
    with path.open("wb") as file:
        file.truncate(2 * 1024 * 1024)
    device = FileDevice(str(path), io)  # type: ignore[arg-type]
    writes = [(index * 512 * 1024, bytes([index + 1]) * 300_032) for index in range(4)]
    failed, number = device.write_records(write_batch(writes), 0b1111, 0)
    assert number == ENOSPC and failed & 0b0001 == 0 and failed & 0b1000
    assert device.read_at(0, 300_032) == writes[0][1]
    with pytest.raises(DiskIOError, match="No space left on device") as caught:
        device.write_at(1536 * 1024, bytes([9]) * 300_032)
    assert caught.value.errno == ENOSPC
    device.close()
