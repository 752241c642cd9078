"""`python -m benchmarks` on real servers: one tiny row, and what must not pass for a figure."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import plugin
from benchmarks.pair import PydrbdPair
from benchmarks.peers import PEERS
from benchmarks.places import Ground
from benchmarks.rows import ROWS
from benchmarks.servers import ServerError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.interop
def test_two_tiny_rows_make_a_whole_report(need, processes, short_tmp):
    """A pair and a mirror are started, measured, compared and ended; the table is printed, JSON has all figures."""
    need("fio", "qemu-storage-daemon")
    words = ["--peers", "pydrbd,mirror", "--rows", "write-4k-32,resync-full", "--seconds", "0.5", "--repeat", "1"]
    words += ["--size", "8", "--dir", str(short_tmp), "--output", str(short_tmp / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        env=processes.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == (short_tmp / "out/latest.md").read_text()
    assert "[4/4]" in done.stderr
    assert [path.name for path in short_tmp.iterdir()] == ["out"], "something was left behind"

    (group,) = json.loads((short_tmp / "out/latest.json").read_text())["groups"]
    assert {"place", "started", "machine", "versions", "how", "plan", "peers", "rows"} == set(group)
    assert group["versions"]["fio"].startswith("fio-") and group["machine"]["kernel"]
    writes, resync = group["rows"]
    assert writes["name"] == "write-4k-32" and resync["name"] == "resync-full"
    ours = writes["peers"]["pydrbd"]
    assert ours["rate"] > 0 and ours["latency_us"]["50"] <= ours["latency_us"]["99"]
    assert 1 <= ours["requests_per_wakeup"] <= 32
    (run,) = ours["runs"]
    assert run["counted"]["nbd_requests"] >= run["outcome"]["requests"] > 0
    assert run["counted"]["secondary_packets"] >= run["outcome"]["requests"]
    assert resync["goals"][0]["ratio"] > 0
    for peer in resync["peers"].values():
        assert peer["runs"][0]["outcome"]["curve"][-1][1] == 1.0


@pytest.mark.interop
def test_a_scattered_resync_brings_what_was_missed(need, processes, monkeypatch, short_tmp):
    """A tenth of the blocks was written while the Secondary was away; the resync is of that much, and is complete."""
    need("fio")
    monkeypatch.setattr("os.environ", processes.env)
    monkeypatch.chdir(ROOT)
    row = ROWS["resync-10"]
    with ExitStack() as stack:
        pair = PydrbdPair(short_tmp, 8 << 20, stack)
        pair.prepare_resync(row, 1)
        done = pair.resync(row)
        pair.verify(row, {}, 0)
        assert done.bytes_done == pytest.approx(0.1 * (8 << 20), rel=0.05)
        with pytest.raises(ServerError, match=r"0 blocks are to be synced, and not 205"):
            pair.resync(row)


def test_a_comparison_is_of_everything(processes, monkeypatch, short_tmp):
    """It has a figure only if every block was compared; copies that differ are no figure."""
    monkeypatch.setattr("os.environ", processes.env)
    monkeypatch.chdir(ROOT)
    row = ROWS["check"]
    with ExitStack() as stack:
        pair = PydrbdPair(short_tmp, 4 << 20, stack)
        pair.prepare_resync(row, 1)
        assert pair.resync(row).bytes_done >= 4 << 20
        with (short_tmp / "beta.img").open("r+b") as disk:
            disk.seek(1_000_000)
            disk.write(b"not what was written")
        with pytest.raises(ServerError, match=r"blocks compared, 1 of them said to differ"):
            pair.resync(row)


@pytest.mark.interop
def test_the_pairs_of_qemu_keep_both_copies_the_same(need, short_tmp):
    """They are started, become ready, and are found to have written every block to both files."""
    need("fio", "qemu-storage-daemon")
    row = ROWS["write-4k-32"]
    for name in ("mirror", "quorum", "direct-mirror", "direct-quorum"):
        with ExitStack() as stack:
            pair = PEERS[name].start(Ground(short_tmp, 4 << 20, stack), name)
            assert pair.drive(row, 0.3, 1)[0].writes > 0
            pair.verify(row, {}, 0)
            with (short_tmp / name / "b.img").open("r+b") as copy:
                copy.write(b"not what was written")
            with pytest.raises(ServerError, match="copies differ"):
                pair.verify(row, {}, 0)


@pytest.mark.interop
@pytest.mark.parametrize("name", ["direct-pydrbd", "direct-qemu-nbd", "log-small", "plugin-nbdkit"])
def test_peers_past_the_page_cache_with_a_small_log_or_in_nbdkit_work(name, need, processes, monkeypatch, short_tmp):
    """They are started as their names say, written to, and compared."""
    need("fio", "qemu-nbd")
    if name == "plugin-nbdkit" and (reason := plugin.why_not()):
        pytest.skip(reason)
    monkeypatch.setattr("os.environ", processes.env)
    monkeypatch.chdir(ROOT)
    row = ROWS["write-4k-32"]
    with ExitStack() as stack:
        peer = PEERS[name].start(Ground(short_tmp, 4 << 20, stack), name)
        before = peer.counters()
        outcome, _cpu_s = peer.drive(row, 0.3, 1)
        after = peer.counters()
        assert outcome.writes > 0
        peer.verify(row, {key: after[key] - before[key] for key in after}, outcome.writes)


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
