"""FileDevice on ordinary files: what it refuses to open, what it reads and writes, and what it says when that fails."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pydrbd.errors import BusyError, DiskError
from pydrbd.runtime import block_device, block_lock
from pydrbd.runtime.block_device import DiskIOError, FileDevice
from pydrbd.runtime.direct_io import BOUNCE_BYTES, DirectIo
from tests.runtime.disk_tools import assert_same, read_batch, write_batch

SIZE_BYTES = 64 * 1024
MIB = 1 << 20


@pytest.fixture
def disk_path(tmp_path: Path) -> str:
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(256)) * (SIZE_BYTES // 256))
    return str(path)


@pytest.fixture(params=["buffered", "direct"])
def device(request: pytest.FixtureRequest, disk_path: str) -> Iterator[FileDevice]:
    try:
        device = FileDevice(disk_path, request.param)
    except DiskError as error:
        pytest.skip(f"no direct I/O here: {error}")
    yield device
    device.close()


def content(device: FileDevice) -> bytes:
    return Path(device.path).read_bytes()


def test_a_missing_disk_is_named_with_what_to_do(tmp_path: Path) -> None:
    """The commonest mistake, a wrong path, is answered with that path and a remedy."""
    with pytest.raises(DiskError, match=r"nothing: no such disk: .*truncate"):
        FileDevice(str(tmp_path / "nothing"))


def test_a_directory_is_no_disk(tmp_path: Path) -> None:
    """A folder is refused in words, not with EISDIR."""
    with pytest.raises(DiskError, match="is a directory"):
        FileDevice(str(tmp_path))


def test_a_character_device_is_no_disk() -> None:
    """Only block devices and regular files have a size and can be flushed."""
    with pytest.raises(DiskError, match="neither a block device nor a regular file"):
        FileDevice("/dev/null")


@pytest.mark.parametrize(
    ("size_bytes", "message"), [(0, "too small: 0 bytes"), (512, "too small"), (8192 + 100, "not a multiple of 512")]
)
def test_a_disk_of_a_wrong_size_is_refused(tmp_path: Path, size_bytes: int, message: str) -> None:
    """Too short, or with a partial sector at the end: refused, and the lock is given back."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(size_bytes))
    with pytest.raises(DiskError, match=message):
        FileDevice(str(path))
    path.write_bytes(bytes(8192))
    FileDevice(str(path)).close()


def test_a_disk_that_we_may_not_write_is_refused() -> None:
    """Permission is looked at with the user's rights, and the message says what to change."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "disk"
        path.write_bytes(bytes(8192))
        path.chmod(0o444)
        was_root = os.geteuid() == 0
        if was_root:
            os.seteuid(65534)
        try:
            with pytest.raises(DiskError, match="no permission to read and write: run as a user who may"):
                FileDevice(str(path))
            FileDevice(str(path), read_only=True).close()
        finally:
            if was_root:
                os.seteuid(0)


def test_a_disk_has_one_user_at_a_time(disk_path: str) -> None:
    """Two volumes on one file would destroy each other: the second is told who has it; after a close it's free."""
    first = FileDevice(disk_path)
    with pytest.raises(BusyError, match="is already in use by this process"):
        FileDevice(disk_path)
    with pytest.raises(BusyError, match="is already in use"):
        FileDevice(disk_path, read_only=True)
    first.close()
    first.close()
    FileDevice(disk_path).close()


def test_parts_of_a_disk_have_one_user_each(disk_path: str) -> None:
    """A meta-data device with an index for each volume: other bytes may be in use, the same ones and the whole not."""
    first = FileDevice(disk_path, ours=range(0, 4096))
    second = FileDevice(disk_path, ours=range(4096, 8192))
    with pytest.raises(BusyError, match=r"its bytes from 4096 to 8191 are in use by another volume"):
        FileDevice(disk_path, ours=range(4096, 8192), read_only=True)
    with pytest.raises(BusyError, match="is already in use by this process"):
        FileDevice(disk_path)
    second.close()
    FileDevice(disk_path, ours=range(4096, 8192)).close()
    first.close()
    whole = FileDevice(disk_path)
    with pytest.raises(BusyError, match="is already in use by this process"):
        FileDevice(disk_path, ours=range(0, 4096))
    whole.close()


