"""`python -m benchmarks` on real servers: one tiny row, and what must not pass for a figure."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import fio
from benchmarks.pair import PydrbdPair
from benchmarks.peers import PEERS
from benchmarks.rows import ROWS
from benchmarks.servers import ServerError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.interop
def test_one_tiny_row_makes_a_whole_report(need, processes, short_tmp):
    """A pair and nbdkit are started, measured, compared and ended; the table is printed, JSON has all figures."""
    need("fio", "nbdkit")
    words = ["--peers", "pydrbd,nbdkit", "--rows", "write-4k-32", "--seconds", "0.7", "--repeat", "1", "--size", "8"]
    words += ["--dir", str(short_tmp), "--output", str(short_tmp / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        env=processes.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == (short_tmp / "out/latest.md").read_text().strip()
    assert "[2/2]" in done.stderr
    assert [path.name for path in short_tmp.iterdir()] == ["out"], "something was left behind"

    report = json.loads((short_tmp / "out/latest.json").read_text())
    assert {"schema", "started", "machine", "versions", "plan", "peers", "rows"} == set(report)
    assert report["versions"]["fio"].startswith("fio-") and report["machine"]["kernel"]
    (row,) = report["rows"]
    assert row["name"] == "write-4k-32" and row["ratios"]["pydrbd/nbdkit"]["rate"] > 0
    ours = row["peers"]["pydrbd"]
    assert ours["rate"] > 0 and ours["cpu_us_per_request"] > 0
    assert 1 <= ours["requests_per_wakeup"] <= 32
    (run,) = ours["runs"]
    assert run["counted"]["nbd_requests"] >= run["fio"]["requests"] > 0
    assert run["counted"]["secondary_packets"] >= run["fio"]["requests"]


@pytest.mark.interop
def test_the_pairs_of_qemu_keep_both_copies_the_same(need, short_tmp):
    """They are started, become ready, and are found to have written every block to both files."""
    need("fio", "qemu-storage-daemon")
    row = ROWS["write-4k-32"]
    for name in ("mirror", "quorum"):
        (short_tmp / name).mkdir()
        with ExitStack() as stack:
            pair = PEERS[name].start(short_tmp / name, 4 << 20, stack)
            assert fio.run(row, pair.uri, 4 << 20, 0.3, 1, short_tmp)[0].writes > 0
            pair.verify(row, {}, 0)
            with (short_tmp / name / "b.img").open("r+b") as copy:
                copy.write(b"not what was written")
            with pytest.raises(ServerError, match="copies differ"):
                pair.verify(row, {}, 0)


def test_wrong_copies_and_lost_peers_are_found(processes, monkeypatch, short_tmp):
    """One changed byte is seen whatever the nodes say; and writes that did not go to the peer, as after a lost link.

    A pair that loses its peer for a while is fast, and in sync again later: its figure would be a lie.
    """
    monkeypatch.setattr("os.environ", processes.env)
    monkeypatch.chdir(ROOT)
    with ExitStack() as stack:
        pair = PydrbdPair(short_tmp, 1 << 20, stack)
        pair.verify(ROWS["read-4k-32"], pair.counters(), 0)
        with pytest.raises(ServerError, match="not connected all the time"):
            pair.verify(ROWS["write-4k-32"], {"secondary_packets": 9}, 10)
        with (short_tmp / "beta.img").open("r+b") as disk:
            disk.seek(1_000_000)
            byte = disk.read(1)
            disk.seek(1_000_000)
            disk.write(bytes([byte[0] ^ 1]))
        with pytest.raises(ServerError, match=r"WRONG.* 1 of \d+ blocks"):
            pair.verify(ROWS["read-4k-32"], pair.counters(), 0)
