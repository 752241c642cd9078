"""The lab's part of `python -m benchmarks`: two pairs in two guests, and what is said where there can be none."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import report, table
from benchmarks.lab import why_not
from benchmarks.lab_pairs import resync_seconds
from benchmarks.measure import Plan
from benchmarks.options import read_options
from benchmarks.places import PLACES
from benchmarks.servers import NotHere, ServerError

ROOT = Path(__file__).resolve().parents[2]
KERNEL_LOG = """\
[    3.910000] block drbd0: conn( Connected -> WFBitMapT )
[   26.970000] block drbd0: conn( PausedSyncT -> SyncTarget ) resync_susp_user( 1 -> 0 )
[   28.410000] block drbd0: Resync done (total 1 sec; paused 0 sec; 65496 K/sec)
[   28.420000] block drbd0: conn( SyncTarget -> Connected ) disk( Inconsistent -> UpToDate )
"""
PYDRBD_LOG = """\
2026-11-26 23:59:59,877 INFO r0: volume 0: conn( PausedSyncT -> SyncTarget )
2026-11-27 00:00:01,127 INFO r0: volume 0: conn( SyncTarget -> Connected ) disk( Inconsistent -> UpToDate )
"""


@pytest.mark.parametrize(("log", "seconds"), [(KERNEL_LOG, 1.45), (PYDRBD_LOG, 1.25)])
def test_a_log_says_how_long_a_resync_was(log, seconds):
    """The kernel's lines and ours have the same words behind different times."""
    assert resync_seconds(log) == pytest.approx(seconds)


@pytest.mark.parametrize("log", ["", KERNEL_LOG.replace("SyncTarget -> Conn", "SyncTarget -> TimeOut, Conn")])
def test_a_resync_without_an_end_is_no_figure(log):
    """A link that was lost on the way is not a fast resync."""
    with pytest.raises(ServerError, match="does not say"):
        resync_seconds(log)


def test_rows_that_a_place_has_not_are_not_planned(need):
    """Four clients at a time are measured on this machine only."""
    need("fio", "nbdkit", "qemu-nbd", "qemu-storage-daemon")
    plans = read_options(["--rows", "write-4k-32,mix-4k-16x4"]).plans
    assert [row.name for row in plans["here"].rows] == ["write-4k-32", "mix-4k-16x4"]
    assert ([row.name for row in plans["lab"].rows], plans["lab"].peers) == (
        ["write-4k-32"],
        ("lab-pydrbd", "lab-kernel"),
    )
    assert list(read_options(["--places", "lab"]).plans) == ["lab"]


def test_a_machine_without_guests_is_told_why_at_once(monkeypatch, need, tmp_path, capsys):
    """And what was measured there before stays as it was."""
    need("fio")
    monkeypatch.setitem(PLACES, "lab", replace(PLACES["lab"], why_not=lambda: "the lab needs root"))
    assert command.main(["--places", "lab", "--dir", "/tmp", "--output", str(tmp_path)]) == 1
    assert "Not measured in two guests of the lab: the lab needs root" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rows_that_were_left_out_are_named_in_the_report(monkeypatch, need, tmp_path, capsys):
    """Here the guests' kernel itself does not start: the other place is measured all the same."""
    need("fio")
    found = {"place": "here", "started": "", "machine": dict.fromkeys(["cpu", "cpu_count", "memory_mib"]), "rows": []}
    found["machine"] |= {"kernel": "0", "file_system": "ext2"}
    found |= {"versions": {}, "how": "", "plan": {"repeat": 1, "seconds": 1}, "peers": {"pydrbd": "pydrbd pair"}}

    def measure(place, *_):
        if place == "lab":
            raise NotHere("no guest can be started: it says nothing")
        return found

    monkeypatch.setattr(command, "_measure", measure)
    monkeypatch.setitem(PLACES, "lab", replace(PLACES["lab"], why_not=lambda: None))
    plan = Plan((), ("pydrbd",), 1.0, 1, 1)
    assert command._run({"lab": plan, "here": plan}, tmp_path, tmp_path) == 0
    said = capsys.readouterr()
    reason = "Not measured in two guests of the lab: no guest can be started: it says nothing"
    assert reason in said.out and reason in said.err
    groups = json.loads((tmp_path / "latest.json").read_text())["groups"]
    assert [group["left_out"] for group in groups] == [[reason]]
    assert reason in table.markdown(report.merge(groups, None))


@pytest.mark.interop
def test_two_tiny_rows_are_measured_in_guests(processes, short_tmp):
    """A kernel pair and ours, in the same two guests: copies compared, ratios found, nothing left behind."""
    if reason := why_not():
        pytest.skip(reason)
    words = ["--places", "lab", "--rows", "write-4k-32,resync-10", "--seconds", "0.2", "--repeat", "1"]
    words += ["--size", "8", "--dir", str(short_tmp), "--output", str(short_tmp / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        env=processes.env,
        capture_output=True,
        text=True,
        timeout=110,
    )
    if "no guest can be started" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in short_tmp.iterdir()] == ["out"], "something was left behind"
    (group,) = json.loads((short_tmp / "out/latest.json").read_text())["groups"]
    assert group["versions"]["drbd.ko"].startswith("8.4")
    writes, resync = group["rows"]
    assert list(writes["peers"]) == list(resync["peers"]) == ["lab-pydrbd", "lab-kernel"]
    assert writes["goals"][0]["ratio"] > 0 and resync["goals"][0]["ratio"] > 0
    for peer in writes["peers"].values():
        (run,) = peer["runs"]
        assert run["counted"]["sent_kib"] >= run["outcome"]["writes"] * 4 > 0
        assert run["server_cpu_s"] > 0