def test_another_process_is_named(disk_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the pid and the program of who holds the lock."""
    with Path(disk_path).open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_SH)
        program = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        me = os.getpid()
        monkeypatch.setattr(block_lock.os, "getpid", lambda: me + 1)
        with pytest.raises(BusyError, match=rf"in use by process {me} \({program}\): stop that first"):
            FileDevice(disk_path)


def test_readers_share_a_disk(disk_path: str) -> None:
    """Two dumps at a time are fine."""
    first, second = FileDevice(disk_path, read_only=True), FileDevice(disk_path, read_only=True)
    assert first.read_at(0, 256) == second.read_at(0, 256) == bytes(range(256))
    with pytest.raises(DiskIOError):
        first.write_at(0, b"x" * 512)
    first.close()
    second.close()


def test_auto_falls_back_to_the_page_cache_and_says_why(disk_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel refuses direct reads, auto goes on without, and direct is an error with the same reason."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(block_lock.os, "preadv", refuse)
    device = FileDevice(disk_path)
    assert not device.is_direct
    assert "can't be read that way" in device.buffered_reason
    assert not fcntl.fcntl(device._fd, fcntl.F_GETFL) & os.O_DIRECT
    device.close()
    with pytest.raises(DiskError, match=r"direct I/O was asked for, but its first block .* choose buffered"):
        FileDevice(disk_path, "direct")


def test_a_bad_first_block_does_not_hide_the_disk_in_the_cache(disk_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO says nothing about direct I/O."""

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(block_lock.os, "preadv", fail)
        try:
            device = FileDevice(disk_path, "direct")
        except DiskError as error:
            pytest.skip(f"no direct I/O here: {error}")
    assert device.is_direct
    device.close()


def test_unaligned_writes_keep_their_neighbours(device: FileDevice) -> None:
    """Bytes around a write that is no whole block, at its head, its tail or both, stay as they were."""
    expected = bytearray(content(device))
    for offset_bytes, length in [(1, 1), (511, 2), (1000, 24), (4095, 4098), (SIZE_BYTES - 3, 3), (0, 512)]:
        data = os.urandom(length)
        device.write_at(offset_bytes, data)
        expected[offset_bytes : offset_bytes + length] = data
        assert_same(content(device), expected)
        assert device.read_at(offset_bytes, length) == data


def test_a_batch_is_written_and_read_back(device: FileDevice) -> None:
    """Members of the mask land where they belong, aligned or not, neighbours or not; the others are left alone."""
    writes = [(0, b"a" * 4096), (4096, b"b" * 512), (4608, b"c" * 100), (20000, b"d" * 7), (32768, b"e" * 8192)]
    expected = bytearray(content(device))
    batch = write_batch(writes)
    mask = batch.all & ~0b1000
    assert device.write_records(batch, mask, 1024) == (0, 0)
    for index, (offset_bytes, data) in enumerate(writes):
        if mask >> index & 1:
            expected[1024 + offset_bytes : 1024 + offset_bytes + len(data)] = data
    assert_same(content(device), expected)
    batch, views = read_batch([(offset_bytes, len(data)) for offset_bytes, data in writes])
    target = bytearray(b"-" * len(batch.buffer))
    assert device.read_records(batch, mask, 1024, target) == (0, 0)
    for index, (offset_bytes, data) in enumerate(writes):
        start = batch.records[index].data
        there = target[start : start + len(data)]
        assert there == (data if mask >> index & 1 else b"-" * len(data)), (index, offset_bytes)
    assert all(bytes(view) == bytes(len(view)) for view in views), "the batch's own buffer is not the target"


def test_transfers_longer_than_a_bounce_buffer(tmp_path: Path) -> None:
    """A request of several bounce buffers, and a batch that does not fit one, arrive whole."""
    path = tmp_path / "long"
    path.write_bytes(bytes(8 * BOUNCE_BYTES))
    device = FileDevice(str(path))
    data = os.urandom(2 * BOUNCE_BYTES + 700)
    device.write_at(300, data)
    assert_same(device.read_at(300, len(data)), data)
    first, second = os.urandom(BOUNCE_BYTES // 2 + 512), os.urandom(BOUNCE_BYTES // 2)
    third = os.urandom(BOUNCE_BYTES + 4096)
    writes = [(4 * BOUNCE_BYTES, first), (4 * BOUNCE_BYTES + len(first), second), (6 * BOUNCE_BYTES, third)]
    assert device.write_records(write_batch(writes), 0b111, 0) == (0, 0)
    batch, views = read_batch([(offset_bytes, len(written)) for offset_bytes, written in writes])
    assert device.read_records(batch, 0b111, 0, batch.buffer) == (0, 0)
    for view, written in zip(views, [first, second, third], strict=True):
        assert_same(bytes(view), written)
    device.close()


def test_writers_of_one_block_do_not_lose_each_others_sectors(tmp_path: Path) -> None:
    """Two writes that share a block but no byte may run at once: both are there afterwards."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(8192))
    try:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"no direct I/O here: {error}")
    direct = DirectIo(fd, 4096)
    start = threading.Barrier(8)

    def write(slot: int) -> None:
        start.wait(10)
        for value in range(1, 41):
            direct.write(2048 + slot * 512, bytes([value]) * 512)

    threads = [threading.Thread(target=write, args=(slot,)) for slot in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    assert_same(path.read_bytes(), bytes(2048) + bytes([40]) * 4096 + bytes(2048))


@pytest.mark.parametrize("may_unmap", [False, True])
def test_zeroing_zeroes_just_the_range(device: FileDevice, may_unmap: bool) -> None:
    """Whole blocks and partial ones; the size and the neighbours stay."""
    expected = bytearray(content(device))
    for offset_bytes, length in [(100, 50), (4096, 4096), (9000, 20000), (SIZE_BYTES - 512, 512), (40000, 0)]:
        device.write_zeroes(offset_bytes, length, may_unmap=may_unmap)
        expected[offset_bytes : offset_bytes + length] = bytes(length)
        assert_same(content(device), expected)


def test_discard_gives_the_space_up_and_leaves_zeroes(device: FileDevice) -> None:
    """A hole is punched; what is around it stays."""
    expected = bytearray(content(device))
    os.fsync(device._fd)
    before = Path(device.path).stat().st_blocks
    if not device.discard(8192, 32768 + 100):
        pytest.skip("this file system punches no holes")
    expected[8192 : 8192 + 32768 + 100] = bytes(32768 + 100)
    assert_same(content(device), expected)
    assert Path(device.path).stat().st_blocks <= before - 32768 // 512


def test_zeroing_without_help_of_the_file_system(device: FileDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fallocate is not supported, discard says so and does nothing; zeroing writes zeroes; asked only once."""
    calls = []

    def refuse(_self: object, mode: int, _offset_bytes: int, _length: int) -> None:
        calls.append(mode)
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(type(device._zeroer), "_fallocate", refuse)
    expected = bytearray(content(device))
    assert not device.discard(0, 4096)
    assert not device.discard(0, 4096)
    assert_same(content(device), expected)
    device.write_zeroes(1000, 30000, may_unmap=True)
    device.write_zeroes(40000, 10, may_unmap=False)
    expected[1000:31000] = bytes(30000)
    expected[40000:40010] = bytes(10)
    assert_same(content(device), expected)
    assert len(calls) == len(set(calls)) == 2


def test_a_failed_flush_is_final(device: FileDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports lost writes once; we report them for ever."""
    device.flush()

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(DiskIOError, match="the flush failed") as caught:
            device.flush()
    assert caught.value.errno == errno.EIO
    with pytest.raises(DiskIOError, match="an earlier flush failed"):
        device.flush()


def test_a_durable_write_waits_for_itself_alone(device: FileDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to a descriptor with O_DSYNC: no flush of all that was ever written to the file comes with it."""
    assert fcntl.fcntl(device._durable_fd, fcntl.F_GETFL) & os.O_DSYNC
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    device.write_at(4096, b"a" * 4096)
    device.write_durably(8192, b"b" * 4096)
    assert not synced and device.read_at(4096, 8192) == b"a" * 4096 + b"b" * 4096 == content(device)[4096:12288]


def test_a_durable_write_without_such_a_descriptor_flushes(disk_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc is missing the disk can't be opened a second time: then it is a write and a flush."""
    monkeypatch.setattr(block_device, "open_durable", lambda _fd, direct: -1)
    device = FileDevice(disk_path)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    device.write_durably(100, b"c" * 5000)
    assert synced == [device._fd] and content(device)[100:5100] == b"c" * 5000
    device.close()


def test_a_failed_durable_write_is_as_final_as_a_failed_flush(
    device: FileDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error may be about what others have written: from then on no flush succeeds."""
    refused = os.open(device.path, os.O_RDONLY)
    with monkeypatch.context() as patch:
        patch.setattr(device, "_durable_fd", refused)
        if device._durable_direct is not None:
            patch.setattr(device._durable_direct, "_fd", refused)
        with pytest.raises(DiskIOError, match="writing durably 4096 bytes at 0 failed") as caught:
            device.write_durably(0, bytes(4096))
    os.close(refused)
    assert caught.value.errno == errno.EBADF
    for again in (device.flush, lambda: device.write_durably(0, bytes(4096))):
        with pytest.raises(DiskIOError, match="an earlier flush failed"):
            again()


def test_a_durable_write_finds_a_disk_that_was_cut_off(device: FileDevice) -> None:
    """A file that others have made shorter would be made longer again by the write, silently."""
    os.truncate(device.path, SIZE_BYTES - 8192)
    with pytest.raises(DiskIOError, match="writing durably"):
        device.write_durably(0, bytes(4096))
    with pytest.raises(DiskIOError, match="an earlier flush failed"):
        device.flush()


def test_one_flush_serves_those_who_wait_for_it(disk_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that began before our write ended is not enough for us; of those that wait, one does the work for all."""
    device = FileDevice(disk_path)
    asked, go_on = threading.Event(), threading.Event()
    calls = []

    def sync(_fd: int) -> None:
        calls.append(1)
        asked.set()
        assert go_on.wait(10)

    monkeypatch.setattr(os, "fdatasync", sync)
    first = threading.Thread(target=device.flush)
    first.start()
    assert asked.wait(10)
    arrived = threading.Semaphore(0)
    lock = device._flush_lock

    class Announced:
        def __enter__(self) -> None:
            arrived.release()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    device._flush_lock = Announced()  # type: ignore[assignment]
    others = [threading.Thread(target=device.flush) for _ in range(5)]
    for thread in others:
        thread.start()
    for _ in others:
        assert arrived.acquire(timeout=10)
    go_on.set()
    for thread in [first, *others]:
        thread.join()
    assert len(calls) == 2
    device.close()


def test_a_disk_that_shrinks_is_an_error(device: FileDevice) -> None:
    """Truncated behind our back: reads past the new end fail, and so does the flush."""
    os.truncate(device.path, 8192)
    with pytest.raises(DiskIOError, match="ends early"):
        device.read_at(16384, 512)
    batch, _ = read_batch([(0, 512), (16384, 512)])
    assert device.read_records(batch, batch.all, 0, batch.buffer) == (0b10, errno.EIO)
    with pytest.raises(DiskIOError, match="has shrunk from 65536 to 8192 bytes"):
        device.flush()


def test_a_run_of_neighbours_that_fails_blames_the_right_member(device: FileDevice) -> None:
    """Neighbours are read as one request; when it fails, those that can be read still are."""
    os.truncate(device.path, 8192)
    batch, views = read_batch([(4096, 2048), (6144, 2048), (8192, 2048), (10240, 2048)])
    assert device.read_records(batch, batch.all, 0, batch.buffer) == (0b1100, errno.EIO)
    assert bytes(views[0]) == bytes(views[1]) == bytes(range(256)) * 8


def test_growing_is_taken_up_when_asked(device: FileDevice) -> None:
    """A longer file is used from refresh_size on, and not before."""
    os.truncate(device.path, 2 * SIZE_BYTES)
    device.flush()
    assert device.size_bytes == SIZE_BYTES
    assert device.refresh_size() == device.size_bytes == 2 * SIZE_BYTES
    device.write_at(2 * SIZE_BYTES - 512, b"x" * 512)
    os.truncate(device.path, SIZE_BYTES)
    with pytest.raises(DiskIOError, match="has shrunk"):
        device.refresh_size()


def test_outside_of_the_disk_is_our_bug(device: FileDevice) -> None:
    """A file would silently get longer: asserted for single ranges and for batches."""
    with pytest.raises(AssertionError):
        device.write_at(SIZE_BYTES - 511, bytes(512))
    with pytest.raises(AssertionError):
        device.write_records(write_batch([(0, bytes(512)), (SIZE_BYTES - 512, bytes(512))]), 0b11, 512)
    assert Path(device.path).stat().st_size == SIZE_BYTES


def test_holes_are_told_from_data(tmp_path: Path) -> None:
    """Where the file system tells; cut to the range and to the number that were asked for."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
        os.pwrite(file.fileno(), b"x" * MIB, 4 * MIB)
        os.fsync(file.fileno())
    device = FileDevice(str(path), "buffered")
    try:
        found = device.extents(0, 16 * MIB, 100)
        if found == [(16 * MIB, False)]:
            pytest.skip("this file system does not tell of holes")
        assert found == [(4 * MIB, True), (MIB, False), (11 * MIB, True)]
        assert device.extents(4 * MIB + 512, MIB, 100) == [(MIB - 512, False), (512, True)]
        assert device.extents(0, 16 * MIB, 2) == found[:2]
        device.read_ahead(0, 16 * MIB)
        assert device.read_at(4 * MIB - 1, 2) == b"\0x"
    finally:
        device.close()


def test_a_disk_says_whether_it_zeroes_without_writing(device: FileDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked behind its end: nothing of it is changed, its size neither."""
    expected = content(device)
    device.zeroes_fast = device._zeroer.is_fast()
    assert_same(content(device), expected)
    assert device.zeroes_fast == device.discard(8192, 4096)

    def refuse(*_words: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(type(device._zeroer), "_fallocate", refuse)
    assert not device._zeroer.is_fast()
