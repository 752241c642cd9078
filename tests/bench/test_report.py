"""From runs to a table: medians, ratios within a repetition, order, noise, options."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.cpu import Clock, parse_machine_stat, parse_process_stat
from benchmarks.fio import FioResult
from benchmarks.measure import Plan, Run, measure, order
from benchmarks.options import read_options
from benchmarks.peers import PEERS
from benchmarks.rows import ROWS
from benchmarks.servers import Server, ServerError, wait_for_socket

ROW = ROWS["write-4k-32"]
PLAN = Plan((ROW,), ("pydrbd", "nbdkit"), 1.0, 3, 1 << 20)
SURROUNDINGS = {
    "started": "2020-01-01T00:00:00+00:00",
    "machine": {"cpu": "Z80", "cpu_count": 1, "memory_mib": 1, "kernel": "0.1", "file_system": "ext2"},
    "versions": {"pydrbd": "0", "nbdkit": ""},
}


def a_run(peer, repetition, rate, cpu_us=10.0, other_cpu_s=0.0, counted=None):
    result = FioResult(int(rate), int(rate), 0, 1.0, rate, rate * 4096, 1.0, 1.0, 2.0)
    return Run(ROW.name, peer, repetition, result, rate * cpu_us / 1e6, other_cpu_s, counted or {})


def built(*runs):
    return report.build(PLAN, runs, SURROUNDINGS)


def test_a_ratio_is_the_median_of_the_ratios_within_a_repetition():
    """The machine became ten times slower after the first repetition: medians of each side alone would say 0.05."""
    runs = [a_run("pydrbd", 0, 500), a_run("nbdkit", 0, 1000)]
    runs += [a_run("pydrbd", n, 50, cpu_us=30) for n in (1, 2)] + [a_run("nbdkit", n, 100) for n in (1, 2)]
    (row,) = built(*runs)["rows"]
    assert row["ratios"]["pydrbd/nbdkit"] == pytest.approx({"rate": 0.5, "cpu_per_request": 3.0})
    assert row["peers"]["pydrbd"]["rate"] == 50


def test_wakeups_are_counted_over_all_runs():
    """A mean of means would weigh a short run like a long one."""
    runs = [
        a_run("pydrbd", 0, 10, counted={"nbd_requests": 10, "nbd_wakeups": 10}),
        a_run("pydrbd", 1, 90, counted={"nbd_requests": 90, "nbd_wakeups": 10}),
    ]
    assert built(*runs)["rows"][0]["peers"]["pydrbd"]["requests_per_wakeup"] == 5.0


def test_the_table_shows_rates_ratio_and_noise():
    """One line a row; a run that others disturbed is marked; a program without version is left out."""
    busy = (os.cpu_count() or 1) * 0.5
    text = report.markdown(built(a_run("pydrbd", 0, 1234, other_cpu_s=busy), a_run("nbdkit", 0, 2468)))
    line = next(line for line in text.splitlines() if line.startswith(f"| {ROW.title}"))
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["1,234/s (n1)", "2,468/s", "0.50"]
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert "nbdkit ." not in text and "distrust" in text


def test_a_failure_and_half_a_run_still_make_a_report():
    """The first peer was measured, then something broke: the report says so, and shows what there is."""
    made = report.build(PLAN, [a_run("pydrbd", 0, 100)], {**SURROUNDINGS, "failure": "WRONG: differs"})
    text = report.markdown(made)
    assert "100/s" in text and "WRONG: differs" in text
    assert report.markdown(built())


def test_a_report_is_written_whole(tmp_path):
    """JSON can be read back; nothing else stays behind."""
    made = built(a_run("pydrbd", 0, 100), a_run("nbdkit", 0, 200))
    report.write(made, tmp_path / "results")
    assert json.loads((tmp_path / "results/latest.json").read_text()) == json.loads(json.dumps(made))
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["latest.json", "latest.md"]


def test_peers_take_turns_in_going_first():
    """So that neither always has the warmer or the wearier machine."""
    found = [(row.name, repetition, name) for row, repetition, name in order((ROW,), ("a", "b"), 3)]
    assert found == [(ROW.name, n, name) for n, pair in enumerate(("ab", "ba", "ab")) for name in pair]


class WrongPeer:
    """Answers well, and keeps two copies that differ."""

    uri = "nbd://nowhere"
    pids = (os.getpid(),)

    def counters(self):
        return {}

    def verify(self, row, counted, requests):
        raise ServerError("WRONG: after the row the copies differ")


def test_a_fast_wrong_answer_ends_the_measurement(monkeypatch, tmp_path):
    """No figure comes out of a run whose copies differ."""
    good = FioResult(1, 1, 0, 1.0, 1e9, 1e9, 1.0, 1.0, 1.0)
    monkeypatch.setattr("benchmarks.fio.run", lambda *_: (good, 0.0))
    heard = []
    with pytest.raises(ServerError, match="WRONG"):
        measure(Plan((ROW,), ("pydrbd",), 1.0, 1, 1), {"pydrbd": WrongPeer()}, tmp_path, heard.append)
    assert not heard


def test_processor_time_is_read_from_proc():
    """A process name may hold blanks and brackets; guest time is part of user time and not counted twice."""
    assert parse_process_stat("7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 40 2 99 99 20 0 1 0") == 42
    assert parse_machine_stat("cpu  1 2 4 1000 1000 8 16 32 64 128\ncpu0 1 1 1 1 1 1 1 1 1 1\n") == 63


def test_a_process_is_seen_to_work():
    """Of some work here, both the process's and the machine's clock show a part."""
    clock = Clock.start([os.getpid()])
    while clock.since()[0] < 0.05:
        sum(range(10_000))
    servers_s, machine_s = clock.since()
    assert servers_s >= 0.05 and machine_s > 0


def test_a_server_that_ends_at_once_is_an_error_with_its_words(tmp_path):
    """Not a time-out half a minute later."""
    with (
        pytest.raises(ServerError, match=r"code 3.*no such disk"),
        Server(["sh", "-c", "echo no such disk; exit 3"], tmp_path / "log", tmp_path) as server,
    ):
        wait_for_socket(tmp_path / "nothing", server)


def test_options_choose_rows_peers_and_lengths(monkeypatch, tmp_path, need):
    """BENCH sets the lengths, words on the command line go before it."""
    need("fio")
    monkeypatch.setenv("BENCH", "quick")
    plan = read_options(["--rows", "read-4k-32,write-4k-1", "--peers", "pydrbd", "--repeat", "2"]).plan
    assert [row.name for row in plan.rows] == ["read-4k-32", "write-4k-1"]
    assert (plan.peers, plan.repeat, plan.seconds) == (("pydrbd",), 2, 2.0)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--rows", "no-such"], "no-such"),
        (["--peers", ""], "not one of"),
        (["--seconds", "0"], "not a positive number"),
        (["--repeat", "x"], "not a positive number"),
        (["--dir", "/nowhere-at-all"], "no such directory"),
    ],
)
def test_wrong_options_are_named(words, complaint, capsys):
    """Exit code 2, and which word is wrong."""
    with pytest.raises(SystemExit) as ended:
        read_options(words)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_wrong_bench_is_named(monkeypatch, capsys):
    """BENCH=fast is no length."""
    monkeypatch.setenv("BENCH", "fast")
    with pytest.raises(SystemExit):
        read_options([])
    assert "'fast'" in capsys.readouterr().err


def test_a_missing_program_is_named(monkeypatch, capsys, tmp_path):
    """And what installs it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        read_options([])
    assert "fio, nbdkit" in capsys.readouterr().err


def test_the_tables_have_names_that_the_command_line_can_say():
    """No comma, no blank; the first peer is ours."""
    assert all(name == ROWS[name].name and name.isprintable() and not set(", ") & set(name) for name in ROWS)
    assert next(iter(PEERS)) == "pydrbd"
    assert Path(report.__file__).parent.name == "benchmarks"
