"""fio's report is read as it is meant, and what is not one is refused."""

from __future__ import annotations

import json

import pytest

from benchmarks import fio
from benchmarks.rows import ROWS

PERCENTILES = {"50.000000": 240_000, "90.000000": 500_000, "99.000000": 900_000, "99.900000": 1_000_000}
WRITE, READ, FLUSH = ROWS["write-4k-32"], ROWS["read-4k-32"], ROWS["flush-4k-1"]


def side(total_ios, runtime_ms, block_bytes=4096):
    """One direction of a job in fio 3's JSON, with the fields that matter and one that does not."""
    return {
        "io_bytes": total_ios * block_bytes,
        "total_ios": total_ios,
        "runtime": runtime_ms,
        "iops": 1.0,
        "clat_ns": {"mean": 250_000.0, "percentile": PERCENTILES},
    }


def report(write=(0, 0), read=(0, 0), flushes=0, error=0):
    job = {"jobname": "x", "error": error, "write": side(*write), "read": side(*read), "sync": {"total_ios": flushes}}
    return json.dumps({"fio version": "fio-3.33", "jobs": [job]}, indent=2)


def test_rates_come_from_totals_and_the_time_that_fio_measured():
    """Not from fio's own averages, and not from the time that was asked for."""
    found = fio.parse(report(write=(50_000, 2_000)), WRITE)
    assert (found.requests, found.seconds, found.flushes) == (50_000, 2.0, 0)
    assert found.rate_per_s == 25_000
    assert found.bytes_per_s == 25_000 * 4096
    assert found.latency_us == {"50": 240.0, "90": 500.0, "99": 900.0, "99.9": 1000.0}


def test_a_read_row_takes_the_read_side():
    """A report has both sides always."""
    assert fio.parse(report(read=(300, 1_000), write=(7, 1_000)), READ).requests == 300


def test_a_mixed_row_takes_both_sides():
    """Reads and writes together; the writes by themselves are what must have come to the second node."""
    found = fio.parse(report(read=(700, 1_000), write=(300, 1_000)), ROWS["mix-4k-16x4"])
    assert (found.requests, found.writes, found.bytes_done) == (1000, 300, 1000 * 4096)


def test_flushes_are_counted_for_a_row_that_flushes():
    """fio counts them apart from the writes."""
    assert fio.parse(report(write=(90, 1_000), flushes=89), FLUSH).flushes == 89


@pytest.mark.parametrize("before", ["", "fio: connected to NBD server\n", "note: {odd}\nanother\n"])
def test_notes_before_the_report_are_skipped(before):
    """The nbd engine talks on stdout."""
    assert fio.parse(before + report(write=(10, 1_000)), WRITE).requests == 10


def test_words_after_the_report_are_skipped():
    """fio may complain at its end."""
    assert fio.parse(report(write=(10, 1_000)) + "\nfio: bye\n", WRITE).requests == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a report"),
        ("fio: failed to connect\n", "not a report"),
        ('{"jobs": []}', "not a report"),
        ('{"jobs": 5}', "not a report"),
        ("[1]", "not a report"),
        (report(write=(10, 1_000))[:-40], "not a report"),
        (report(write=(10, 1_000), error=5), "error 5"),
        (report(read=(10, 1_000)), "did nothing"),
    ],
)
def test_what_is_no_good_report_is_an_error(text, words):
    """A failed run must never become a figure."""
    with pytest.raises(fio.FioError, match=words):
        fio.parse(text, WRITE)


def test_the_command_line_says_what_the_row_says():
    """Depth, block size, pattern, flush, and only where wanted."""
    words = fio.command(FLUSH, "nbd+unix:///r0?socket=/s", 1 << 20, 1.5, seed=7)
    assert {"--bs=4096", "--iodepth=1", "--rw=randwrite", "--fsync=1", "--runtime=1500ms", "--randseed=7"} <= set(words)
    assert "--fsync=1" not in fio.command(WRITE, "nbd://x", 1 << 20, 1, seed=7)


def test_several_clients_write_apart_from_each_other():
    """Copies may differ where two write the same block at a time: that is no fault of a peer's."""
    words = fio.command(ROWS["mix-4k-16x4"], "nbd://x", 1 << 20, 1, seed=7)
    assert {"--numjobs=4", "--size=262144", "--offset_increment=262144"} <= set(words)
    assert not any(word.startswith("--offset") for word in fio.command(WRITE, "nbd://x", 1 << 20, 1, seed=7))


def test_a_block_device_is_written_past_the_page_cache():
    """What is measured in a guest must not be its own memory."""
    words = fio.command(WRITE, "/dev/nbd0", 1 << 20, 1, seed=7)
    assert {"--ioengine=libaio", "--filename=/dev/nbd0", "--direct=1"} <= set(words)


def test_blocks_are_made_dirty_once_each_with_new_bytes():
    """A tenth of 256 blocks, whole blocks; and at least one."""
    words = fio.dirty_command("nbd://x", 1 << 20, 0.1, seed=7)
    assert {"--io_size=102400", "--refill_buffers=1", "--randseed=7"} <= set(words)
    assert "--io_size=4096" in fio.dirty_command("nbd://x", 1 << 20, 0.001, seed=7)


def test_a_fio_that_fails_is_an_error_with_its_words(need, tmp_path):
    """Nobody listens there."""
    need("fio")
    with pytest.raises(fio.FioError, match="fio"):
        fio.run(WRITE, f"nbd+unix:///?socket={tmp_path}/nobody", 1 << 20, 0.1, 1, tmp_path)
